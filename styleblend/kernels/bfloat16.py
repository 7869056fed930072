"""What this CPU multiplies bfloat16 with."""
from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from styleblend.kernels import sources
from styleblend.machine.runtime import jt

# what the kernels' sources call the types; Jittor's own bfloat16 is another type of the same bits
TYPES = {"float32": "float", "bfloat16": "styleblend::BFloat16"}
UNITS = ("", "vectors", "tiles")


@lru_cache(maxsize=None)
def unit() -> str:
    """What multiplies bfloat16 on this CPU: "tiles" (AMX), "vectors" (AVX512-BF16), or "" where nothing does.

    Also where the compiler does not know its instructions, or Linux does not let a process use them.
    """
    found = jt.code((1,), "int32", [], cpu_header=sources.source("products_cpu.h"),
                    cpu_src="out0_p[0] = styleblend::product_unit();")
    return UNITS[int(found.item())]


def multiplied(dtype) -> bool:
    """Whether numbers of this type are multiplied as they are, on the CPU."""
    return str(dtype) == "bfloat16" and not jt.flags.use_cuda and bool(unit())


def has_tiles() -> bool:
    """Whether Linux says so of this CPU: without it nothing has to be compiled to know."""
    about = Path("/proc/cpuinfo")
    return about.is_file() and " amx_bf16" in about.read_text(encoding="utf-8", errors="replace")
