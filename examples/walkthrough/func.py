def run(x, y):
    print(x, "+", y, "=", x + y)
