"""The signs in a prompt that people know from A1111's web UI.

`(a)` is weighted 1.1, `(a:1.3)` 1.3, `[a]` 1/1.1; nested ones multiply, and one that is not closed ends with the
prompt. `BREAK` begins another text of 77 tokens. A backslash makes text of a bracket or of a word: `\\(`. What else
these programs read out of a prompt is refused by name, since it would be drawn as words.
"""
from __future__ import annotations

import re
from decimal import Decimal
from itertools import groupby
from typing import List, NamedTuple, Sequence, Tuple

from styleblend.errors import StyleBlendError

STEP = 1.1  # of a pair of brackets
LARGEST_WEIGHT = 100.0  # far beyond what leaves a picture
MOST_CHUNKS = 4  # texts of one prompt: each makes every cross-attention longer
BRACKETS = r"[\\()\[\]]"
NETWORK = r"<\s*[A-Za-z_]+\s*:[^<>]*>|<\s*(?i:lora|lyco|hypernet)\b[^<>]*"
WORDS = r"\b(?:BREAK|AND)\b"
SIGN = re.compile(rf"\\(?P<text>{WORDS}|{BRACKETS}|<)|(?P<open>[(\[])|(?P<network>{NETWORK})|(?P<word>{WORDS})"
                  r"|:\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*\)|(?P<close>[)\]])")
SCHEDULE = re.compile(r".*:\s*\d*\.?\d+\s*", re.S)  # what stands in [from:to:when]


class Fragment(NamedTuple):
    """A stretch of a prompt, with the weight of its words."""

    text: str
    weight: float


Chunk = Tuple[Fragment, ...]  # one text of the text encoder


class Reader:
    """Reads one prompt, from left to right. `pieces`: [text, weight], where the text None ends a chunk."""

    def __init__(self, prompt: str):
        self.prompt, self.pieces = prompt, []
        # where the pieces of each open bracket begin, and where its text does; the kinds know nothing of each other
        self.open = {"(": [], "[": []}
        self.shouted = prompt == prompt.upper()  # a prompt all in capitals has no AND of A1111's

    def read(self) -> List[list]:
        place = 0
        for sign in SIGN.finditer(self.prompt):
            self.pieces.append([self.prompt[place:sign.start()], 1.0])
            place = sign.end()
            self.take(sign)
        self.pieces.append([self.prompt[place:], 1.0])
        for kind, factor in (("(", STEP), ("[", 1 / STEP)):
            for begin, _ in self.open[kind]:
                self.weigh(begin, factor)
        return self.pieces

    def take(self, sign) -> None:
        """What a sign does to the pieces so far."""
        if sign["open"]:
            self.open[sign["open"]].append((len(self.pieces), sign.end()))
        elif sign["weight"] and self.open["("]:
            self.weigh(self.open["("].pop()[0], float(sign["weight"]))
        elif sign["close"] == ")" and self.open["("]:
            self.weigh(self.open["("].pop()[0], STEP)
        elif sign["close"] == "]" and self.open["["]:
            begin, place = self.open["["].pop()
            self.refuse_schedule(self.prompt[place:sign.start()])
            self.weigh(begin, 1 / STEP)
        elif sign["word"] == "BREAK":
            self.pieces.append([None, 1.0])
        elif sign["network"]:
            raise StyleBlendError(f"the prompt holds {sign[0][:60]!r}, which is not read here: take it out, make "
                                  "a style of that file with `styleblend load FILE --name NAME`, and draw with --style "
                                  "NAME")
        elif sign["word"] and not self.shouted:
            raise StyleBlendError("the prompt holds AND, which joins two prompts elsewhere and not here: write it in "
                                  "small letters, or draw two pictures")
        else:
            self.pieces.append([sign["text"] or sign[0], 1.0])

    def weigh(self, begin: int, factor: float) -> None:
        """Multiply the weights from a piece on."""
        for piece in self.pieces[begin:]:
            piece[1] *= factor
            if not abs(piece[1]) <= LARGEST_WEIGHT:
                raise StyleBlendError(f"the prompt has a weight beyond {LARGEST_WEIGHT:g}: 0.5 to 1.5 is usual")

    @staticmethod
    def refuse_schedule(inside: str) -> None:
        """[from:to:when] and [a|b] change a prompt from step to step."""
        if SCHEDULE.fullmatch(inside) or "|" in inside:
            raise StyleBlendError(f"the prompt holds [{inside[:60]}], and prompts that change from step to step "
                                  "are not drawn here: write one of them, or (word:1.2) for a weight")


def parsed(prompt: str) -> Tuple[Chunk, ...]:
    """The chunks of a prompt, each of its fragments; an empty prompt is one chunk of none.

    StyleBlendError for what other programs read out of a prompt and this one does not.
    """
    pieces, chunks = Reader(prompt).read(), []
    for is_end, some in groupby(pieces, lambda piece: piece[0] is None):
        if not is_end:
            weighed = groupby((piece for piece in some if piece[0]), lambda piece: piece[1])
            chunks.append(tuple(Fragment("".join(text for text, _ in same), weight) for weight, same in weighed))
    if len(chunks) > 1:
        chunks = [chunk for chunk in chunks if any(fragment.text.strip() for fragment in chunk)]
    if len(chunks) > MOST_CHUNKS:
        raise StyleBlendError(f"the prompt has BREAK between {len(chunks)} texts, more than {MOST_CHUNKS}: join some")
    return tuple(chunks) or ((),)


def spoken(prompt: str) -> str:
    """What a prompt says, without its signs: for measures of pictures. What cannot be read stays as it is."""
    try:
        chunks = ["".join(fragment.text for fragment in chunk) for chunk in parsed(prompt)]
    except StyleBlendError:
        return prompt
    return chunks[0] if len(chunks) == 1 else " ".join(chunk.strip() for chunk in chunks)


def escaped(text: str) -> str:
    """A prompt that says this text, whatever brackets are in it: `spoken(escaped(text)) == text`."""
    return re.sub(rf"{BRACKETS}|(?={NETWORK})<|{WORDS}", r"\\\g<0>", text)


def written(chunk: Sequence[Fragment]) -> str:
    """A chunk as a prompt again."""
    def weighted(text: str, weight: float) -> str:  # a colon comes behind it, so any < may seem to begin a <lora:...>
        return "(" + re.sub(rf"{BRACKETS}|<|{WORDS}", r"\\\g<0>", text) + f":{Decimal(repr(weight)):f})"

    return "".join(escaped(text) if weight == 1 else weighted(text, weight) for text, weight in chunk)


def shortened(chunk: Chunk, characters: int) -> Chunk:
    """The beginning of a chunk, of so many characters of its text."""
    kept = []
    for text, weight in chunk:
        kept.append(Fragment(text[:characters], weight))
        characters = max(0, characters - len(text))
    return tuple(fragment for fragment in kept if fragment.text)
