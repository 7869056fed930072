"""What a ControlNet is given: a picture that holds the layout, and how strictly."""
from __future__ import annotations

from typing import Optional

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from styleblend.diffusion.samplers import within
from styleblend.errors import StyleBlendError
from styleblend.settings.validation import Settings, unknown

KINDS_OF_CONTROL = {
    "canny": "the edges of the picture", "depth": "its depth, by an estimator", "depth_edges": "the edges of its depth",
    "depth_map": "the picture itself is a depth map", "map": "the picture itself is a map of another kind, RGB"}
EDGES = ("canny", "depth_edges")
BY_ESTIMATOR = ("depth", "depth_edges")
READ_AS = {"depth_edges": "canny", "depth_map": "depth"}  # kinds that the ControlNet of another kind reads


class ControlNetFolders(Settings):
    """Where the ControlNets are: their diffusers folders."""

    canny: Optional[str] = Field(None, description="of the one that reads edges")
    depth: Optional[str] = Field(None, description="of the one that reads depth")
    map: Optional[str] = Field(None, description="of one that reads maps of another kind")

    def of(self, kind: str) -> Optional[str]:
        """The folder for this kind of control."""
        return getattr(self, READ_AS.get(kind, kind))


class ControlSettings(Settings):
    """One ControlNet and the picture that it reads."""

    kind: str = Field("canny", description="; ".join(f"{name}: {what}" for name, what in KINDS_OF_CONTROL.items()))
    picture: str = Field(description="its file")
    estimator: Optional[str] = Field(None, description="folder or hub id of the depth estimator, Depth Anything V2 or "
                                     "DPT-hybrid; default: the config's (depth_estimator)")
    network: Optional[str] = Field(None, description="folder of the ControlNet; default: the config's for this kind "
                                   "(controlnets)")
    strength: float = Field(1.0, gt=0, le=10, allow_inf_nan=False, description="factor of what it adds")
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
        if self.estimator and self.kind not in BY_ESTIMATOR:
            raise PydanticCustomError("no_effect", "a depth estimator has no effect on {kind}: leave it out, or take "
                                      "{kinds}", {"kind": self.kind, "kinds": " or ".join(BY_ESTIMATOR)})
        if self.low > self.high:
            raise PydanticCustomError("no_edges", "low {low} is above high {high}: give the smaller one as low",
                                      {"low": self.low, "high": self.high})
        return self

    def refuse_unfit(self, steps: int) -> None:
        """StyleBlendError where none of so many steps lies within start and end."""
        if not any(within(index, steps, self.start, self.end) for index in range(steps)):
            raise StyleBlendError(f"none of {steps} steps lies between {self.start:g} and {self.end:g}: the control "
                                  "would do nothing, give it more of them")
