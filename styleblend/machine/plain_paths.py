"""Jittor writes paths into commands for a shell: of Python and of itself without quotes, of all else within them.

So a folder with a space in it must not be in the first kind, and one with a quote in none.
"""
from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
import tempfile
from pathlib import Path

from styleblend.errors import StyleBlendError
from styleblend.machine.environment import jittor_cache


def make_paths_plain(jittor) -> None:
    """Quote Python's path, and have Jittor go through a link to itself, where a shell would take them apart."""
    if not is_plain(jittor.flags.python_path):
        jittor.flags.python_path = f'"{jittor.flags.python_path}"'
    if not is_plain(jittor.flags.jittor_path):
        jittor.flags.jittor_path = str(link_to(Path(jittor.flags.jittor_path)))


def is_plain(path: str) -> bool:
    """Whether a shell takes a path as one word."""
    return re.fullmatch(r"[\w@%+=:,./-]*", path) is not None


def link_to(folder: Path) -> Path:
    """A link to a folder, at a plain path that is always the same: it is in the keys of what Jittor compiles.

    It lies in a folder that only this user can write to, since programs are run through it.
    """
    name = f"jittor-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}"
    for place in (jittor_cache(), Path(tempfile.gettempdir()), Path("/tmp"), Path("/dev/shm")):
        own = place / f"styleblend-{os.getuid()}"
        if is_plain(str(own)):
            with contextlib.suppress(OSError):
                own.mkdir(mode=0o700, exist_ok=True)
                about = own.lstat()
                if stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o022:
                    make_link(own / name, folder)
                    return own / name
    raise StyleBlendError(f"Jittor cannot compile from {folder}, which a shell takes for several words: "
                          "make the virtual environment in a folder without spaces.")


def make_link(link: Path, folder: Path) -> None:
    """Other processes may be using the link: there is an old one or a new one at any time."""
    with contextlib.suppress(OSError):
        if os.readlink(link) == str(folder):
            return
    new = link.with_name(f"{link.name}.{secrets.token_hex(4)}")
    new.symlink_to(folder)
    os.replace(new, link)
