"""One prompt of several texts: picture, speech, look, then music and weather in sentences of their own.

A caption and a spoken sentence about the same thing become one: the sentence keeps its words and takes those phrases of
the caption whose prepositions it does not use. "a cat playing with a ball in the grass" and "An Egyptian cat playing
with a ball" give "an Egyptian cat playing with a ball in the grass".
"""
from __future__ import annotations

import re
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

ROOM = 77  # tokens of CLIP's text encoder, with the start and the end
PREPOSITIONS = frozenset("""about above across against along amid among around at before behind below beneath beside
between beyond by down during for from in inside into near next on onto out outside over past through throughout to
toward towards under underneath up upon with within without""".split())
DETERMINERS = frozenset("""a an the this that these those some many several few two three four five six seven eight
nine ten one his her its my our their your""".split())
# "a pair of keys" is about keys
MEASURES = frozenset("""pair couple group bunch set piece row pile stack flock herd crowd lot number kind sort picture
photo photograph painting drawing image illustration close-up view""".split())
ENDS_A_NAME = frozenset("that which who is are was were has have and or".split())


class Cut(NamedTuple):
    """A prompt that fits, and what was left out of it ("" where nothing was)."""

    prompt: str
    lost: str


def words_of(text: str) -> List[str]:
    """The words of a text in lower case, without signs around them."""
    return [word for word in (one.strip(",.;:!?\"'()").lower() for one in text.split()) if word]


def head_noun(text: str) -> str:
    """What a phrase is about, in the singular: the last word before its first preposition or verb form."""
    words, name = words_of(re.split(r"[,.;:!?]", text.strip(), maxsplit=1)[0]), []
    for word, following in zip(words, [*words[1:], ""]):
        if word == "of" and name and name[-1] in MEASURES:
            name = []
        elif word == "of" or word in PREPOSITIONS or word in ENDS_A_NAME:
            break
        elif name and re.fullmatch(r"\w{2,}(ing|ed)", word) and (not following or following in PREPOSITIONS
                                                                or following in DETERMINERS):
            break
        elif word not in DETERMINERS:
            name.append(word)
    return singular(name[-1]) if name else ""


def singular(word: str) -> str:
    for ending, instead in (("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("xes", "x"), ("sses", "ss"), ("ss", "ss"),
                            ("us", "us"), ("s", "")):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            return word[:-len(ending)] + instead
    return word


def phrases_of(text: str) -> List[Tuple[str, str]]:
    """(preposition, phrase) of each prepositional phrase: "on a cliff under a sky" has one with on, one with under."""
    found: List[List[str]] = []
    for word in text.rstrip(". ").split():
        bare = word.strip(",.;:").lower()
        beside = bool(found) and bare == "to" and words_of(found[-1][-1]) == ["next"]  # "next to" is one
        if bare in PREPOSITIONS and not beside:
            found.append([word])
        elif found:
            found[-1].append(word)
    for phrase in found:
        while len(phrase) > 1 and (phrase[-1].endswith("ing") or phrase[-1] == "and"):  # the verb of the next one
            phrase.pop()
    return [(words_of(phrase[0])[0], " ".join(phrase).strip(",;:")) for phrase in found if len(phrase) > 1]


def merged(caption: str, spoken: str) -> str:
    """A caption and a spoken sentence in one, without a full stop. Either may be empty."""
    caption, spoken = tidy(caption), tidy(spoken)
    if not caption or not spoken:
        return caption or spoken
    if head_noun(caption) != head_noun(spoken) or not head_noun(spoken):
        return f"{caption}, {spoken}"
    first, stop, rest = re.match(r"(.*?)([.!?]\s|$)(.*)", spoken, re.S).groups()
    said = set(words_of(first))
    return " ".join([first, *(phrase for preposition, phrase in phrases_of(caption) if preposition not in said)]) \
        + (f"{stop.strip()} {rest}" if rest else "")


def tidy(text: str) -> str:
    """One line without a full stop at its end, which begins with a small letter where that is safe."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split()).rstrip(".").rstrip()
    first = text.split(" ", 1)[0].lower()
    return text[:1].lower() + text[1:] if first in DETERMINERS or first in PREPOSITIONS else text


def with_look(body: str, look: Optional[str]) -> str:
    """The words of a look behind what is shown: "a cat, watercolor"."""
    return ", ".join(filter(None, (body, tidy(look or ""))))


def suffixes(mood: Optional[str], weather: Optional[str]) -> List[str]:
    """The sentences of music and weather."""
    return [*([f"The atmosphere is {mood}."] if mood else []), *([f"The weather is {weather}."] if weather else [])]


def joined(body: str, behind: Sequence[str]) -> str:
    """The prompt: what is shown, then the sentences behind it."""
    return " ".join([*([f"{body}." if body[-1:] not in ".!?" else body] if body else []), *behind])


def fitted(body: str, behind: Sequence[str], tokens: Callable[[str], int], room: int = ROOM) -> Cut:
    """The prompt, with whole clauses left out at the end of what is shown until it has `room` tokens.

    A single clause that is too long loses words. The sentences of music and weather stay. `tokens` counts those of a
    text, with the start and the end.
    """
    kept = [body]
    while kept[0] and tokens(joined(kept[0], behind)) > room:
        clauses = re.split(r"(?<=[,.;!?])\s+", kept[0])
        shorter = " ".join(clauses[:-1] if len(clauses) > 1 else kept[0].split()[:-1])
        kept[0] = shorter.rstrip(",;. ")
    return Cut(joined(kept[0], behind), body[len(kept[0]):].strip(",;. "))
