"""Pictures to draw as pieces of work: each can be done by any process that has the base, here or on another machine.

What a piece writes is its files, each whole or not at all, so one that is done twice does no harm: the files are the
list of what is done.
"""
from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, ClassVar, Dict, FrozenSet, List, Optional, Sequence, Tuple

from styleblend.adapters.style import Style, load_named, style_hash
from styleblend.base.base import Base
from styleblend.errors import StyleBlendError
from styleblend.jobs.events import Job
from styleblend.jobs.missing_pictures import Wanted, draw_batch
from styleblend.jobs.plans import Plan
from styleblend.machine.peak_memory import begin_anew, peak_mib
from styleblend.machine.runtime import device, jt
from styleblend.pipeline import Pipeline
from styleblend.settings import RunSettings


class Drawer:
    """A base that is loaded, with a pipeline and the style that was drawn last.

    How lean it draws is said by its own `config`, and not by the pieces of work: that changes no picture.
    """

    def __init__(self, base: Base, config: RunSettings):
        self.base, self.pipeline, self.strip = base, Pipeline(base, config), config.sampling.vae_strip
        self.key: tuple = ()
        self.held: Optional[Style] = None

    def style(self, plan: Plan, only: Optional[Tuple[str, ...]]) -> Optional[Style]:
        """The style of a plan, `only` with these of its parts (None: all).

        StyleBlendError where its files are others than those that the plan knows, as they may be on another machine.
        """
        key = plan.config.adapters, plan.name, tuple(plan.adapters.items()), only
        if key != self.key:
            found = load_named(plan.config.adapters, plan.name, self.base) if plan.name else None
            if found and any(found.files.get(part) != one for part, one in plan.adapters.items()):
                raise StyleBlendError(f"the files of the style {plan.name} are others here than where the work was "
                                      "planned: copy the same adapters to every machine")
            if found and only is not None:
                found = replace(found, parts={part: one for part, one in found.parts.items() if part in only})
            self.key, self.held = key, found
        return self.held


@dataclass(frozen=True)
class Done:
    """The files that were drawn, in how many seconds, and the most memory in MiB (None: not known)."""

    files: Tuple[Path, ...]
    seconds: float
    peak_mib: Optional[float]


@dataclass(frozen=True)
class DrawItem:
    """One batch: pictures that are drawn together by one plan, of which those in `missing` are written.

    `only`: the parts of the style that draw; None: all. `measured`: the peak of memory is counted anew for it.
    """

    draws: ClassVar[bool] = True  # it wants a `Drawer`
    title_of_all: ClassVar[str] = "pictures"  # of a bar over many of them, in units of
    unit: ClassVar[str] = "picture"

    plan: Plan
    wanted: Tuple[Wanted, ...]
    missing: FrozenSet[Path]
    only: Optional[Tuple[str, ...]] = None
    measured: bool = False

    @property
    def title(self) -> str:
        """What a bar says while it is drawn."""
        first = self.wanted[0]
        return f"{first.path.parent.name} {first.path.stem}"

    @property
    def outputs(self) -> List[Path]:
        """The files that it makes."""
        return [one.path for one in self.wanted if one.path in self.missing]

    def run(self, drawer: Drawer) -> Job[Done]:
        """Draw and write them."""
        style, base = drawer.style(self.plan, self.only), drawer.base
        hashes = style_hash(style) if style else "", base.fingerprint(), base.decoder_fingerprint()
        batch = [Wanted(one.path, replace(one.record, style_hash=hashes[0], base=hashes[1], decoder=hashes[2]))
                 for one in self.wanted]
        sampling = self.plan.sampling.model_copy(update={"vae_strip": drawer.strip})
        if self.measured:
            jt.gc()
        counted, began = self.measured and begin_anew(), time.monotonic()
        files = yield from draw_batch(drawer.pipeline, style, batch, self.missing, sampling)
        peak = peak_mib() if counted and device() == "cpu" else None
        return Done(tuple(files), time.monotonic() - began, peak)

    def place(self, folder: Path, path: Path) -> Path:
        """Where a moved one writes a picture."""
        return folder / f"{[one.path for one in self.wanted].index(path)}.png"

    def moved(self, folder: Path) -> DrawItem:
        """The same, written into another folder."""
        wanted = tuple(one._replace(path=self.place(folder, one.path)) for one in self.wanted)
        return replace(self, wanted=wanted, missing=frozenset(self.place(folder, path) for path in self.missing))

    def sent(self, done: Done) -> Dict[Path, bytes]:
        """The files that a moved one has drawn, by where they belong."""
        return {path: here.read_bytes() for path in self.outputs for here in done.files
                if here.name == self.place(here.parent, path).name}

    def came(self, done: Done) -> Done:
        """What a moved one came to, as if it had not been moved."""
        return replace(done, files=tuple(self.outputs))


Spread = Callable[[Sequence], Job[List[object]]]  # does pieces of work elsewhere; returns what each came to, or None
