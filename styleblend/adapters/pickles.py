"""Read checkpoints that are pickles without executing them.

These are PyTorch's zip files and older files, and Jittor's `jt.save` files. A pickle is a program for a small stack
machine, and Python's own machine lets that program call anything. This one knows only the instructions and the names
that tensors need and refuses every other by its name. It imports nothing, calls nothing but what stands below, and
never makes more data than the file holds.
"""
from __future__ import annotations

import hashlib
import io
import math
import pickletools
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Union

import numpy as np

from styleblend.errors import StyleBlendError, printable

MAX_INSTRUCTIONS = 500_000  # a whole Stable Diffusion checkpoint needs about 50,000
MAX_NESTING = 32
MAX_RECORDS = 20_000
JITTOR_END = b"HCAJSLHD"    # jt.save: pickle, SHA-1 of the pickle, this
# the number that torch.save began with before PyTorch 1.6
LEGACY_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
ADVICE = "it is not opened; get the .safetensors version"

STORAGES = {"torch.FloatStorage": "<f4", "torch.HalfStorage": "<f2", "torch.DoubleStorage": "<f8",
            "torch.LongStorage": "<i8", "torch.IntStorage": "<i4", "torch.ShortStorage": "<i2",
            "torch.CharStorage": "|i1", "torch.ByteStorage": "|u1", "torch.BoolStorage": "|b1",
            "torch.BFloat16Storage": "<u2"}
NUMPY_TYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
PLAIN = (str, int, float, bool, bytes, np.ndarray, type(None))

CONSTANTS = {"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
             "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
LITERALS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
            "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "SHORT_BINSTRING")
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "TUPLE": None}


class Name(str):
    """An allowed global name, on the stack in place of what it names."""


class Storage(NamedTuple):
    """The data of one or more tensors."""
    flat: np.ndarray
    kind: str


class NumpyType:
    """A numpy dtype of numbers; its byte order comes with its BUILD."""

    def __init__(self, code: str, *_):
        if code not in NUMPY_TYPES:
            raise ValueError("an array holds no numbers")
        self.dtype = np.dtype(code)


class NumpyArray:
    """An array that still waits for its BUILD; `keys` are the places in the memo that wait with it."""

    def __init__(self, *_):
        self.keys: List[int] = []


class Program(io.BytesIO):
    """Pickle bytes whose lines are short.

    Only global names are lines, and a number of a million digits takes minutes to read.
    """

    def readline(self, size: Optional[int] = -1) -> bytes:
        return super().readline(512)


