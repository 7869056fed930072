"""How far numbers are from a reference, which has the same shape."""
from __future__ import annotations

import numpy as np


def array(found) -> np.ndarray:
    """Of a Var of Jittor or an array, in double precision."""
    return np.asarray(found.numpy() if hasattr(found, "numpy") else found, np.float64)


def relative(ours, theirs) -> float:
    """Relative L2 error."""
    ours, theirs = array(ours), array(theirs)
    assert ours.shape == theirs.shape
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def largest(ours, theirs) -> float:
    """Largest absolute difference."""
    ours, theirs = array(ours), array(theirs)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max())
