"""What can be an axis of a grid. The command line's help says it, so nothing heavy is imported here."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

from styleblend.errors import StyleBlendError, did_you_mean

OF_BLEND = ("scale", "fine_scale", "negative_scale", "c2f_ratio", "f2c_ratio")
OF_SAMPLING = ("seed", "steps", "guidance")
OF_DIALS = ("sty_gamma", "con_gamma", "neg_gamma")  # of DreamStyler
OF_ENCODER = ("style_guidance",)  # of Style Encoder
OF_MIX = ("stages", "with")  # the stages that come from another style of DreamStyler, and which style that is
AXES = ("preset", *OF_BLEND, *OF_SAMPLING, "checkpoint", "prompt", *OF_DIALS, *OF_ENCODER, *OF_MIX)


@dataclass(frozen=True)
class Axis:
    """A setting and the values that it takes, as they were typed."""

    name: str
    values: Tuple[str, ...]

    def label(self, value: str) -> str:
        return value if self.name in ("preset", "prompt") else f"{self.name} {value}"


def parse_axis(text: str, option: str) -> Axis:
    """"scale=0.1,0.3" -> Axis. StyleBlendError for an unknown name, with the nearest known one."""
    from styleblend.settings import PRESETS
    name, _, values = text.partition("=")
    name, found = name.strip(), tuple(dict.fromkeys(v.strip() for v in values.split(",") if v.strip()))
    if name not in AXES:
        raise StyleBlendError(f"{option}: unknown axis {name!r}; {did_you_mean(name, AXES)}")
    if not found:
        raise StyleBlendError(f"{option} {name} has no values: write {option} {name}=A,B")
    for value in found if name == "preset" else ():
        if value not in PRESETS:
            raise StyleBlendError(f"{option}: unknown preset {value!r}; {did_you_mean(value, PRESETS)}")
    return Axis(name, found)
