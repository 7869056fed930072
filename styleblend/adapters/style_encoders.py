"""Style encoders on disk: our folder (config.json, model.safetensors, README.md), and what others write.

Read, too: a CLIP image encoder of transformers with the map in mapping.safetensors beside it, and the published
checkpoint, a dict of `vision_model.*` and `proj.*`, of which nothing is executed.
"""
from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Dict, Optional, Tuple

import numpy as np

from styleblend.adapters.encoder_files import ADVICE, CARD, CONFIG, MAPPING, WEIGHTS, config_of, find_encoder
from styleblend.adapters.pickles import read_arrays
from styleblend.base.base import Base, hash_of
from styleblend.base.weights import load, parameters
from styleblend.errors import StyleBlendError, printable
from styleblend.files.content import PYTORCH, kind_of
from styleblend.files.tensor_files import read_safetensors, write_safetensors
from styleblend.files.whole_files import write_bytes
from styleblend.machine.runtime import jt
from styleblend.models.configs import StyleEncoderConfig
from styleblend.models.style_encoder import StyleEncoder

HEADS = {768: 12, 1024: 16, 1280: 16}  # of the published CLIPs, by the width of their image encoder
UNUSED = ("visual_projection.weight", "vision_model.embeddings.position_ids")  # of a CLIP image encoder


def load_style_encoder(path: Path, base: Optional[Base] = None, option: str = "--encoder") -> StyleEncoder:
    """The encoder in a folder, or in a checkpoint file of the published program, for this base (None: for any).

    StyleBlendError for what is not whole, for an encoder of another base, and for tokens of another width; it names
    the `option` by which another one is taken.
    """
    path = find_encoder(str(path), option)
    config, tensors, source = of_folder(path) if path.is_dir() else of_file(path)
    network = StyleEncoder(config)
    if base is not None:
        refuse_unfit(config, base, source, option)
    load(network, tensors, source, "float32", ADVICE)
    return network


def refuse_unfit(config: StyleEncoderConfig, base: Base, source: str, option: str) -> None:
    """StyleBlendError for an encoder that belongs to another base."""
    width = base.text_encoder.config.hidden_size
    if config.width != width:
        raise StyleBlendError(f"{source} writes tokens of the width {config.width}, and the text of {base.folder} is "
                              f"{width} wide: take an encoder that was trained on this base")
    if config.base not in ("", base.fingerprint()):
        raise StyleBlendError(f"{source} was trained on another base ({printable(config.base[:20])}; {base.folder} is "
                              f"{base.fingerprint()}): name the config of its base (--config), or another {option}")


def of_folder(folder: Path) -> Tuple[StyleEncoderConfig, Dict[str, np.ndarray], str]:
    """Sizes, tensors by our names, and what an error calls them."""
    config, weights = config_of(folder), folder / WEIGHTS
    if not weights.is_file():
        raise StyleBlendError(f"{weights} is missing. {ADVICE}")
    tensors = {name: tensor for name, tensor in read_safetensors(weights).items() if name not in UNUSED}
    if (folder / MAPPING).is_file():
        mapping = read_safetensors(folder / MAPPING)
        config, tensors = with_width_of(config, mapping, str(folder / MAPPING)), {**tensors, **mapping}
    elif "proj.weight" not in tensors:
        raise StyleBlendError(f"{weights} has no map to style tokens (proj.weight): it is an image encoder alone. "
                              f"{ADVICE}")
    return config, tensors, str(weights)


def of_file(path: Path) -> Tuple[StyleEncoderConfig, Dict[str, np.ndarray], str]:
    """The same of a published checkpoint, by a config.json beside it, else by its tensors where CLIP is published."""
    tensors = read_arrays(path) if kind_of(path) == PYTORCH else read_safetensors(path)
    tensors = {inner(name): tensor for name, tensor in tensors.items() if isinstance(tensor, np.ndarray)}
    tensors = {name: tensor for name, tensor in tensors.items() if name not in UNUSED}
    config = config_of(path.parent) if (path.parent / CONFIG).is_file() else sizes_of(tensors, path)
    return with_width_of(config, tensors, str(path)), tensors, str(path)


def inner(name: str) -> str:
    """A tensor's name without the class that wraps the image encoder in some checkpoints."""
    return name[len("vision_model."):] if name.startswith("vision_model.vision_model.") else name


def with_width_of(config: StyleEncoderConfig, tensors: Dict[str, np.ndarray], source: str) -> StyleEncoderConfig:
    """The sizes with the width of a token as the map has it, for files that do not say it."""
    rows = tensors["proj.weight"].shape[0] if getattr(tensors.get("proj.weight"), "ndim", 0) == 2 else 0
    if not rows or rows % config.tokens:
        raise StyleBlendError(f"{source} has no map to {config.tokens} style tokens (proj.weight with a multiple of "
                              f"{config.tokens} rows). {ADVICE}")
    return replace(config, width=rows // config.tokens)


def sizes_of(tensors: Dict[str, np.ndarray], path: Path) -> StyleEncoderConfig:
    """The sizes of a published CLIP's image encoder, read off its tensors."""
    embeddings = "vision_model.embeddings"
    patches, places = tensors.get(f"{embeddings}.patch_embedding.weight"), tensors.get(
        f"{embeddings}.position_embedding.weight")
    first = tensors.get("vision_model.encoder.layers.0.mlp.fc1.weight")
    if any(one is None for one in (patches, places, first)) or patches.ndim != 4 or patches.shape[0] not in HEADS:
        raise StyleBlendError(f"{path} is no style encoder on a published CLIP: put the {CONFIG} of its image encoder "
                              "beside it")
    width, side = patches.shape[0], round((places.shape[0] - 1) ** 0.5)
    layers = {name.split(".")[3] for name in tensors if name.startswith("vision_model.encoder.layers.")}
    return StyleEncoderConfig(
        hidden_size=width, intermediate_size=first.shape[0], num_hidden_layers=len(layers),
        num_attention_heads=HEADS[width], image_size=side * patches.shape[2], patch_size=patches.shape[2],
        hidden_act="gelu" if width == 1280 else "quick_gelu")  # OpenCLIP's H/14 has the exact one


def save_style_encoder(folder: Path, encoder: StyleEncoder, card: str = "") -> Path:
    """Write an encoder as `load_style_encoder` reads it; `card`: the text of its README.md. Returns the folder."""
    folder, config = Path(folder), encoder.config
    weights = {name: parameter.numpy() for name, parameter in parameters(encoder).items()}
    # its weights come last: without them it is none
    write_bytes(folder / CONFIG, (json.dumps(asdict(config), indent=2) + "\n").encode("utf-8"))
    if card:
        write_bytes(folder / CARD, card.encode("utf-8"))
    write_safetensors(folder / WEIGHTS, weights, {"base": config.base} if config.base else {})
    return folder


def style_tokens(encoder: StyleEncoder, pixels: np.ndarray) -> np.ndarray:
    """The style tokens of pictures (N, 3, side, side) as `read_by_encoder` prepares them: (N, tokens, width)."""
    with jt.no_grad():
        return encoder(jt.array(pixels)).numpy()


def encoder_fingerprint(encoder: StyleEncoder) -> str:
    """16 hex digits that tell encoders apart: of their first and last weights."""
    return hash_of(encoder.vision_model.embeddings.patch_embedding, encoder.proj)
