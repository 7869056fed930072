"""Deep features of the UNet, kept between steps (DeepCache, Ma et al. 2024, section 3.2).

What the deep blocks give changes slowly from step to step: it is computed in every `interval`-th one, and the steps
between compute only the layers near the latents. A step computes all, too, where something else is done to the deep
blocks than before: another stage's texts, a control that sets in or ends, a control picture that does.
"""
from __future__ import annotations

from typing import Hashable, Optional

from styleblend.machine.runtime import jt
from styleblend.models.unet import DeepFeatures, Residuals


class DeepCache:
    """What is kept of one drawing.

    `interval`: steps from one that computes all to the next. `branch_id`: how deep the other steps go: to this skip
    connection, counted from 0, what `conv_in` gives.
    """

    def __init__(self, interval: int, branch_id: int):
        self.interval, self.features = interval, DeepFeatures(branch_id + 1)
        self.index: Optional[int] = None  # the step that computed all, and what was done to it
        self.done: Hashable = None
        self.residuals: Optional[Residuals] = None  # what ControlNets added there

    def due(self, index: int, done: Hashable) -> bool:
        """Whether step `index` computes all. What was kept is forgotten then. `done`: what is done to the blocks."""
        if self.index is not None and done == self.done and index - self.index < self.interval:
            return False
        self.index, self.done, self.features.x, self.residuals = index, done, None, None
        return True

    def keep(self, residuals: Optional[Residuals]) -> None:
        """Keep what a step that computes all has made, computed: it would hold the graph of its step otherwise."""
        self.residuals = residuals and Residuals(residuals.down[:self.features.layers], None)
        jt.sync([self.features.x, *(self.residuals.down if self.residuals else ())])
