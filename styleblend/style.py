"""The adapters of one style: four files with the names of the published release, and `style.json`."""
from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Optional

import numpy as np

from styleblend import formats, lora, weights
from styleblend.base import Base
from styleblend.errors import StyleBlendError
from styleblend.pickles import read_arrays
from styleblend.settings import StyleSettings, read_style_settings, validated

# our name of each part -> stems of its file: ours and the competition release's first, then the PyTorch release's
PARTS = {
    "coarse_embeds": ("coarse_style_embeds", "composition_style_embeds"),
    "fine_embeds": ("fine_style_embeds", "texture_style_embeds"),
    "text_lora": ("text_encoder_lora",),
    "unet_lora": ("unet_lora",),
}


@dataclass
class Style:
    """What was learned of a style. LoRA keys as in `styleblend.lora`; embeddings are (width,)."""

    name: str
    coarse: Optional[np.ndarray] = None
    fine: Optional[np.ndarray] = None
    text_lora: Dict[str, np.ndarray] = field(default_factory=dict)
    unet_lora: Dict[str, np.ndarray] = field(default_factory=dict)
    settings: StyleSettings = StyleSettings()


def part_file(folder: Path, name: str, part: str) -> Optional[Path]:
    """The file of a part, safetensors before pickles; None when there is none."""
    candidates = [f"{name}_{stem}{ending}" for ending in (".safetensors", ".bin") for stem in PARTS[part]]
    for file in candidates + [f"{name}.safetensors"]:  # the last: all parts in one file
        path = Path(folder) / file
        if path.is_file():
            return path
    return None


def missing_parts(folder: Path, name: str) -> list:
    """The parts that are not there yet."""
    return [part for part in PARTS if part_file(folder, name, part) is None]


def part_of_single(tensors: Dict[str, np.ndarray], part: str) -> Dict[str, np.ndarray]:
    """The tensors of one part of a file that holds a whole style (`styleblend export --format single`)."""
    start = {"coarse_embeds": "emb.<C>", "fine_embeds": "emb.<F>", "text_lora": "text_encoder.", "unet_lora": "unet."}[part]
    return {key: value for key, value in tensors.items() if key.startswith(start)}


def read_tensors(path: Path) -> dict:
    """The tensors of a .safetensors or a .bin file, by name."""
    return weights.read_safetensors(path) if Path(path).suffix == ".safetensors" else read_arrays(path)


def read_part(folder: Path, name: str, part: str, base: Base):
    """One part as arrays, in our names, checked against the base."""
    path = part_file(folder, name, part)
    if path is None:
        stems = " or ".join(f"{name}_{stem}.safetensors" for stem in PARTS[part])
        script = "coarse" if part in ("coarse_embeds", "text_lora") else "fine"
        raise StyleBlendError(f"style {name} has no {part.replace('_', ' ')} ({Path(folder) / stems}): run scripts/train_{script}_style.sh --styles {name}")
    tensors = read_tensors(path)
    if path.name == f"{name}.safetensors":
        tensors = part_of_single(tensors, part)
    if part.endswith("embeds"):
        _, vector = formats.embedding(tensors, base.text_encoder.config.hidden_size, str(path))
        if len(vector) != 1:
            raise StyleBlendError(f"{path} has {len(vector)} vectors for its token; one is needed")
        found = {"vector": vector[0]}
    else:
        read = formats.text_lora if part == "text_lora" else formats.unet_lora
        found = read(tensors, base.text_encoder if part == "text_lora" else base.unet, str(path))
    broken = [key for key, t in found.items() if not np.isfinite(t).all()]
    if broken:
        raise StyleBlendError(f"{path} holds NaN or infinity in {broken[0]}: train the style again")
    return found["vector"] if part.endswith("embeds") else found


def settings_in(folder: Path, name: str) -> StyleSettings:
    """What `style.json`, or else the header of a style in one file, says."""
    path, single = Path(folder) / "style.json", Path(folder) / f"{name}.safetensors"
    if path.is_file() or not single.is_file():
        return read_style_settings(path)
    try:
        data = json.loads(weights.read_metadata(single).get("settings", "{}"))
    except ValueError as error:
        raise StyleBlendError(f"{single}: the settings in its header are no JSON ({error}): export it again") from None
    return validated(StyleSettings, data, str(single))


def load_style(folder: Path, name: str, base: Base) -> Style:
    """All four parts and `style.json` of `folder`; a style in one file has its settings in the header."""
    return Style(name, read_part(folder, name, "coarse_embeds", base), read_part(folder, name, "fine_embeds", base),
                 read_part(folder, name, "text_lora", base), read_part(folder, name, "unet_lora", base),
                 settings_in(folder, name))


def save_part(folder: Path, name: str, part: str, tensors: Dict[str, np.ndarray], metadata: Dict[str, str]) -> Path:
    """Write one part under its own name. Embeddings as {token: (width,)}, LoRAs with the keys of `styleblend.lora`."""
    path = Path(folder) / f"{name}_{PARTS[part][0]}.safetensors"
    if part == "text_lora":
        tensors = formats.to_diffusers_text(tensors)
    elif part == "unet_lora":
        tensors = formats.to_diffusers_unet(tensors)
    weights.write_safetensors(path, tensors, metadata)
    return path


def apply_loras(base: Base, style: Style) -> None:
    """Put the style's LoRAs into the networks of the base, in place of any that are there."""
    lora.load(base.text_encoder, lora.TEXT_TARGETS, style.text_lora, f"text encoder LoRA of {style.name}")
    lora.load(base.unet, lora.UNET_TARGETS, style.unet_lora, f"UNet LoRA of {style.name}")
