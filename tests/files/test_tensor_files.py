"""Files of tensors: read as they were written, and whole or not there."""
from __future__ import annotations

import json
import os
import resource
import tracemalloc

import numpy as np
import pytest

from styleblend.files import tensor_files
from styleblend.errors import StyleBlendError

TENSORS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones((400, 10), np.float16)}


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "new" / "x.safetensors"
    tensor_files.write_safetensors(path, {**TENSORS, "turned": TENSORS["a"].T}, {"style": "tiny"})
    found = tensor_files.read_safetensors(path)
    assert set(found) == {"a", "b", "turned"} and np.array_equal(found["turned"], TENSORS["a"].T)
    assert all(found[name].dtype == t.dtype and np.array_equal(found[name], t) for name, t in TENSORS.items())
    assert tensor_files.read_metadata(path) == {"format": "pt", "style": "tiny"}
    assert list(path.parent.iterdir()) == [path]


def test_what_is_stored_is_read_when_it_is_asked_for(tmp_path):
    """The same numbers, whatever their type, and one tensor at a time in memory."""
    path, narrow = tmp_path / "x.safetensors", np.array([1.5, -2, 0, 3e38], np.float32)
    many = {f"large {i}": np.full(1_000_000, i, np.float32) for i in range(12)}
    tensor_files.write_safetensors(path, {**TENSORS, **many, "whole": np.arange(4, dtype=np.int64)})
    stored, read = tensor_files.stored_tensors(path), tensor_files.read_safetensors(path)
    assert set(stored) == set(read)
    for name, tensor in stored.items():
        assert (tensor.shape, tensor.ndim, tensor.dtype) == (read[name].shape, read[name].ndim, read[name].dtype)
        assert np.array_equal(np.asarray(tensor), read[name]) and np.asarray(tensor).dtype == tensor.dtype
    del read, many
    tracemalloc.start()
    assert sum(float(np.asarray(stored[f"large {i}"])[0]) for i in range(12)) == 66
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 4e6 <= peak < 13e6  # of 48 million bytes
    (tmp_path / "b.safetensors").write_bytes(bfloat16_file(narrow))
    [wide] = tensor_files.stored_tensors(tmp_path / "b.safetensors").values()
    assert wide.dtype == np.float32 and np.allclose(np.asarray(wide), narrow, rtol=2 ** -8)


def bfloat16_file(numbers: np.ndarray) -> bytes:
    """A safetensors file of one tensor whose numbers are cut to bfloat16."""
    data = (numbers.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    header = json.dumps({"x": {"dtype": "BF16", "shape": list(numbers.shape), "data_offsets": [0, len(data)]}}).encode()
    return len(header).to_bytes(8, "little") + header + data


def test_equal_content_gives_equal_bytes(tmp_path):
    """So that a hash of the file says whether two trainings came out equal."""
    fields = {f"field {i}": "Größe" for i in range(9)}
    for name in ("once", "twice"):
        tensor_files.write_safetensors(tmp_path / name, TENSORS, dict(sorted(fields.items(), reverse=name == "twice")))
    assert (tmp_path / "once").read_bytes() == (tmp_path / "twice").read_bytes()
    assert tensor_files.read_metadata(tmp_path / "once") == {"format": "pt", **fields}


@pytest.fixture
def small_files():
    """Within this, no file may grow beyond 1000 bytes: what a full disk does to a writer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Limit:
        def __enter__(self):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))

        def __exit__(self, *error):
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return Limit()


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, small_files):
    path = tmp_path / "x.safetensors"
    tensor_files.write_safetensors(path, {"old": np.ones(2, np.float32)})
    before = path.read_bytes()
    with small_files, pytest.raises(StyleBlendError) as caught:
        tensor_files.write_safetensors(path, TENSORS)
    assert "could not be written" in str(caught.value) and "\n" not in str(caught.value)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_no_new_file(tmp_path, small_files):
    with small_files, pytest.raises(StyleBlendError, match="could not be written"):
        tensor_files.write_safetensors(tmp_path / "x.safetensors", TENSORS)
    assert not list(tmp_path.iterdir())


def test_a_writer_that_is_interrupted_before_the_end_leaves_the_old_file(tmp_path, monkeypatch):
    """The last step alone may touch the real name."""
    path = tmp_path / "x.safetensors"
    tensor_files.write_safetensors(path, {"old": np.ones(2, np.float32)})
    seen = []

    def no_rename(source, target):
        seen.append((os.path.getsize(source), tensor_files.read_safetensors(target)))
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", no_rename)
    with pytest.raises(StyleBlendError, match="Input/output error"):
        tensor_files.write_safetensors(path, TENSORS)
    size, before = seen[0]
    # the new file was whole, the old one still there
    assert size > sum(t.nbytes for t in TENSORS.values()) and set(before) == {"old"}
    assert set(tensor_files.read_safetensors(path)) == {"old"} and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StyleBlendError, match="could not be written"):
        tensor_files.write_safetensors(tmp_path / "file" / "x.safetensors", TENSORS)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StyleBlendError, match="could not be written"):
            tensor_files.write_safetensors(tmp_path / "x.safetensors", TENSORS)
        assert not list(tmp_path.iterdir())
    finally:
        tmp_path.chmod(0o700)
