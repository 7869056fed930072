"""A recipe: everything that a method says about one drawing, as data.

It never runs the loop (`styleblend.diffusion.denoise`).
"""
from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Callable, Mapping, Optional, Sequence, Tuple

from styleblend.models.rows import Reference, Rows

Factors = Optional[Tuple[float, ...]]  # one for each batch row; None: 1 in all


@dataclass(frozen=True)
class Recipe:
    """One drawing of one or several pictures. `docs/add-a-method.md` walks through the fields."""

    rows: Rows
    texts: Tuple[Tuple[str, ...], ...]  # of each stage the text of every batch row
    # condition -> weight; they add up to 1, so the sum means the same for epsilon and for v
    guidance: Mapping[str, float]
    seeds: Mapping[str, Tuple[int, ...]]  # branch -> the seed of each of its pictures
    shown: Tuple[str, ...]  # the branches whose pictures the user gets
    stage: Callable[[float], int] = lambda time: 0  # which stage's texts a time step (0..999) reads
    text_scale: Factors = None  # of the text encoder's LoRA
    lora_scale: Factors = None  # of the UNet's LoRA in to_q, to_k and to_v
    out_scale: Factors = None  # of the UNet's LoRA in to_out
    controls: tuple = ()  # see `styleblend.diffusion.controls`
    # branch -> x_t of the first step (n, 4, h, w), in place of noise
    start: Mapping[str, Any] = field(default_factory=dict)
    first_step: int = 0  # the steps before it are left out
    # branch -> what its latents (n, 4, h, w) are after each step
    pinned: Mapping[str, Sequence] = field(default_factory=dict)
    pooled_norms: Optional[Reference] = None  # all group norms take half of their mean and variance from it
    steered: Optional[Tuple[str, ...]] = None  # branches that a control picture may steer; None: all
    # (x, time, index, text states of the stage, rows) -> what a ControlNet adds to these rows:
    # `styleblend.models.unet.Residuals`, or None
    residuals: Optional[Callable] = None

    def __post_init__(self):
        rows, names = self.rows, set(self.rows.branches)
        if set(self.guidance) != set(rows.conditions) or abs(sum(self.guidance.values()) - 1) > 1e-5:
            raise ValueError(f"the weights {dict(self.guidance)} must be of {rows.conditions}, and add up to 1")
        if not self.texts or any(len(of_stage) != rows.count for of_stage in self.texts):
            raise ValueError(f"every stage needs {rows.count} texts, one for each row")
        if {name: len(seeds) for name, seeds in self.seeds.items()} != dict(rows.branches):
            raise ValueError(f"the seeds are not those of {dict(rows.branches)}")
        for what, given in (("shown", self.shown), ("steered", self.steered or ()), ("start", self.start),
                            ("pinned", self.pinned)):
            if not set(given) <= names:
                raise ValueError(f"{what}: there is no branch {sorted(set(given) - names)[0]}")
        if not self.shown or self.start and set(self.start) != names:
            raise ValueError("some branch must be shown, and all of them start from latents or none does")
        for factors in (self.text_scale, self.lora_scale, self.out_scale):
            if factors is not None and len(factors) != rows.count:
                raise ValueError(f"{len(factors)} factors for {rows.count} rows")

    def under(self, condition: str) -> Recipe:
        """The same drawing under one of its conditions alone: as many pictures, fewer rows."""
        rows, n = self.rows, self.rows.latents
        own = slice(rows.conditions.index(condition) * n, (rows.conditions.index(condition) + 1) * n)
        factors = {name: getattr(self, name) and getattr(self, name)[own]
                   for name in ("text_scale", "lora_scale", "out_scale")}
        return replace(self, rows=replace(rows, conditions=(condition,)), guidance={condition: 1.0}, **factors,
                       texts=tuple(of_stage[own] for of_stage in self.texts))

    def tells_apart(self) -> bool:
        """Whether the conditions differ from the first layer on, and not only behind the text."""
        n = self.rows.latents
        return any(factors is not None and factors[i:i + n] != factors[:n]
                   for factors in (self.lora_scale, self.out_scale) for i in range(n, self.rows.count, n))


def classifier_free(scale: float) -> Mapping[str, float]:
    """The weights of classifier-free guidance (Ho & Salimans 2022, eq. 6).

    1 switches it off, and leaves one condition.
    """
    return {"full": 1.0} if scale == 1 else {"negative": 1 - scale, "full": scale}
