"""Damaged and lying files, generated: each kind yields (name, bytes, whether it must be refused).

The rest may be read where the damage does no harm.
"""
from __future__ import annotations

import io
import json
import pickle
import pickletools
import re
import struct
import zipfile
from pathlib import Path
from typing import Iterator, Tuple

import numpy as np
from test_pickles import (LEGACY_START, SIX, START, STOP, integer, many, mapping, name, numpy_array, old_file,
                          old_storage, storage, tensor, text, zip_file)

from styleblend.adapters.pickles import JITTOR_END

Case = Tuple[str, bytes, bool]
LAYER = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora."
GOOD = {LAYER + "down.weight": np.arange(16, dtype=np.float32).reshape(2, 8),
        LAYER + "up.weight": np.ones((8, 2), np.float32)}
NUMBERS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}


def safetensors(header, data: bytes = b"", length=None, pad: bool = True) -> bytes:
    """A file of any header: a dict, or bytes that may be anything; `length`: what the file claims of it."""
    text_ = header if isinstance(header, bytes) else json.dumps(header).encode()
    text_ += b" " * (-len(text_) % 8 if pad else 0)
    return struct.pack("<Q", len(text_) if length is None else length) + text_ + data


def entry(kind="F32", shape=(2, 8), begin=0, end=64, **more) -> dict:
    return {"dtype": kind, "shape": list(shape), "data_offsets": [begin, end], **more}


def good_parts(metadata: bool = True):
    """Header and data of a small LoRA."""
    header, data = {"__metadata__": {"format": "pt", "style": "ink"}} if metadata else {}, b""
    for key, value in GOOD.items():
        header[key] = entry(shape=value.shape, begin=len(data), end=len(data) + value.nbytes)
        data += value.tobytes()
    return header, data


