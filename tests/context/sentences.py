"""Spoken sentences: tests/data/speech/*.ogg were made by `flite -voice slt -t SENTENCE -o FILE.wav`, then by Opus."""
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "data" / "speech"
SENTENCES = {"cat_in_grass": "A cat playing in the grass.", "polar_bear": "A polar bear sitting on an iceberg.",
             "keys": "A pair of keys lying on the table in the garden.", "skyscraper": "A very tall skyscraper.",
             "lighthouse": "A lighthouse on a cliff under a stormy sky.", "tractor": "A red tractor in a green field.",
             "castle": "A castle by the sea.", "boat": "An old wooden boat on a quiet lake."}


def letters(text: str) -> list:
    """The words of a text in small letters alone: punctuation is nothing that is heard."""
    return ["".join(c for c in word if c.isalpha()) for word in text.lower().split()]


def words_apart(one: str, other: str) -> int:
    """How many words must be changed, added or taken away to make one text of the other."""
    a, b = letters(one), letters(other)
    row = list(range(len(b) + 1))
    for i, word in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, another in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != another))
    return row[-1]
