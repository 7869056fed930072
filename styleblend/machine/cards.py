"""The NVIDIA cards of this machine, as the driver tells them. Neither CUDA's toolkit nor Jittor is needed for it."""
from __future__ import annotations

import ctypes
from dataclasses import dataclass

MAJOR, MINOR = 75, 76  # numbers of the driver's attributes of a card


@dataclass(frozen=True)
class Card:
    """`capability`: compute capability times ten, such as 89; `memory`: in bytes."""

    name: str
    capability: int
    memory: int


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