def flips(good: bytes, count: int, seed: int, low: int = 0, high: int = None) -> Iterator[Tuple[str, bytes]]:
    """One to three bits of a file turned over, `count` times."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        data = bytearray(good)
        for place in rng.integers(low, high or len(good), rng.integers(1, 4)):
            data[place] ^= 1 << rng.integers(8)
        yield f"bits {number}", bytes(data)


def broken_safetensors() -> Iterator[Case]:
    header, data = good_parts()
    good = safetensors(header, data)
    start = len(good) - len(data)
    borders = {0, 1, 7, 8, 9, start - 1, start, start + 1, start + 63, start + 64, start + 65, len(good) - 1}
    borders |= {8 + match.start() for match in re.finditer(rb'[{}\[\]:,"]', good[8:start])}
    for border in sorted(borders):
        yield f"cut at {border}", good[:border], True
    for title, damaged in flips(good, 120, 0, high=start):
        yield f"header, {title}", damaged, False
    for title, damaged in flips(good, 20, 1, low=start):
        yield f"data, {title}", damaged, False
    size = start - 8
    for length in (0, 1, 2, size - 1, size + 1, size + 8, len(good), 1 << 20, 1 << 24,
                   (1 << 24) + 1, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1):
        yield f"a header of {length} bytes", safetensors(header, data, length), True
    key = LAYER + "down.weight"
    for title, changes in {
            "reversed": dict(begin=64, end=0), "negative": dict(begin=-64, end=0), "beyond the end": dict(end=1 << 20),
            "2 ** 64": dict(end=1 << 64), "in the other": dict(begin=32, end=96),
            "a hole before": dict(begin=8, end=72), "too short": dict(end=60), "fractions": dict(begin=0.0, end=64.5),
            "text": dict(begin="0", end="64"), "nothing": dict(begin=None, end=None)}.items():
        yield f"offsets: {title}", safetensors({**header, key: entry(**changes)}, data), True
    for title, shape in {
            "too large": (4, 8), "too small": (1, 8), "2 ** 40": (1 << 40, 8),
            "product 2 ** 64 + 16": ((1 << 62) + 4, 4), "2 ** 64": (1 << 64,), "negative": (-2, -8),
            "fractions": (2.0, 8.0), "text": ("2", "8"), "nested": ([2], [8]),
            "a thousand levels": (1,) * 1000 + (2, 8), "no numbers at all": (None,)}.items():
        yield f"shape: {title}", safetensors({**header, key: entry(shape=shape)}, data), True
    yield "shape: nothing times 2 ** 62", safetensors({key: entry(shape=(0, 1 << 62), end=0)}), True
    yield "shape: no rank", safetensors({key: entry(shape=(0, 8), end=0),
                                         LAYER + "up.weight": entry(shape=(8, 0), end=0)}), True
    for kind in ("F8_E4M3", "F8_E5M2", "F4", "F6_E2M3", "C64", "f32", "F128", "", "O", "I32", "U32", None, 5, ["F32"]):
        yield f"type: {kind}", safetensors({**header, key: entry(kind)}, data), True
    for field in ("dtype", "shape", "data_offsets"):
        yield f"no {field}", safetensors({**header, key: {k: v for k, v in entry().items() if k != field}}, data), True
        yield f"{field} twice", safetensors(
            json.dumps(header).replace(f'"{field}"', f'"{field}": null, "{field}"', 1).encode(), data), True
    yield "a name twice", safetensors(
        json.dumps({**header, "x": header[key]}).replace('"x"', json.dumps(key)).encode(), data), False
    yield "metadata twice", safetensors(
        json.dumps({**header, "x": {}}).replace('"x"', '"__metadata__"').encode(), data), False
    for title, metadata in {"a list": [], "text": "x", "numbers": {"a": 1}, "nested": {"a": {"b": "c"}}}.items():
        yield f"metadata: {title}", safetensors({**header, "__metadata__": metadata}, data), True
    yield "metadata: 12 MiB", safetensors({**header, "__metadata__": {"style": "x" * (12 << 20)}}, data), False
    yield "metadata: terminal codes", safetensors({**header, "__metadata__": {
        "style": "\x1b[2J\nstyleblend: all is well", "base": "\x1b]0;x\x07"}}, data), False
    yield "not UTF-8", safetensors(json.dumps(header).encode().replace(b"ink", b"\xff\xfe\xff"), data), True
    yield "half a surrogate", safetensors(json.dumps(header).replace("ink", r"\ud800").encode(), data), True
    for title, key_ in {
            "nothing": "", "NUL": "a\0b", "terminal codes": "\x1b[2J" * 9, "a path": "../../evil",
            "10,000 letters": "x" * 10_000, "long dots": LAYER + ".lora_A" * 40_000,
            "LyCORIS without end": "a.lora_magnitude_vector" * 20_000 + "!"}.items():
        yield f"named {title}", safetensors({key_: entry(kind="I64", shape=(8,))}, bytes(64)), True
    yield "no object", safetensors(b"[]"), True
    yield "no JSON", safetensors(b"hello, world"), True
    yield "no tensors", safetensors({}), True
    yield "lists in lists", safetensors(b"[" * 100_000), True
    yield "objects in objects", safetensors(b'{"a":' * 100_000), True
    yield "rubbish behind", safetensors(json.dumps(header).encode() + b"}", data), True
    yield "a byte order mark", safetensors(b"\xef\xbb\xbf" + json.dumps(header).encode(), data), True
    yield "data behind the last tensor", safetensors(header, data + b"x"), True
    yield "100,000 tensors", safetensors({f"t{i}": entry(shape=(0,), end=0) for i in range(100_000)}), True
    yield "a header of 16 MiB of tensors", safetensors(
        {f"{i:x}": entry("U8", (0,), end=0) for i in range(240_000)}), True
    for kind, dtype in NUMBERS.items():
        for value in ("nan", "inf", "-inf"):
            array = np.ones(16, dtype)
            array[3] = float(value)
            yield f"{value} in {kind}", safetensors(
                {"<ink>": entry(kind, (1, 16), 0, array.nbytes)}, array.tobytes()), True
    yield "NaN in BF16", safetensors({"<ink>": entry("BF16", (1, 4), 0, 8)}, b"\xc0\x7f" * 4), True
    for title, keys in {
            "Stable Diffusion XL": ["lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"],
            "Flux": ["lora_unet_double_blocks_0_img_mod_lin.lora_down.weight"],
            "a whole checkpoint": ["model.diffusion_model.input_blocks.0.0.weight"],
            "LoHa": ["lora_unet_mid_block_attentions_0_proj_in.hada_w1_a"], "half a pair": [key],
            "feed-forward layers": ["lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_2.lora_" + end
                                    for end in ("down.weight", "up.weight")]}.items():
        yield title, safetensors({k: entry(shape=(4, 4), begin=64 * i, end=64 * i + 64) for i, k in enumerate(keys)},
                                 bytes(64 * len(keys))), True
    yield "width 768", safetensors({"<ink>": entry(shape=(1, 768), end=3072)}, bytes(3072)), True
    yield "numbers, no adapter", safetensors({"weight": entry(shape=(80, 8), end=2560)}, bytes(2560)), True


PROGRAM = mapping(w=tensor((1, 6), (6, 1)))
GOOD_ZIP = zip_file(PROGRAM, _0=SIX.tobytes())
GOOD_OLD = old_file(mapping(w=tensor((1, 6), (6, 1), data=old_storage(6))), _0=SIX)
GOOD_PICKLE = pickle.dumps({"<ink>": SIX[None], "name": "ink", "step": 3}, 4)


def program_in_zip(program: bytes) -> bytes:
    """A torch.save file with the program as it is, its end included."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/data/0", SIX.tobytes())
    return file.getvalue()


