"""The adapters of one style, read, checked against a base, and ready to draw with."""
from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Union

import numpy as np

from styleblend.adapters import formats, lora
from styleblend.adapters.foreign_files import refuse_damaged
from styleblend.adapters.mixes import is_mix, mixed, names_in, resolved
from styleblend.adapters.parts import part_named
from styleblend.adapters.stage_tokens import stage_vectors
from styleblend.adapters.style_files import (adapter_hashes, missing_part, part_file, parts_of, read_part_file,
                                             settings_in)
from styleblend.base.base import Base
from styleblend.errors import StyleBlendError, printable
from styleblend.files import tensor_files
from styleblend.files.shipped import adapters_of
from styleblend.machine.runtime import jt
from styleblend.settings import StyleBlendStyle, StyleSettings


@dataclass
class Style:
    """What was learned of a style.

    `parts`: name of a part -> an embedding (width,), or (n, width) where its token has several vectors; of each stage
    its token with its vector (width,); or the tensors of a LoRA with the keys of `styleblend.adapters.lora`. What a
    style does not have is not in it. `files`: part -> hash of its file.
    """

    name: str
    parts: Dict[str, Any] = field(default_factory=dict)
    settings: StyleSettings = StyleBlendStyle()
    files: Dict[str, str] = field(default_factory=dict)

    def has(self, part: str) -> bool:
        """Whether the style has this part, and it is not empty."""
        found = self.parts.get(part)
        return found is not None and len(found) > 0


def style_hash(style: Style) -> str:
    """10 hex digits that change when any adapter of the style does."""
    digest, arrays = hashlib.sha256(), {}
    for name, found in style.parts.items():
        arrays.update(found if isinstance(found, dict) else {name[:-len("_embeds")]: found})
    for name, array in sorted(arrays.items()):
        digest.update(name.encode() + array.tobytes())
    return digest.hexdigest()[:10]


def checked_part(tensors: dict, part: str, base: Base, source: str):
    """One part in our names, checked against the base.

    An embedding (width,) or (n, width), {token: (width,)} of stages, or the tensors of a LoRA, empty when there are
    none for that network.
    """
    kind = part_named(part).kind
    if kind == "embedding":
        _, vectors = formats.embedding(tensors, base.text_encoder.config.hidden_size, source)
        if len(vectors) > formats.MOST_VECTORS:
            raise StyleBlendError(f"{source} has {len(vectors)} vectors for its token, and more than "
                                  f"{formats.MOST_VECTORS} leave no room for a prompt: train the embedding with fewer")
        refuse_damaged({"its vector": vectors}, source)
        return vectors[0] if len(vectors) == 1 else vectors
    if kind == "stages":
        staged = stage_vectors(tensors, base.text_encoder.config.hidden_size, source)
        refuse_damaged(staged, source)
        return staged
    read = {"text_encoder": lora.text_lora, "unet": lora.unet_lora}[kind]
    found = read(tensors, getattr(base, kind), source)
    refuse_damaged(found, source)
    return found


def check_base(path: Path, base: Base) -> None:
    """Refuse adapters that say of themselves that they were trained on another base."""
    theirs = tensor_files.read_metadata(path).get("base")
    if theirs not in (None, base.fingerprint()):
        raise StyleBlendError(f"{path} was trained on another base ({printable(theirs, 20)}; {base.folder} is "
                              f"{base.fingerprint()}): name the config of its base (--config), or train it on this one")


def read_part(folder: Path, name: str, part: str, base: Base):
    """One part as arrays, in our names, checked against the base."""
    path = part_file(folder, name, part)
    if path is None:
        raise missing_part(folder, name, part)
    check_base(path, base)
    return checked_part(read_part_file(path, part, name), part, base, str(path))


def load_style(folder: Path, name: str, base: Base) -> Style:
    """All parts and `style.json` of `folder`; a style in one file has its settings in the header.

    A part may be absent only where the settings say so (`parts`): `styleblend load` writes that for adapters that have
    no more.
    """
    settings = settings_in(folder, name)
    found = {part: read_part(folder, name, part, base) for part in parts_of(settings)
             if settings.parts is None or part in settings.parts or part_file(folder, name, part)}
    return Style(name, found, settings, adapter_hashes(folder, name))


def load_named(adapters: Union[str, Path], name: str, base: Base) -> Style:
    """The style of this name in a folder of adapters, or what a mix (`adapters.mixes`) makes of several."""
    if not is_mix(name):
        return load_style(adapters_of(adapters, name), name, base)
    text = resolved(adapters, name)
    styles = {one: load_style(adapters_of(adapters, one), one, base) for one in names_in(text)}
    rows = mixed(text, {one: style.parts["stage_embeds"] for one, style in styles.items()})
    first = next(iter(styles.values()))
    return Style(text, {"stage_embeds": rows}, first.settings,
                 {one: style.files["stage_embeds"] for one, style in styles.items()})


def save_part(folder: Path, name: str, part: str, tensors: Dict[str, np.ndarray], metadata: Dict[str, str]) -> Path:
    """Write one part under its own name.

    An embedding comes as {token: (width,)} or {token: (n, width)}, those of stages too, a LoRA with the keys of
    `styleblend.adapters.lora`.
    """
    about = part_named(part)
    path = Path(folder) / f"{name}_{about.stems[0]}.safetensors"
    written = {"embedding": dict, "stages": dict, "text_encoder": formats.to_diffusers_text,
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
        elif part.kind == "stages":
            vectors.update({token: jt.array(row[None]) for token, row in found.items()})
        elif found:
            loras[part.kind] = lora.load(getattr(base, part.kind), TARGETS[part.kind], found,
                                         f"{part.title} of {style.name}")
    return Applied(vectors, loras)
