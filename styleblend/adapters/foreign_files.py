"""An adapter file of any program as arrays.

What is no adapter is named before its data are read, and no file makes more data than it holds.
"""
from __future__ import annotations

import difflib
import warnings
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence

import numpy as np

from styleblend.files import content, tensor_files
from styleblend.errors import StyleBlendError, printable
from styleblend.adapters.alphas import alphas
from styleblend.adapters.formats import (flat, layer_and_end, outside_attention, refuse_foreign,
                                         refuse_other_widths, text_widths)
from styleblend.adapters.original_names import UNREAD, parts_of_fused
from styleblend.adapters.pickles import read_arrays

# As float32. Rank 128 in every attention layer of Stable Diffusion 2.1's two networks takes 194 MiB.
# Few LoRAs have more.
# While a file of this size is read, converted and scaled, the program stays below 1 GB, whatever the kind of the file.
MAX_BYTES = 224 << 20
MAX_NAMES, MAX_NAME = 50_000, 500
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def check_names(names, source: str) -> None:
    """Refuse by its names a file that is no adapter of ours."""
    if len(names) > MAX_NAMES or any(len(name) > MAX_NAME for name in names):
        raise StyleBlendError(f"{source} holds {len(names)} names, up to {max(map(len, names))} characters long, "
                              "which no adapter has: give a LoRA or a textual inversion file")
    refuse_foreign(names, source)


def wanted(names: Sequence[str], source: str, attention_only: bool) -> List[str]:
    """The names without those of layers that no style changes, if these may be left out.

    Else StyleBlendError where there are some.
    """
    kinds = {name: outside_attention(name) for name in names}
    layers = {(layer_and_end(name) or [name.rpartition(".")[0] or name])[0] for name, kind in kinds.items() if kind}
    kept = [name for name in names if not kinds[name]]
    if not layers:
        return kept
    listed = ", ".join(sorted(set(filter(None, kinds.values()))))
    listed = listed if len(listed) <= 70 else listed[:70].rpartition(",")[0] + ", ..."
    what = f"{len(layers)} layer{'s' * (len(layers) > 1)} outside attention ({listed})"
    if not kept:
        raise StyleBlendError(f"{source} changes nothing but {what}, for which a style has no place: "
                              "give a LoRA of attention layers")
    if not attention_only:
        raise StyleBlendError(f"{source} also changes {what}: styleblend load --attention-only leaves them out, "
                              "and the LoRA then does less")
    warnings.warn(f"{source}: {what} are left out; what the LoRA does elsewhere it does here only in part")
    return kept


def without_unread(names: Sequence[str], source: str) -> List[str]:
    """The names without those of a text encoder's layer that Stable Diffusion 2.x does not use."""
    kept = [name for name in names if not UNREAD.fullmatch(name)]
    if len(kept) < len(names) and kept:
        warnings.warn(f"{source}: layer 23 of the text encoder is left out: no Stable Diffusion 2.x reads it")
    return kept or list(names)


def too_large(size: int, source: str) -> StyleBlendError:
    return StyleBlendError(f"{source} takes {size / 2**20:,.0f} MiB, more than any adapter ({MAX_BYTES >> 20} are "
                           "read): give a LoRA of a lower rank or an embedding, not a whole checkpoint")


def refuse_no_file(path: Path) -> None:
    """StyleBlendError where there is no file, with the name of one that may be meant."""
    if path.is_file():
        return
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix.lower() in (".safetensors", *PICKLED))
        names = f" such as {printable(inside[0])}" if inside else ": there is no .safetensors, .bin or .pt in it"
        raise StyleBlendError(f"{path} is no file but a folder: name a file in it{names}")
    if path.is_symlink():
        raise StyleBlendError(f"{path} is no file but a link to {printable(str(path.readlink()))}, which is not there: "
                              "download the file again")
    near = difflib.get_close_matches(path.name, (p.name for p in path.parent.glob("*")), 1) if path.name else []
    meant = f"did you mean {printable(near[0])}?" if near else "name a .safetensors, .bin or .pt file"
    raise StyleBlendError(f"{path} is no file: {meant}")


