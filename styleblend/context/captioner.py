"""Captions of pictures by BLIP, from a folder as transformers saves it."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from styleblend.context.language_models import check_kind, load_weights, read_tokenizer
from styleblend.machine.runtime import jt
from styleblend.models.blip import NOT_WEIGHTS, TIED, BlipForConditionalGeneration
from styleblend.models.blip_configs import read_blip
from styleblend.models.clip_vision import DEVIATION, MEAN
from styleblend.models.configs import read_config
from styleblend.models.decoder_cache import step_of
from styleblend.models.text_search import Limits, beam_search, words

FOLDER = "checkpoints/blip-image-captioning-base"
FILES = ("config.json", "preprocessor_config.json", "tokenizer.json")
BEAMS, LONGEST = 3, 20  # as the authors' demonstration; tokens


@dataclass(frozen=True)
class Preprocessing:
    """What a preprocessor_config.json may say: only what BLIP was trained with."""

    resample: int = 3
    rescale_factor: float = 1 / 255
    image_mean: tuple = MEAN
    image_std: tuple = DEVIATION

    family = "BLIP"
    file_defaults: Any = None
    accepted = {"resample": (3,), "rescale_factor": (1 / 255,), "image_mean": (MEAN,), "image_std": (DEVIATION,)}


class Captioner:
    """Pictures to what they show, in a few words of lower case."""

    def __init__(self, network: BlipForConditionalGeneration, tokenizer, name: str):
        self.network, self.tokenizer, self.name = network, tokenizer, name
        text = network.text_config
        self.limits = Limits(text.bos_token_id, text.sep_token_id, min(LONGEST, text.max_position_embeddings))

    def prepared(self, picture: Image.Image) -> np.ndarray:
        """(3, image_size, image_size) float32, as the network reads it: squeezed into a square, nothing cut off."""
        side = self.network.vision_config.image_size
        pixels = np.asarray(picture.convert("RGB").resize((side, side), Image.BICUBIC), np.float32) / np.float32(255)
        return ((pixels - np.float32(MEAN)) / np.float32(DEVIATION)).transpose(2, 0, 1)

    def tokens(self, picture: Image.Image, beams: int = BEAMS) -> list:
        """The tokens of a caption, with start and end."""
        with jt.no_grad():
            states = self.network.vision_model(jt.array(self.prepared(picture)[None]))
            cache = self.network.text_decoder.cache(states)
        return beam_search(step_of(self.network.text_decoder, cache), self.limits, beams)

    def caption(self, picture: Image.Image) -> str:
        """What the picture shows; empty where the network says nothing."""
        text = self.tokenizer.decode(words(self.tokens(picture), self.limits), skip_special_tokens=True)
        jt.gc()
        return " ".join(text.split())


def load_captioner(folder: Path) -> Captioner:
    """The BLIP in a folder. StyleBlendError for what is none, or is not whole."""
    text, vision = read_blip(check_kind(folder, "blip", "BLIP that describes pictures"))
    if (folder / "preprocessor_config.json").is_file():
        read_config(Preprocessing, folder / "preprocessor_config.json")
    tokenizer = read_tokenizer(folder, text.vocab_size)
    network = BlipForConditionalGeneration(text, vision)
    load_weights(network, folder, TIED, NOT_WEIGHTS)
    return Captioner(network, tokenizer, folder.resolve().name)
