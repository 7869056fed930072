"""The art that the base learns from: pictures, what they show, in which look, and the captions that say so.

What is held out is left out here, for every step of the recipe alike (README.md, "What the base never sees").
"""
import json
from typing import NamedTuple

import numpy as np

HELD_OUT_STYLES = {"fluent-3d", "openmoji-black", "emojione-monotone", "fxemoji"}
HELD_OUT_FAMILIES = {"paper_cut"}  # a treatment (treatments.py) that is never shown to the base: a stranger's style
HELD_OUT_EVERY = 14  # every 14th subject (59 of 830) is never shown to the base
STYLE_WORDS = {"noto": "noto", "noto-v1": "old noto", "twemoji": "twemoji", "fluent-emoji": "smooth gradient",
               "fluent-emoji-flat": "flat fluent", "fluent-emoji-high-contrast": "black and white",
               "openmoji": "outlined openmoji", "emojione": "emojione", "emojione-v1": "vintage emojione",
               "streamline-emojis": "pastel streamline"}


class Pictures(NamedTuple):
    """`picture` (N, side, side, 3) uint8; `subject`, `style`, `look` (N,) are places in the lists of these names in
    `info`.

    Look 0 has no words: the set's own. `moved` (N,) is true where a picture was turned and shifted as it was drawn
    (looks.py).
    """
    picture: np.ndarray
    subject: np.ndarray
    style: np.ndarray
    look: np.ndarray
    moved: np.ndarray
    info: dict


def load_art(folder, subjects=None):
    """What the base may see of art.npz and, where it is there, looks.npz; `subjects`: labels, or None for all."""
    info = json.loads((folder / "art.json").read_text())
    parts = [columns(folder / "art.npz", None)]
    info["looks"] = [""]
    if (folder / "looks.npz").exists():
        about = json.loads((folder / "looks.json").read_text())
        info["looks"] = about["words"]
        held = [about["families"].index(f) for f in HELD_OUT_FAMILIES]
        parts.append(columns(folder / "looks.npz", held))
    picture, subject, style, look, moved = (np.concatenate(c) for c in zip(*parts))
    keep = ~np.isin(style, [info["styles"].index(s) for s in HELD_OUT_STYLES])
    keep &= subject % HELD_OUT_EVERY != HELD_OUT_EVERY - 1
    if subjects is not None:
        keep &= np.isin(subject, [info["subjects"].index(s) for s in subjects])
    return Pictures(picture[keep], subject[keep], style[keep], look[keep], moved[keep], info)


def columns(path, held_families):
    """Picture, subject, style, look and moved of one file; `held_families` is None for a file without treatments."""
    data = np.load(path)
    picture, subject, style = data["picture"], data["subject"].astype(int), data["style"].astype(int)
    if held_families is None:
        return picture, subject, style, np.zeros(len(subject), int), np.zeros(len(subject), bool)
    keep = ~np.isin(data["family"], held_families)
    return picture[keep], subject[keep], style[keep], data["words"].astype(int)[keep], np.ones(keep.sum(), bool)


def caption(rng, info, subject, style, look):
    """"A red apple in the style of noto.", now and then a keyword for the name, or no style.

    A treated picture always says its treatment, so that "A red apple." stays an apple on white; some say the set too.
    """
    name = info["subjects"][subject]
    if info["keywords"][subject] and rng.random() < 0.15:
        name = info["keywords"][subject][rng.integers(len(info["keywords"][subject]))]
    name = name.lower()
    words = STYLE_WORDS[info["styles"][style]]
    if look:
        words = info["looks"][look] + (f", {words}" if rng.random() < 0.3 else "")
    elif rng.random() < 0.15:
        words = ""
    return ("An " if name[0] in "aeiou" else "A ") + name + (f" in the style of {words}." if words else ".")
