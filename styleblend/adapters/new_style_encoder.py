"""What a style encoder begins its training from: random numbers, a CLIP image encoder, or another style encoder."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Dict, Tuple

import numpy as np

from styleblend.adapters.encoder_files import ADVICE, MAPPING, WEIGHTS, config_of
from styleblend.adapters.style_encoders import UNUSED, load_style_encoder
from styleblend.base.base import Base
from styleblend.base.weights import load, parameters
from styleblend.files.tensor_files import read_names, stored_tensors
from styleblend.models.configs import StyleEncoderConfig
from styleblend.models.style_encoder import StyleEncoder
from styleblend.settings import validated
from styleblend.settings.style_encoder_training import EncoderNetworkSettings, EncoderTrainingSettings

DEVIATION = 0.02  # of new weights, as in CLIP; new tokens begin as small as inverted ones do


def new_style_encoder(base: Base, settings: EncoderTrainingSettings, seed: int) -> StyleEncoder:
    """An encoder for this base with the sizes of `settings.network` and random weights."""
    config = StyleEncoderConfig(**settings.network.model_dump(), fit=settings.fit, base=base.fingerprint(),
                                width=base.text_encoder.config.hidden_size)
    return trainable(filled(StyleEncoder(config), {}, seed, "a new style encoder"))


def started_style_encoder(base: Base, folder: Path, settings: EncoderTrainingSettings, seed: int) -> StyleEncoder:
    """The encoder in a folder or checkpoint; of a CLIP image encoder alone, with a new map to tokens."""
    folder = Path(folder)
    alone = folder.is_dir() and not (folder / MAPPING).is_file() and (folder / WEIGHTS).is_file() \
        and "proj.weight" not in read_names(folder / WEIGHTS)
    if not alone:
        encoder = load_style_encoder(folder, base, "--start")
        validated(EncoderNetworkSettings, {"template": encoder.config.template}, f"--start {folder}")
        encoder.config = replace(encoder.config, fit=settings.fit, base=base.fingerprint())
        return trainable(encoder)
    config = replace(config_of(folder), fit=settings.fit, base=base.fingerprint(), tokens=settings.network.tokens,
                     template=settings.network.template, width=base.text_encoder.config.hidden_size)
    tensors = {name: tensor for name, tensor in stored_tensors(folder / WEIGHTS).items()
               if name.startswith("vision_model.") and name not in UNUSED}
    return trainable(filled(StyleEncoder(config), tensors, seed, str(folder / WEIGHTS)))


def filled(encoder: StyleEncoder, tensors: Dict[str, np.ndarray], seed: int, source: str) -> StyleEncoder:
    """The network with these tensors, and new ones for the map; for all of it where there are none."""
    rng = np.random.default_rng(seed)
    new = {name: new_weight(name, tuple(parameter.shape), rng) for name, parameter in parameters(encoder).items()
           if not tensors or name.startswith("proj.")}
    load(encoder, {**tensors, **new}, source, "float32", ADVICE)
    return encoder


def new_weight(name: str, shape: Tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Norms that change nothing, no offsets, and small normal numbers: by the factors in a sum for the map."""
    if name.endswith("bias"):
        return np.zeros(shape, np.float32)
    if "norm" in name.split(".")[-2]:
        return np.ones(shape, np.float32)
    scale = DEVIATION / shape[1] ** 0.5 if name.startswith("proj.") else DEVIATION
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def trainable(encoder: StyleEncoder) -> StyleEncoder:
    """The encoder with gradients for all of its weights."""
    for parameter in parameters(encoder).values():
        parameter.start_grad()
    return encoder
