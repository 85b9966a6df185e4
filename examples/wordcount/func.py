"""Counts the words of a text, leaving out those that say little. Several modules and a data file, in one zip."""

from pathlib import Path

from words.counting import count
from words.splitting import split

STOP_WORDS = frozenset(Path(__file__).with_name("stopwords.txt").read_text().split())


def run(text, top=5):
    counted = count(word for word in split(text) if word not in STOP_WORDS)
    return {"words": sum(counted.values()), "top": counted.most_common(top)}
