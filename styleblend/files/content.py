"""What a file is by what it holds: its name may say anything. A download that went wrong is named for what it is."""
from __future__ import annotations

import hashlib
import html
import re
import zipfile
from pathlib import Path
from typing import Any, List, NamedTuple, Optional

from styleblend.files.text import parse_json

SAFETENSORS, PYTORCH = "safetensors", "PyTorch"
FIRST = 4096  # bytes that are looked at; of a text so many times 16
LARGEST_LISTING = 1 << 20  # bytes of a zip file's directory: a LoRA's has some hundred
MEANT = "save the file itself"

ARCHIVES = ((b"\x1f\x8b", "a gzip", "gunzip"), (b"7z\xbc\xaf\x27\x1c", "a 7z", "7z x"),
            (b"Rar!\x1a\x07", "a RAR", "unrar x"), (b"\xfd7zXZ\0", "an xz", "unxz"), (b"BZh", "a bzip2", "bunzip2"),
            (b"\x28\xb5\x2f\xfd", "a zstd", "unzstd"))
PICTURES = ((b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"GIF8", "GIF"), (b"II*\0", "TIFF"),
            (b"MM\0*", "TIFF"), (b"RIFF", "WebP"), (b"BM", "BMP"))
OTHERS = ((b"GGUF", "a GGUF file"), (b"\x89HDF", "an HDF5 file"), (b"\x93NUMPY", "a NumPy array"),
          (b"%PDF", "a PDF"), (b"\x7fELF", "a program"), (b"MZ", "a program"))
POINTERS = ("version https://git-lfs", "version https://hawser", "/annex/objects/")
PAGES = ("<!doctype html", "<html", "<head", "<body", "<script", "<meta", "<title")
MESSAGES = ("message", "detail", "error_description", "error", "errors", "msg", "title", "reason")


class Other(NamedTuple):
    """Neither safetensors nor PyTorch's: what it is, with its article, and what to do."""

    what: str
    cure: str


def first_bytes(path: Path, count: int = FIRST) -> bytes:
    with open(path, "rb") as file:
        return file.read(count)


def sha256_of(*paths: Path, behind: bytes = b"") -> str:
    """The SHA-256 of files, and of what comes behind them, in hexadecimal digits. They need not fit into memory."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    digest.update(behind)
    return digest.hexdigest()


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors files do: eight bytes of a length, and a JSON object of that length."""
    start = first_bytes(path, 9)
    return start[8:] == b"{" and (start[4:8] == bytes(4) or start[:1] not in (b"{", b"[", b"<"))


def kind_of(path: Path) -> str:
    """SAFETENSORS, PYTORCH (zip, pickle of before 2020, or Jittor's), or "" for whatever else."""
    if is_safetensors(path):
        return SAFETENSORS
    start = first_bytes(path)
    if start.startswith(b"PK\x03\x04"):
        first = first_entry(start)  # PyTorch begins with its program; without any name the zip file is damaged
        return PYTORCH if not first or first.endswith("/data.pkl") or "data.pkl" in listing(path) else ""
    return PYTORCH if start.startswith(b"\x80") else ""


def other(path: Path) -> Optional[Other]:
    """What a file is that is neither safetensors nor PyTorch's; None where that cannot be told."""
    path, start = Path(path), first_bytes(path)
    if not start:
        return Other("an empty file", "the download did not begin, or the disk was full; download it again")
    if not start.strip(b"\0"):
        return Other("a file of zeros", "half a download; download it again")
    if len(start) < 9 and not start.isalnum():
        return Other(f"a file of {len(start)} byte{'s' * (len(start) > 1)}", "half a download; download it again")
    return archive(path, start) or picture(start) or text_of(path, start)


def archive(path: Path, start: bytes) -> Optional[Other]:
    """An archive, and what there is in it that is wanted."""
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        names = listing(path) or [first_entry(start)]
        inside = [name for name in names if name.lower().endswith((".safetensors", ".pt", ".bin", ".ckpt"))]
        if inside:
            more = f" and {len(inside) - 1} more" if inside[1:] else ""
            return Other(f"a zip file with {shown(inside[0])}{more} in it", "unpack it (unzip) and name that file")
        return Other(f"a zip file ({', '.join(shown(name, 20) for name in names[:2]) or 'empty'})",
                     "no weights are in it; download another")
    found = next(((name, how) for magic, name, how in ARCHIVES if start.startswith(magic)), None)
    if found is None and start[257:262] == b"ustar":
        found = ("a tar", "tar -xf")
    return Other(f"{found[0]} archive", f"unpack it ({found[1]}) and name the file that is in it") if found else None


def first_entry(start: bytes) -> str:
    """The name of a zip file's first entry, which stands at its beginning."""
    return start[30:30 + int.from_bytes(start[26:28], "little")].decode("utf-8", "replace")