def refuse_other(path: Path) -> str:
    """The kind of an adapter file by what it holds (see `files.content`). Another name is said.

    StyleBlendError for what is neither safetensors nor PyTorch's.
    """
    kind, ending = content.kind_of(path), path.suffix.lower()
    if not kind:
        found = content.other(path)
        if found:
            raise StyleBlendError(f"{path} is {found.what}: {found.cure}")
        raise StyleBlendError(f"{path} is no whole adapter file: it begins as neither safetensors nor PyTorch files "
                              "do; download it again")
    if kind == content.PYTORCH and ending == ".safetensors":
        warnings.warn(f"{path} is a PyTorch file that is named .safetensors: it is read as one, and nothing in it runs")
    if kind == content.SAFETENSORS and ending in PICKLED:
        warnings.warn(f"{path} is a safetensors file that is named {ending}: it is read as one")
    return kind


def read_tensors(path: Path, attention_only: bool = False) -> Dict[str, Any]:
    """What an adapter file holds, by name; its kind is told by what it holds.

    These are arrays; from a pickle also dicts of arrays, text and numbers. Alphas that PEFT, diffusers and kohya keep
    beside the matrices come as `<layer>.alpha`, as kohya has them; a text encoder's fused matrices in three.
    `attention_only` leaves out the layers of a LoRA that no style changes; without it such a file is refused.
    """
    path, source = Path(path), str(path)
    refuse_no_file(path)
    if refuse_other(path) == content.SAFETENSORS:
        names = tensor_files.read_names(path)
        check_names(names, source)
        refuse_other_models(tensor_files.read_shapes(path, names), source)
        names = without_unread(wanted(names, source, attention_only), source)
        size = sum(tensor_files.read_sizes(path, names).values())
        if size > MAX_BYTES:
            raise too_large(size, source)
        tensors = tensor_files.read_safetensors(path, names)
    else:
        if path.stat().st_size > MAX_BYTES:
            raise too_large(path.stat().st_size, source)
        tensors = read_arrays(path)
        entries = flat(tensors)
        check_names(entries, source)
        arrays = {name: value for name, value in entries.items() if isinstance(value, np.ndarray)}
        refuse_other_models({name: value.shape for name, value in arrays.items()}, source)
        names = without_unread(wanted(list(entries), source, attention_only), source)
        size = sum(value.size * max(4, value.itemsize) for value in arrays.values())
        if size > MAX_BYTES:
            raise too_large(size, source)
        if len(names) < len(entries):
            tensors = {name: entries[name] for name in names}
    tensors = apart(tensors, source)
    return {**tensors, **alphas(path, tensors)}


def refuse_other_models(shapes: Mapping[str, Sequence[int]], source: str) -> None:
    """StyleBlendError for a LoRA of another model, by the widths of the text that it reads."""
    refuse_other_widths(text_widths({key: tuple(shape) for key, shape in shapes.items()}, source), source)


def apart(tensors: Dict[str, Any], source: str) -> Dict[str, Any]:
    """The same with LoRAs of q, k and v in place of one on OpenCLIP's fused matrix."""
    found = {}
    for key, value in tensors.items():
        layer, end = layer_and_end(key) or ("", "")
        parts = parts_of_fused(layer, end, value, source)
        found.update({part + key[len(layer):]: one for part, one in parts.items()} if parts else {key: value})
    return found


def refuse_damaged(arrays: Dict[str, np.ndarray], source: str) -> None:
    """StyleBlendError when a number is not finite."""
    broken = [key for key, v in arrays.items() if v.dtype.kind == "f" and not np.isfinite(v).all()]
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise StyleBlendError(f"{source} holds NaN or infinity in {printable(broken[0])}{more}: "
                              "download or train it again")