class Machine:
    """Runs one pickle. `storage(key)` gives the bytes of a PyTorch storage; `size` is the size of the file."""

    def __init__(self, source: str, size: int, storage: Optional[Callable[[str], Union[bytes, memoryview]]] = None):
        self.source, self.storage = source, storage
        self.left = 2 * size  # twice: text pickles hold bytes as text first, and both are counted
        self.stack: List[Any] = []
        self.marks: List[int] = []
        self.memo: Dict[int, Any] = {}
        self.values = 0
        self.storages: Dict[str, Storage] = {}
        self.calls = {"collections.OrderedDict": self.ordered, "torch._utils._rebuild_tensor_v2": self.tensor,
                      "torch._utils._rebuild_parameter": lambda data, *_: data,
                      "jittor.jittor_core.Var": lambda data: data, "numpy.dtype": NumpyType,
                      "_codecs.encode": self.encode}
        for module in ("numpy.core", "numpy._core"):  # numpy 1 and 2
            self.calls[f"{module}.multiarray._reconstruct"] = NumpyArray
            self.calls[f"{module}.multiarray.scalar"] = lambda kind, data: np.frombuffer(data, kind.dtype).item()

    def refuse(self, what: str) -> None:
        raise StyleBlendError(f"{self.source} {what}: {ADVICE}")

    def charge(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            self.refuse("declares more data than it holds")

    def run(self, program: Program) -> Any:
        """The result of the next pickle in `program`, which is then behind it."""
        for count, (instruction, arg, _) in enumerate(pickletools.genops(program)):
            if count >= MAX_INSTRUCTIONS:
                self.refuse(f"has more than {MAX_INSTRUCTIONS} pickle instructions")
            self.step(instruction.name, arg)
        if len(self.stack) != 1 or self.marks:
            raise ValueError("it ends in the middle")
        self.check(self.stack[0], 1)
        self.calls.clear()  # they hold the machine, which would stay with all that it read until Python seeks cycles
        return self.stack[0]

    def step(self, name: str, arg: Any) -> None:
        stack = self.stack
        if name in CONSTANTS:
            stack.append(CONSTANTS[name]())
        elif name in LITERALS:
            stack.append(arg)
        elif name == "MARK":
            if len(self.marks) >= MAX_NESTING:
                self.refuse(f"is nested deeper than {MAX_NESTING} levels")
            self.marks.append(len(stack))
        elif name in TUPLES:
            stack.append(tuple(self.pop(TUPLES[name])))
        elif name in ("APPEND", "APPENDS"):
            items = self.pop(1 if name == "APPEND" else None)
            stack[-1].extend(items)  # only a list has it: everything else is an AttributeError
        elif name in ("SETITEM", "SETITEMS"):
            items = self.pop(2 if name == "SETITEM" else None)
            if not all(type(key) is str for key in items[::2]):
                raise ValueError("a dict has keys that are no text")
            stack[-1].update(zip(items[::2], items[1::2]))
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            key = len(self.memo) if name == "MEMOIZE" else arg
            self.memo[key] = stack[-1]
            if isinstance(stack[-1], NumpyArray):
                stack[-1].keys.append(key)
        elif name in ("BINGET", "LONG_BINGET"):
            if isinstance(self.memo[arg], NumpyArray):
                raise ValueError("an array holds itself")
            stack.append(self.memo[arg])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            full = ".".join(arg.split(" ", 1) if name == "GLOBAL" else self.pop(2))
            if full not in self.calls and full not in STORAGES and full != "numpy.ndarray":
                self.refuse(f"wants to run {printable(full)}")
            stack.append(Name(full))
        elif name == "REDUCE":
            function, arguments = self.pop(2)
            if type(function) is not Name or function not in self.calls or type(arguments) is not tuple:
                self.refuse("wants to call something that is no function")
            stack.append(self.calls[function](*arguments))
        elif name == "BUILD":
            self.build(*self.pop(2))
        elif name == "BINPERSID":
            stack.append(self.torch_storage(*self.pop(1)[0]))
        elif name not in ("PROTO", "FRAME", "STOP"):
            self.refuse(f"uses the pickle instruction {name}, which no checkpoint needs")

    def pop(self, count: Optional[int]) -> List[Any]:
        """The last `count` values, or all since the last mark."""
        start = self.marks.pop() if count is None else len(self.stack) - count
        if start < (self.marks[-1] if self.marks else 0):
            raise ValueError("its stack is empty")
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def build(self, target: Any, state: Any) -> None:
        """Give an object its state.

        Arrays and dtypes have one that counts, dicts (torch's `_metadata`) one that does not.
        """
        if isinstance(target, NumpyArray):
            _, shape, kind, fortran, data = state
            self.charge(len(data))
            array = np.ndarray(shape, kind.dtype, bytes(data), order="F" if fortran else "C")
            if array.nbytes != len(data):
                raise ValueError(f"an array needs {array.nbytes} bytes and has {len(data)}")
            array = array.astype(kind.dtype.newbyteorder("="))
            for key in target.keys:
                self.memo[key] = array
            target = array
        elif isinstance(target, NumpyType):
            target.dtype = target.dtype.newbyteorder(">" if state[1] == ">" else "<")
        elif not (type(target) is dict and type(state) is dict):
            self.refuse(f"wants to set the state of a {type(target).__name__}")
        self.stack.append(target)

    def check(self, value: Any, level: int) -> None:
        """Refuse a result that is not plain, or that is endless.

        Beyond measure is also one that holds the same thing many times.
        """
        self.values += 1
        if level > MAX_NESTING or self.values > MAX_INSTRUCTIONS:
            self.refuse(f"is nested deeper than {MAX_NESTING} levels"
                        if level > MAX_NESTING else "repeats itself without end")
        if type(value) in (dict, list, tuple):
            for inner in value.values() if type(value) is dict else value:
                self.check(inner, level + 1)
        elif type(value) not in PLAIN:
            raise ValueError("it holds something that is no tensor, number or text")

    def torch_storage(self, word, kind, key, location, count, view=None) -> Storage:
        if (word != "storage" or type(kind) is not Name or type(key) not in (str, int) or self.storage is None
                or view is not None):
            raise ValueError("a tensor has no storage")
        key = str(key)  # Jittor writes numbers
        if key not in self.storages:
            self.storages[key] = Storage(np.frombuffer(self.storage(key), STORAGES[kind]), kind)
        found = self.storages[key]
        if type(count) is not int or len(found.flat) != count or found.kind != kind:
            self.refuse(f"declares another size or type than it holds for storage {printable(key)}")
        return found

    def tensor(self, storage, offset, shape, strides, *_) -> np.ndarray:
        if not isinstance(storage, Storage) or max(len(shape), len(strides)) > 16 or any(
                type(n) is not int or n < 0 for n in (offset, *shape, *strides)):
            raise ValueError("a tensor has no proper shape")
        flat, count, strides = storage.flat, math.prod(shape), strides[:len(shape)]
        self.charge(2 * count * flat.itemsize)  # a stride of 0 repeats data without end
        if count and offset + sum((n - 1) * s for n, s in zip(shape, strides)) >= len(flat):
            self.refuse("has a tensor that reaches beyond its data")
        view = np.zeros(shape, flat.dtype) if not count else np.lib.stride_tricks.as_strided(
            flat[offset:], shape, [s * flat.itemsize for s in strides])
        if storage.kind == "torch.BFloat16Storage":  # the upper half of a float32
            wide = view.reshape(-1).astype(np.uint32)
            wide <<= 16  # where it is: files may be large
            return wide.view(np.float32).reshape(shape)
        return np.require(view, requirements="CA")  # a copy only where it must be: files may be large

    def ordered(self, pairs=()) -> dict:
        """Python 2 gives an OrderedDict its pairs when it makes it, Python 3 afterwards."""
        if (type(pairs) not in (list, tuple)
                or not all(type(pair) in (list, tuple) and len(pair) == 2 and type(pair[0]) is str for pair in pairs)):
            raise ValueError("a dict has keys that are no text")
        return dict(pairs)

    def encode(self, text, encoding) -> bytes:
        if encoding != "latin1":
            raise ValueError("bytes have an unknown encoding")
        self.charge(len(text))
        return text.encode("latin1")


class Survey(Machine):
    """A first run through an old file: which storages there are, of what kind and size.

    They come behind the pickle.
    """

    def torch_storage(self, word, kind, key, location, count, view=None) -> Storage:
        if (type(kind) is not Name or kind not in STORAGES or type(key) is not str or type(count) is not int
                or count < 0 or view is not None):
            raise ValueError("a tensor has no storage")
        if key not in self.storages:
            self.charge(2 * count * np.dtype(STORAGES[kind]).itemsize)
            self.storages[key] = Storage(np.zeros(count, STORAGES[kind]), kind)
        return self.storages[key]

    def tensor(self, *_) -> None:
        return None


def read_old(path: Path) -> Any:
    """A torch.save file from before PyTorch 1.6.

    Five pickles (a number, a version, sizes, the result, keys), then for each key a count and its data.
    """
    data = path.read_bytes()
    program, storages = Program(data), {}
    for _ in range(2):
        Machine(str(path), len(data)).run(program)
    if Machine(str(path), len(data)).run(program).get("little_endian") is not True:
        raise ValueError("it was written on a big-endian machine")
    start, survey = program.tell(), Survey(str(path), len(data))
    survey.run(program)
    for key in Machine(str(path), len(data)).run(program):
        counted = int.from_bytes(program.read(8), "little")
        begin, size = program.tell(), survey.storages[key].flat.nbytes
        if counted != len(survey.storages[key].flat) or begin + size > len(data):
            survey.refuse(f"is half a download, or declares another size than it holds for storage {printable(key)}")
        storages[key] = memoryview(data)[begin:begin + size]  # no copy: files may be large
        program.seek(begin + size)
    program.seek(start)
    return Machine(str(path), len(data), storages.__getitem__).run(program)


def read_zip(path: Path) -> Any:
    """A torch.save file: NAME/data.pkl and NAME/data/KEY, stored uncompressed."""
    with open(path, "rb") as file:  # before zipfile reads the directory: it makes an object of each of its records
        if sum(part.count(b"PK\x01\x02") for part in iter(lambda: file.read(1 << 24), b"")) > MAX_RECORDS:
            raise ValueError(f"it has more than {MAX_RECORDS} records")
    with zipfile.ZipFile(path) as archive:
        size, entries = path.stat().st_size, {entry.filename: entry for entry in archive.infolist()}
        programs = [name for name in entries if name.endswith("/data.pkl")]
        if len(programs) != 1:
            raise ValueError("it is a zip file without one data.pkl")
        root = programs[0][:-len("data.pkl")]
        machine = Machine(str(path), size, lambda key: archive.read(entries[f"{root}data/{key}"]))
        if sum(e.file_size for e in archive.infolist()) > size or any(
                e.compress_type != zipfile.ZIP_STORED or e.compress_size != e.file_size for e in entries.values()):
            machine.refuse("is compressed or declares more data than it holds")
        if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("it was written on a big-endian machine")
        return machine.run(Program(archive.read(programs[0])))


def read_arrays(path: Path) -> Dict[str, Any]:
    """The dict in a .bin, .pt, .pth or .pkl file.

    It holds arrays (bfloat16 as float32), numbers, text, and dicts and lists of them. Nothing in the file is executed.
    StyleBlendError names what is not allowed or not whole.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            start = file.read(len(LEGACY_START))
        if start.startswith(b"PK\x03\x04"):
            result = read_zip(path)
        elif start == LEGACY_START:
            result = read_old(path)
        elif start.startswith(b"\x80"):
            data = path.read_bytes()
            if data.endswith(JITTOR_END):
                data, digest = data[:-28], data[-28:-8]
                if hashlib.sha1(data).digest() != digest:
                    raise ValueError("its checksum is wrong")
            result = Machine(str(path), len(data)).run(Program(data))
        else:
            raise ValueError("it is neither a PyTorch zip file nor a pickle")
    except FileNotFoundError:
        raise StyleBlendError(f"{path} is missing") from None
    except StyleBlendError:
        raise
    except Exception as error:  # a damaged or hostile file can bring numpy, zipfile and pickletools to raise anything
        reason = printable(str(error)) or type(error).__name__
        if isinstance(error, zipfile.BadZipFile) and str(error) == "File is not a zip file":  # it has no end
            reason = "it ends in the middle: half a download"
        raise StyleBlendError(f"{path} is no whole checkpoint ({reason}): "
                              "download or train it again, or get the .safetensors version") from None
    if type(result) is not dict:
        raise StyleBlendError(f"{path} holds a {type(result).__name__} where tensors with names are needed: "
                              "get the .safetensors version")
    return result
