"""What a picture shows, in words: BLIP's caption where its weights are, else what the judge of the mini base sees."""
from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
from PIL import Image

from styleblend.context.captioner import FILES, FOLDER, Captioner, load_captioner
from styleblend.context.language_models import find
from styleblend.files.pictures import load_picture, padded
from styleblend.files.prompts import article_of
from styleblend.metrics.judge import Judge, probability
from styleblend.settings import RunSettings

# The judge speaks from this probability on. Of 968 drawings that it never saw it then says the subject of 54%, 93% of
# them rightly, and the look of 89%, 94% of them rightly. On cuts of photographs, where it is never right, it is silent
# in 95 of 100 (docs/context.md).
SURE = 0.7
PLAIN = 16  # of 255: a picture whose colours differ by less shows nothing
# in the words that the mini base knows; where it knows none, the name itself
LOOKS = {"noto-v1": "old noto", "fluent-emoji-flat": "flat fluent", "fluent-emoji-high-contrast": "black and white",
         "openmoji": "outlined openmoji", "emojione-v1": "vintage emojione", "streamline-emojis": "pastel streamline"}
JUDGE = "the judge of the mini base"
ADVICE = (f"to describe any picture put Salesforce/blip-image-captioning-base into {FOLDER}, or name its folder or hub "
          "id as context.captioner in the config")


class Description(NamedTuple):
    """What a picture shows. `text` is empty where nothing is certain; `source` then says why.

    `source`: who says it, in words; `confidence`: its probability (0..1), None from BLIP, which gives none. `content`
    is the text without the look.
    """

    text: str
    source: str
    confidence: Optional[float] = None
    content: str = ""


class PictureDescriber:
    """Describes pictures; what it needs for that is loaded once, when it is first asked."""

    def __init__(self, settings: RunSettings):
        self.settings = settings

    @cached_property
    def captioner(self) -> Optional[Captioner]:
        """The BLIP of the config; None where none is there."""
        folder = find(self.settings.context.captioner, FOLDER, FILES)
        return load_captioner(folder) if folder else None

    @cached_property
    def judge(self) -> Judge:
        return Judge.load()

    def describe(self, path: Path) -> Description:
        """What the picture in a file shows. StyleBlendError: the file, or the BLIP, cannot be read."""
        picture = load_picture(Path(path), self.settings.pictures.max_pixels)
        if self.captioner is None:
            return judged(self.judge, picture)
        text = self.captioner.caption(picture)
        return Description(text, self.captioner.name if text else f"{self.captioner.name} said nothing", None, text)


def describe_picture(path: Path, settings: RunSettings) -> Description:
    """What the picture in a file shows. StyleBlendError: it cannot be read, or the weights of the config cannot."""
    return PictureDescriber(settings).describe(path)


def judged(judge: Judge, picture: Image.Image) -> Description:
    """What the judge sees in a picture: one of the subjects that it knows, and a look, where it is sure of them."""
    if max(high - low for low, high in picture.getextrema()) < PLAIN:
        return Description("", "the picture is of one colour")
    pixels = np.asarray(padded(picture, judge.size, judge.size))
    subject, look = (logits[0] for logits in judge.predict(pixels[None]))
    content = with_article(judge.subjects[int(subject.argmax())])
    sure, sure_of_look = (probability(logits, int(logits.argmax())) for logits in (subject, look))
    if sure < SURE:
        return Description("", f"{JUDGE} is not sure ({content}: {sure:.0%}); {ADVICE}", sure)
    style = judge.styles[int(look.argmax())]
    drawn = f", in the look of {LOOKS.get(style, style.replace('-', ' '))}" if sure_of_look >= SURE else ""
    return Description(content + drawn, JUDGE, sure, content)


def with_article(subject: str) -> str:
    """"owl" -> "an owl"; several things have none: "cherries", "shorts"."""
    head = re.split(r" (?:with|over|showing) ", subject)[0]
    return subject if re.search(r"(?<![suoi])s$", head) else article_of(subject).lower() + subject
