"""Adapter files of other programs as a style of ours.

Which part each file holds, checked against a base, written as four files and a style.json.
"""
from __future__ import annotations

import contextlib
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, NamedTuple, Sequence

from styleblend.adapters.foreign_files import read_tensors
from styleblend.errors import StyleBlendError
from styleblend.files.claims import claim, in_turn
from styleblend.files.whole_files import not_written, write_bytes
from styleblend.adapters.formats import flat, is_lora_key, said_of_silence, split
from styleblend.settings import KINDS, StyleBlendStyle, StyleSettings
from styleblend.adapters.parts import PARTS, STYLEBLEND, part_named
from styleblend.adapters.stage_tokens import is_staged, named_rows
from styleblend.adapters.style_files import part_file, part_of_single, settings_in, settings_in_header

if TYPE_CHECKING:
    from styleblend.base.base import Base

COARSE_WORDS, FINE_WORDS = ("c", "coarse", "composition"), ("f", "t", "fine", "texture")


def title(part: str) -> str:
    """The part's name in words."""
    return part_named(part).title


def is_embedding(part: str) -> bool:
    return part_named(part).kind == "embedding"


class Found(NamedTuple):
    """One part of a style in a file."""

    path: Path
    tensors: Dict[str, Any]


def method_of_parts(found: Dict[str, Found]) -> str:
    """The method that a style of these parts is of. StyleBlendError: they are of two."""
    method = next((method for method, parts in PARTS.items() if set(found) <= set(parts)), None)
    if method is None:
        some = [next(own.path for part, own in found.items() if part in parts)
                for parts in PARTS.values() if set(parts) & set(found)]
        raise StyleBlendError(f"{some[0]} and {some[1]} are of two methods: load each under a --name of its own")
    return method


def embedding_part(path: Path, tensors: Dict[str, Any]) -> str:
    """Which of the two embeddings a file holds, from its token, then from its name.

    One that does not say so is the fine one.
    """
    tokens = [key for key in tensors if key.startswith("<") and key.endswith(">")] + [str(tensors.get("name", ""))]
    for text in tokens + [path.stem]:
        for word in reversed(re.split(r"[^a-z0-9]+", text.lower())):
            if word in COARSE_WORDS:
                return "coarse_embeds"
            if word in FINE_WORDS:
                return "fine_embeds"
    return "fine_embeds"


def parts_of(path: Path, attention_only: bool = False) -> Dict[str, Found]:
    """The parts that one file holds."""
    tensors, source = read_tensors(path, attention_only), str(path)
    lora = {key: value for key, value in flat(tensors).items() if is_lora_key(key)}
    if is_staged(tensors):
        return {"stage_embeds": Found(path, tensors)}
    if any(key.startswith("emb.") for key in tensors):  # a whole style in one file
        return {part: Found(path, own) for parts in PARTS.values() for part in parts
                for own in [part_of_single(tensors, part)] if own}
    if not lora:
        return {embedding_part(path, tensors): Found(path, tensors)}
    networks = {split(key, source)[0] for key in flat(tensors)}
    return {part: Found(path, lora)
            for part, network in (("text_lora", "text"), ("unet_lora", "unet")) if network in networks}


def gather(files: Sequence[Path], attention_only: bool = False) -> Dict[str, Found]:
    """The parts of all files; a part in two files is refused.

    `attention_only`: without the layers of a LoRA that no style changes.
    """
    found: Dict[str, Found] = {}
    for path in files:
        for part, own in parts_of(Path(path), attention_only).items():
            if part in found:
                advice = "end the names of the files in -coarse and -fine" if is_embedding(part) else "give one of them"
                raise StyleBlendError(f"{found[part].path} and {path} both hold the {title(part)} of a "
                                      f"style: {advice}")
            found[part] = own
    method_of_parts(found)
    return found


def trained_stages(folder: Path, parts: Iterable[str]) -> List[str]:
    """The stages of training that make these parts, where the style in `folder` has been trained here."""
    if not (folder / "training").is_dir():
        return []
    return sorted({part_named(part).training for part in parts})


def put_in_place(written: Path, folder: Path) -> None:
    """A new style as a whole, by one renaming; into a style that is there file by file, each whole."""
    if not folder.is_dir() or not os.listdir(folder):
        os.replace(written, folder)
    else:
        for file in sorted(os.listdir(written)):
            os.replace(written / file, folder / file)


