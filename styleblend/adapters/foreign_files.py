"""An adapter file of any program as arrays.

What is no adapter is named before its data are read, and no file makes more data than it holds.
"""
from __future__ import annotations

import math
import re
import warnings
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np

from styleblend.files import tensor_files
from styleblend.errors import StyleBlendError, printable
from styleblend.adapters.formats import flat, layer_and_end, number, outside_attention, refuse_foreign
from styleblend.adapters.pickles import read_arrays
from styleblend.files.text import LARGEST, parse_json, read_json

# As float32. Rank 128 in every attention layer of Stable Diffusion 2.1's two networks takes 194 MiB.
# Few LoRAs have more.
# While a file of this size is read, converted and scaled, the program stays below 1 GB, whatever the kind of the file.
MAX_BYTES = 224 << 20
MAX_NAMES, MAX_NAME = 50_000, 500
PEFT_PREFIX, DIFFUSERS_KEY = "base_model.model.", "lora_adapter_metadata"
NAME_PATTERN = re.compile(r"(\^?)((?:\w|\\?\.)+)\$?")  # the names that PEFT's patterns are, in practice


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
    layers = {(layer_and_end(name) or [name])[0] for name, kind in kinds.items() if kind}
    kept = [name for name in names if not kinds[name]]
    if not layers:
        return kept
    what = (f"{len(layers)} layer{'s' * (len(layers) > 1)} outside attention "
            f"({', '.join(sorted(set(filter(None, kinds.values())))[:7])})")
    if not kept:
        raise StyleBlendError(f"{source} changes nothing but {what}, and a style here has no place for them: "
                              "give a LoRA that changes attention layers")
    if not attention_only:
        raise StyleBlendError(f"{source} also changes {what}, and a style here has no place for them: styleblend load "
                              "--attention-only leaves them out, and the LoRA then does less than elsewhere; "
                              "or train it on attention layers alone, as the scripts of diffusers do")
    warnings.warn(f"{source}: {what} are left out; what the LoRA does elsewhere it does here only in part")
    return kept


def too_large(size: int, source: str) -> StyleBlendError:
    return StyleBlendError(f"{source} takes {size / 2**20:,.0f} MiB, more than any adapter (rank 128 in all attention "
                           f"layers takes 194, and {MAX_BYTES >> 20} are read): "
                           "give a LoRA of a lower rank or a textual inversion file, not a whole checkpoint")


def read_tensors(path: Path, attention_only: bool = False) -> Dict[str, Any]:
    """What a .safetensors, .bin or .pt file holds, by name.

    These are arrays; from a pickle also dicts of arrays, text and numbers. Alphas that PEFT and diffusers keep beside
    the matrices come as `<layer>.alpha`, as kohya has them. `attention_only` leaves out the layers of a LoRA that no
    style changes; without it such a file is refused.
    """
    path, source = Path(path), str(path)
    if not path.is_file():
        raise StyleBlendError(f"{source} is no file: name a .safetensors, .bin or .pt file")
    with open(path, "rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise StyleBlendError(f"{source} is only a pointer of Git LFS to the file: "
                              "type git lfs pull, or download the file itself")
    if path.suffix == ".safetensors":
        names = tensor_files.read_names(path)
        check_names(names, source)
        names = wanted(names, source, attention_only)
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
        names = wanted(list(entries), source, attention_only)
        size = sum(value.size * max(4, value.itemsize) for value in entries.values() if isinstance(value, np.ndarray))
        if size > MAX_BYTES:
            raise too_large(size, source)
        if len(names) < len(entries):
            tensors = {name: entries[name] for name in names}
    return {**tensors, **alphas(path, tensors)}


