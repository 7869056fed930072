"""Controls: what may happen to q, k and v between their projection and the attention core.

A control says at which sites and steps it applies, and changes the `Projections`. A swap is a row index: nothing is
copied.
"""
from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Optional, Tuple

from styleblend.kernels.segments import Segment
from styleblend.models.attention import AttentionContext, Projections, Site
from styleblend.models.rows import Rows


@dataclass(frozen=True)
class Control(ABC):
    """What a method does at `sites` of one `kind` during the first int(ratio * steps) steps.

    `window_steps` is the number of steps that the ratio counts; None (the default) means those that are really run.
    """

    sites: Tuple[int, ...]
    ratio: float = 1.0
    kind: str = "self"
    window_steps: Optional[int] = None

    def applies(self, site: Site, context: AttentionContext) -> bool:
        return (site.kind == self.kind and site.index in self.sites
                and context.step < int(self.ratio * (self.window_steps or context.steps)))

    @abstractmethod
    def apply(self, p: Projections, rows: Rows) -> Projections:
        """The projections with other rows to read, or others in their place."""


@dataclass(frozen=True)
class Swap(Control):
    """Every row of branch `target` reads the row of branch `source` under `condition`, of the same picture."""

    source: str = ""
    target: str = ""
    condition: str = "full"

    def with_source(self, current: Optional[Tuple[int, ...]], rows: Rows) -> Tuple[int, ...]:
        """The batch rows that are read, `current` with those of the target changed."""
        index = list(range(rows.count) if current is None else current)
        for row, _, sample in rows.of(self.target):
            index[row] = rows.row(self.source, self.condition, sample)
        return tuple(index)


@dataclass(frozen=True)
class SwapQ(Swap):
    """The target's queries become the source's: the target takes over the source's layout."""

    def apply(self, p: Projections, rows: Rows) -> Projections:
        return p._replace(q_rows=self.with_source(p.q_rows, rows))


@dataclass(frozen=True)
class SwapKV(Swap):
    """The target's keys and values become the source's: the target takes over the source's texture and colour."""

    def apply(self, p: Projections, rows: Rows) -> Projections:
        own, *others = p.segments or (Segment(),)
        return p._replace(segments=(Segment(self.with_source(own.rows, rows), own.scale, own.shift), *others))
