"""Pickled checkpoints that are hostile or damaged: each is refused at once, and nothing in it is run."""
from __future__ import annotations

import os
import pickle
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from test_pickles import (SIX, START, STOP, integer, many, mapping, name, numpy_array, numpy_type, old_file,
                          old_storage, read, storage, tensor, text, zip_file)

from styleblend.errors import StyleBlendError
from styleblend.adapters.pickles import JITTOR_END, LEGACY_START, MAX_INSTRUCTIONS, read_arrays


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


CODE = "open('ran', 'w')"  # every hostile file would make this file in the working folder
GOOD = mapping(w=tensor())
CUT = {"memory": b"\x8d" + struct.pack("<Q", 1 << 62), "text": b"X\xff\xff\xff\xff",
       "bytes": b"B\xff\xff\xff\xff", "bytes8": b"\x8e" + b"\xff" * 8, "long": b"\x8b\xff\xff\xff\x7f"}


def laugh(levels: int, then: bytes) -> bytes:
    """A tuple of two of a tuple of two of ... in memo 0, then instructions that use it.

    It is endless to print, to copy or to hash.
    """
    return b"()q\0" + b"h\0h\0\x86q\0" * levels + then + b"t"


HOSTILE_PICKLES = {
    "os.system, protocol 2": (pickle.dumps({"w": Call(os.system, f"python3 -c \"{CODE}\"")}, 2),
                              "wants to run posix.system"),
    "os.system, protocol 4": (pickle.dumps({"w": Call(os.system, "touch ran")}, 4), "wants to run posix.system"),
    "os.system, protocol 0": (pickle.dumps({"w": Call(os.system, "touch ran")}, 0),
                              "neither a PyTorch zip file nor a pickle"),
    "os.system, by its other name": (START + name("os", "system") + text("touch ran") + b"\x85R.",
                                     "wants to run os.system"),
    "eval": (pickle.dumps(Call(eval, CODE), 4), "wants to run builtins.eval"),
    "exec": (pickle.dumps([Call(exec, CODE)], 4), "wants to run builtins.exec"),
    "a call as argument of a call": (pickle.dumps(Call(getattr, Call(__import__, "os"), "system"), 4),
                                     "wants to run builtins.getattr"),
    "deep inside": (pickle.dumps({"a": [{"b": (SIX, Call(eval, CODE))}]}, 4), "wants to run builtins.eval"),
    "as a key": (START + b"}" + name("builtins", "eval") + b"Ns.", "wants to run builtins.eval"),
    "open": (pickle.dumps(Call(open, "ran", "w"), 2), "wants to run io.open"),
    "a function behind an allowed module": (START + text("torch._utils")
                                            + text("_rebuild_tensor_v2.__globals__") + b"\x93.",
                                            "wants to run torch._utils._rebuild_tensor_v2.__globals__"),
    "a whole network": (START + name("torch.nn.modules.linear", "Linear") + b")\x81.",
                        "wants to run torch.nn.modules.linear.Linear"),
    "numpy's loader": (START + name("numpy", "load") + text("x") + b"\x85R.", "wants to run numpy.load"),
    "terminal codes in a name": (START + text("os\x1b[2J") + text("system") + b"\x93.", r"os\\x1b\[2J"),
    "text as a function": (START + text("collections.OrderedDict") + b")R.", "call something that is no function"),
    "an array class as a function": (START + name("numpy", "ndarray") + b")R.", "call something that is no function"),
    "INST": (START + b"(" + text(CODE) + b"ibuiltins\neval\n.", "instruction INST"),
    "OBJ": (START + b"(" + name("collections", "OrderedDict") + b"o.", "instruction OBJ"),
    "NEWOBJ": (START + name("collections", "OrderedDict") + b")\x81.", "instruction NEWOBJ"),
    "NEWOBJ_EX": (START + name("collections", "OrderedDict") + b")}\x92.", "instruction NEWOBJ_EX"),
    "EXT1": (START + b"\x82\x01.", "instruction EXT1"),
    "EXT2": (START + b"\x83\x01\x01.", "instruction EXT2"),
    "EXT4": (START + b"\x84\x01\x01\x01\x01.", "instruction EXT4"),
    "PERSID": (START + b"P0\n.", "instruction PERSID"),
    "state for a tensor": (START + numpy_array(many(integer(1)), b"\0" * 4) + mapping(__class__=b"N") + b"b.",
                           "set the state of a ndarray"),
    "state with functions": (START + name("collections", "OrderedDict") + b")R" + many(b"N", b"}") + b"b.",
                             "set the state of a dict"),
    "a function as state": (START + b"}" + mapping(__setstate__=name("os", "system")) + b"b.",
                            "wants to run os.system"),
    "lists in lists": (START + b"]" * 100_000 + b"a" * 99_999 + b".", "nested deeper"),
    "marks in marks": (START + b"(" * 100_000 + b"t" * 100_000 + b".", "nested deeper"),
    "a list in itself": (START + b"]q\0h\0a.", "nested deeper"),
    "an array in itself": (START + name("numpy.core.multiarray", "_reconstruct")
                           + many(name("numpy", "ndarray"), many(integer(0)), b"C\x01b")
                           + b"Rq\0" + many(integer(1), b"h\0") + b"b.", "holds itself"),
    **{f"a length beyond the end: {key}": (START + data + b"abc.", "no whole checkpoint") for key, data in CUT.items()},
    "endless instructions": (START + b"N" * (2 * MAX_INSTRUCTIONS) + b".", "pickle instructions"),
    "a number of a million digits": (START + b"L" + b"9" * 1_000_000 + b"L\n.", "no whole checkpoint"),
    "a dtype's state that cannot be hashed": (START + laugh(60, numpy_type() + b"K\3h\0\x86b") + b".",
                                              "repeats itself"),
    "a dict key that cannot be hashed": (START + laugh(60, b"}h\0Ns") + b".", "keys that are no text"),
    "a result that cannot be copied": (START + laugh(25, b"") + b".", "repeats itself"),
    "Python objects as array data": (START + numpy_array(many(integer(1)), b"\0" * 8, numpy_type("O8")) + b".",
                                     "no whole checkpoint"),
    "an array larger than its data": (START + numpy_array(many(integer(1 << 40)), b"\0" * 8) + b".",
                                      "no whole checkpoint"),
    "an array smaller than its data": (START + numpy_array(many(integer(1)), b"\0" * 8) + b".",
                                       "needs 4 bytes and has 8"),
    "the same bytes many times": (START + b"B" + struct.pack("<I", 100_000) + b"\0" * 100_000
                                  + b"q\0" + text("latin1") + b"q\x01"
                                  + (name("_codecs", "encode") + text("a" * 1000) + b"q\x02h\x01\x86R")
                                  + (name("_codecs", "encode") + b"h\x02h\x01\x86R") * 5000 + b".",
                                  "declares more data than it holds"),
    "a key that is no text": (START + b"}K\x01Ns.", "keys that are no text"),
    "an unknown place in the memo": (START + b"h\x07.", "no whole checkpoint"),
    "an empty stack": (START + b"R.", "stack is empty"),
    "below a mark": (START + b"N(R.", "stack is empty"),
    "a name as a value": (START + mapping(w=name("torch", "FloatStorage")) + b".", "no tensor, number or text"),
    "a tensor without storages": (START + GOOD + b".", "has no storage"),
    "no end": (START + b"}", "no whole checkpoint"),
    "no dict": (START + b"].", "holds a list"),
    "nothing": (b"", "neither a PyTorch zip file nor a pickle"),
    "the old format of PyTorch, cut off": (LEGACY_START + b".\x80\x02M\xe9\x03.", "no whole checkpoint"),
    "a wrong checksum": (START + b"}." + b"\0" * 20 + JITTOR_END, "checksum is wrong"),
}
OLD = mapping(w=tensor(data=old_storage(6)))
HOSTILE_OLD = {
    "os.system": (old_file(pickle.dumps(Call(os.system, "touch ran"), 0)[:-1]), "wants to run posix.system"),
    "os.system as its version": (LEGACY_START + STOP + pickle.dumps(Call(os.system, "touch ran"), 0),
                                 "wants to run posix.system"),
    "a storage of a terabyte": (old_file(mapping(w=tensor(data=old_storage(1 << 38))), _0=SIX), "declares more data"),
    "a storage of another size": (old_file(mapping(w=tensor((2,), (1,), data=old_storage(3))), _0=SIX), "another size"),
    "many storages, each as large as the file": (
        old_file(mapping(**{f"w{i}": tensor(data=old_storage(6, key=str(i))) for i in range(9)}), _0=SIX),
        "no whole checkpoint"),
    "a negative count": (old_file(mapping(w=tensor(data=old_storage(-1))), _0=SIX), "has no storage"),
    "a view of a storage": (
        old_file(mapping(w=tensor(data=old_storage(6, view=many(text("1"), integer(0), integer(2))))), _0=SIX),
        "has no storage"),
    "a function as a storage": (old_file(mapping(w=tensor(data=many(
        text("storage"), name("collections", "OrderedDict"), text("0"), text("cpu"), integer(6), b"N")
        + b"Q")), _0=SIX), "has no storage"),
    "a tensor beyond its data": (old_file(mapping(w=tensor((2, 4), (4, 1), data=old_storage(6))), _0=SIX),
                                 "beyond its data"),
    "keys that nobody uses": (old_file(OLD, _0=SIX, _1=SIX), "no whole checkpoint"),
    "a key that is missing": (old_file(OLD), "no whole checkpoint"),
    "cut in its data": (old_file(OLD, _0=SIX)[:-1], "another size"),
    "big-endian": (old_file(OLD, b"\x89", _0=SIX), "big-endian"),
    "pairs of anything": (old_file(name("collections", "OrderedDict") + b"](K\x01K\x02e\x85R", _0=SIX),
                          "keys that are no text"),
}
HUGE_SHAPE = b"(" + (b"\x8a\xff" + b"\x7f" * 255) * 20_000 + b"t"
HOSTILE_ZIPS = {
    "os.system": (zip_file(pickle.dumps(Call(os.system, "touch ran"), 0)[:-1]), "wants to run posix.system"),
    "TorchScript": (zip_file(name("__torch__.net", "Net") + b")\x81"), "wants to run __torch__.net.Net"),
    "hooks of a tensor": (
        zip_file(mapping(w=tensor(hooks=name("os", "system") + text("touch ran") + b"\x85R")), _0=SIX.tobytes()),
        "wants to run os.system"),
    "a compressed bomb": (zip_file(mapping(w=tensor((1 << 20,), (1,), data=storage(1 << 20))),
                                   zipfile.ZIP_DEFLATED, _0=b"\0" * (4 << 20)), "is compressed"),
    "a tensor beyond its data": (zip_file(mapping(w=tensor((2, 4), (4, 1))), _0=SIX.tobytes()), "beyond its data"),
    "an offset beyond the data": (zip_file(mapping(w=tensor(offset=1)), _0=SIX.tobytes()), "beyond its data"),
    "negative strides": (zip_file(mapping(w=tensor((6,), (-1,), 5)), _0=SIX.tobytes()), "no proper shape"),
    "a stride of zero": (zip_file(mapping(w=tensor((1 << 40,), (0,))), _0=SIX.tobytes()), "declares more data"),
    "a storage of another size": (zip_file(mapping(w=tensor(data=storage(1 << 40))), _0=SIX.tobytes()), "another size"),
    "a storage of two types": (zip_file(mapping(v=tensor(), w=tensor(data=storage(6, "IntStorage"))), _0=SIX.tobytes()),
                               "another size or type"),
    "a storage that is not there": (zip_file(GOOD), "no whole checkpoint"),
    "a storage key that cannot be printed": (zip_file(laugh(60, storage(6, key=b"h\0"))), "has no storage"),
    "a shape of huge numbers": (zip_file(mapping(w=name("torch._utils", "_rebuild_tensor_v2") + many(
        storage(6), integer(0), HUGE_SHAPE, b")", b"\x89", b"N") + b"R"), _0=SIX.tobytes()), "no proper shape"),
    "a newer rebuild function": (zip_file(name("torch._utils", "_rebuild_tensor_v3") + b")R"),
                                 "wants to run torch._utils._rebuild_tensor_v3"),
    "no data.pkl": (zip_file(b"}").replace(b"data.pkl", b"data.txt"), "without one data.pkl"),
    "cut in half": (zip_file(GOOD, _0=bytes(10_000))[:5_000], "no whole checkpoint"),
    "damaged data": (zip_file(GOOD, _0=SIX.tobytes()).replace(SIX.tobytes(), SIX[::-1].tobytes()),
                     "no whole checkpoint"),
}


