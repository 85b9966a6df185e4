"""Raises, to show what the caller gets and what the log keeps."""


def run(reason="this function always fails"):
    raise RuntimeError(reason)