def load_files(found: Dict[str, Found], name: str, base: Base, output: Path, overwrite: bool = False) -> List[str]:
    """Write the parts (from `gather`) as the style `name` into the folder `output`.

    Returns sentences on what is there and what is not. Everything is checked against the base before
    the first file is written. A new style comes into its place as a whole; in a style that is there the parts are
    replaced one by one, each whole.
    """
    # not above: it starts Jittor, and what is wrong with a file is said before
    from styleblend.adapters.style import check_base, checked_part, save_part
    method = method_of_parts(found)
    folder, known_base = Path(output) / name, {"base": base.fingerprint(), "style": name}
    for own in found.values():
        check_base(own.path, base)
    arrays = {part: checked_part(own.tensors, part, base, str(own.path)) for part, own in found.items()}
    # of two that load one style the second sees what the first has written
    with in_turn(output), contextlib.ExitStack() as trainings:
        for stage in trained_stages(folder, found):
            # a training that goes on now would write over what is loaded
            trainings.enter_context(claim(folder / "training", stage))
        before = settings_in(folder, name)
        there = [part for part in PARTS[before.method] if part_file(folder, name, part)]
        if there and before.method != method:
            raise StyleBlendError(f"{folder} holds a style of {before.method} already: choose another --name")
        again = [part for part in there if part in found]
        if again and not overwrite:
            raise StyleBlendError(f"{folder} holds a style already ({', '.join(map(title, again))}): "
                                  "choose another --name, or --overwrite to replace what is loaded")
        whole = [part for part in PARTS[method] if part in arrays or part in there]
        settings = settings_of(found, before, whole)
        try:
            with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=output) as temporary:
                written = Path(temporary) / name  # of its own: the temporary folder itself is for its owner's eyes only
                written.mkdir()
                for part, own in found.items():
                    save_part(written, name, part, as_saved(part, arrays[part], name),
                              {**known_base, "loaded_from": own.path.name})
                if settings != StyleBlendStyle() or (folder / "style.json").is_file():
                    text = settings.model_dump_json(exclude_defaults=True, indent=2)
                    write_bytes(written / "style.json", text.encode())
                put_in_place(written, folder)
        except OSError as error:
            raise not_written(folder, error) from None
    return report(name, found, arrays, whole)


def settings_of(found: Dict[str, Found], before: StyleSettings, whole: Sequence[str]) -> StyleSettings:
    """What the style says of itself from now on: what a file says, else what was there before, with its parts."""
    method = method_of_parts(found)
    said = next((s for s in (settings_in_header(own.path) for own in found.values()) if s != StyleBlendStyle()), before)
    own = said if said.method == method else KINDS[method]()
    return own.model_copy(update={"parts": None if len(whole) == len(PARTS[method]) else whole})


def as_saved(part: str, arrays, name: str) -> Dict[str, Any]:
    """A part's arrays with the names that they are saved under."""
    if part_named(part).kind == "stages":
        return named_rows(name, arrays.values())
    return {part_named(part).token: arrays} if is_embedding(part) else arrays


def several(vectors) -> str:
    """", 4 vectors" where a token has several."""
    return f", {len(vectors)} vectors" if vectors.ndim == 2 else ""


def size_of(part: str, arrays) -> str:
    """How large a part is, in words."""
    kind = part_named(part).kind
    if kind == "stages":
        return f"width {next(iter(arrays.values())).shape[-1]}, {len(arrays)} stages"
    if kind == "embedding":
        return f"width {arrays.shape[-1]}{several(arrays)}"
    ranks = sorted({value.shape[0] for key, value in arrays.items() if key.endswith("down.weight")})
    return f"rank {', '.join(map(str, ranks))}, {len(arrays) // 2} layers"


def report(name: str, found: Dict[str, Found], arrays: Dict[str, Any], whole: Sequence[str]) -> List[str]:
    """What was loaded, and what drawing lacks without the parts that are missing."""
    lines = []
    for part, own in found.items():
        lines.append(f"{title(part)} ({size_of(part, arrays[part])}) from {own.path}")
        silence = said_of_silence(arrays[part]) if part_named(part).kind in ("unet", "text_encoder") else ""
        if silence:
            lines.append(f"the {title(part)} {silence}")
    kept = [title(part) for part in whole if part not in found]
    if kept:
        lines.append(f"kept as it was: {', '.join(kept)}")
    missing = [part for part in PARTS[method_of_parts(dict.fromkeys(whole))] if part not in whole]
    if missing:
        coarse, fine = ({"coarse_embeds", "text_lora"} & set(whole)), ({"fine_embeds", "unet_lora"} & set(whole))
        drawn = ("both branches draw"
                 if coarse and fine else f"the {'coarse' if coarse else 'fine'} branch alone draws, without exchange")
        words = [f"without {STYLEBLEND[part].token} in its prompt"
                 for part in missing if is_embedding(part) and (coarse if part == "coarse_embeds" else fine)]
        lines.append(f"missing: {', '.join(title(part) for part in missing)}; "
                     f"{drawn}{', one ' if words else ''}{' and one '.join(words)}; "
                     f"train {name} or load them to add them")
    return lines
