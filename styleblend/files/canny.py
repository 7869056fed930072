"""Canny edges (Canny 1986) as OpenCV draws them, bit for bit, in NumPy: what ControlNets for edges were trained on."""
from __future__ import annotations

import numpy as np

TAN_22 = 13573  # tan(22.5 degrees) in 15 bits behind the point


def canny(picture: np.ndarray, low: int = 100, high: int = 200) -> np.ndarray:
    """Edges of a picture uint8 (H, W) or (H, W, channels): uint8 (H, W), 255 on an edge and 0 elsewhere.

    As `cv2.Canny(picture, low, high)`: nothing is blurred first, and of several channels each pixel's steepest counts.
    Slopes above `high` begin an edge, and those above `low` go on with it.
    """
    dx, dy = steepest(*slopes(np.asarray(picture)))
    size = np.abs(dx) + np.abs(dy)
    ridge = ridges(size, dx, dy) & (size > low)
    return connected(ridge & (size > high), ridge).astype(np.uint8) * 255


def slopes(picture: np.ndarray) -> tuple:
    """Sobel's derivatives along x and y, int32 (channels, H, W); the border goes on as it is."""
    channels = picture[None] if picture.ndim == 2 else np.moveaxis(picture, -1, 0)
    p = np.pad(channels.astype(np.int32), ((0, 0), (1, 1), (1, 1)), "edge")
    across = p[:, :, 2:] - p[:, :, :-2]
    down = p[:, 2:] - p[:, :-2]
    dx = across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]
    dy = down[:, :, :-2] + 2 * down[:, :, 1:-1] + down[:, :, 2:]
    return dx, dy


def steepest(dx: np.ndarray, dy: np.ndarray) -> tuple:
    """Of each pixel the derivatives of the channel with the largest |dx| + |dy|; of equal ones the first."""
    which = (np.abs(dx) + np.abs(dy)).argmax(axis=0)[None]
    return np.take_along_axis(dx, which, 0)[0], np.take_along_axis(dy, which, 0)[0]


def ridges(size: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Where the slope is largest across the edge. Of two equal neighbours the left and the upper one is no ridge."""
    m = np.pad(size, 1)
    height, width = size.shape

    def neighbour(y: int, x: int) -> np.ndarray:
        return m[1 + y:1 + y + height, 1 + x:1 + x + width]

    ax, ay = np.abs(dx).astype(np.int64), np.abs(dy).astype(np.int64) << 15
    flat = ay < ax * TAN_22
    steep = ay > ax * TAN_22 + (ax << 16)
    rising = (dx ^ dy) < 0
    horizontal = (size > neighbour(0, -1)) & (size >= neighbour(0, 1))
    vertical = (size > neighbour(-1, 0)) & (size >= neighbour(1, 0))
    up = (size > neighbour(-1, 1)) & (size > neighbour(1, -1))
    down = (size > neighbour(-1, -1)) & (size > neighbour(1, 1))
    return np.select([flat, steep, rising], [horizontal, vertical, up], down)


def connected(begun: np.ndarray, ridge: np.ndarray) -> np.ndarray:
    """All of the ridge that can be reached from where an edge begins, over the eight neighbours."""
    height, width = ridge.shape
    found, left = np.pad(begun, 1).ravel(), np.pad(ridge & ~begun, 1).ravel()  # left: of the ridge, not reached yet
    around = np.array([y * (width + 2) + x for y in (-1, 0, 1) for x in (-1, 0, 1)])
    front = np.flatnonzero(found)
    while front.size:
        near = (front[:, None] + around).ravel()
        front = np.unique(near[left[near]])
        found[front], left[front] = True, False
    return found.reshape(height + 2, width + 2)[1:-1, 1:-1]
