"""The C++ and CUDA sources as Jittor wants them.

It compiles text, in a folder of its own, where no header beside it can be included.
"""
from __future__ import annotations

import re
from pathlib import Path


def source(name: str) -> str:
    """A header of this folder for `jt.code`.

    Jittor writes the types and shapes of the inputs behind the last `#include` of the text. That must not be one that a
    condition leaves out, such as the includes of `attention_amx.h` on a CPU without matrix tiles: so an include of its
    own comes last.
    """
    return whole(name) + "\n#include <cstddef>\n"


def whole(name: str) -> str:
    """A header of this folder with those of this folder that it includes, and so on, put in, each once."""
    there = set()

    def text_of(name: str) -> str:
        if name in there:
            return ""
        there.add(name)
        text = (Path(__file__).parent / name).read_text(encoding="utf-8").replace("#pragma once\n", "")
        return re.sub(r'#include "(\w+\.h)"\n', lambda found: text_of(found[1]), text)

    return text_of(name)
