"""The adapters of one style: four files with the names of the published release, and `style.json`."""
from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Optional

import numpy as np

from styleblend.adapters import formats
from styleblend.adapters import lora
from styleblend.files import tensor_files
from styleblend.adapters.foreign_files import read_tensors, refuse_damaged
from styleblend.base.base import Base
from styleblend.errors import StyleBlendError, printable
from styleblend.settings import StyleBlendStyle, StyleSettings, read_style_settings, style_settings_from

# our name of each part -> stems of its file: ours and the competition release's first, then the PyTorch release's
PARTS = {
    "coarse_embeds": ("coarse_style_embeds", "composition_style_embeds"),
    "fine_embeds": ("fine_style_embeds", "texture_style_embeds"),
    "text_lora": ("text_encoder_lora",),
    "unet_lora": ("unet_lora",),
}


@dataclass
class Style:
    """What was learned of a style. LoRA keys as in `styleblend.adapters.lora`; embeddings are (width,), or (n, width) where a token has several vectors."""

    name: str
    coarse: Optional[np.ndarray] = None
    fine: Optional[np.ndarray] = None
    text_lora: Dict[str, np.ndarray] = field(default_factory=dict)
    unet_lora: Dict[str, np.ndarray] = field(default_factory=dict)
    settings: StyleSettings = StyleBlendStyle()


def part_file(folder: Path, name: str, part: str) -> Optional[Path]:
    """The file of a part, safetensors before pickles, then a file that holds a whole style; None when there is none."""
    for file in [f"{name}_{stem}{ending}" for ending in (".safetensors", ".bin") for stem in PARTS[part]]:
        if (Path(folder) / file).is_file():
            return Path(folder) / file
    single = Path(folder) / f"{name}.safetensors"
    return single if single.is_file() and part_of_single(dict.fromkeys(tensor_files.read_names(single)), part) else None


def remove_part(folder: Path, name: str, part: str) -> None:
    """Remove a part, of whatever kind its file is; a file that holds a whole style loses that part alone."""
    for path in iter(lambda: part_file(folder, name, part), None):
        if path.name == f"{name}.safetensors":
            tensors = tensor_files.read_safetensors(path)
            gone = part_of_single(tensors, part)
            tensor_files.write_safetensors(path, {key: value for key, value in tensors.items() if key not in gone}, tensor_files.read_metadata(path))
        else:
            path.unlink()


def adapter_hashes(folder: Path, name: str) -> Dict[str, str]:
    """The first 16 digits of the SHA-256 of each part's file, as sha256sum prints it."""
    files = {part: part_file(folder, name, part) for part in PARTS}
    return {part: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for part, path in files.items() if path}


def missing_parts(folder: Path, name: str) -> list:
    """The parts that this style should have and that are not there yet."""
    needed = settings_in(folder, name).parts
    return [part for part in (PARTS if needed is None else needed) if part_file(folder, name, part) is None]


def part_of_single(tensors: Dict[str, np.ndarray], part: str) -> Dict[str, np.ndarray]:
    """The tensors of one part of a file that holds a whole style (`styleblend export --format single`)."""
    start = {"coarse_embeds": "emb.<C>", "fine_embeds": "emb.<F>", "text_lora": "text_encoder.", "unet_lora": "unet."}[part]
    return {key: value for key, value in tensors.items() if key.startswith(start)}


def read_part_file(path: Path, part: str, name: str) -> dict:
    """The tensors of one part of the style `name`, as its file names them."""
    tensors = read_tensors(path)
    return part_of_single(tensors, part) if path.name == f"{name}.safetensors" else tensors


def checked_part(tensors: dict, part: str, base: Base, source: str):
    """One part in our names, checked against the base: an embedding (width,) or (n, width), or a LoRA, empty when the tensors hold none for that network."""
    if part.endswith("embeds"):
        _, vectors = formats.embedding(tensors, base.text_encoder.config.hidden_size, source)
        if len(vectors) > formats.MOST_VECTORS:
            raise StyleBlendError(f"{source} has {len(vectors)} vectors for its token, and more than {formats.MOST_VECTORS} leave no room for a prompt: train the embedding with fewer")
        refuse_damaged({"its vector": vectors}, source)
        return vectors[0] if len(vectors) == 1 else vectors
    found = formats.text_lora(tensors, base.text_encoder, source) if part == "text_lora" else formats.unet_lora(tensors, base.unet, source)
    refuse_damaged(found, source)
    return found


