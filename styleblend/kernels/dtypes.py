"""The types that are drawn and trained in: what "auto" and "int8" stand for on this machine."""
from __future__ import annotations

import os
from typing import Optional

from styleblend.errors import StyleBlendError, printable
from styleblend.kernels import bfloat16
from styleblend.machine.precision import INT8, computed_as
from styleblend.machine.runtime import jt

INT8_TYPES = (f"{INT8}float32", f"{INT8}bfloat16")
CHOICE = "STYLEBLEND_DTYPE"  # the environment variable that says what "auto" stands for


def drawn_as(dtype: str) -> str:
    """The type to draw in: `dtype`, and for "auto" the fastest whose pictures are as good.

    That is bfloat16 on a CPU with matrix tiles, where it was measured (docs/benchmarks.md), and float32 elsewhere. For
    "int8" it is the same beside weights in int8. StyleBlendError for those on a GPU.
    """
    if dtype not in ("auto", "float32", "float16", "bfloat16", "int8", *INT8_TYPES):
        raise StyleBlendError(f"there is no type {printable(dtype)}: it is float32, float16, bfloat16, int8 or auto")
    if dtype.startswith("int8"):
        if jt.flags.use_cuda:
            raise StyleBlendError("int8 weights are for drawing on a CPU: on a GPU give --dtype float16")
        return dtype if dtype in INT8_TYPES else INT8_TYPES[drawn_as("auto") == "bfloat16"]
    if dtype != "auto":
        return dtype
    asked = os.environ.get(CHOICE)
    if asked and asked not in ("float32", "float16", "bfloat16"):
        raise StyleBlendError(f"{CHOICE}={asked} is no type: give float32, float16 or bfloat16")
    tiles = not jt.flags.use_cuda and bfloat16.has_tiles() and bfloat16.unit() == "tiles"
    return asked or ("bfloat16" if tiles else "float32")


def chosen(asked: str, dtype: str) -> Optional[str]:
    """What is said where `asked` stands for another type than one expects; None where there is nothing to say."""
    if asked.startswith("int8") and dtype == "float32":
        return "trained in float32: weights in int8 are for drawing"
    if asked == "int8":
        return f"drawn in {computed_as(dtype)} with weights in int8 (--dtype int8)"
    if asked == "auto" and dtype != "float32":
        return f"drawn in {dtype} (--dtype auto); --dtype float32 draws what other machines draw"
    return None


def trained_as(dtype: str) -> str:
    """The type to train in: "auto" is float32, so that a training goes on exactly on any machine.

    So is int8, which is for drawing: no gradient was ever checked through it.
    """
    return "float32" if dtype == "auto" or dtype.startswith("int8") else dtype
