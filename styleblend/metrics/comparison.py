"""Is one way of drawing better than another?

Paired differences of scores, with an interval that says how sure that is.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np

RESAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """The mean of first minus second over `pairs`, and its 95 % interval; NaN without pairs."""

    mean: float
    low: float
    high: float
    pairs: int

    @property
    def better(self) -> bool:
        """Whether the first is better beyond what chance explains."""
        return self.low > 0

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


def paired_difference(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Difference:
    """Compare two equally long rows of scores of the same things; pairs with a NaN are left out.

    The interval is a percentile bootstrap: the pairs are drawn again with repetition, RESAMPLES times. The same seed
    gives the same interval.
    """
    differences = np.asarray(first, float) - np.asarray(second, float)
    differences = differences[np.isfinite(differences)]
    n = len(differences)
    if n == 0:
        return Difference(np.nan, np.nan, np.nan, 0)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES)  # how often each pair was drawn
    low, high = np.percentile(counts @ differences / n, (2.5, 97.5))
    return Difference(float(differences.mean()), float(low), float(high), n)
