"""Where a command writes: what cannot be written is found before the work, and nothing is replaced unasked."""
from __future__ import annotations

import errno
import itertools
import os
import tempfile
from pathlib import Path
from typing import Callable

from styleblend.errors import StyleBlendError
from styleblend.files.whole_files import not_written

SMALL, PICTURE = 1 << 12, 1 << 16  # bytes that are written to see whether there is space


def refuse_unwritable(folder: Path, size: int = SMALL) -> None:
    """StyleBlendError with the cause where no file of so many bytes can be made in a folder, which need not be there.

    Nothing stays of the attempt, and no folder is made.
    """
    there = Path(os.path.abspath(folder))
    try:
        longest = max(len(os.fsencode(part)) for part in there.parts)
        while not os.path.lexists(there):
            there = there.parent
        if longest > os.pathconf(there, "PC_NAME_MAX"):
            os.stat(there / ("x" * longest))  # raises what the system says of such a name
        with tempfile.TemporaryFile(dir=there) as file:  # also tells a file from a folder
            file.write(bytes(size))
            file.flush()
    except OSError as error:
        raise not_written(folder, error) from None


def refuse_no_file(path: Path) -> None:
    """StyleBlendError for what is there and no file, and for a path that cannot be one's."""
    path = Path(path)
    try:
        os.lstat(path)
        if path.is_dir():
            raise StyleBlendError(f"{path} is a folder: name a file in it, such as {path / 'picture.png'}")
        if path.exists() and not path.is_file():
            raise StyleBlendError(f"{path} is a device and no file: choose another name")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise not_written(path, error) from None


def refuse_unwritable_file(path: Path) -> None:
    """StyleBlendError with the cause where a picture cannot be written to `path`."""
    refuse_no_file(path)
    refuse_unwritable(Path(path).parent, PICTURE)
    if len(os.fsencode(Path(path).name)) > os.pathconf("/", "PC_NAME_MAX"):  # in a folder that is not there yet
        raise not_written(path, OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG)))


def refuse_taken(path: Path, overwrite: bool) -> None:
    """StyleBlendError for a file that is there, unless it is to be replaced."""
    if not overwrite and os.path.lexists(path):
        raise StyleBlendError(f"{path} is there already: choose another --output, or --overwrite to replace it")


def free_path(path: Path, taken: Callable[[Path], bool] = os.path.lexists) -> Path:
    """`path`, or where that is taken the first of NAME-2, NAME-3, ... that is not."""
    path = Path(path)
    numbered = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(2))
    return next(p for p in itertools.chain([path], numbered) if not taken(p))
