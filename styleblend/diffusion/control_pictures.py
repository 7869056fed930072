"""Control pictures: what ControlNets add to the rows of a drawing that are steered by them."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List, Optional, Sequence

import numpy as np

from styleblend.diffusion.samplers import within
from styleblend.machine.runtime import jt
from styleblend.models.attention import AttentionContext
from styleblend.models.controlnet import ControlNetModel, on_rows
from styleblend.models.rows import Rows
from styleblend.models.unet import Residuals, skip_with


@dataclass(frozen=True)
class ControlPicture:
    """One picture that steers, and how.

    `condition`: what `ControlNetModel.embedded` gave of one picture, or of one for each picture of the branches.
    `strength` is a factor of what is added; it is active from the share `start` of the steps to the share `end`.
    `guess`: the network goes without the prompt's help. Deep residuals count more, and the negative rows get none.
    """

    network: ControlNetModel
    condition: Any
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    guess: bool = False

    def active(self, index: int, steps: int) -> bool:
        """Whether step `index` lies within start and end."""
        return within(index, steps, self.start, self.end)


class Controlled:
    """The residuals of a recipe: `Recipe.residuals`.

    Only the pictures of `branches` are steered. Each of their rows is read with its own text.
    """

    def __init__(self, pictures: Sequence[ControlPicture], branches: Sequence[str], steps: int):
        self.pictures, self.branches, self.steps = tuple(pictures), tuple(branches), steps

    def active(self, index: int) -> tuple:
        """Which pictures are active at a step."""
        return tuple(picture.active(index, self.steps) for picture in self.pictures)

    def __call__(self, x, time: float, index: int, text, rows: Rows) -> Optional[Residuals]:
        """x (latents, 4, h, w) and text (rows, 77, width) of all rows. None where nothing is active at this step."""
        total = None
        for picture in self.pictures:
            if picture.active(index, self.steps):
                found = self.added_by(picture, x, time, text, rows)
                total = found if total is None else Residuals(
                    [skip_with(one, more) for one, more in zip(total.down, found.down)],
                    skip_with(total.mid, found.mid))
        return total

    def added_by(self, picture: ControlPicture, x, time: float, text, rows: Rows) -> Residuals:
        """What one picture adds to all rows."""
        conditions, latents = rows.conditions, [n for branch in self.branches for n in rows.latents_of(branch)]
        asked = conditions[1:] if picture.guess and len(conditions) > 1 else conditions
        steered = [conditions.index(name) * rows.latents + place for name in asked for place in latents]
        context = AttentionContext(Rows({branch: rows.branches[branch] for branch in self.branches}, asked))
        found = picture.network(taken(x, latents), time, taken(text, steered), picture.condition, context,
                                picture.strength, picture.guess)
        return on_rows(found, {row: number for number, row in enumerate(steered)}, rows.count)


def taken(x, rows: List[int]):
    """These rows of `x`."""
    return x if rows == list(range(x.shape[0])) else x[jt.array(np.array(rows, np.int32))]
