"""Trainings as pieces of work: one part of one style each, which any process can do, here or on another machine."""
from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Dict, List

from styleblend.adapters.parts import PARTS, method_of_training
from styleblend.adapters.style_files import part_file
from styleblend.errors import StyleBlendError
from styleblend.jobs.draw_items import Done, Spread
from styleblend.jobs.events import Job, Log
from styleblend.jobs.train import TrainRequest, train_styles


@dataclass(frozen=True)
class TrainItem:
    """One training of one style. It goes on where an earlier one was stopped, and does nothing where it is done."""

    draws: ClassVar[bool] = False
    title_of_all: ClassVar[str] = "trainings"
    unit: ClassVar[str] = "training"

    request: TrainRequest

    @property
    def title(self) -> str:
        return f"{self.request.styles} {self.request.parts[0]}"

    @property
    def outputs(self) -> List[str]:
        """What a bar counts: this training."""
        return [self.title]

    def files(self) -> List[Path]:
        """The files of the adapters that it has made."""
        [training], name = self.request.parts, self.request.styles
        folder = Path(self.request.settings.adapters) / name
        parts = [part for part, about in PARTS[method_of_training(training)].items() if about.training == training]
        found = [part_file(folder, name, part) for part in parts]
        return [path for path in [*found, folder / "style.json"] if path and path.is_file()]

    def run(self, drawer: None) -> Job[Done]:
        """Train."""
        began = time.monotonic()
        yield from train_styles(self.request)
        return Done(tuple(self.files()), time.monotonic() - began, None)

    def moved(self, folder: Path) -> TrainItem:
        """The same: its checkpoints stay on the machine, so that it can go on there."""
        return self

    def sent(self, done: Done) -> Dict[Path, bytes]:
        """The files that it has made, by where they belong."""
        return {path: path.read_bytes() for path in done.files}

    def came(self, done: Done) -> Done:
        return done


def train_spread(request: TrainRequest, spread: Spread) -> Job[None]:
    """Train every part of every style elsewhere. The pictures are checked here, before the first begins."""
    if request.pictures is not None:
        raise StyleBlendError("--cluster has no effect on the one style of --pictures: leave it out")
    names, left_out = request.sources()
    for sentence in left_out:
        yield Log(sentence)
    items = [TrainItem(replace(request, styles=name, parts=(part,))) for name in names for part in request.parts]
    yield from spread(items)
