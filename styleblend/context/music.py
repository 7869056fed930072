"""The mood of a piece of music, of a list that can be replaced: by CLAP where one is there, else by MusiCNN's tags."""
from __future__ import annotations

from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from styleblend.context.audio import pieces
from styleblend.context.events import Reading, Step
from styleblend.context.language_models import find
from styleblend.context.mood_list import MOODS, moods_in, words_in
from styleblend.models import clap_features
from styleblend.models.musicnn import FRAMES, HOP, RATE, MusiCNN

FOLDER = "checkpoints/clap-htsat-unfused"
FILES = ("config.json", "preprocessor_config.json", "tokenizer.json", "vocab.json", "merges.txt")
TAGGER = "musicnn"  # the setting that asks for MusiCNN although a CLAP is there
LONGEST = 180.0  # seconds that are read of a piece,
PATCHES = 10  # and so many patches of three seconds of them are heard by MusiCNN,
CROPS = 6  # or so many of ten by CLAP
SILENCE = 1e-3  # the loudest sample of what counts as silence: -60 dB
BEST = 3  # moods that are told
SOUNDS_LIKE = "This is a sound of {} music."  # the words in which CLAP reads a mood


class Mood(NamedTuple):
    """Words of a prompt. `score`: by CLAP the cosine between the music and these words.

    By MusiCNN the probability of a tag as a multiple of that from which it counts; `why` names both.
    """

    words: str
    score: float
    why: str = ""


class Music(NamedTuple):
    """What a piece sounds like: the moods from the strongest on, at most three; none where none is sure enough.

    `heard_by`: the network's name. `silent`: there is nothing to hear.
    """

    moods: List[Mood]
    heard_by: str
    silent: bool = False


def find_clap(asked: Optional[str]) -> Optional[Path]:
    """The folder of the CLAP that a config asks for, or of the usual one; None: MusiCNN hears the music."""
    return None if asked == TAGGER else find(asked, FOLDER, FILES)


def hear_music(path: Path, moods: Optional[Path] = None, clap: Optional[Path] = None) -> Reading[Music]:
    """The moods of a sound file.

    `moods`: a list in place of the one that comes with the program. `clap`: the folder of a CLAP; None: MusiCNN.
    """
    moods = Path(moods or MOODS)
    return (yield from by_clap(Path(path), moods, clap) if clap else by_musicnn(Path(path), moods))


def sound_of(path: Path, rate: int) -> Optional[np.ndarray]:
    """The samples of a file, float32 from -1 to 1; None where there is nothing to hear."""
    audio = np.concatenate([np.zeros(0, np.float32), *(piece.samples for piece in pieces(path, rate, LONGEST))])
    return audio if len(audio) and np.abs(audio).max() > SILENCE else None


# ---------------------------------------------------------------- MusiCNN

def by_musicnn(path: Path, moods: Path) -> Reading[Music]:
    network = MusiCNN()
    known = moods_in(moods, network.tags)
    audio = sound_of(path, RATE)
    if audio is None:
        return Music([], "MusiCNN", silent=True)
    total, found = max(1, min(PATCHES, len(audio) // HOP // FRAMES)), []
    yield Step("music", 0, total, "part")
    for tags in network.tagged(audio, PATCHES):
        found.append(tags)
        yield Step("music", min(total, len(found)), total, "part")
    mean = np.mean(found, axis=0).tolist()
    return Music(moods_of(dict(zip(network.tags, mean)), known), "MusiCNN")


def moods_of(probabilities: Dict[str, float], moods: Dict[str, List[Tuple[str, float]]]) -> List[Mood]:
    """The moods that are heard, the strongest first, by the tag of each that is furthest above its threshold."""
    best = []
    for words, tags in moods.items():
        tag, least = max(tags, key=lambda pair: probabilities[pair[0]] / pair[1])
        best.append(Mood(words, probabilities[tag] / least, f"{tag} {probabilities[tag]:.2f}"))
    return sorted((mood for mood in best if mood.score >= 1), key=lambda mood: -mood.score)[:BEST]


# ---------------------------------------------------------------- CLAP

def by_clap(path: Path, moods: Path, folder: Path) -> Reading[Music]:
    words = words_in(moods)
    audio = sound_of(path, clap_features.RATE)
    from styleblend.context.clap import load_clap  # starts Jittor, which what cannot be read need not wait for
    network = load_clap(folder)
    if audio is None:
        return Music([], network.name, silent=True)
    total, found = clap_features.crop_count(len(audio), CROPS), []
    yield Step("music", 0, total, "part")
    for vector in network.heard(audio, CROPS):
        found.append(vector)
        yield Step("music", len(found), total, "part")
    texts = network.vectors_of([SOUNDS_LIKE.format(one) for one in words])
    return Music(nearest(np.mean(found, axis=0), texts, words), network.name)


def nearest(sound: np.ndarray, texts: np.ndarray, words: List[str]) -> List[Mood]:
    """The moods whose texts are nearest to a sound, the nearest first.

    `sound` (D,), of any length; `texts` (moods, D), each of length 1.
    """
    cosines = texts @ (sound / np.linalg.norm(sound))
    return [Mood(words[place], float(cosines[place])) for place in np.argsort(-cosines, kind="stable")[:BEST]]
