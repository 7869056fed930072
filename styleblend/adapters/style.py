"""The adapters of one style: a file for each part, with the names of the published release, and `style.json`."""
from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

import numpy as np

from styleblend.adapters import formats, lora
from styleblend.adapters.foreign_files import read_tensors, refuse_damaged
from styleblend.adapters.parts import PARTS, Part, part_named
from styleblend.base.base import Base
from styleblend.errors import StyleBlendError, printable
from styleblend.files import tensor_files
from styleblend.machine.runtime import jt
from styleblend.settings import StyleBlendStyle, StyleSettings, read_style_settings, style_settings_from


@dataclass
class Style:
    """What was learned of a style.

    `parts`: name of a part -> an embedding (width,), or (n, width) where its token has several vectors, or the tensors
    of a LoRA with the keys of `styleblend.adapters.lora`. What a style does not have is not in it. `files`: part ->
    hash of its file.
    """

    name: str
    parts: Dict[str, Any] = field(default_factory=dict)
    settings: StyleSettings = StyleBlendStyle()
    files: Dict[str, str] = field(default_factory=dict)

    def has(self, part: str) -> bool:
        """Whether the style has this part, and it is not empty."""
        found = self.parts.get(part)
        return found is not None and len(found) > 0


def parts_of(settings: StyleSettings) -> Mapping[str, Part]:
    """The parts of a style of this method."""
    return PARTS[settings.method]


def style_hash(style: Style) -> str:
    """10 hex digits that change when any adapter of the style does."""
    digest, arrays = hashlib.sha256(), {}
    for name, found in style.parts.items():
        arrays.update(found if isinstance(found, dict) else {name[:-len("_embeds")]: found})
    for name, array in sorted(arrays.items()):
        digest.update(name.encode() + array.tobytes())
    return digest.hexdigest()[:10]


def part_file(folder: Path, name: str, part: str) -> Optional[Path]:
    """The file of a part, safetensors before pickles, then a file that holds a whole style; None when there is none."""
    for file in [f"{name}_{stem}{ending}" for ending in (".safetensors", ".bin") for stem in part_named(part).stems]:
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
            tensor_files.write_safetensors(path, {key: value for key, value in tensors.items() if key not in gone},
                                           tensor_files.read_metadata(path))
        else:
            path.unlink()


def adapter_hashes(folder: Path, name: str) -> Dict[str, str]:
    """The first 16 digits of the SHA-256 of each part's file, as sha256sum prints it."""
    files = {part: part_file(folder, name, part) for part in parts_of(settings_in(folder, name))}
    return {part: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for part, path in files.items() if path}


def missing_parts(folder: Path, name: str) -> list:
    """The parts that this style should have and that are not there yet."""
    settings = settings_in(folder, name)
    return [part for part in (parts_of(settings) if settings.parts is None else settings.parts)
            if part_file(folder, name, part) is None]


def part_of_single(tensors: Dict[str, np.ndarray], part: str) -> Dict[str, np.ndarray]:
    """The tensors of one part of a file that holds a whole style (`styleblend export --format single`)."""
    about = part_named(part)
    start = f"emb.{about.token}" if about.kind == "embedding" else f"{about.kind}."
    return {key: value for key, value in tensors.items() if key.startswith(start)}


def read_part_file(path: Path, part: str, name: str) -> dict:
    """The tensors of one part of the style `name`, as its file names them."""
    tensors = read_tensors(path)
    return part_of_single(tensors, part) if path.name == f"{name}.safetensors" else tensors


def checked_part(tensors: dict, part: str, base: Base, source: str):
    """One part in our names, checked against the base.

    An embedding (width,) or (n, width), or the tensors of a LoRA, empty when there are none for that network.
    """
    kind = part_named(part).kind
    if kind == "embedding":
        _, vectors = formats.embedding(tensors, base.text_encoder.config.hidden_size, source)
        if len(vectors) > formats.MOST_VECTORS:
            raise StyleBlendError(f"{source} has {len(vectors)} vectors for its token, and more than "
                                  f"{formats.MOST_VECTORS} leave no room for a prompt: train the embedding with fewer")
        refuse_damaged({"its vector": vectors}, source)
        return vectors[0] if len(vectors) == 1 else vectors
    read = {"text_encoder": lora.text_lora, "unet": lora.unet_lora}[kind]
    found = read(tensors, getattr(base, kind), source)
    refuse_damaged(found, source)
    return found


