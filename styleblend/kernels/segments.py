"""Segments: the stretches of keys and values that attention reads side by side, as indices. No Jittor, only numbers."""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from operator import index
from typing import List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

LARGEST = {"scale": 1e6, "shift": 1e30}  # in size: so that no score overflows float32


@dataclass(frozen=True)
class Segment:
    """A stretch of keys and values that rows attend to, beside other such stretches: a whole batch row of k and v.

    `rows`: of each row of the result, the batch row of k and v that it reads here; -1: it does not read this segment;
    None: its own.
    `scale`: the scores q.k of this segment are multiplied by it. Any sign, also 0; at most 1e6 in size.
    `shift`: added to these scores after `scale`; at most 1e30 in size. With ln n the segment counts n times.
    Both are one number, or one for each row of the result. `kernels.attention` checks all three: ValueError.
    """

    rows: Optional[Tuple[int, ...]] = None
    scale: Union[float, Tuple[float, ...]] = 1.0
    shift: Union[float, Tuple[float, ...]] = 0.0

    def __post_init__(self):
        if self.rows is not None:
            object.__setattr__(self, "rows", tuple(index(row) for row in self.rows))
        for name in ("scale", "shift"):
            given = getattr(self, name)
            object.__setattr__(self, name, float(given) if np.ndim(given) == 0 else tuple(float(x) for x in given))


OWN = (Segment(),)  # each row its own


class Reading(NamedTuple):
    """What each row of the result reads, written out for the cores."""

    rows: np.ndarray  # (1 + segments, rows) int32: the rows of q, then of each segment those of k and v, -1: not read
    factors: np.ndarray  # (2, segments, rows) float32: scales, then shifts
    plain: bool  # one segment whose scores stay as they are

    @property
    def q_rows(self) -> np.ndarray:
        return self.rows[0]

    @property
    def kv_rows(self) -> np.ndarray:
        return self.rows[1:]


def reading(q_count: int, kv_count: int, q_rows: Optional[Sequence[int]],
            segments: Optional[Sequence[Segment]]) -> Reading:
    """What rows read of q and of k and v with so many batch rows. ValueError for what does not fit together."""
    q_rows = None if q_rows is None else tuple(q_rows)
    return written_out(q_count, kv_count, q_rows, OWN if segments is None else tuple(segments))


@lru_cache(maxsize=1024)  # few different ones, asked for in every site and step
def written_out(q_count: int, kv_count: int, q_rows: Optional[Tuple[int, ...]],
                segments: Tuple[Segment, ...]) -> Reading:
    """As `reading`. The arrays are shared: nobody may write to them."""
    if not segments:
        raise ValueError("attention needs at least one segment of keys and values")
    rows = rows_read(q_count, kv_count, q_rows, segments)
    read = rows[1:] >= 0
    scale, shift = (np.stack([numbers(name, getattr(segment, name), rows.shape[1]) for segment in segments])
                    for name in LARGEST)
    plain = len(segments) == 1 and bool((scale == 1).all() and (shift == 0).all())
    shift = shift - np.where(read, shift, -np.inf).max(axis=0)  # a softmax does not see what all its scores share
    factors = np.stack([np.where(read, scale, 1), np.where(read, shift, 0)]).astype(np.float32)
    rows.flags.writeable = factors.flags.writeable = False
    return Reading(rows, factors, plain)


def rows_read(q_count: int, kv_count: int, q_rows: Optional[Tuple[int, ...]],
              segments: Tuple[Segment, ...]) -> np.ndarray:
    """`rows` of a `Reading`: as many of q as of k and v in each segment, all of them there, and each row reads one."""
    found: List[Sequence[int]] = []
    for name, rows, count in [("q", q_rows, q_count)] + [("k", segment.rows, kv_count) for segment in segments]:
        found.append(range(count) if rows is None else rows)
        least = -1 if name == "k" else 0
        wrong = [row for row in found[-1] if not least <= row < count]
        if wrong:
            raise ValueError(f"there is no row {wrong[0]} in {name}, which has {count}")
    other = next((len(rows) for rows in found if len(rows) != len(found[0])), len(found[0]))
    if other != len(found[0]) or other == 0:
        raise ValueError(f"{len(found[0])} rows of q cannot attend to {other} rows of k and v")
    result = np.array([list(rows) for rows in found], np.int32)
    silent = np.flatnonzero((result[1:] < 0).all(axis=0))
    if len(silent):
        raise ValueError(f"row {silent[0]} of the result reads no segment: every row must read at least one")
    return result


def numbers(name: str, given: Union[float, Tuple[float, ...]], rows: int) -> np.ndarray:
    """A segment's scale or shift for each of `rows`."""
    found = np.array(given)
    if found.shape not in ((), (rows,)):
        raise ValueError(f"a segment's {name} is one number or one for each of {rows} rows, not {found.size} numbers")
    wrong = found[~(np.abs(found) <= LARGEST[name])]
    if wrong.size:
        raise ValueError(f"a segment's {name} must be a number of at most {LARGEST[name]:g} in size, not {wrong[0]:g}")
    return np.broadcast_to(found, (rows,))
