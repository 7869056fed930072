"""A file is told by what it holds. What is in the place of an adapter or of weights is named, with the cure."""
from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save

from styleblend.adapters.foreign_files import read_tensors
from styleblend.adapters.inspect import inspect
from styleblend.errors import StyleBlendError
from styleblend.files import content
from styleblend.files.tensor_files import read_safetensors

LAYER = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora."
GOOD = save({f"{LAYER}down.weight": np.ones((2, 64), np.float32), f"{LAYER}up.weight": np.ones((64, 2), np.float32)})


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind)
    return file.getvalue()


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, GOOD)
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo("ink.safetensors")
        entry.size = len(GOOD)
        archive.addfile(entry, io.BytesIO(GOOD))
    return file.getvalue()


PAGES = {
    "a page": (b"<!DOCTYPE html><html><head><title>Sign in</title>", 'a web page ("Sign in")', "a login"),
    "a page with blanks before it": (b"\n\n  <!doctype HTML>\n<html lang=en><head><title>\n Log   in &amp; go </title>",
                                     'a web page ("Log in & go")', "a login"),
    "a page without a title": (b"<html><body>moved", "a web page:", "a login"),
    "a page with a comment first": (b"<!-- saved --><html><body>hi", "a web page", "a login"),
    "a Chinese page": ("<!DOCTYPE html><html><title>登录</title>".encode(), "登录", "a login"),
    "a page in UTF-16": ("<html><title>a\x1b[2J</title>".encode("utf-16"), 'a web page ("a?[2J")', "a login"),
    "a page with a byte order mark": (b"\xef\xbb\xbf<HTML><TITLE>Virus scan</TITLE>", "Virus scan", "a login"),
    "an answer in JSON": (b'{"error":"Unauthorized","message":"You must be logged in to download"}',
                          "You must be logged in to download", "give a token"),
    "an answer that begins as a header does": (b'{"data":{"x":1},"error":"expired"}', "JSON", "expired"),
    "an answer in a list": (b'[{"detail":"token expired"}]', "token expired", "give a token"),
    "an answer in an answer": (b'{"error":{"code":403,"message":"gated repo"}}', "gated repo", "give a token"),
    "an answer with a capital letter": (b'{"Code":1,"Message":"file not exist"}', "file not exist", "token"),
    "an answer cut off": (b'{"error": "Unauth', "JSON text", ".safetensors"),
    "an answer in XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>has expired</Message></Error>',
                         "has expired", "download failed"),
    "an answer in words": (b"Access to model x/y is restricted.", "Access to model x/y", "a server answered"),
    "an answer of three letters": (b"404", "404", "a server answered"),
    "PEFT's settings": (b'{"peft_type":"LORA","lora_alpha":8}', "settings of a PEFT LoRA", "adapter_model.safetensors"),
    "an index": (b'{"metadata":{},"weight_map":{"a":"b"}}', "index of a model", "name a file of weights"),
    "an answer without end": (b"[" * 100_000, "JSON text", "name the .safetensors file"),
    "a page that begins with a script": (b"<script>{window.title = 1}</script>", "a web page", "a login"),
    "prompts": (b'{"0":"Cat"}', "JSON text (0)", "name the .safetensors file"),
}
OTHERS = {
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\r\noid sha256:0\r\nsize 1\r\n",
                             "pointer of Git LFS", "git lfs pull"),
    "an old pointer": (b"\xef\xbb\xbfversion https://hawser.github.com/spec/v1\noid sha256:0\n", "pointer",
                       "git lfs pull"),
    "a pointer of git-annex": (b"/annex/objects/SHA256E-s1--0.safetensors\n", "git-annex", "git annex get"),
    "nothing": (b"", "an empty file", "download it again"),
    "zeros": (bytes(5000), "a file of zeros", "half a download"),
    "one byte": (b"\xa0", "a file of 1 byte", "half a download"),
    "a zip of a LoRA": (zipped("ink/ink.SAFETENSORS", "readme.md"), "a zip file with ink/ink.SAFETENSORS", "unzip"),
    "half a zip of a LoRA": (zipped("ink.safetensors")[:200], "a zip file with ink.safetensors", "unzip"),
    "a zip of two": (zipped("a.pt", "b.safetensors"), "a.pt and 1 more", "unzip"),
    "a zip of a zip": (zipped("a.zip"), "a zip file (a.zip)", "no weights"),
    "an empty zip": (zipped(), "a zip file (empty)", "no weights"),
    "gzip": (gzip.compress(GOOD), "a gzip archive", "gunzip"), "tar": (tarred(), "a tar archive", "tar -xf"),
    "bzip2": (bz2.compress(GOOD), "a bzip2 archive", "bunzip2"), "xz": (lzma.compress(GOOD), "an xz archive", "unxz"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(90), "a 7z archive", "7z x"),
    "RAR": (b"Rar!\x1a\x07\1\0" + bytes(90), "a RAR archive", "unrar"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(90), "a zstd archive", "unzstd"),
    **{kind: (picture(kind), f"a picture ({name})", "name the file of weights")
       for kind, name in (("PNG", "PNG"), ("JPEG", "JPEG"), ("WEBP", "WebP"), ("GIF", "GIF"), ("BMP", "BMP"),
                          ("TIFF", "TIFF"))},
    "AVIF": (b"\0\0\0\x20ftypavif" + bytes(20), "a picture (AVIF)", "name"),
    "SVG": (b"<svg xmlns='x'></svg>", "a picture (SVG)", "name the file"),
    "a film": (b"\0\0\0\x20ftypisom" + bytes(20), "a film", "name the file"),
    "an embedding in a picture": (b"\x89PNG\r\n\x1a\n....tEXtsd-ti-embedding\0", "a picture (PNG)", "get its .pt file"),
    "GGUF": (b"GGUF\3\0\0\0" + bytes(40), "a GGUF file", ".safetensors"),
    "PDF": (b"%PDF-1.7\n\xff\xff\xff\xff....", "a PDF", ".safetensors"),
}
BROKEN = {
    "cut in its header": (GOOD[:60], "ends within its header, after 60 bytes: half a download"),
    "cut in its data": (GOOD[:-100], f"{len(GOOD) - 100:,} of {len(GOOD):,} bytes are there: half a download"),
    "one byte short": (GOOD[:-1], "half a download"),
    "two in one": (GOOD + GOOD, f"{len(GOOD):,} bytes follow its end"),
}


