"""Resampling along one axis as a matrix: `matrix @ values`. Two axes are two products, on any device."""
from __future__ import annotations

import numpy as np


def cubic_matrix(new: int, old: int) -> np.ndarray:
    """(new, old) float32: cubic convolution (Keys 1981) with a = -0.75.

    Pixel centres are at halves, edges repeated. There is no smoothing before a reduction.
    """
    place = (np.arange(new) + 0.5) * old / new - 0.5
    matrix, a = np.zeros((new, old)), -0.75
    for tap in range(-1, 3):
        index = np.floor(place).astype(int) + tap
        x = np.abs(place - index)
        weight = np.where(x <= 1, (a + 2) * x ** 3 - (a + 3) * x ** 2 + 1, a * (x ** 3 - 5 * x ** 2 + 8 * x - 4))
        np.add.at(matrix, (np.arange(new), index.clip(0, old - 1)), weight)
    return matrix.astype(np.float32)


def corner_linear_matrix(new: int, old: int) -> np.ndarray:
    """(new, old) float32: linear, with the first pixels of both laid upon each other.

    As in TensorFlow 1, where the network of FID comes from.
    """
    place = np.arange(new) * (old / new)
    low = np.floor(place).astype(int)
    matrix = np.zeros((new, old))
    np.add.at(matrix, (np.arange(new), low), 1 - (place - low))
    np.add.at(matrix, (np.arange(new), (low + 1).clip(max=old - 1)), place - low)
    return matrix.astype(np.float32)
