"""An adapter file of any program as arrays. What is no adapter is named before its data are read, and no file makes more data than it holds."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import numpy as np

from styleblend import weights
from styleblend.errors import StyleBlendError, printable
from styleblend.formats import flat, refuse_foreign
from styleblend.pickles import read_arrays

MAX_BYTES = 1 << 30  # a LoRA of rank 128 for Stable Diffusion 2.1 has a tenth of it
MAX_NAMES, MAX_NAME = 50_000, 500


def check_names(names, source: str) -> None:
    """Refuse by its names a file that is no adapter of ours."""
    if len(names) > MAX_NAMES or any(len(name) > MAX_NAME for name in names):
        raise StyleBlendError(f"{source} holds {len(names)} names, up to {max(map(len, names))} characters long, which no adapter has: give a LoRA or a textual inversion file")
    refuse_foreign(names, source)


def read_tensors(path: Path) -> Dict[str, Any]:
    """What a .safetensors, .bin or .pt file holds, by name: arrays; from a pickle also dicts of arrays, text and numbers."""
    path, source = Path(path), str(path)
    if not path.is_file():
        raise StyleBlendError(f"{source} is no file: name a .safetensors, .bin or .pt file")
    with open(path, "rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise StyleBlendError(f"{source} is only a pointer of Git LFS to the file: type git lfs pull, or download the file itself")
    whole = path.suffix == ".safetensors"
    if whole:
        check_names(weights.read_names(path), source)
    if path.stat().st_size > MAX_BYTES:
        raise StyleBlendError(f"{source} has {path.stat().st_size / 2**30:.1f} GiB, more than any adapter: give a LoRA or a textual inversion file, not a whole checkpoint")
    tensors = weights.read_safetensors(path) if whole else read_arrays(path)
    check_names(flat(tensors), source)
    return tensors


def refuse_damaged(arrays: Dict[str, np.ndarray], source: str) -> None:
    """StyleBlendError when a number is not finite."""
    broken = [key for key, v in arrays.items() if v.dtype.kind == "f" and not np.isfinite(v).all()]
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise StyleBlendError(f"{source} holds NaN or infinity in {printable(broken[0])}{more}: download or train it again")
