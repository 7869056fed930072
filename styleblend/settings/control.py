"""What a ControlNet is given: a picture that holds the layout, and how strictly."""
from __future__ import annotations

from typing import Optional

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from styleblend.settings.validation import Settings, unknown

KINDS_OF_CONTROL = {"canny": "the edges of the picture", "map": "the picture itself: a ready map of edges, depth, ..."}


class ControlSettings(Settings):
    """One ControlNet and the picture that it reads."""

    kind: str = Field("canny", description="; ".join(f"{name}: {what}" for name, what in KINDS_OF_CONTROL.items()))
    picture: str = Field(description="its file")
    network: Optional[str] = Field(None, description="folder of the ControlNet; default: the config's for this kind "
                                   "(controlnets)")
    strength: float = Field(1.0, ge=0, le=10, allow_inf_nan=False, description="factor of what it adds")
    start: float = Field(0.0, ge=0, le=1, description="share of the steps before it begins")
    end: float = Field(1.0, ge=0, le=1, description="share of the steps after which it ends")
    guess: bool = Field(False, description="let the network alone say what is there: the negative prompt feels nothing "
                        "of it, and deep layers count more")
    low: int = Field(100, ge=0, le=2040, description="slope above which an edge goes on (canny)")
    high: int = Field(200, ge=0, le=2040, description="slope above which an edge begins (canny)")

    @model_validator(mode="after")
    def goes_together(self) -> ControlSettings:
        if self.kind not in KINDS_OF_CONTROL:
            raise unknown("kind of control", self.kind, KINDS_OF_CONTROL)
        if self.start >= self.end:
            raise PydanticCustomError("no_effect", "start {start} is not before end {end}: the control would do "
                                      "nothing", {"start": self.start, "end": self.end})
        if self.low > self.high:
            raise PydanticCustomError("no_edges", "low {low} is above high {high}: give the smaller one as low",
                                      {"low": self.low, "high": self.high})
        return self
