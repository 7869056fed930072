"""Attention of the UNet and the one mechanism of this project: control over where Q, K and V come from.

Every attention runs four stages: project, control, core, output. Only the second is open. A control receives the
projections of q, k and v with the rows that the core will read, and returns them changed. All of it comes down as an
argument, the `AttentionContext`. Nothing is patched, so nothing has to be undone. Projections are made last, of the
rows that are read.
"""
from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from styleblend.kernels import attention, geglu
from styleblend.kernels.segments import Segment
from styleblend.machine.precision import added
from styleblend.machine.runtime import jt
from styleblend.models.layers import LayerNorm, Linear
from styleblend.models.rows import Rows


@dataclass(frozen=True)
class Site:
    """One attention of the UNet.

    Self- and cross-attention sites are each numbered from 0 in FORWARD order: down, mid, up.
    """

    name: str
    index: int
    kind: str  # "self" or "cross"
    downscale: int  # the site sees (latent height * latent width) / downscale^2 tokens


@dataclass(frozen=True)
class Projection:
    """q, k or v of the tokens `x`, to be made; `linear` None: `x` is it already.

    `scale`: the LoRA's factor of each row, None: 1.
    """

    linear: Optional[Linear]
    x: Any
    lora: Any = None
    scale: Any = None

    def made(self):
        """(rows, tokens, width) of all rows."""
        return self.x if self.linear is None else self.linear(self.x, self.lora, self.scale)

    def only(self, rows: Sequence[int]):
        """(len(rows), tokens, width) of these rows. What no row reads is never made."""
        if len(rows) == self.x.shape[0]:
            return self.made()
        index = jt.array(np.array(rows, np.int32))
        return Projection(self.linear, self.x[index], self.lora,
                          None if self.scale is None else self.scale[index]).made()


class Projections(NamedTuple):
    """q, k and v, and what the core reads of them for every row.

    `q_rows`: the batch row of q (None: its own). `segments`: the stretches of keys and values (None: those of its own
    row).
    """

    q: Projection
    k: Projection
    v: Projection
    q_rows: Optional[Tuple[int, ...]] = None
    segments: Optional[Tuple[Segment, ...]] = None

    def read(self) -> tuple:
        """q, k and v of those rows that are read, and where in them each row now finds its own.

        Returns (q, k, v, q_rows, segments).
        """
        q, q_rows = self.q.made(), self.q_rows
        if self.q_rows:
            used = sorted(set(self.q_rows))
            q, q_rows = self.q.only(used), tuple(map(used.index, self.q_rows))
        if self.segments is None or any(segment.rows is None for segment in self.segments):
            return q, self.k.made(), self.v.made(), q_rows, self.segments
        used = sorted({row for segment in self.segments for row in segment.rows} - {-1})
        place = {-1: -1, **{row: number for number, row in enumerate(used)}}
        segments = tuple(replace(segment, rows=tuple(place[row] for row in segment.rows)) for segment in self.segments)
        return q, self.k.only(used), self.v.only(used), q_rows, segments


@dataclass(frozen=True)
class AttentionContext:
    """What one denoising step does to attention, and what was computed for all steps.

    It is made anew for each step and never changed.
    """

    rows: Rows = Rows({"fine": 1}, ("negative", "full"))
    step: int = 0
    steps: int = 1
    controls: tuple = ()
    loras: Mapping[Linear, Any] = field(default_factory=dict)  # layer -> its LoRA
    lora_scale: Any = None  # Var (rows,): LoRA factor of to_q, to_k, to_v for each row; None: 1 everywhere
    out_scale: Any = None  # the same of to_out
    # site name -> k, v of the text: the same in every step, so projected once
    text: Optional[Mapping[str, tuple]] = None
    # residual block -> what it adds, a row for each of `steps`: the same in every picture
    times: Optional[Mapping[Any, Any]] = None
    # rows -> whose values count in the group norms of so many rows, as in `kernels.group_norm`
    pooling: Mapping[int, np.ndarray] = field(default_factory=dict)

    def of(self, rows: int) -> AttentionContext:
        """The context of so many rows.

        The rows of one condition stand for all of them until something tells them apart.
        """
        if self.rows.shared or rows == self.rows.count or rows != self.rows.latents:
            return self
        lora_scale, out_scale = (None if scale is None else scale[:rows] for scale in (self.lora_scale, self.out_scale))
        return replace(self, rows=self.rows.as_shared(), lora_scale=lora_scale, out_scale=out_scale)


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

    def keys_and_values(self, text, loras: Mapping[Linear, Any] = {}, scale=None):
        """k and v of (rows, tokens, context_dim); `scale` as in `AttentionContext.lora_scale`."""
        return tuple(linear(text, loras.get(linear), scale) for linear in (self.to_k, self.to_v))

    def execute(self, x, text, context: Optional[AttentionContext] = None):
        context = context and context.of(x.shape[0])
        loras, scale, out_scale = ((context.loras, context.lora_scale, context.out_scale)
                                   if context else ({}, None, None))
        ready = context.text if context and self.site.kind == "cross" else None
        k, v = ([Projection(None, one) for one in ready[self.site.name]] if ready else
                [Projection(linear, text, loras.get(linear), scale) for linear in (self.to_k, self.to_v)])
        p = Projections(Projection(self.to_q, x, loras.get(self.to_q), scale), k, v)
        for control in context.controls if context else ():
            if control.applies(self.site, context):
                p = control.apply(p, context.rows)
        q, k, v, q_rows, segments = p.read()
        x = attention(q, k, v, self.heads, q_rows=q_rows, segments=segments)
        return self.to_out[0](x, loras.get(self.to_out[0]), out_scale)


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
    """Self-attention, cross-attention, feed-forward, each behind a layer norm and a residual.

    `x` may have fewer rows than `text`: see `UNet2DConditionModel`.
    """

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