def lying_zip(field: str) -> bytes:
    """A zip file whose directory claims 1 GiB for data/0."""
    data = bytearray(zip_file(GOOD, _0=SIX.tobytes()))
    entry = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)  # the second one in the directory
    offsets = {"size": (24,), "both": (20, 24)}[field]
    for offset in offsets:
        data[entry + offset:entry + offset + 4] = struct.pack("<I", 1 << 30)
    return bytes(data)


HOSTILE_ZIPS["a lie about one size"] = lying_zip("size"), "declares more data than it holds"
HOSTILE_ZIPS["a lie about both sizes"] = lying_zip("both"), "declares more data than it holds"
HOSTILE = {**{f"old: {key}": value for key, value in HOSTILE_OLD.items()},
           **{f"pickle: {key}": value for key, value in HOSTILE_PICKLES.items()},
           **{f"zip: {key}": value for key, value in HOSTILE_ZIPS.items()}}


@pytest.mark.parametrize("key", HOSTILE)
def test_hostile_files_are_refused_at_once_and_run_nothing(tmp_path, monkeypatch, key):
    data, message = HOSTILE[key]
    monkeypatch.chdir(tmp_path)
    Path("style.bin").write_bytes(data)
    start = time.process_time()
    with pytest.raises(StyleBlendError, match=message) as error:
        read_arrays(Path("style.bin"))
    assert time.process_time() - start < 1
    assert os.listdir(tmp_path) == ["style.bin"]
    assert str(error.value).startswith("style.bin ") and len(str(error.value)) < 300 and str(error.value).isprintable()


def test_a_tied_tensor_may_not_multiply_the_file(tmp_path):
    program = b"}(" + b"".join(text(f"w{i}") + tensor((25_000,), (1,), data=storage(25_000)) for i in range(20)) + b"u"
    with pytest.raises(StyleBlendError, match="declares more data than it holds"):
        read(tmp_path, zip_file(program, _0=bytes(100_000)))


@pytest.mark.parametrize("kind", ["zip", "old", "numpy"])
def test_damaged_files_give_the_one_error_or_a_dict(tmp_path, kind):
    good = {"zip": zip_file(GOOD, _0=SIX.tobytes()), "old": old_file(OLD, _0=SIX),
            "numpy": pickle.dumps({"a": SIX, "b": [SIX, 1.5, "x"]}, 4)}[kind]
    rng = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(good)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] = rng.integers(0, 256)
        try:
            assert type(read(tmp_path, bytes(data))) is dict
        except StyleBlendError:
            pass
