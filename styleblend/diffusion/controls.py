"""Controls: what may happen to q, k and v between their projection and the attention core.

A control says at which sites and steps it applies, and changes the `Projections`. A swap is a row index: nothing is
copied.
"""
from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

from styleblend.kernels import adain
from styleblend.kernels.segments import Segment
from styleblend.models.attention import AttentionContext, Projection, Projections, Site
from styleblend.models.rows import Reference, Rows


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


@dataclass(frozen=True)
class AdaIN(Control):
    """Every row's q, k and v get the mean and deviation of the reference's, of each channel over the tokens.

    StyleAligned (Hertz et al. 2023, section 4.2) does it to q and k.
    """

    reference: Reference = Reference()
    queries: bool = True
    keys: bool = True
    values: bool = False

    def apply(self, p: Projections, rows: Rows) -> Projections:
        towards = rows.towards(self.reference)
        wanted = {"q": self.queries, "k": self.keys, "v": self.values}
        return p._replace(**{name: Projection(None, adain(getattr(p, name).made(), towards))
                             for name, yes in wanted.items() if yes})


@dataclass(frozen=True)
class SharedKV(Control):
    """Every row also attends to the reference's keys and values under its own condition (StyleAligned, section 4.1).

    Each picture of the reference is a segment of its own: its scores are multiplied by its `scale` and raised by its
    `shift`, and by the logarithm of its weight. The reference's own rows attend to themselves alone: twice the same
    keys would change nothing.
    """

    reference: Reference = Reference()
    scale: Tuple[float, ...] = (1.0,)
    shift: Tuple[float, ...] = (0.0,)

    def apply(self, p: Projections, rows: Rows) -> Projections:
        segments = [*(p.segments or (Segment(tuple(range(rows.count))),))]
        for sample, weight in enumerate(self.reference.weights):
            read = [-1] * rows.count
            for branch in rows.branches:
                for row, condition, _ in rows.of(branch) if branch != self.reference.branch and weight > 0 else ():
                    read[row] = rows.row(self.reference.branch, condition, sample)
            if weight > 0:
                segments.append(Segment(tuple(read), self.scale[sample], self.shift[sample] + math.log(weight)))
        return p._replace(segments=tuple(segments))


@dataclass(frozen=True)
class FullSharing(Control):
    """All rows of a condition attend to the keys and values of all of them: StyleAligned's ablation."""

    def apply(self, p: Projections, rows: Rows) -> Projections:
        found = [list(range(rows.count)) for _ in range(rows.latents)]
        for branch in rows.branches:
            for row, condition, _ in rows.of(branch):
                first = rows.row(next(iter(rows.branches)), condition, 0)  # of this condition
                for place in range(rows.latents):
                    found[place][row] = first + place
        return p._replace(segments=tuple(Segment(tuple(read)) for read in found))


def shared_sites(sites: Sequence[Site], only_self_level: float) -> Tuple[int, ...]:
    """The self-attention sites that share, of those of a UNet; a part of them, `only_self_level` in 0..1, does not.

    As published: every so many-th site keeps to itself, counted in diffusers' order, where the middle block comes last.
    """
    own = sorted((site for site in sites if site.kind == "self"), key=lambda site: site.name.startswith("mid_block"))
    few = int(min(only_self_level, 1 - only_self_level) * len(own))
    apart = {site.index for place, site in enumerate(own) if few and place % (len(own) // few) == 0}
    everywhere = {site.index for site in own}
    return tuple(sorted(apart if only_self_level > 0.5 else everywhere - apart))