def zip_of(entries, compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for key, data in entries:
            archive.writestr(key, data)
    return file.getvalue()


def instruction_borders(program: bytes) -> list:
    return [place for _, _, place in pickletools.genops(program)][1:]


def broken_pickles() -> Iterator[Case]:
    signatures = [match.start() for match in re.finditer(rb"PK[\x01\x03\x05]", GOOD_ZIP)]
    for border in sorted({place + offset for place in signatures for offset in (0, 1, 4, 20)} | {len(GOOD_ZIP) - 1}):
        yield f"zip, cut at {border}", GOOD_ZIP[:border], True
    program = START + PROGRAM + STOP
    for border in instruction_borders(program):
        yield f"zip, program cut at {border}", program_in_zip(program[:border]), True
    for border in instruction_borders(GOOD_PICKLE):
        yield f"pickle, cut at {border}", GOOD_PICKLE[:border], True
    for border in ({match.end() for match in re.finditer(rb"\.\x80\x02|\.\x06\0\0\0", GOOD_OLD)}
                   | set(range(len(GOOD_OLD) - 34, len(GOOD_OLD)))):
        yield f"old, cut at {border}", GOOD_OLD[:border], True
    for title, damaged in flips(GOOD_OLD, 80, 5):
        yield f"old, {title}", damaged, False
    for title, damaged in flips(GOOD_ZIP, 80, 2):
        yield f"zip, {title}", damaged, False
    for title, damaged in flips(program, 80, 3):
        yield f"zip, program, {title}", program_in_zip(damaged), False
    for title, damaged in flips(GOOD_PICKLE, 80, 4):
        yield f"pickle, {title}", damaged, False
    for kind in ("ComplexFloatStorage", "QInt8Storage", "UntypedStorage", "Storage", "floatstorage"):
        yield f"zip, {kind}", zip_file(mapping(w=tensor(data=storage(6, kind))), _0=SIX.tobytes()), True
    for value in (np.nan, np.inf, -np.inf):
        numbers = SIX.copy()
        numbers[2] = value
        yield f"zip, {value}", zip_file(PROGRAM, _0=numbers.tobytes()), True
        yield f"pickle, {value}", pickle.dumps({"<ink>": numbers}, 4), True
    for code in ("O8", "V8", "U4", "S4", "c8", "M8", "f16", "f3", ""):
        yield f"pickle, numbers of type {code!r}", pickle.dumps({"<ink>": SIX}, 2).replace(
            b"X\x02\x00\x00\x00f4", b"X" + struct.pack("<I", len(code)) + code.encode()), True
    for title, shape in {"negative": (-1, 6), "2 ** 70": (1 << 70,), "17 levels": (1,) * 17,
                         "33 levels": (1,) * 33, "2 ** 40": (1 << 40, 6)}.items():
        yield f"zip, shape {title}", zip_file(mapping(w=tensor(shape, (1,) * len(shape))), _0=SIX.tobytes()), True
        yield (f"pickle, shape {title}",
               START + mapping(w=numpy_array(many(*map(integer, shape)), SIX.tobytes())) + STOP, True)
    yield "zip, an entry that climbs", zip_of([("../../evil/data.pkl", program),
                                               ("../../evil/data/0", SIX.tobytes())]), False
    yield "zip, two programs", zip_of([("a/data.pkl", program), ("b/data.pkl", program),
                                       ("a/data/0", SIX.tobytes())]), True
    yield "zip, in a zip", zip_of([("inner.bin", GOOD_ZIP)]), True
    yield "zip, a zip as program", program_in_zip(GOOD_ZIP), True
    yield "zip, big-endian", zip_of([("a/data.pkl", program), ("a/data/0", SIX.tobytes()),
                                     ("a/byteorder", b"big")]), True
    yield "zip, 100,000 entries", zip_of([(f"a/data/{i}", b"") for i in range(100_000)]), True
    yield "zip, a bomb", zip_of([("a/data.pkl", program), ("a/data/0", bytes(64 << 20))], zipfile.ZIP_DEFLATED), True
    yield "zip, a bomb of LZMA", zip_of([("a/data.pkl", program + bytes(64 << 20)),
                                         ("a/data/0", SIX.tobytes())], zipfile.ZIP_LZMA), True
    for offset in (4, 6, 8, 10, 12, 16, 20):
        for value in (b"\xff\xff", b"\x01\x00"):
            end = GOOD_ZIP.index(b"PK\x05\x06")
            yield (f"zip, field {offset} of its end is {value.hex()}",
                   GOOD_ZIP[:end + offset] + value + GOOD_ZIP[end + offset + 2:], False)
    encrypted = bytearray(GOOD_ZIP)
    encrypted[GOOD_ZIP.index(b"PK\x01\x02") + 8] |= 1
    yield "zip, encrypted", bytes(encrypted), True
    yield "nothing", b"", True
    yield "text", b"hello, world\n", True
    yield "a page", b"<!DOCTYPE html><html>404</html>", True
    yield "a pointer of Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", True
    yield "protocol 9", b"\x80\x09" + GOOD_PICKLE[2:], False
    yield "the old format", LEGACY_START + STOP, True
    yield "a wrong checksum", GOOD_PICKLE + bytes(20) + JITTOR_END, True
    yield "half a pair", pickle.dumps({LAYER + "down.weight": SIX[None]}, 4), True
    yield "width 768", pickle.dumps({"<ink>": np.zeros((1, 768), np.float32)}, 4), True
    yield "a network of a base", pickle.dumps({"text_model.final_layer_norm.weight": SIX}, 4), True
    yield "names without end", pickle.dumps({"a.lora_A" + ".w" * 200_000: SIX}, 4), True


# beyond those in test_hostile_pickles.py: bombs of memory and tricks with memo, frames and persistent ids
MORE_HOSTILE = {
    "LONG4 of 2 GiB": START + b"\x8b\xff\xff\xff\x7f.",
    "LONG4 of -1": START + b"\x8b\xff\xff\xff\xff.",
    "LONG4 of 8 MiB": START + b"\x8b" + struct.pack("<i", 8 << 20) + b"\x7f" * (8 << 20) + b".",
    "LONG1 in a shape": START + mapping(w=numpy_array(b"(" + b"\x8a\xff" + b"\x7f" * 255 + b"t", b"")) + STOP,
    "BINUNICODE8 of 2 ** 63": START + b"\x8d" + struct.pack("<Q", 1 << 63) + b"x.",
    "BINBYTES8 of 1 GiB": START + b"\x8e" + struct.pack("<Q", 1 << 30) + b"x.",
    "BYTEARRAY8 of 1 GiB": START + b"\x96" + struct.pack("<Q", 1 << 30) + b"x.",
    "a frame of 2 ** 62": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"}.",
    "frames in frames": (b"\x80\x04" + (b"\x95" + struct.pack("<Q", 1 << 20)) * 1000
                         + name("os", "system") + text("touch ran") + b"\x85R."),
    "a frame that hides a call": (b"\x80\x04\x95" + struct.pack("<Q", 2) + b"}."
                                  + name("os", "system") + text("touch ran") + b"\x85R."),
    "a memo place of 4 billion": START + b"]r\xff\xff\xff\xff" + b"j\xff\xff\xff\xfe.",
    "a memo that is changed": (START + name("collections", "OrderedDict") + b"q\0" + b"0" + text("x") + b"q\0"
                               + b"h\0)R."),
    "dicts that hold each other": START + b"}q\0}q\1" + text("a") + b"h\0s" + b"h\0" + text("b") + b"h\1s.",
    "tuples doubled 40 times": START + b")" + b"q\0h\0h\0\x86" * 40 + b"q\1}" + text("a") + b"h\1s.",
    "a persistent id that is a call": START + name("os", "system") + text("touch ran") + b"\x85RQ.",
    "a persistent id that is a name": zip_file(mapping(
        w=many(text("storage"), name("os", "system"), text("0"), text("cpu"), integer(6)) + b"Q"), _0=SIX.tobytes()),
    "a persistent id that climbs": zip_file(
        mapping(w=tensor(data=storage(6, key=text("../../../etc/passwd")))), _0=SIX.tobytes()),
    "a persistent id of a module": zip_file(mapping(
        w=many(text("module"), name("torch", "FloatStorage"), text("0"), text("cpu"), integer(6)) + b"Q"),
        _0=SIX.tobytes()),
    "copyreg": (START + name("copyreg", "_reconstructor")
                + many(name("os", "system"), name("builtins", "object"), b"N") + b"R."),
    "copy_reg of Python 2": (START + name("copy_reg", "_reconstructor")
                             + many(name("__builtin__", "object"), name("__builtin__", "object"), b"N") + b"R."),
    "__import__": START + name("builtins", "__import__") + text("os") + b"\x85R.",
    "getattr chain": (START + name("builtins", "getattr")
                      + many(name("builtins", "__import__"), text("__self__")) + b"R."),
    "a dotted name": b"\x80\x04" + text("collections") + text("OrderedDict.__init__.__globals__") + b"\x93.",
    "numpy's own loader": START + name("numpy.core.multiarray", "fromfile") + text("/etc/passwd") + b"\x85R.",
    "subprocess": START + name("subprocess", "Popen") + text("touch ran") + b"\x85R.",
    "pickle in pickle": START + name("pickle", "loads") + b"C\x05cos\n." + b"\x85R.",
    "torch.load in a file": START + name("torch", "load") + text("style.bin") + b"\x85R.",
    "a codec that runs": START + name("_codecs", "encode") + many(text("x" * 100), text("zlib_codec")) + b"R.",
    "a codec looked up": START + name("_codecs", "lookup") + text("idna") + b"\x85R.",
    "runpy": START + name("runpy", "run_path") + text("style.bin") + b"\x85R.",
    "a dtype of Python objects": (START + mapping(w=name("numpy", "dtype") + many(text("O"), b"\x89", b"\x88") + b"R")
                                  + STOP),
    "a zip with a program that calls": program_in_zip(START + name("os", "system") + text("touch ran") + b"\x85R."),
    "a scalar made of Python objects": (START + name("numpy.core.multiarray", "scalar")
                                        + many(text("O8"), b"C\x08" + bytes(8)) + b"R."),
}


def broken_configs(good: bytes) -> Iterator[Case]:
    """A base's config.json, damaged."""
    data = json.loads(good)
    for border in range(0, len(good.rstrip()), max(1, len(good) // 40)):
        yield f"cut at {border}", good[:border], True
    for title, damaged in flips(good, 80, 5):
        yield title, damaged, False
    for field in ("cross_attention_dim", "block_out_channels", "layers_per_block", "norm_num_groups",
                  "in_channels", "norm_eps", "down_block_types"):
        for value in ("x", -1, 0, 10 ** 30, 1e308, float("nan"), float("inf"), [], {}, [[64]],
                      ["x"] * 10_000, True, "9" * 5000):
            if not (value == 10 ** 30 and field == "norm_eps"):
                yield f"{field} is {str(value)[:20]}", json.dumps({**data, field: value}).encode(), True
    yield "levels that do not agree", json.dumps({**data, "attention_head_dim": [1]}).encode(), True
    yield "not divisible", json.dumps({**data, "norm_num_groups": 7}).encode(), True
    yield "lists in lists", b"[" * 200_000, True
    yield "objects in objects", b'{"a":' * 40_000, True
    yield "no UTF-8", good.replace(b"silu", b"\xff\xfe"), True
    yield "no object", b"[1, 2]", True
    yield "5 MiB", b'{"a": "' + b"x" * (5 << 20) + b'"}', True
    yield "a number of 100,000 digits", b'{"in_channels": ' + b"9" * 100_000 + b"}", True
    yield "a field twice", good.replace(b'"in_channels"', b'"in_channels": 4, "in_channels"'), False


def write(cases: Iterator[Case], folder: Path, ending: str) -> dict:
    """One file a case; file name -> (title, whether it must be refused)."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for number, (title, data, refused) in enumerate(cases):
        path = folder / f"{number:03}{ending}"
        path.write_bytes(data)
        written[str(path)] = (title, refused)
    return written
