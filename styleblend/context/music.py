"""The mood of a piece of music: MusiCNN's tags, turned into words of a prompt by a list that can be replaced."""
from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from styleblend.context.audio import pieces
from styleblend.context.events import Reading, Step
from styleblend.errors import StyleBlendError, did_you_mean
from styleblend.files.text import read_text
from styleblend.models.musicnn import FRAMES, HOP, RATE, MusiCNN

MOODS = Path(__file__).parent / "moods.txt"  # the list that comes with the program
LONGEST = 180.0  # seconds that are read of a piece,
PATCHES = 10  # and so many patches of three seconds of them are heard
SILENCE = 1e-3  # the loudest sample of what counts as silence: -60 dB
BEST = 3  # moods that are told
LONGEST_WORDS = 60  # characters of a mood
LINE = 'like "calm and dreamy: ambient 0.25, chillout 0.2"'


class Mood(NamedTuple):
    """Words of a prompt; `score`: the probability of `tag` as a multiple of that from which it counts."""

    words: str
    score: float
    tag: str
    probability: float


class Music(NamedTuple):
    """What a piece sounds like: the moods from the strongest on, at most three; none where none is sure enough.

    `silent`: there is nothing to hear.
    """

    moods: List[Mood]
    silent: bool = False


def moods_in(path: Path, tags: Sequence[str]) -> Dict[str, List[Tuple[str, float]]]:
    """Mood -> tags with the probability from which each counts. StyleBlendError names a line that is wrong."""
    known, found = {tag.lower(): tag for tag in tags}, {}
    for number, line in enumerate(read_text(path).split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        words, colon, listed = line.partition(":")
        pairs = [re.fullmatch(r"(.+?)\s+(0?\.\d+|1)", one.strip()) for one in listed.split(",")]
        whole = colon and None not in pairs and all(float(pair[2]) > 0 for pair in pairs)
        if not whole or not 0 < len(words.strip()) <= LONGEST_WORDS:
            raise StyleBlendError(f"{path}, line {number} is no mood: it should be {LINE}")
        strange = next((pair[1] for pair in pairs if pair[1].lower() not in known), None)
        if strange:
            raise StyleBlendError(f"{path}, line {number}: MusiCNN has no tag {strange[:40]!r}, "
                                  f"{did_you_mean(strange, tags)}")
        found[words.strip()] = [(known[pair[1].lower()], float(pair[2])) for pair in pairs]
    if not found:
        raise StyleBlendError(f"{path} holds no moods: write lines {LINE}")
    return found


def moods_of(probabilities: Dict[str, float], moods: Dict[str, List[Tuple[str, float]]]) -> List[Mood]:
    """The moods that are heard, the strongest first, by the tag of each that is furthest above its threshold."""
    best = []
    for words, tags in moods.items():
        tag, least = max(tags, key=lambda pair: probabilities[pair[0]] / pair[1])
        best.append(Mood(words, probabilities[tag] / least, tag, probabilities[tag]))
    return sorted((mood for mood in best if mood.score >= 1), key=lambda mood: -mood.score)[:BEST]


def hear_music(path: Path, moods: Optional[Path] = None) -> Reading[Music]:
    """The moods of a sound file; `moods`: a list in place of the one that comes with the program."""
    network = MusiCNN()
    known = moods_in(Path(moods or MOODS), network.tags)
    audio = np.concatenate([np.zeros(0, np.float32), *(piece.samples for piece in pieces(Path(path), RATE, LONGEST))])
    if not len(audio) or np.abs(audio).max() <= SILENCE:
        return Music([], silent=True)
    total, found = max(1, min(PATCHES, len(audio) // HOP // FRAMES)), []
    yield Step("music", 0, total, "part")
    for tags in network.tagged(audio, PATCHES):
        found.append(tags)
        yield Step("music", min(total, len(found)), total, "part")
    mean = np.mean(found, axis=0).tolist()
    return Music(moods_of(dict(zip(network.tags, mean)), known))