class Strength(NamedTuple):
    """What PEFT's settings say of the strength of a LoRA."""

    alpha: float
    # whether it is the layer's whole name, and the name -> place in the list, alpha
    by_name: Dict[Tuple[bool, str], Tuple[int, float]]
    rank_stabilised: bool

    def of(self, layer: str, rank: int) -> float:
        """The alpha of a layer, such that alpha / rank is what its matrices are multiplied by."""
        parts = layer.split(".")
        ends = [(True, layer)] + [(False, ".".join(parts[i:])) for i in range(len(parts))]
        # as PEFT: the first that fits
        alpha = min((self.by_name[end] for end in ends if end in self.by_name), default=(0, self.alpha))[1]
        return alpha * math.sqrt(rank) if self.rank_stabilised else alpha


def strength(config: Dict[str, Any], source: str) -> Strength:
    """The part of a PEFT configuration that says how strong the LoRA is.

    StyleBlendError for what is no such configuration.
    """
    patterns, by_name = config.get("alpha_pattern") or {}, {}
    if not isinstance(patterns, dict):
        raise StyleBlendError(f"{source}: alpha_pattern is no JSON object: "
                              "the file is damaged, save or download it again")
    for place, (pattern, alpha) in enumerate(patterns.items()):
        match = NAME_PATTERN.fullmatch(pattern)
        if not match:
            raise StyleBlendError(f"{source}: {printable(pattern)} in alpha_pattern is more than the name of a layer, "
                                  "and other patterns are not followed: write the names out")
        by_name.setdefault((bool(match[1]), match[2].replace("\\.", ".")),
                           (place, number(alpha, "alpha_pattern", source)))
    return Strength(number(config["lora_alpha"], "lora_alpha", source), by_name, config.get("use_rslora") is True)


def configurations(path: Path, names) -> Iterator[Tuple[str, Strength]]:
    """(how keys begin, the strength of these layers), where the file or its folder says so.

    Of a PEFT folder's adapter_config.json, or of the header that newer diffusers write.
    """
    if any(name.startswith(PEFT_PREFIX) for name in names):
        beside = path.with_name("adapter_config.json")
        config = read_json(beside, "download it again") if beside.is_file() else {}
        if isinstance(config, dict) and "lora_alpha" in config:
            yield PEFT_PREFIX, strength(config, str(beside))
        else:
            warnings.warn(f"{path} does not say how strong it is, since PEFT keeps lora_alpha in adapter_config.json, "
                          "and there is none beside it: alpha is taken as the rank")
    text = tensor_files.read_metadata(path).get(DIFFUSERS_KEY) if path.suffix == ".safetensors" else None
    if text is None:
        return
    try:
        found = parse_json(text if len(text) <= LARGEST else "")
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
    except ValueError as error:
        raise StyleBlendError(f"{path}: {DIFFUSERS_KEY} in its header cannot be read ({printable(str(error))}): "
                              "save or download it again") from None
    for start in ("unet.", "text_encoder.", ""):  # the last: a file of one network, without prefix
        if f"{start}lora_alpha" in found:
            yield start, strength({key[len(start):]: value for key, value in found.items() if key.startswith(start)},
                                  str(path))


def alphas(path: Path, tensors: Dict[str, Any]) -> Dict[str, float]:
    """`<layer>.alpha` of each layer whose alpha stands beside the matrices and not among them."""
    known, found = list(configurations(path, tensors)), {}
    for key, value in tensors.items() if known else ():
        layer, end = layer_and_end(key) or ("", "")
        start = next((s for s, _ in known if key.startswith(s)), None)
        if (end == "down" and start is not None and f"{layer}.alpha" not in tensors and isinstance(value, np.ndarray)
                and value.ndim):
            found[f"{layer}.alpha"] = dict(known)[start].of(layer[len(start):], value.shape[0])
    return found


def refuse_damaged(arrays: Dict[str, np.ndarray], source: str) -> None:
    """StyleBlendError when a number is not finite."""
    broken = [key for key, v in arrays.items() if v.dtype.kind == "f" and not np.isfinite(v).all()]
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise StyleBlendError(f"{source} holds NaN or infinity in {printable(broken[0])}{more}: "
                              "download or train it again")
