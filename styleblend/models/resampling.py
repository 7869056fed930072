"""Resampling along one axis as a matrix: `matrix @ values`. Two axes are two products, on any device."""
from __future__ import annotations

from typing import Callable

import numpy as np

from styleblend.machine.runtime import jt


def cubic_matrix(new: int, old: int) -> np.ndarray:
    """(new, old) float32: cubic convolution (Keys 1981) with a = -0.75.

    Pixel centres are at halves, edges repeated. There is no smoothing before a reduction.
    """
    return cubic_between((np.arange(new) + 0.5) * old / new - 0.5, old)


def aligned_cubic_matrix(new: int, old: int) -> np.ndarray:
    """The same, with the first values of both laid upon each other, and the last ones, too."""
    return cubic_between(np.arange(new) * ((old - 1) / max(new - 1, 1)), old)


def cubic_between(place: np.ndarray, old: int) -> np.ndarray:
    """(places, old) float32: the values at `place`, each a weighted sum of the four beside it."""
    matrix, a = np.zeros((len(place), old)), -0.75
    for tap in range(-1, 3):
        index = np.floor(place).astype(int) + tap
        x = np.abs(place - index)
        weight = np.where(x <= 1, (a + 2) * x ** 3 - (a + 3) * x ** 2 + 1, a * (x ** 3 - 5 * x ** 2 + 8 * x - 4))
        np.add.at(matrix, (np.arange(len(place)), index.clip(0, old - 1)), weight)
    return matrix.astype(np.float32)


def corner_linear_matrix(new: int, old: int) -> np.ndarray:
    """(new, old) float32: linear, with the first pixels of both laid upon each other.

    As in TensorFlow 1, where the network of FID comes from.
    """
    return between(np.arange(new) * (old / new), old)


def linear_matrix(new: int, old: int) -> np.ndarray:
    """(new, old) float32: linear. Pixel centres are at halves, edges repeated; no smoothing before a reduction."""
    return between(((np.arange(new) + 0.5) * old / new - 0.5).clip(0, old - 1), old)


def aligned_linear_matrix(new: int, old: int) -> np.ndarray:
    """(new, old) float32: linear, with the first pixels of both laid upon each other, and the last ones, too."""
    return between(np.arange(new) * ((old - 1) / max(new - 1, 1)), old)


def between(place: np.ndarray, old: int) -> np.ndarray:
    """(places, old) float32: the values at `place`, each a weighted sum of the two beside it."""
    low = np.floor(place).astype(int)
    matrix, rows = np.zeros((len(place), old)), np.arange(len(place))
    np.add.at(matrix, (rows, low), 1 - (place - low))
    np.add.at(matrix, (rows, (low + 1).clip(max=old - 1)), place - low)
    return matrix.astype(np.float32)


def resized(x, height: int, width: int, matrix: Callable[[int, int], np.ndarray]):
    """x (B, C, H, W) -> (B, C, height, width); `matrix`: one of the functions above."""
    rows, channels, old_height, old_width = x.shape
    if (height, width) == (old_height, old_width):
        return x
    x = jt.matmul(x.reshape(-1, old_width), jt.array(matrix(width, old_width).T))
    x = x.reshape(rows * channels, old_height, width).permute(0, 2, 1).reshape(-1, old_height)
    x = jt.matmul(x, jt.array(matrix(height, old_height).T))
    return x.reshape(rows, channels, width, height).permute(0, 1, 3, 2)