@pytest.mark.parametrize("ending", ["safetensors", "SAFETENSORS", "pt", "bin", ""])
@pytest.mark.parametrize("kind", [*PAGES, *OTHERS])
def test_what_is_no_adapter_is_named_with_the_cure(tmp_path, monkeypatch, kind, ending):
    data, what, cure = {**PAGES, **OTHERS}[kind]
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"ink.{ending}".rstrip(".")
    path.write_bytes(data)
    for read in (inspect, read_tensors):
        with pytest.raises(StyleBlendError) as caught:
            read(path.relative_to(tmp_path))
        said = str(caught.value)
        assert what in said and cure in said and said.isprintable() and len(said) < 220, said


@pytest.mark.parametrize("kind", [*PAGES, *OTHERS])
def test_so_it_is_in_the_place_of_a_bases_weights(tmp_path, kind):
    data, what, _ = {**PAGES, **OTHERS}[kind]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(StyleBlendError) as caught:
        read_safetensors(path)
    assert f"{path} is no whole safetensors file but " in str(caught.value) and what in str(caught.value)


@pytest.mark.parametrize("kind", BROKEN)
def test_how_much_of_a_file_is_there_is_said(tmp_path, kind):
    data, words = BROKEN[kind]
    (tmp_path / "ink").write_bytes(data)
    with pytest.raises(StyleBlendError) as caught:
        inspect(tmp_path / "ink")
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["ink.safetensors", "INK.SAFETENSORS", "ink.SafeTensors", "ink", "ink.v1.0", "ink.pt",
                                  "ink.CKPT", "ink.safetensors.crdownload", ".hidden"])
def test_the_name_changes_nothing_of_what_is_read(tmp_path, name):
    (tmp_path / name).write_bytes(GOOD)
    if name in ("ink.pt", "ink.CKPT"):
        with pytest.warns(UserWarning, match="is a safetensors file that is named .(pt|ckpt): it is read as one"):
            found = read_tensors(tmp_path / name)
    else:
        found = read_tensors(tmp_path / name)
    assert set(found) == {f"{LAYER}down.weight", f"{LAYER}up.weight"}
    assert content.kind_of(tmp_path / name) == content.SAFETENSORS


def test_what_is_no_file_is_said_with_what_may_be_meant(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(StyleBlendError, match="no file but a folder.*there is no .safetensors"):
        inspect(tmp_path / "folder")
    (tmp_path / "folder" / "adapter_model.safetensors").write_bytes(GOOD)
    with pytest.raises(StyleBlendError, match="name a file in it such as adapter_model.safetensors"):
        inspect(tmp_path / "folder")
    (tmp_path / "link.safetensors").symlink_to("/nowhere/blob")
    with pytest.raises(StyleBlendError, match="a link to /nowhere/blob, which is not there"):
        inspect(tmp_path / "link.safetensors")
    (tmp_path / "ink.safetensors").write_bytes(GOOD)
    with pytest.raises(StyleBlendError, match="is no file: did you mean ink.safetensors"):
        inspect(tmp_path / "ink.safetensor")


def test_a_large_directory_of_a_zip_file_is_not_read(tmp_path):
    """zipfile makes an object of each of its records."""
    names = [f"{i:0200}" for i in range(6000)]
    (tmp_path / "x").write_bytes(zipped(names[0]))
    assert content.listing(tmp_path / "x") == names[:1]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    (tmp_path / "y").write_bytes(file.getvalue())
    assert content.listing(tmp_path / "y") == []
