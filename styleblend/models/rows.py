"""Which batch row is what. No Jittor in it."""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import List, Mapping, Tuple

import numpy as np


@dataclass(frozen=True)
class Reference:
    """The pictures of a branch that others take their look from, and how much each of them counts."""

    branch: str = "reference"
    weights: Tuple[float, ...] = (1.0,)  # they add up to 1


@dataclass(frozen=True)
class Rows:
    """The rows of one call of the UNet: condition outermost, then branch, then sample.

    `branches` says how many pictures each branch has; the counts may differ. `conditions` are what every picture is
    drawn under, such as ("negative", "full"). With branches {"coarse": 1, "fine": 1} and these two the rows are: coarse
    negative, fine negative, coarse full, fine full. `shared`: the rows of one condition stand for those of all, since
    nothing has told them apart yet.
    """

    branches: Mapping[str, int]
    conditions: Tuple[str, ...] = ("full",)
    shared: bool = False

    def __post_init__(self):
        if not self.branches or not self.conditions or min(self.branches.values()) < 1:
            raise ValueError(f"there are no rows with branches {dict(self.branches)} and conditions {self.conditions}")
        if len(set(self.conditions)) < len(self.conditions):
            raise ValueError(f"a condition stands twice in {self.conditions}")

    @property
    def latents(self) -> int:
        """How many pictures are denoised: the rows of one condition."""
        return sum(self.branches.values())

    @property
    def count(self) -> int:
        return self.latents * (1 if self.shared else len(self.conditions))

    def begin(self, branch: str) -> int:
        """The place of a branch's first picture among the latents."""
        names = list(self.branches)
        return sum(self.branches[name] for name in names[:names.index(branch)])

    def latents_of(self, branch: str) -> range:
        """The places of a branch's pictures among the latents."""
        return range(self.begin(branch), self.begin(branch) + self.branches[branch])

    def row(self, branch: str, condition: str, sample: int) -> int:
        """The batch row of one picture of a branch under a condition.

        A branch with one picture has it for every sample.
        """
        count = self.branches[branch]
        if sample >= count > 1:
            raise ValueError(f"branch {branch} has {count} pictures, and not one of number {sample}")
        place = self.begin(branch) + min(sample, count - 1)
        return place if self.shared else self.conditions.index(condition) * self.latents + place

    def of(self, branch: str) -> List[Tuple[int, str, int]]:
        """All (row, condition, sample) of a branch, the first condition first."""
        return [(self.row(branch, condition, n), condition, n)
                for condition in (self.conditions[-1:] if self.shared else self.conditions)
                for n in range(self.branches[branch])]

    def towards(self, reference: Reference) -> np.ndarray:
        """(count, count) float32: the share that row s has in what row r takes over from the reference, at [r, s].

        It takes from the reference's rows of its own condition. These keep to themselves.
        """
        found = np.eye(self.count, dtype=np.float32)
        for branch in self.branches:
            for row, condition, _ in self.of(branch) if branch != reference.branch else ():
                found[row, row] = 0
                for sample, weight in enumerate(reference.weights):
                    found[row, self.row(reference.branch, condition, sample)] = weight
        return found

    def as_shared(self) -> Rows:
        """The rows before anything tells the conditions apart."""
        return replace(self, shared=True)