def check_base(path: Path, base: Base) -> None:
    """Refuse adapters that say of themselves that they were trained on another base."""
    theirs = tensor_files.read_metadata(path).get("base") if path.suffix == ".safetensors" else None
    if theirs not in (None, base.fingerprint()):
        raise StyleBlendError(f"{path} was trained on another base ({printable(theirs)}; {base.folder} is {base.fingerprint()}): "
                              "name a config with its base (--config), or train the style on this one")


def read_part(folder: Path, name: str, part: str, base: Base):
    """One part as arrays, in our names, checked against the base."""
    path = part_file(folder, name, part)
    if path is None:
        stems = " or ".join(f"{name}_{stem}.safetensors" for stem in PARTS[part])
        script = "coarse" if part in ("coarse_embeds", "text_lora") else "fine"
        raise StyleBlendError(f"style {name} has no {part.replace('_', ' ')} ({Path(folder) / stems}): run scripts/train_{script}_style.sh --styles {name}")
    check_base(path, base)
    return checked_part(read_part_file(path, part, name), part, base, str(path))


def settings_in(folder: Path, name: str) -> StyleSettings:
    """What `style.json`, or else the header of a style in one file, says."""
    path, single = Path(folder) / "style.json", Path(folder) / f"{name}.safetensors"
    if single.is_file() and not path.is_file():
        return settings_in_header(single)
    return with_known_parts(read_style_settings(path), str(path))


def settings_in_header(path: Path) -> StyleSettings:
    """The settings that a style in one file carries; the defaults for any other file."""
    known = tensor_files.read_metadata(path) if path.suffix == ".safetensors" else {}
    source, text = f"the header of {path}", known.get("settings", "{}") if "styleblend" in known else "{}"
    return with_known_parts(style_settings_from(text, source), source)


def with_known_parts(settings: StyleSettings, source: str) -> StyleSettings:
    """The same settings. StyleBlendError for a part that no style has."""
    wrong = [part for part in settings.parts or () if part not in PARTS]
    if wrong:
        raise StyleBlendError(f"{source}: parts: a style has no {printable(wrong[0])!r}; there are {', '.join(PARTS)}")
    return settings


def load_style(folder: Path, name: str, base: Base) -> Style:
    """All parts and `style.json` of `folder`; a style in one file has its settings in the header.

    A part may be absent only where the settings say so (`parts`): `styleblend load` writes that for adapters that have no more.
    """
    settings = settings_in(folder, name)
    found = {part: read_part(folder, name, part, base) for part in PARTS
             if settings.parts is None or part in settings.parts or part_file(folder, name, part)}
    return Style(name, found.get("coarse_embeds"), found.get("fine_embeds"), found.get("text_lora", {}), found.get("unet_lora", {}), settings)


def save_part(folder: Path, name: str, part: str, tensors: Dict[str, np.ndarray], metadata: Dict[str, str]) -> Path:
    """Write one part under its own name. Embeddings as {token: (width,)} or {token: (n, width)}, LoRAs with the keys of `styleblend.adapters.lora`."""
    path = Path(folder) / f"{name}_{PARTS[part][0]}.safetensors"
    if part == "text_lora":
        tensors = formats.to_diffusers_text(tensors)
    elif part == "unet_lora":
        tensors = formats.to_diffusers_unet(tensors)
    tensor_files.write_safetensors(path, tensors, metadata)
    return path


def apply_loras(base: Base, style: Style) -> None:
    """Put the style's LoRAs into the networks of the base, in place of any that are there."""
    lora.load(base.text_encoder, lora.TEXT_TARGETS, style.text_lora, f"text encoder LoRA of {style.name}")
    lora.load(base.unet, lora.UNET_TARGETS, style.unet_lora, f"UNet LoRA of {style.name}")