def listing(path: Path) -> List[str]:
    """The names in a small zip file, their folders of "data.pkl" left out; empty where it is damaged or large."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - (1 << 16) - 22))
        end = file.read()
    at = end.rfind(b"PK\x05\x06")
    if at < 0 or int.from_bytes(end[at + 12:at + 16], "little") > LARGEST_LISTING:
        return []
    try:
        with zipfile.ZipFile(path) as opened:
            return ["data.pkl" if name.endswith("/data.pkl") else name for name in opened.namelist()]
    except Exception:  # a damaged directory can bring zipfile to raise anything
        return []


def picture(start: bytes) -> Optional[Other]:
    """A picture, a film, or a file of another program."""
    name = next((name for magic, name in PICTURES if start.startswith(magic)), "")
    if (name == "WebP" and start[8:12] != b"WEBP") or (name == "BMP" and start[6:10] != bytes(4)):
        name = ""
    if start[4:8] == b"ftyp":
        name = {b"avif": "AVIF", b"heic": "HEIC"}.get(start[8:12], "film")
    if name:
        what = "a film" if name == "film" else f"a picture ({name})"
        hidden = "the embedding in it is not read; get its .pt file" if b"sd-ti-embedding" in start else ""
        return Other(what, hidden or "name the file of weights that it shows")
    named = next((what for magic, what in OTHERS if start.startswith(magic)), "")
    return Other(named, "get the .safetensors version") if named else None


def text_of(path: Path, start: bytes) -> Optional[Other]:
    """A text where weights should be: mostly what a server said instead of sending the file."""
    text = decoded(start)
    if text is None:
        return None
    low = text.lstrip("\ufeff \t\r\n").lower()
    if any(low.startswith(pointer) for pointer in POINTERS):
        if low.startswith("/annex"):
            return Other("only a pointer of git-annex to the file", "type git annex get, or download the file itself")
        return Other("only a pointer of Git LFS to the file", "type git lfs pull, or download the file itself")
    if low.startswith(PAGES) or "<html" in low:
        more = decoded(first_bytes(path, 16 * FIRST)) or text
        title = re.search(r"<title[^>]{0,99}>(.{0,400}?)</title", more, re.S | re.I)
        named = quoted(html.unescape(title[1])) if title else ""
        return Other(f"a web page{named}", f"the download wants a login or another link; {MEANT}")
    if low.startswith("<svg") or (low.startswith("<?xml") and "<svg" in low):
        return Other("a picture (SVG)", "name the file of weights that it shows")
    if low.startswith("<"):
        said = re.search(r"<message>(.*?)</message>", text, re.S | re.I)
        return Other(f'a server\'s answer{quoted(said[1]) if said else " in XML"}', f"the download failed; {MEANT}")
    if low.startswith(("{", "[")):
        return json_of(path)
    return Other(f"text{quoted(low and text)}", f"perhaps what a server answered; {MEANT}")


def instead_of_text(path: Path) -> Optional[Other]:
    """What lies in the place of a text file: a web page, a pointer or nothing; None for any text."""
    found, instead = other(path), ("a web page", "only a pointer", "an empty file", "a file of zeros")
    return found if found and found.what.startswith(instead) else None


def json_of(path: Path) -> Other:
    """JSON: a server's message, or a file that lies beside the wanted one."""
    try:
        data = parse_json((decoded(first_bytes(path, 16 * FIRST)) or "").lstrip("\ufeff"))
    except ValueError:
        data = None
    names = list(data) if isinstance(data, dict) else []
    if "lora_alpha" in names or "peft_type" in names:
        return Other("the settings of a PEFT LoRA", "name adapter_model.safetensors, which lies beside it")
    if "weight_map" in names:
        return Other("the index of a model in several files", "name a file of weights")
    message = message_in(data)
    if message:
        return Other(f"a server's answer in JSON{quoted(message)}", f"log in or give a token there, and {MEANT}")
    keys = f" ({', '.join(shown(name, 20) for name in names[:3])})" if names else ""
    return Other(f"JSON text{keys}", "no weights are in it; name the .safetensors file")


def message_in(data: Any, depth: int = 0) -> str:
    """The sentence in a server's answer, wherever the server puts it."""
    if isinstance(data, str):
        return data
    if isinstance(data, list) and data:
        return message_in(data[0], depth + 1) if depth < 4 else ""
    if not isinstance(data, dict) or depth >= 4:
        return ""
    fields = {str(key).lower(): value for key, value in data.items()}
    said = (message_in(fields[key], depth + 1) for key in MESSAGES if key in fields)
    return next(filter(None, said), "")


def decoded(start: bytes) -> Optional[str]:
    """The bytes as text; None where they are none. The last letter may be cut."""
    wide = start.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = (start[:len(start) & ~1].decode("utf-16") if wide else start.decode("utf-8"))
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3:
            return None
        text = start[:error.start].decode("utf-16" if wide else "utf-8")
    return None if re.search(r"[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]", text) else text


def shown(text: str, length: int = 40) -> str:
    """A piece of a file for a message: short, on one line, without what steers a terminal."""
    text = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in (text if len(text) <= length else text[:length - 3] + "..."))


def quoted(text: str) -> str:
    return f' ("{shown(text, 60)}")' if text.strip() else ""


def shortfall(path: Path, header: int) -> str:
    """How many bytes of a safetensors file are there, where that is not as many as its header says; else empty.

    `header`: the longest header that is read.
    """
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > header:
            return ""
        if 8 + length > size:
            return f"it ends within its header, after {size:,} bytes: half a download"
        ends = [int(end) for end in re.findall(rb'"data_offsets":\s*\[\s*\d{1,15}\s*,\s*(\d{1,15})\s*\]',
                                               file.read(length))]
    whole = 8 + length + max(ends, default=0)
    if whole > size:
        return f"{size:,} of {whole:,} bytes are there: half a download"
    return f"{size - whole:,} bytes follow its end: two downloads in one file" if whole < size and ends else ""
