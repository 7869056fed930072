"""The NVIDIA cards of this machine, as the driver tells them. Neither CUDA's toolkit nor Jittor is needed for it."""
from __future__ import annotations

import ctypes
from dataclasses import dataclass

MAJOR, MINOR = 75, 76  # numbers of the driver's attributes of a card
# Compute capabilities of which a multiprocessor has 164 KiB of shared memory and more, and multiplies TF32 eight times
# as fast as float32: A100, H100. Others have 64 to 100, and TF32 is as fast as float32 there, or not there at all.
LARGE = (80, 90)
# what Jittor says of a full card: its allocator, and what looks how much is left
FULL = ("Unable to alloc cuda device memory", "GPU memory is overflow")


@dataclass(frozen=True)
class Card:
    """`capability`: compute capability times ten, such as 89; `memory`: in bytes."""

    name: str
    capability: int
    memory: int


def shared_memory(capability: int) -> int:
    """Bytes of shared memory that a thread block of our kernels should take: `blocks.h` says why."""
    return (48 if capability in LARGE else 24) * 1024


def exact_product(capability: int) -> str:
    """The fastest way to multiply in float32 on a card, of those that lose nothing; the names are those of `blocks.h`.

    On tensor cores it takes three products of TF32.
    """
    return "SPLIT" if capability in LARGE else "FMA"


def full_card(error: Exception, dtype: str | None, offload: bool | None) -> str | None:
    """The sentence for an error of Jittor's that says that a card's memory is full; None for other errors.

    `dtype`, `offload`: what was asked for; None where a command has no such option.
    """
    if not any(words in str(error) for words in FULL):
        return None
    leaner = ["--offload"] if offload is False else []
    leaner += ["--dtype float16"] if dtype == "float32" else []
    leaner += ["a smaller sampling.batch, or sampling.width and height, in the config"]
    return (f"the card's memory is full; what is finished is kept. Try {', or '.join(leaner)}; "
            "--max-memory with the card's size, such as 8GB, chooses leaner settings by itself")


def cards() -> list[Card]:
    """The cards that this process may use; none without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    return [card(driver, number) for number in range(count.value)]


def card(driver: ctypes.CDLL, number: int) -> Card:
    """One card; what the driver does not tell is 0 or nothing."""
    device, major, minor, memory = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0), ctypes.c_size_t(0)
    name = ctypes.create_string_buffer(100)
    driver.cuDeviceGet(ctypes.byref(device), number)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceGetAttribute(ctypes.byref(major), MAJOR, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), MINOR, device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    return Card(name.value.decode("utf-8", "replace"), 10 * major.value + minor.value, memory.value)


def driver_version() -> str:
    """The newest CUDA that the driver can run, such as "13.0"; nothing without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ""
    version = ctypes.c_int(0)
    if driver.cuDriverGetVersion(ctypes.byref(version)):
        return ""
    return f"{version.value // 1000}.{version.value % 1000 // 10}"
