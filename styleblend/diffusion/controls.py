"""Controls: what may happen to q, k and v between their projection and the attention core.

A control says at which sites and steps it applies, and changes the `Projections`. A swap is a row index: nothing is copied.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

from styleblend.models.attention import AttentionContext, Projections, RowLayout, Site


def with_source(current, rows: RowLayout, source: str, target: str) -> Tuple[int, ...]:
    """Row indices in which every row of branch `target` reads the conditional row of branch `source`, same sample."""
    index = list(current if current is not None else range(rows.count))
    for row, sample in rows.rows(target):
        index[row] = rows.row(source, True, sample)
    return tuple(index)


@dataclass(frozen=True)
class Swap:
    """Branch `target` reads from branch `source` at `sites` of one `kind` during the first int(ratio * steps) steps.

    `window_steps` is the number of steps that the ratio counts; None (the default) means those that are really run.
    """

    sites: Tuple[int, ...]
    source: str
    target: str
    ratio: float = 1.0
    kind: str = "self"
    window_steps: int = None

    def applies(self, site: Site, context: AttentionContext) -> bool:
        return (site.kind == self.kind and site.index in self.sites
                and context.step < int(self.ratio * (self.window_steps or context.steps)))


@dataclass(frozen=True)
class SwapQ(Swap):
    """The target's queries become the source's: the target takes over the source's layout."""

    def apply(self, p: Projections, rows: RowLayout) -> Projections:
        return p._replace(q_rows=with_source(p.q_rows, rows, self.source, self.target))


@dataclass(frozen=True)
class SwapKV(Swap):
    """The target's keys and values become the source's: the target takes over the source's texture and colour."""

    def apply(self, p: Projections, rows: RowLayout) -> Projections:
        return p._replace(kv_rows=with_source(p.kv_rows, rows, self.source, self.target))
