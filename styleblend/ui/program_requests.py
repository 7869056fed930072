"""What another program may ask of the page, as JSON: the same as a browser's form, checked in the same way."""
from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Dict, List, Mapping, Optional, Sequence, Type, Union

from pydantic import Field

from styleblend.errors import StyleBlendError
from styleblend.settings import KINDS, LARGEST_SEED, RunSettings, Settings, method_of, validated
from styleblend.ui.drawing_fields import fields_of_method, fields_of_sampling, method_that_draws
from styleblend.ui.fields import given_for
from styleblend.ui.folders import MOST_PICTURES, kept_references, uploaded
from styleblend.ui.requests import MOST_COUNT, REFERENCES, Asked, check, prompts_in

BY_CHANCE = -1  # a seed, as on the command line
MOST_SAID = 200  # keys of an object, or lines of prompts: each that is wrong takes time to tell
OF_A_SET = ("look", "reference_prompt")  # settings of a set that have fields of their own


class ProgramPicture(Settings):
    """A reference picture that was uploaded before."""

    path: str = Field(description="as the upload answered it")


class ProgramReference(ProgramPicture):
    """One of a set. Its other fields are those of `settings.ReferencePicture`."""

    prompt: str = ""
    weight: float = 1.0
    strength: str = "normal"


class ProgramRequest(Settings):
    """What drawing and aligning have in common. What is left out is the config's or the style's own."""

    prompts: Union[str, Annotated[List[str], Field(max_length=MOST_SAID)]]
    style: str = ""
    negative: str = ""
    sampling: Annotated[Dict[str, Any], Field(max_length=MOST_SAID)] = {}
    method_settings: Annotated[Dict[str, Any], Field(max_length=MOST_SAID)] = {}

    def shared(self, settings: RunSettings) -> Dict[str, Any]:
        """The values of the work that both have."""
        return {"prompts": lines_of(self.prompts), "style": self.style.strip(),
                "negative": self.negative.strip() or None,
                "sampling": given_for(fields_of_sampling(settings), self.sampling, "sampling")}


class ProgramDrawing(ProgramRequest):
    """Pictures of each prompt."""

    method: str = ""
    references: Annotated[List[ProgramPicture], Field(max_length=MOST_PICTURES)] = []
    count: int = Field(1, ge=1, le=MOST_COUNT)
    seed: Optional[int] = Field(None, ge=BY_CHANCE, le=LARGEST_SEED)
    strength: Optional[float] = Field(None, allow_inf_nan=False)

    def asked(self, settings: RunSettings, files: List[str]) -> Asked:
        """The work; `files`: where the references lie."""
        shared = self.shared(settings)
        own = own_settings(settings, method_that_draws(settings, shared["style"], self.method), self.method_settings)
        seed = settings.sampling.seed if self.seed is None else self.seed
        return Asked("draw", {
            **shared, "method": self.method, REFERENCES: files, "count": self.count,
            "seed": None if seed == BY_CHANCE else seed, "strength": self.strength, "own": own})


class ProgramSet(ProgramRequest):
    """A set of prompts in one look: of words, of the first prompt's picture, or of reference pictures."""

    look: str = ""
    reference_prompt: str = ""
    references: Annotated[List[ProgramReference], Field(max_length=MOST_PICTURES)] = []
    seed: Optional[int] = Field(None, ge=0, le=LARGEST_SEED)

    def asked(self, settings: RunSettings, files: List[str]) -> Asked:
        """The work; `files`: where the references lie."""
        own = own_settings(settings, method_of(settings.align, ""), self.method_settings, OF_A_SET)
        own.update({name: said for name in OF_A_SET for said in [getattr(self, name).strip()] if said})
        if files:
            own[REFERENCES] = [{"picture": file, "prompt": one.prompt.strip(), "weight": one.weight,
                                "strength": one.strength} for file, one in zip(files, self.references)]
        return Asked("align", {**self.shared(settings), "seed": self.seed, "align": own})


REQUESTS: Mapping[str, Type[ProgramRequest]] = {"draw": ProgramDrawing, "align": ProgramSet}


def asked_by_program(kind: str, said: Mapping[str, Any], settings: RunSettings, uploads: Path) -> Asked:
    """The work that a program asks for, checked. StyleBlendError for what cannot be done, and nothing is written then.

    Reference pictures are copied to where the page keeps them.
    """
    if len(said) > MOST_SAID:
        raise StyleBlendError(f"the request has {len(said)} keys: {', '.join(REQUESTS[kind].model_fields)} are known")
    request = validated(REQUESTS[kind], said, "the request")
    files = uploaded([one.path for one in request.references], uploads)
    check(request.asked(settings, [str(file) for file in files]), settings)
    return request.asked(settings, kept_references(files, settings))


def lines_of(prompts: Union[str, Sequence[str]]) -> List[str]:
    """The prompts of a text or of a list, each on a line; empty ones are none."""
    return prompts_in(prompts if isinstance(prompts, str) else "\n".join(prompts))


def own_settings(settings: RunSettings, method: str, said: Mapping[str, Any],
                 apart: Sequence[str] = ()) -> Dict[str, Any]:
    """What is said of the method's own settings, those left out that stand `apart`."""
    if not said:
        return {}
    if method not in KINDS:
        raise StyleBlendError("method_settings have no effect on a plain picture: leave them out, or name a style or "
                              "a method")
    fields = [field for field in fields_of_method(settings, method) if field.name not in apart]
    return given_for(fields, said, "method_settings")
