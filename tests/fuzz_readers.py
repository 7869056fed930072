"""Coverage-guided fuzzing of everything that reads an adapter file: only StyleBlendError may come out.

    python -m venv fuzz && fuzz/bin/pip install atheris 'numpy<2' safetensors
    STYLEBLEND_FUZZ_PYTHON=fuzz/bin/python python -m pytest -m full tests/system/test_fuzz.py -s

The first byte of an input chooses the kind of file:
a pickle, a pickle in a zip file with two storages, a whole .bin file, or a safetensors file whose header is the part
before the first line break.
"""
from __future__ import annotations

import io
import struct
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent / "adapters")]
with atheris.instrument_imports(include=["styleblend", "pickletools", "zipfile"]):
    import pickletools  # noqa: F401
    from styleblend.errors import StyleBlendError
    from styleblend.adapters.inspect import inspect

FOLDER = Path(tempfile.mkdtemp(prefix="styleblend-fuzz-"))


def in_zip(program: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", program)
        archive.writestr("a/data/0", struct.pack("<6f", *range(6)))
        archive.writestr("a/data/1", bytes(64))
    return file.getvalue()


def in_safetensors(data: bytes) -> bytes:
    header, _, rest = data.partition(b"\n")
    return struct.pack("<Q", len(header)) + header + rest


FILES = ((".bin", bytes), (".bin", in_zip), (".bin", bytes), (".safetensors", in_safetensors), (".safetensors", bytes))


def one_input(data: bytes) -> None:
    if not data:
        return
    ending, made = FILES[data[0] % len(FILES)]
    path = FOLDER / f"x{ending}"
    path.write_bytes(made(data[1:]))
    start = time.process_time()
    try:
        facts = inspect(path)
    except StyleBlendError as error:
        sentence = str(error)
        assert sentence.isprintable() and len(sentence) < 700, sentence
    else:
        assert all(value.isprintable() for value in facts.values()), facts
    assert time.process_time() - start < 5  # processor time: libFuzzer's own limit counts what other programs take


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
