"""What Jittor has compiled, and whether it is still whole.

A power cut or a full disk leaves files in Jittor's cache that are cut short, empty, or zero where there was code.
Jittor takes a file for good when its name is there, and a process that runs it crashes. So what a run has compiled is
written down with size, times and checksum, and looked at before Jittor is imported.

Sizes and times are enough as long as the machine runs: whoever writes to a file changes its ctime. After a start of the
machine every checksum is computed once. A file that nobody has written down yet is whole if it ends where its ELF
header says and if nobody has written to it after its key, which Jittor writes last.
"""
from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Tuple

from styleblend.errors import StyleBlendError
from styleblend.files.whole_files import write_bytes

RECORD = "compiled.json"
BOOT = Path("/proc/sys/kernel/random/boot_id")
PARSED = "jit.h.gch"  # the folder of precompiled headers


class Written(NamedTuple):
    """What is known of a file: `stamp` is its size, its inode, and when content and inode were changed.

    `key`: when Jittor wrote the key of it, by which it can be told from a damaged one that it was compiled again.
    """

    stamp: Tuple[int, int, int, int]
    key: int
    checksum: str


class CompiledCode:
    """The compiled files below one folder: objects, libraries, precompiled headers."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def damaged(self, thorough: bool = False) -> List[str]:
        """The files that are not as they were compiled. `thorough`: compute every checksum."""
        boot, written = self.read()
        thorough = thorough or boot != boot_id()
        found = []
        for path, stamp in self.files():
            known = written.get(self.name(path))
            if known and known.stamp == stamp and not thorough:
                continue
            if known and known.stamp[0] == stamp[0] and known.checksum == checksum(path):
                continue
            if known and known.key == key_time(path) or finished(path) and not whole(path, stamp[0]):
                found.append(path)
        return found

    def record(self) -> None:
        """Write down what is there now. Files are read only where they are new or have changed."""
        boot, written = self.read()
        now = {}
        for path, stamp in self.files():
            known = written.get(self.name(path))
            if known and known.stamp == stamp:
                now[self.name(path)] = known
            elif finished(path) and whole(path, stamp[0]):
                now[self.name(path)] = Written(stamp, key_time(path), checksum(path))
        if boot != boot_id() or now != written:
            lines = {name: [*known.stamp, known.key, known.checksum] for name, known in now.items()}
            write_bytes(self.folder / RECORD, json.dumps({"boot": boot_id(), "files": lines}).encode())

    def read(self) -> Tuple[str, Dict[str, Written]]:
        """Since which start of the machine it is, and what the record says: nothing where it is damaged itself."""
        try:
            content = json.loads((self.folder / RECORD).read_bytes())
            return str(content["boot"]), {
                name: Written((size, inode, written, changed), key, summed)
                for name, (size, inode, written, changed, key, summed) in content["files"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return "", {}

    def name(self, path: str) -> str:
        return path[len(str(self.folder)) + 1:]

    def files(self) -> Iterator[Tuple[str, Tuple[int, int, int, int]]]:
        """Paths of the compiled files, with their stamps."""
        for path in compiled_files(str(self.folder)):
            with contextlib.suppress(FileNotFoundError):  # another process may be compiling
                about = os.stat(path)
                yield path, (about.st_size, about.st_ino, about.st_mtime_ns, about.st_ctime_ns)


def compiled_files(folder: str) -> Iterator[str]:
    """Objects, libraries and precompiled headers below a folder."""
    parsed = os.path.basename(folder) == PARSED
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from compiled_files(entry.path)
            elif parsed or (entry.name.endswith((".so", ".o")) or ".so." in entry.name) and not entry.is_symlink():
                yield entry.path


def boot_id() -> str:
    """A name of the time since the machine was started."""
    try:
        return BOOT.read_text().strip()
    except OSError:
        return "unknown"


def checksum(path: str) -> str:
    """Of a file's content; empty when it cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb", buffering=0) as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()


def finished(path: str) -> bool:
    """Whether Jittor takes a file for good: by its key, by the checksum of data.o, by where it is."""
    return (os.path.basename(os.path.dirname(path)) in (PARSED, "lib")
            or any(os.path.exists(name) for name in says_good(path)))


def key_time(path: str) -> int:
    """When Jittor wrote that it takes a file for good; 0 where it writes nothing."""
    for name in says_good(path):
        with contextlib.suppress(OSError):
            return os.stat(name).st_mtime_ns
    return 0


def says_good(path: str) -> Tuple[str, str]:
    """The files beside a compiled one by which Jittor takes it for good, of which it writes one."""
    return f"{path}.key", os.path.splitext(path)[0] + ".md5"


def whole(path: str, size: int) -> bool:
    """Whether a file that is in no record ends where it should, and has not been written to after its key."""
    with contextlib.suppress(OSError):
        if 0 < key_time(path) < os.stat(path).st_mtime_ns:
            return False
    if os.path.basename(os.path.dirname(path)) == PARSED:
        return size > 0
    return size >= elf_end(path) > 0


def elf_end(path: str) -> int:
    """Where the table of sections ends, which is last in what compilers write; 0: this is no 64-bit ELF file."""
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError:
        return 0
    if len(head) < 64 or head[:5] != b"\x7fELF\x02":
        return 0
    table, entry, count = (int.from_bytes(head[at:at + width], "little") for at, width in ((40, 8), (58, 2), (60, 2)))
    return table + entry * count


def remove(path: str) -> None:
    """Take away a damaged file and what says that it is up to date: Jittor compiles it again."""
    for name in (path, *says_good(path)):
        try:
            os.unlink(name)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StyleBlendError(f"{name} is damaged, and cannot be removed ({error.strerror}): delete it.") from None


def recorded_folders(cache: Path) -> List[CompiledCode]:
    """All of Jittor's caches, of any compiler and Python, of which there is a record."""
    return [CompiledCode(path.parent) for path in sorted(Path(cache).glob(f"jt*/**/{RECORD}"))]


def named(paths: List[str]) -> str:
    """One file by its name, several by their number."""
    folder, name = os.path.split(paths[0])
    if os.path.basename(folder) == PARSED:
        name = "a precompiled header"
    name = name if len(name) <= 40 else f"{name[:24]}...{name[-13:]}"
    return name if len(paths) == 1 else f"{len(paths)} files"


def repair(code: CompiledCode, thorough: bool = False) -> str:
    """Take away what is damaged, so that Jittor compiles it again; a sentence about it, empty if nothing was.

    Nobody else may compile meanwhile: a file that is being written looks like a damaged one.
    """
    damaged = code.damaged(thorough)
    for path in damaged:
        remove(path)
    verb = "is" if len(damaged) == 1 else "are"
    return damaged and (f"{named(damaged)} in Jittor's cache {verb} damaged, as after a power cut or on a full disk: "
                        f"compiled again.") or ""