def check_base(path: Path, base: Base) -> None:
    """Refuse adapters that say of themselves that they were trained on another base."""
    theirs = tensor_files.read_metadata(path).get("base") if path.suffix == ".safetensors" else None
    if theirs not in (None, base.fingerprint()):
        raise StyleBlendError(f"{path} was trained on another base ({printable(theirs)}; "
                              f"{base.folder} is {base.fingerprint()}): "
                              "name a config with its base (--config), or train the style on this one")


def read_part(folder: Path, name: str, part: str, base: Base):
    """One part as arrays, in our names, checked against the base."""
    path = part_file(folder, name, part)
    if path is None:
        about = part_named(part)
        stems = " or ".join(f"{name}_{stem}.safetensors" for stem in about.stems)
        raise StyleBlendError(f"style {name} has no {part.replace('_', ' ')} ({Path(folder) / stems}): "
                              f"run scripts/train_{about.training}_style.sh --styles {name}")
    check_base(path, base)
    return checked_part(read_part_file(path, part, name), part, base, str(path))


def settings_in(folder: Path, name: str) -> StyleSettings:
    """What `style.json`, or else the header of a style in one file, says."""
    path, single = Path(folder) / "style.json", Path(folder) / f"{name}.safetensors"
    if single.is_file() and not path.is_file():
        return settings_in_header(single)
    return with_known_parts(read_style_settings(path).beside(Path(folder)), str(path))


def settings_in_header(path: Path) -> StyleSettings:
    """The settings that a style in one file carries; the defaults for any other file."""
    known = tensor_files.read_metadata(path) if path.suffix == ".safetensors" else {}
    source, text = f"the header of {path}", known.get("settings", "{}") if "styleblend" in known else "{}"
    return with_known_parts(style_settings_from(text, source), source)


def with_known_parts(settings: StyleSettings, source: str) -> StyleSettings:
    """The same settings. StyleBlendError for a part that no style has."""
    known = parts_of(settings)
    wrong = [part for part in settings.parts or () if part not in known]
    if wrong:
        raise StyleBlendError(f"{source}: parts: a style has no {printable(wrong[0])!r}; there are {', '.join(known)}")
    return settings


def load_style(folder: Path, name: str, base: Base) -> Style:
    """All parts and `style.json` of `folder`; a style in one file has its settings in the header.

    A part may be absent only where the settings say so (`parts`): `styleblend load` writes that for adapters that have
    no more.
    """
    settings = settings_in(folder, name)
    found = {part: read_part(folder, name, part, base) for part in parts_of(settings)
             if settings.parts is None or part in settings.parts or part_file(folder, name, part)}
    return Style(name, found, settings, adapter_hashes(folder, name))


def save_part(folder: Path, name: str, part: str, tensors: Dict[str, np.ndarray], metadata: Dict[str, str]) -> Path:
    """Write one part under its own name.

    An embedding comes as {token: (width,)} or {token: (n, width)}, a LoRA with the keys of `styleblend.adapters.lora`.
    """
    about = part_named(part)
    path = Path(folder) / f"{name}_{about.stems[0]}.safetensors"
    written = {"embedding": dict, "text_encoder": formats.to_diffusers_text,
               "unet": formats.to_diffusers_unet}[about.kind]
    tensor_files.write_safetensors(path, written(tensors), metadata)
    return path


TARGETS = {"text_encoder": lora.TEXT_TARGETS, "unet": lora.UNET_TARGETS}


@dataclass(frozen=True)
class Applied:
    """A style ready to draw with on one base: the base itself is not changed by it.

    `vectors`: token -> Var (n, width). `loras`: "text_encoder" or "unet" -> LoRAs by layer.
    """

    vectors: Mapping[str, Any] = field(default_factory=dict)
    loras: Mapping[str, lora.Loras] = field(default_factory=dict)

    def of(self, network: str) -> lora.Loras:
        """The LoRAs of one network, empty when there are none."""
        return self.loras.get(network, {})


def applied(base: Base, style: Optional[Style]) -> Applied:
    """A style's parts as the networks take them. StyleBlendError when a LoRA does not fit the base."""
    vectors, loras = {}, {}
    for name, found in (style.parts if style else {}).items():
        part = part_named(name)
        if part.kind == "embedding":
            vectors[part.token] = jt.array(np.atleast_2d(np.asarray(found, np.float32)))
        elif found:
            loras[part.kind] = lora.load(getattr(base, part.kind), TARGETS[part.kind], found,
                                         f"{part.title} of {style.name}")
    return Applied(vectors, loras)
