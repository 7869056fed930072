"""What a method is, and what it is asked for. `docs/add-a-method.md` walks through one."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Optional, Protocol, Sequence, Tuple

from styleblend.adapters.parts import Part
from styleblend.adapters.style import Style
from styleblend.base.base import Base
from styleblend.base.tokens import Tokenizer
from styleblend.diffusion.recipe import Recipe
from styleblend.settings import (ContentSettings, ControlSettings, RunSettings, SamplingSettings, StyleBlendStyle,
                                 StyleSettings)


@dataclass(frozen=True)
class Request:
    """One or several pictures that are drawn together.

    `prompts` are phrases such as "A dog", each with its seed. A picture depends on its own prompt and seed, not on its
    neighbours.
    """

    prompts: Tuple[str, ...]
    seeds: Tuple[int, ...]
    sampling: SamplingSettings
    style: Optional[Style] = None  # None: plain pictures
    method: str = "styleblend"
    settings: Any = None  # the method's own, of its `Settings`; None: the defaults
    # only these of the method's branches; None: those that the style has something for
    branches: Optional[Tuple[str, ...]] = None
    negative: Optional[str] = None  # what is not wanted, in place of what the sampling settings say
    own: StyleSettings = StyleBlendStyle()  # what the style itself says: only for the record
    control: Tuple[ControlSettings, ...] = ()  # pictures that hold the layout
    content: Optional[ContentSettings] = None  # the picture that is drawn anew, in place of noise
    content_start: Any = None  # where its drawing begins, (prompts, 4, h, w)
    # of reference pictures: where they stand before each step and at the end, (references, 4, h, w) each
    trajectory: Optional[Sequence[Any]] = None

    def __post_init__(self):
        if not self.prompts or len(self.prompts) != len(self.seeds):
            raise ValueError(f"{len(self.prompts)} prompts with {len(self.seeds)} seeds")


@dataclass(frozen=True)
class Progress:
    """A step of `what` is done. `x0`: the present guess of clean latents, (n, 4, h, w)."""

    done: int
    total: int
    x0: Any
    what: str = "drawing"


class Method(Protocol):
    """A way to draw in a style. It says what it wants as data, and never runs the loop that draws.

    One that must compute something first, such as the inversion of a picture, also has `prepare(pipeline, request)`: a
    generator of `Progress` that returns the request with what was computed.
    """

    name: str
    # placeholders that stand in its prompts for what was learned; a style of stages brings its own beside them
    tokens: Tuple[str, ...]
    parts: Mapping[str, Part]  # what a style of it is made of
    Settings: type  # of one drawing
    negatives: bool  # whether the config's negative prompts are also those of its pictures

    def settings(self, config: RunSettings, own: StyleSettings, source: str) -> Any:
        """The config's settings of this method with what the style itself says in their place.

        `source` begins an error's sentence.
        """

    def recipe(self, base: Base, tokenizer: Tokenizer, request: Request) -> Recipe:
        """What is drawn, as data. StyleBlendError for what cannot be."""
