"""The smallest function: one file, two arguments."""


def run(x, y):
    return x + y
