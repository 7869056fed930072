"""Attention of the UNet and the one mechanism of this project: control over where Q, K and V come from.

Every attention runs four stages: project, control, core, output. Only the second is open: a control receives the projections of
q, k and v with the rows that the core will read, and returns them changed. It is passed down as an argument in an
`AttentionContext`; nothing is patched, so nothing has to be undone. Projections are made last, of the rows that are read.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Mapping, NamedTuple, Optional, Tuple

import numpy as np

from styleblend.kernels import attention, geglu
from styleblend.models.layers import LayerNorm, Linear
from styleblend.machine.precision import added
from styleblend.machine.runtime import jt


@dataclass(frozen=True)
class RowLayout:
    """Which batch row is what: guidance outermost, then branch, then sample.

    With branches ("coarse", "fine") and one sample the rows are coarse uncond, fine uncond, coarse cond, fine cond; without
    guidance only the conditional half exists.
    """

    branches: Tuple[str, ...] = ("fine",)
    guidance: bool = True
    samples: int = 1

    @property
    def count(self) -> int:
        return len(self.branches) * self.samples * (2 if self.guidance else 1)

    def row(self, branch: str, cond: bool, sample: int) -> int:
        """The batch row of one sample of one branch. `cond=False` needs guidance."""
        if not cond and not self.guidance:
            raise ValueError("without guidance there are no unconditional rows")
        half = 1 if cond and self.guidance else 0
        return (half * len(self.branches) + self.branches.index(branch)) * self.samples + sample

    def rows(self, branch: str) -> list:
        """All (row, sample) pairs of a branch, unconditional ones first."""
        return [(self.row(branch, cond, n), n) for cond in ((False, True) if self.guidance else (True,)) for n in range(self.samples)]


@dataclass(frozen=True)
class Site:
    """One attention of the UNet. Self- and cross-attention sites are each numbered 0..15 in FORWARD order: down, mid, up."""

    name: str
    index: int
    kind: str  # "self" or "cross"
    downscale: int  # the site sees (latent height * latent width) / downscale^2 tokens


@dataclass(frozen=True)
class Projection:
    """q, k or v of the tokens `x`, to be made; `linear` None: `x` is it already. `scale` as in `AttentionContext.lora_scale`."""

    linear: Optional[Linear]
    x: Any
    scale: Any = None

    def made(self):
        """(rows, tokens, width) of all rows."""
        return self.x if self.linear is None else self.linear(self.x, self.scale)

    def read(self, rows: Optional[Tuple[int, ...]]) -> tuple:
        """The projection of the rows that are read, and where in it each of them now is. What a swap overwrites is never made."""
        used = sorted(set(rows)) if rows else []
        if self.linear is None or not rows or len(used) == self.x.shape[0]:
            return self.made(), rows
        index = jt.array(np.array(used, np.int32))
        some = Projection(self.linear, self.x[index], None if self.scale is None else self.scale[index])
        return some.made(), tuple(used.index(row) for row in rows)


class Projections(NamedTuple):
    """q, k and v, and the batch row of each that the core reads for every row (None: its own)."""

    q: Projection
    k: Projection
    v: Projection
    q_rows: Optional[Tuple[int, ...]] = None
    kv_rows: Optional[Tuple[int, ...]] = None


@dataclass(frozen=True)
class AttentionContext:
    """What one denoising step does to attention, and what was computed for all steps: made anew for each step, never changed."""

    rows: RowLayout = RowLayout()
    step: int = 0
    steps: int = 1
    controls: tuple = ()
    lora_scale: Any = None  # Var (rows,): LoRA factor of to_q, to_k, to_v for each row; None: 1 everywhere
    out_scale: Any = None  # the same of to_out
    text: Optional[Mapping[str, tuple]] = None  # site name -> k, v of the text: the same in every step, so projected once
    times: Optional[Mapping[Any, Any]] = None  # residual block -> what it adds, a row for each of `steps`: the same in every picture, so projected together

    def of(self, rows: int) -> AttentionContext:
        """The context of so many rows: with half of them guidance has not split the rows yet, and each stands for both halves."""
        if not self.rows.guidance or 2 * rows != self.rows.count:
            return self
        scales = {name: None if scale is None else scale[:rows] for name, scale in (("lora_scale", self.lora_scale), ("out_scale", self.out_scale))}
        return replace(self, rows=replace(self.rows, guidance=False), **scales)


def repeated(x, rows: int):
    """The rows of `x` over and over until there are so many."""
    return x if x.shape[0] == rows else jt.concat([x] * (rows // x.shape[0]))


class Attention(jt.nn.Module):
    """Multi-head attention with the four stages."""

    def __init__(self, query_dim: int, context_dim: int, heads: int, site: Site):
        self.heads, self.site = heads, site
        self.to_q = Linear(query_dim, query_dim, bias=False)
        self.to_k = Linear(context_dim, query_dim, bias=False)
        self.to_v = Linear(context_dim, query_dim, bias=False)
        self.to_out = jt.nn.ModuleList([Linear(query_dim, query_dim)])

    def keys_and_values(self, text, scale=None):
        """k and v of (rows, tokens, context_dim); `scale` as in `AttentionContext.lora_scale`."""
        return self.to_k(text, scale), self.to_v(text, scale)

    def execute(self, x, text, context: Optional[AttentionContext] = None):
        context = context and context.of(x.shape[0])
        scale = context.lora_scale if context else None
        ready = context.text if context and self.site.kind == "cross" else None
        k, v = ([Projection(None, one) for one in ready[self.site.name]] if ready else
                [Projection(linear, text, scale) for linear in (self.to_k, self.to_v)])
        p = Projections(Projection(self.to_q, x, scale), k, v)
        if context:
            for control in context.controls:
                if control.applies(self.site, context):
                    p = control.apply(p, context.rows)
        (q, q_rows), (k, kv_rows), (v, _) = p.q.read(p.q_rows), p.k.read(p.kv_rows), p.v.read(p.kv_rows)
        x = attention(q, k, v, self.heads, q_rows=q_rows, kv_rows=kv_rows)
        return self.to_out[0](x, context.out_scale if context else None)


class GEGLU(jt.nn.Module):
    """Gated GELU (Shazeer 2020)."""

    def __init__(self, size: int, inner: int):
        self.proj = Linear(size, inner * 2)

    def execute(self, x):
        return geglu(self.proj(x))


class FeedForward(jt.nn.Module):
    def __init__(self, size: int):
        # index 1 is a dropout in the checkpoint's module list: it has no parameters
        self.net = jt.nn.ModuleList([GEGLU(size, size * 4), jt.nn.Identity(), Linear(size * 4, size)])

    def execute(self, x):
        return self.net[2](self.net[0](x))


class BasicTransformerBlock(jt.nn.Module):
    """Self-attention, cross-attention, feed-forward, each behind a layer norm and a residual. `x` may have fewer rows than `text`: see `UNet2DConditionModel`."""

    def __init__(self, size: int, heads: int, context_dim: int, self_site: Site, cross_site: Site):
        self.norm1, self.norm2, self.norm3 = LayerNorm(size), LayerNorm(size), LayerNorm(size)
        self.attn1 = Attention(size, size, heads, self_site)
        self.attn2 = Attention(size, context_dim, heads, cross_site)
        self.ff = FeedForward(size)

    def execute(self, x, text, context=None):
        y = self.norm1(x)
        x = repeated(added(x, self.attn1(y, y, context)), text.shape[0])
        x = added(x, self.attn2(self.norm2(x), text, context))
        return added(x, self.ff(self.norm3(x)))
