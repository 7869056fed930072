"""What must be the same on every machine before one of them draws: versions, the base, the folder."""
from __future__ import annotations

import platform
import socket
from typing import Dict, List, Sequence

from styleblend import __version__
from styleblend.base.base import Base
from styleblend.errors import StyleBlendError
from styleblend.record import libraries

MACHINE = "machine"
CURES = {"styleblend": "install the same version on every machine", "python": "take the same Python on every machine",
         "base": "copy the same base to every machine", "autoencoder": "copy the same base to every machine"}
LIBRARY = "install the same requirements on every machine"


def about(base: Base) -> Dict[str, str]:
    """What this machine would draw with."""
    return {MACHINE: socket.gethostname(), "styleblend": __version__,
            "python": ".".join(platform.python_version_tuple()[:2]), **libraries(), "base": base.fingerprint(),
            "autoencoder": base.decoder_fingerprint()}


def differences(first: Dict[str, str], other: Dict[str, str]) -> List[str]:
    """What one machine has otherwise than the first, in words, with what to do about it."""
    names = [name for name in dict.fromkeys([*first, *other]) if name != MACHINE]
    return [f"{name} {other.get(name, 'none')} and not {first.get(name, 'none')}: {CURES.get(name, LIBRARY)}"
            for name in names if first.get(name) != other.get(name)]


def refuse_unequal(machines: Sequence[Dict[str, str]]) -> None:
    """StyleBlendError names the first machine that would draw other pictures than the first one."""
    for other in machines[1:]:
        found = differences(machines[0], other)
        if found:
            raise StyleBlendError(f"{other[MACHINE]} has another {found[0]} ({machines[0][MACHINE]} is what it is "
                                  "compared with)")
