"""Safetensors files, read and written. Nothing here starts Jittor."""
from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from styleblend.errors import StyleBlendError, printable
from styleblend.files import content
from styleblend.files.limits import MAX_HEADER
from styleblend.files.whole_files import write_bytes

TYPES = ("BOOL", "U8", "I8", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "F64", "I64", "U64")
WIDE = ("F64", "I64", "U64")  # eight bytes a number


@contextlib.contextmanager
def opened(path: Path):
    """A safetensors file, for reading. All that the library can find wrong becomes one StyleBlendError."""
    try:
        refuse_other(path)
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
        if size > MAX_HEADER:
            raise ValueError(f"its header claims {size} bytes")
        with safe_open(str(path), framework="numpy") as file:
            yield file
    except FileNotFoundError:
        raise StyleBlendError(f"{path} is missing") from None
    except StyleBlendError:
        raise
    except Exception as error:  # the library's own error, and those of NumPy for shapes that are too large
        reason = content.shortfall(path, MAX_HEADER) or printable(str(error), 100)
        raise StyleBlendError(f"{path} is no whole safetensors file ({reason}): download or train it again") from None


def refuse_other(path: Path) -> None:
    """StyleBlendError for a file of another kind, which is named, whatever the file is called."""
    if content.is_safetensors(path):
        return
    if content.kind_of(path) == content.PYTORCH:
        raise StyleBlendError(f"{path} is no whole safetensors file but a PyTorch file, a pickle, which is never "
                              "executed here: get the .safetensors version")
    found = content.other(path)
    if found:
        raise StyleBlendError(f"{path} is no whole safetensors file but {found.what}: {found.cure}")


def read_names(path: Path) -> List[str]:
    """The names of a file's tensors, without reading the tensors."""
    with opened(path) as file:
        return list(file.keys())


def read_sizes(path: Path, names: Sequence[str]) -> Dict[str, int]:
    """How many bytes each of these tensors takes when it is read, from the header.

    At least four a number, since half precision becomes float32.
    """
    with opened(path) as file:
        found = {name: file.get_slice(name) for name in names}
        return {name: math.prod(part.get_shape()) * (8 if part.get_dtype() in WIDE else 4)
                for name, part in found.items()}


def read_safetensors(path: Path, names: Optional[Sequence[str]] = None) -> Dict[str, np.ndarray]:
    """The tensors of a file, by name; None: all. bfloat16, which NumPy does not have, comes back as float32."""
    path = Path(path)
    with opened(path) as file:
        names = list(file.keys()) if names is None else list(names)
        kinds = {name: file.get_slice(name).get_dtype() for name in names}
        other = [name for name in names if kinds[name] not in TYPES]
        if other:
            raise StyleBlendError(f"{path}: {printable(other[0])} has numbers of the type "
                                  f"{printable(kinds[other[0]])}, which is not read: save it as F16 or F32")
        tensors = {name: file.get_tensor(name) for name in names if kinds[name] != "BF16"}
        if len(tensors) < len(names):
            tensors.update(read_bfloat16(path, [n for n in names if kinds[n] == "BF16"]))
    return {name: tensors[name] for name in names}


def read_bfloat16(path: Path, names) -> Dict[str, np.ndarray]:
    """The header is already checked by the safetensors library; bfloat16 is the upper half of a float32."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    data = np.memmap(path, np.uint8, "r", offset=8 + size)
    found = {}
    for name in names:
        begin, end = header[name]["data_offsets"]
        bits = data[begin:end].view(np.uint16).astype(np.uint32)
        np.left_shift(bits, 16, out=bits)  # in place: a second copy would be as large again
        found[name] = bits.view(np.float32).reshape(header[name]["shape"])
    return found


def read_rows(path: Path, name: str, rows: Sequence[int]) -> np.ndarray:
    """These rows of one tensor; the others are not read."""
    with opened(path) as file:
        part = file.get_slice(name)
        return np.stack([part[row] for row in rows])


def read_shapes(path: Path, names: Sequence[str]) -> Dict[str, Tuple[int, ...]]:
    """The shapes of these tensors, from the header."""
    with opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in names}


def read_metadata(path: Path) -> Dict[str, str]:
    """The header's text fields, empty when there are none; so they are of a file that is no safetensors file."""
    if Path(path).is_file() and content.kind_of(path) == content.PYTORCH:
        return {}
    with opened(path) as file:
        return dict(file.metadata() or {})


def write_safetensors(path: Path, tensors: Dict[str, np.ndarray], metadata: Optional[Dict[str, str]] = None) -> None:
    """Write a whole file or none; `metadata` are text fields for the header. Equal content gives equal bytes."""
    arrays = {name: np.ascontiguousarray(t) for name, t in tensors.items()}
    write_bytes(path, with_sorted_metadata(save(arrays, metadata={"format": "pt", **(metadata or {})})))


def with_sorted_metadata(data: bytes) -> bytes:
    """A safetensors file with its text fields in order: the library writes them in a new random order every time."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8 bytes
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(data)[8 + size:]])
