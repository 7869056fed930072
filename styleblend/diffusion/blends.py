"""One latent out of several: weighted means of reference pictures. NumPy only."""
from __future__ import annotations

from typing import Callable, List, Mapping, Sequence

import numpy as np

from styleblend.errors import StyleBlendError


def linear(latents: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """The weighted mean. Where references differ it is shorter than they are: the picture loses contrast."""
    return sum(weight * np.asarray(one, np.float64) for one, weight in zip(latents, weights)).astype(np.float32)


def between(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """Spherical interpolation (Shoemake 1985): the direction along the great circle, the length in a straight line."""
    sizes = np.linalg.norm(a), np.linalg.norm(b)
    if min(sizes) == 0:
        return (1 - t) * a + t * b
    cosine = np.clip(np.vdot(a / sizes[0], b / sizes[1]), -1, 1)
    omega = np.arccos(cosine)
    if np.sin(omega) < 1e-6:  # the same direction, or the opposite one, where no circle is the shortest
        return (1 - t) * a + t * b
    towards = (np.sin((1 - t) * omega) * a / sizes[0] + np.sin(t * omega) * b / sizes[1]) / np.sin(omega)
    return towards * ((1 - t) * sizes[0] + t * sizes[1])


def slerp(latents: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Spherical interpolation from reference to reference, each with its share of the weights so far.

    Of two references the order does not matter. Of more it does, a little: `spherical_mean` is for these.
    """
    found, total = np.asarray(latents[0], np.float64), weights[0]
    for one, weight in zip(latents[1:], weights[1:]):
        total += weight
        found = between(found, np.asarray(one, np.float64), weight / total)
    return found.astype(np.float32)


def spherical_mean(latents: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """The weighted mean direction on the sphere (Buss & Fillmore 2001, algorithm A1), with the mean length.

    It does not depend on the order, and of two references it is `slerp`.
    """
    wide = [np.asarray(one, np.float64) for one in latents]
    sizes = [np.linalg.norm(one) for one in wide]
    length = float(np.dot(weights, sizes))
    ways = [one / size for one, size in zip(wide, sizes) if size > 0]
    shares = np.array([weight for weight, size in zip(weights, sizes) if size > 0])
    shares = shares / shares.sum()
    mean = sum(share * way for share, way in zip(shares, ways))
    if np.linalg.norm(mean) < 1e-6:  # opposite directions: no mean is better than another
        return linear(latents, weights)
    mean = mean / np.linalg.norm(mean)
    for _ in range(50):
        tangents = [tangent(mean, way) for way in ways]
        step = sum(share * one for share, one in zip(shares, tangents))
        angle = np.linalg.norm(step)
        if angle < 1e-12:
            break
        mean = np.cos(angle) * mean + np.sin(angle) * step / angle
        mean = mean / np.linalg.norm(mean)
    return (mean * length).astype(np.float32)


def tangent(at: np.ndarray, to: np.ndarray) -> np.ndarray:
    """The way along the sphere from one direction to another, as long as the angle between them."""
    cosine = np.clip(np.vdot(at, to), -1, 1)
    across = to - cosine * at
    size = np.linalg.norm(across)
    return across * (np.arccos(cosine) / size) if size > 1e-12 else np.zeros_like(at)


def slerp_upstream(latents: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """As published with Z-SASLM (Borgi et al. 2025), for comparison: each line of the latent has an angle of its own,
    the first reference enters with its weight already, and a picture with itself is not a number.
    """
    found: np.ndarray = np.float32(weights[0]) * np.asarray(latents[0], np.float32)
    for one, weight in zip(latents[1:], weights[1:]):
        one = np.asarray(one, np.float32)
        a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (found, one))
        with np.errstate(all="ignore"):
            omega = np.arccos((a * b).sum(-1, keepdims=True))
            found = (np.sin((1 - weight) * omega) * found + np.sin(weight * omega) * one) / np.sin(omega)
    return found.astype(np.float32)


BLENDS: Mapping[str, Callable] = {"linear": linear, "slerp": slerp, "spherical_mean": spherical_mean,
                                  "slerp_upstream": slerp_upstream}


def blended(name: str, latents: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """One latent of several, by the blend of this name. References of weight 0 are left out.

    StyleBlendError where that is not a number.
    """
    kept: List[int] = [place for place, weight in enumerate(weights) if weight > 0]
    if len(kept) == 1:
        return np.asarray(latents[kept[0]], np.float32)
    total = sum(weights[place] for place in kept)
    found = BLENDS[name]([latents[place] for place in kept], [weights[place] / total for place in kept])
    if not np.isfinite(found).all():
        raise StyleBlendError(f"the blend {name} of these references is not a number, since two of them are too much "
                              "alike: take spherical_mean")
    return found
