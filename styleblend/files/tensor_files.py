"""Safetensors files, read and written. Nothing here starts Jittor."""
from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from styleblend.errors import StyleBlendError, printable
from styleblend.files import content
from styleblend.files.limits import MAX_HEADER
from styleblend.files.whole_files import write_bytes

WIDE = ("F64", "I64", "U64")  # eight bytes a number
# what is read, as NumPy calls it: it does not have BF16, which becomes float32
TYPES = {"BOOL": "bool", "F16": "f2", "BF16": "f4", "F32": "f4", "F64": "f8",
         **{f"{letter}{8 * size}": f"{letter.lower()}{size}" for letter in "UI" for size in (1, 2, 4, 8)}}


@contextlib.contextmanager
def opened(path: Path):
    """A safetensors file, for reading. All that the library can find wrong becomes one StyleBlendError."""
    with explained(path), mapped(path) as file:
        yield file


def mapped(path: Path):
    """The library's own view of a file, whose header was looked at."""
    refuse_other(path)
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > MAX_HEADER:
        raise ValueError(f"its header claims {size} bytes")
    return safe_open(str(path), framework="numpy")


@contextlib.contextmanager
def explained(path: Path):
    """All that the library can find wrong inside becomes one StyleBlendError."""
    try:
        yield
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
    return {name: np.asarray(tensor) for name, tensor in stored_tensors(path, names).items()}


def kinds_of(path: Path, file, names: Sequence[str]) -> Dict[str, str]:
    """The types of these tensors, as the header calls them. StyleBlendError for one that is not read."""
    kinds = {name: file.get_slice(name).get_dtype() for name in names}
    other = [name for name in names if kinds[name] not in TYPES]
    if other:
        raise StyleBlendError(f"{path}: {printable(other[0])} has numbers of the type "
                              f"{printable(kinds[other[0]])}, which is not read: save it as F16 or F32")
    return kinds


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is in a file until `np.asarray` reads it, each time anew: one at a time is in memory."""

    shape: Tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        array = self.read()
        return array if dtype is None else array.astype(dtype, copy=False)


def stored_tensors(path: Path, names: Optional[Sequence[str]] = None) -> Dict[str, StoredTensor]:
    """The tensors of a file as `read_safetensors` gives them, none of them read yet."""
    path = Path(path)

    def read(name: str) -> np.ndarray:
        with explained(path):
            return file.get_tensor(name) if kinds[name] != "BF16" else read_bfloat16(data, header[name])

    with explained(path):
        file = mapped(path)  # open as long as one of its tensors is known to somebody
        kinds = kinds_of(path, file, list(file.keys()) if names is None else list(names))
        data, header = numbers_of(path) if "BF16" in kinds.values() else (None, {})
        return {name: StoredTensor(tuple(file.get_slice(name).get_shape()), np.dtype(TYPES[kind]), partial(read, name))
                for name, kind in kinds.items()}


def numbers_of(path: Path) -> Tuple[np.memmap, dict]:
    """The bytes of a file behind its header, and the header, which the safetensors library has checked."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    return np.memmap(path, np.uint8, "r", offset=8 + size), header


def read_bfloat16(data: np.memmap, about: dict) -> np.ndarray:
    """bfloat16 is the upper half of a float32. `about`: what the header says of the tensor."""
    begin, end = about["data_offsets"]
    bits = data[begin:end].view(np.uint16).astype(np.uint32)
    np.left_shift(bits, 16, out=bits)  # in place: a second copy would be as large again
    return bits.view(np.float32).reshape(about["shape"])


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
