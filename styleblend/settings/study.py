"""A study: which methods draw which styles, prompts and seeds side by side. What `compare` is asked, as a file."""
from __future__ import annotations

from pathlib import Path
from typing import Annotated, Dict, List, Optional, Union

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from styleblend.files.shipped import own_or_shipped
from styleblend.settings.drawing import Seed
from styleblend.settings.run import read_yaml
from styleblend.settings.validation import Settings, unknown, validated

METHODS = {"styleblend": "StyleBlend, both branches", "fine": "the fine branch of StyleBlend alone",
           "style_aligned": "StyleAligned, with pictures of the style as references",
           "dreamstyler": "DreamStyler, learned from one picture",
           "style_encoder": "Style Encoder, which reads pictures of the style",
           "plain": "no method: the style's words behind the prompt"}
STYLE = "{style}"  # stands for the name of a style of the study


class StudySettings(Settings):
    """What is compared. Whatever is left out has the default of the command."""

    config: str = Field("mini", description="settings of the base and the styles")
    methods: Optional[List[str]] = Field(None, min_length=1, description="of " + ", ".join(METHODS) + "; the others "
                                         "are compared with the first; default: all that can draw the styles")
    styles: Optional[List[str]] = Field(None, min_length=1, description="default: all of the data folder")
    prompts: Union[Annotated[int, Field(ge=1)], List[str], None] = Field(
        None, description="how many of each style's prompt.json, or prompts; default: all of prompt.json")
    seeds: List[Seed] = Field([1, 2], min_length=1, description="each prompt is drawn with each")
    references: int = Field(1, ge=1, description="how many of a style's pictures, from the first, the methods look at "
                            "that learn nothing")
    learned: Dict[str, str] = Field({}, description="method -> what the style is called that it has learned; {style} "
                                    "stands for the name of the data folder")
    words: Dict[str, str] = Field({}, description="style -> its words, behind the plain prompt; default: in the style "
                                  "of, and its name")
    metrics: Optional[str] = Field(None, description="what measures beside the judge: clip, csd, ...")
    output: Optional[str] = Field(None, description="folder of the pictures and the report")

    @field_validator("methods")
    @classmethod
    def are_known(cls, methods: Optional[List[str]]) -> Optional[List[str]]:
        for name in methods or ():
            if name not in METHODS:
                raise unknown("method", name, METHODS)
        return refuse_twice(methods)

    @field_validator("styles", "seeds")
    @classmethod
    def once_each(cls, values: Optional[list]) -> Optional[list]:
        return refuse_twice(values)

    @field_validator("learned")
    @classmethod
    def learn(cls, learned: Dict[str, str]) -> Dict[str, str]:
        for name in learned:
            if name not in ("styleblend", "fine", "dreamstyler"):
                raise unknown("method that learns a style", name, ("styleblend", "fine", "dreamstyler"))
        return learned


def refuse_twice(values: Optional[list]) -> Optional[list]:
    """The values, each of which must be there once."""
    twice = next((one for one in values or () if values.count(one) > 1), None)
    if twice is not None:
        raise PydanticCustomError("twice", "{one} is named twice", {"one": twice})
    return values


def read_study(path: Union[str, Path]) -> StudySettings:
    """A study's file, one's own or one that is shipped, checked in full. StyleBlendError names what is wrong."""
    path = own_or_shipped(path)
    return validated(StudySettings, read_yaml(path, "study", "configs/studies/mini.yaml"), str(path))
