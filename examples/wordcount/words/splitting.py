import re

WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")


def split(text):
    return [word.lower() for word in WORD.findall(text)]
