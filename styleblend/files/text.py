"""Text and JSON, of people and of bases: UTF-8 with or without a byte order mark; anything else is one sentence."""
from __future__ import annotations

import json
import re
from itertools import accumulate
from pathlib import Path
from typing import Any

from styleblend.errors import StyleBlendError

# Brackets in brackets. Python's own limit is no help, since Jittor raises it to where the stack overflows; and the time
# that YAML takes grows with the square.
DEEPEST = 50
LONGEST = 400  # digits: Python before 3.11 works on a million of them for minutes
LARGEST = 1 << 20  # bytes: prompts and captions of a few pictures are far smaller


def read_text(path: Path) -> str:
    """The text of a file. StyleBlendError when it is missing, too large or not UTF-8."""
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise StyleBlendError(f"{path} cannot be read ({error.strerror or error})") from None
    if len(data) > LARGEST:
        raise StyleBlendError(f"{path} is larger than {LARGEST >> 20} MiB: that is no file of prompts or captions")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise StyleBlendError(f"{path} is UTF-16 text: save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StyleBlendError(f"{path} is not UTF-8 text (byte {error.start} is 0x{data[error.start]:02x}): "
                              "save it as UTF-8") from None


def refuse_deep(text: str) -> None:
    """ValueError when too many brackets of JSON or YAML are open at once."""
    depths = list(accumulate((1 if c in "[{" else -1 for c in re.findall(r"[][{}]", text)), initial=0))
    if max(depths) - min(depths) > DEEPEST:
        raise ValueError("it is nested too deep")


def parse_json(text: str) -> Any:
    """What a JSON text holds. ValueError also for a key that is there twice, for nesting and numbers without end."""
    refuse_deep(text)

    def once(pairs):
        found = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"the key {key[:60]!r} is there twice")
            found[key] = value
        return found

    def number(digits):
        if len(digits) > LONGEST:
            raise ValueError(f"a number has {len(digits)} digits")
        return int(digits)

    return json.loads(text, object_pairs_hook=once, parse_int=number)


def read_json(path: Path, expected: str) -> Any:
    """What a JSON file holds. `expected` ends the sentence of the error."""
    try:
        return parse_json(read_text(path))
    except ValueError as error:
        raise StyleBlendError(f"{path} cannot be read as JSON ({error}): {expected}") from None
