"""The list of moods that music may have: which words of a prompt, and, for MusiCNN, which tags mean them."""
from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from styleblend.errors import StyleBlendError, did_you_mean
from styleblend.files.text import read_text

MOODS = Path(__file__).parent / "moods.txt"  # the list that comes with the program
LONGEST_WORDS = 60  # characters of a mood
LINE = 'like "calm and dreamy: ambient 0.25, chillout 0.2"'


def lines_of(path: Path) -> Dict[int, Tuple[str, Optional[str]]]:
    """Number of a line -> the words of its mood, and what stands behind the colon; None where there is no colon."""
    found = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):
        line = line.strip()
        if line and not line.startswith("#"):
            words, colon, rest = line.partition(":")
            found[number] = words.strip(), rest if colon else None
            if not 0 < len(words.strip()) <= LONGEST_WORDS:
                raise no_mood(path, number)
    if not found:
        raise StyleBlendError(f"{path} holds no moods: write lines {LINE}")
    return found


def no_mood(path: Path, number: int) -> StyleBlendError:
    return StyleBlendError(f"{path}, line {number} is no mood: it should be {LINE}")


def words_in(path: Path) -> List[str]:
    """The moods of a list, each once: all that CLAP reads of it. StyleBlendError names a line that is wrong."""
    return list(dict.fromkeys(words for words, _ in lines_of(path).values()))


def moods_in(path: Path, tags: Sequence[str]) -> Dict[str, List[Tuple[str, float]]]:
    """Mood -> tags with the probability from which each counts. StyleBlendError names a line that is wrong."""
    known, found = {tag.lower(): tag for tag in tags}, {}
    for number, (words, listed) in lines_of(path).items():
        pairs = [re.fullmatch(r"(.+?)\s+(0?\.\d+|1)", one.strip()) for one in (listed or "").split(",")]
        if None in pairs or not all(float(pair[2]) > 0 for pair in pairs):
            raise no_mood(path, number)
        strange = next((pair[1] for pair in pairs if pair[1].lower() not in known), None)
        if strange:
            raise StyleBlendError(f"{path}, line {number}: MusiCNN has no tag {strange[:40]!r}, "
                                  f"{did_you_mean(strange, tags)}")
        found[words] = [(known[pair[1].lower()], float(pair[2])) for pair in pairs]
    return found
