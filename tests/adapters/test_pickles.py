"""Pickled checkpoints: what PyTorch and Jittor write is read exactly."""
from __future__ import annotations

import gc
import io
import os
import pickle
import struct
import weakref
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from styleblend.errors import StyleBlendError
from styleblend.adapters.pickles import LEGACY_START, read_arrays

START, STOP = b"\x80\x02", b"."
NEEDS_GOLDEN = pytest.mark.skipif("STYLEBLEND_GOLDEN" not in os.environ,
                                  reason="STYLEBLEND_GOLDEN names no folder of reference files")


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integer(value: int) -> bytes:
    data = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def many(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def mapping(**values: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in values.items()) + b"u"


def storage(count: int, kind: str = "FloatStorage", key: bytes = text("0")) -> bytes:
    return many(text("storage"), name("torch", kind), key, text("cpu"), integer(count)) + b"Q"


def tensor(shape=(2, 3), strides=(3, 1), offset=0, data=storage(6),
           hooks=name("collections", "OrderedDict") + b")R") -> bytes:
    """The instructions by which PyTorch makes a tensor."""
    return name("torch._utils", "_rebuild_tensor_v2") + many(
        data, integer(offset), many(*map(integer, shape)), many(*map(integer, strides)), b"\x89", hooks) + b"R"


def numpy_type(code: str = "f4") -> bytes:
    state = many(integer(3), text("<"), b"NNN", b"J\xff\xff\xff\xff" * 2, b"K\0")
    return name("numpy", "dtype") + many(text(code), b"\x89", b"\x88") + b"R" + state + b"b"


def numpy_array(shape: bytes, data: bytes, kind: bytes = numpy_type()) -> bytes:
    raw = b"B" + struct.pack("<I", len(data)) + data
    return (name("numpy.core.multiarray", "_reconstruct")
            + many(name("numpy", "ndarray"), many(integer(0)), b"C\x01b") + b"R"
            + many(integer(1), shape, kind, b"\x89", raw) + b"b")


def zip_file(program: bytes, compression: int = zipfile.ZIP_STORED, **records: bytes) -> bytes:
    """A file as torch.save writes it; records are storages, `_0` for data/0."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", START + program + STOP)
        for key, data in records.items():
            archive.writestr(f"archive/data/{key[1:]}", data)
        archive.writestr("archive/version", b"3\n")
    return file.getvalue()


def saved_by_torch(tensors: dict) -> bytes:
    """A file of torch.save with these arrays, each with a storage of its own."""
    kinds = {"f": "FloatStorage", "i": "LongStorage"}
    whole = {key: np.ascontiguousarray(x) for key, x in tensors.items()}
    program = mapping(**{key: tensor(x.shape, tuple(size // x.itemsize for size in x.strides),
                                     data=storage(x.size, kinds[x.dtype.kind], key=text(key)))
                         for key, x in whole.items()})
    return zip_file(program, **{f"_{key}": x.tobytes() for key, x in whole.items()})


def old_storage(count: int, kind: str = "FloatStorage", key: str = "0", view: bytes = b"N") -> bytes:
    return many(text("storage"), name("torch", kind), text(key), text("cuda:0"), integer(count), view) + b"Q"


def old_file(program: bytes, little_endian: bytes = b"\x88", **storages) -> bytes:
    """A file as torch.save wrote it before 1.6; storages are arrays by their keys, `_0`, in the order of the file."""
    keys = b"](" + b"".join(text(key[1:]) for key in storages) + b"e"
    pickles = (LEGACY_START[len(START):], b"M\xe9\x03", mapping(little_endian=little_endian), program, keys)
    return (b"".join(START + part + STOP for part in pickles)
            + b"".join(struct.pack("<q", array.size) + array.tobytes() for array in storages.values()))


def read(tmp_path: Path, data: bytes) -> dict:
    path = tmp_path / "style.bin"
    path.write_bytes(data)
    return read_arrays(path)


SIX = np.arange(6, dtype=np.float32)


@pytest.mark.parametrize("kind, dtype", [("FloatStorage", "f4"), ("HalfStorage", "f2"), ("DoubleStorage", "f8"),
                                         ("LongStorage", "i8"), ("IntStorage", "i4"), ("ByteStorage", "u1"),
                                         ("BoolStorage", "?")])
def test_torch_types(tmp_path, kind, dtype):
    values = SIX.astype(dtype)
    found = read(tmp_path, zip_file(mapping(w=tensor(data=storage(6, kind))), _0=values.tobytes()))
    assert found["w"].dtype == dtype and np.array_equal(found["w"], values.reshape(2, 3))


def test_torch_before_1_6(tmp_path):
    """Storages in another order than the tensors, shared ones, and text and pairs as Python 2 wrote them."""
    pair = b"](U\x01w" + tensor(data=old_storage(6, key="b")) + b"e"
    found = read(tmp_path, old_file(
        name("collections", "OrderedDict") + b"](" + pair
        + b"](" + text("t") + tensor((3, 2), (1, 3), data=old_storage(6, key="b"))
        + b"e](" + text("half") + tensor((6,), (1,), data=old_storage(6, "HalfStorage", "a")) + b"ee\x85R",
        _a=SIX.astype(np.float16), _b=SIX))
    assert np.array_equal(found["w"], SIX.reshape(2, 3)) and np.array_equal(found["t"], SIX.reshape(2, 3).T)
    assert found["half"].dtype == np.float16 and np.array_equal(found["half"], SIX)


@pytest.mark.parametrize("shape", [(2, 3), (6,), ()])
def test_torch_bfloat16_becomes_float32(tmp_path, shape):
    strides = {(2, 3): (3, 1), (6,): (1,), (): ()}[shape]
    upper = (SIX.view(np.uint32) >> 16).astype(np.uint16)
    found = read(tmp_path, zip_file(mapping(w=tensor(shape, strides, data=storage(6, "BFloat16Storage"))),
                                    _0=upper.tobytes()))
    assert type(found["w"]) is np.ndarray and found["w"].dtype == np.float32
    assert np.array_equal(found["w"], SIX.reshape(2, 3) if shape == (2, 3) else SIX if shape else SIX[0])


def test_torch_strides_offsets_shared_storages_and_empty_tensors(tmp_path):
    program = mapping(t=tensor((3, 2), (1, 3)), part=tensor((2,), (2,), 1), one=tensor((), (), 5),
                      jittors_one=tensor((), (1,), 5), none=tensor((0, 4), (4, 1), data=storage(0, key=text("1"))))
    found = read(tmp_path, zip_file(program, _0=SIX.tobytes(), _1=b""))
    assert (np.array_equal(found["t"], SIX.reshape(2, 3).T) and found["part"].tolist() == [1, 3]
            and found["none"].shape == (0, 4))
    assert found["one"].shape == () and found["one"] == 5 and found["jittors_one"] == 5
    found["t"][0, 0] = 7  # its own memory, and writable
    assert found["one"] == 5


def test_a_file_is_in_memory_once_and_goes_when_it_is_read(tmp_path):
    """Whole storages are not copied, and go with the last of their tensors, without waiting for Python's collector."""
    program = mapping(w=tensor(), same=tensor(), t=tensor((3, 2), (1, 3)))
    gc.disable()
    try:
        found = read(tmp_path, zip_file(program, _0=SIX.tobytes()))
        assert np.shares_memory(found["w"], found["same"]) and not np.shares_memory(found["w"], found["t"])
        kept = [weakref.ref(array) for array in found.values()]
        del found
        assert [one() for one in kept] == [None] * 3
    finally:
        gc.enable()


def test_torch_parameters_ordered_dicts_and_plain_values(tmp_path):
    parameter = name("torch._utils", "_rebuild_parameter") + many(tensor(), b"\x88", b"}") + b"R"
    state = name("collections", "OrderedDict") + b")R(" + text("w") + parameter + b"u" + mapping(_metadata=b"}") + b"b"
    program = mapping(state=state, step=b"K\x07", name=text("ink"), rate=b"G" + struct.pack(">d", 0.5),
                      names=b"](" + text("a") + b"Ne", keyed=tensor(data=storage(6, key=b"K\x00")))
    found = read(tmp_path, zip_file(program, _0=SIX.tobytes()))
    assert (np.array_equal(found.pop("state")["w"], SIX.reshape(2, 3))
            and np.array_equal(found.pop("keyed"), SIX.reshape(2, 3)))
    assert found == {"step": 7, "name": "ink", "rate": 0.5, "names": ["a", None]}


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_numpy_pickles(tmp_path, protocol):
    shared = np.float64([[1, 2], [3, 4]])
    data = {"a": SIX, "f": np.asfortranarray(SIX.reshape(2, 3)), "big": SIX.astype(">f4"), "i": np.arange(3),
            "zero": np.float32(2.5), "d": {"x": [shared, shared], "t": (1, "a")},
            "order": OrderedDict(b=np.array([True, False]))}
    found = read(tmp_path, pickle.dumps(data, protocol))
    for key in ("a", "f", "big", "i"):
        assert np.array_equal(found[key], data[key]) and found[key].dtype == data[key].dtype.newbyteorder("=")
    assert found["zero"] == 2.5 and found["d"]["t"] == (1, "a") and found["order"]["b"].tolist() == [True, False]
    assert all(np.array_equal(x, shared) for x in found["d"]["x"])


def test_what_jittor_saves_comes_back(tmp_path):
    from styleblend.machine.runtime import jt
    path = tmp_path / "style.pkl"
    jt.save({"w": jt.array(SIX.reshape(2, 3)), "half": jt.array(SIX.astype(np.float16)),
             "lora": {"down.weight": SIX}, "n": 3}, str(path))
    found = read_arrays(path)
    assert (np.array_equal(found["w"], SIX.reshape(2, 3)) and np.array_equal(found["lora"]["down.weight"], SIX)
            and found["n"] == 3)
    assert found["half"].dtype == np.float16 and np.array_equal(found["half"], SIX)
    path.write_bytes(path.read_bytes().replace(b"lora", b"LORA"))
    with pytest.raises(StyleBlendError, match="checksum"):
        read_arrays(path)


@NEEDS_GOLDEN
@pytest.mark.parametrize("part", ["unet_lora", "text_encoder_lora"])
def test_reference_loras_equal_their_safetensors(part):
    from safetensors.numpy import load_file
    folder = Path(os.environ["STYLEBLEND_GOLDEN"]) / "style"
    found, expected = read_arrays(folder / f"tiny_{part}.bin"), load_file(folder / f"tiny_{part}.safetensors")
    assert set(found) == set(expected) and len(found) > 0
    assert all(np.array_equal(found[key], expected[key]) and found[key].dtype == expected[key].dtype
               for key in expected)


@NEEDS_GOLDEN
def test_reference_embeddings_equal_their_safetensors():
    from safetensors.numpy import load_file
    folder = Path(os.environ["STYLEBLEND_GOLDEN"]) / "style"
    expected = load_file(folder / "tiny_embeds.safetensors")
    for file in ("composition", "texture"):
        (token, vector), = read_arrays(folder / f"tiny_{file}_style_embeds.bin").items()
        assert np.array_equal(vector, expected[token])


def test_missing_file(tmp_path):
    with pytest.raises(StyleBlendError, match="is missing"):
        read_arrays(tmp_path / "style.bin")
