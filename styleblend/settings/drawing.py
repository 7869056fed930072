"""How a picture is drawn, whatever the method: sampler, steps, guidance, seed, size."""
from __future__ import annotations

from typing import Annotated, ClassVar, Mapping, Optional

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from styleblend.diffusion.samplers import SAMPLERS, within
from styleblend.files.limits import LARGEST_SEED
from styleblend.settings.validation import Settings, Words, unknown, validated

MOST_GUIDANCE = 100  # far beyond what leaves a picture
LONGEST_SIDE = 4096  # pixels; a config or the record of a picture that asks for more would only end in a lack of memory
MOST_STEPS = 999  # one less than the usual noise schedule has
NOISY = [name for name, sampler in SAMPLERS.items() if sampler.takes_noise]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]


class SamplingSettings(Settings):
    """How a picture is drawn."""

    renamed: ClassVar[Mapping[str, str]] = {"output": "saved_size"}

    sampler: str = Field("ddim", description=", ".join(SAMPLERS), json_schema_extra={"choices": list(SAMPLERS)})
    steps: int = Field(30, ge=1, le=MOST_STEPS, description="fewer than the noise schedule of the base has")
    guidance: float = Field(7.5, ge=0, le=MOST_GUIDANCE, allow_inf_nan=False,
                            description="classifier-free guidance; 1 switches it off and halves the work")
    guidance_start: float = Field(0.0, ge=0, lt=1, description="share of the steps after which guidance sets in: the "
                                  "others take half the work")
    guidance_end: float = Field(1.0, gt=0, le=1, description="share of the steps after which it ends")
    cache_interval: int = Field(1, ge=1, le=MOST_STEPS, description="steps from one that computes the whole UNet to "
                                "the next; those between keep its deep features (DeepCache); 1: each computes all")
    cache_branch_id: int = Field(0, ge=0, description="the skip connection down to which the steps between compute; "
                                 "0: the least work")
    eta: float = Field(0.0, ge=0, le=1, description=f"noise in each step ({', '.join(NOISY)} only); 0 is deterministic")
    seed: Seed = 2024
    width: int = Field(768, multiple_of=8, ge=64, le=LONGEST_SIDE, description="pixels that are drawn")
    height: int = Field(768, multiple_of=8, ge=64, le=LONGEST_SIDE)
    saved_size: Optional[int] = Field(
        512, ge=0, le=LONGEST_SIDE, description="pixels of the saved picture's longer side; null: as drawn")
    coarse_negative: Words = ""
    fine_negative: Words = Field("blur", description="of pictures in a style; not of plain ones, nor by style_encoder")
    batch: int = Field(1, ge=1, description="prompts drawn together")
    vae_strip: int = Field(0, ge=0, multiple_of=2, description="pixel rows that the decoder works on at a time: less "
                           "memory for the same picture; 0: all")

    @field_validator("sampler")
    @classmethod
    def is_known(cls, name: str) -> str:
        if name not in SAMPLERS:
            raise unknown("sampler", name, SAMPLERS)
        return name

    @field_validator("guidance_end")
    @classmethod
    def leaves_steps(cls, end: float, others: ValidationInfo) -> float:
        steps, start, guidance = (others.data.get(name) for name in ("steps", "guidance_start", "guidance"))
        if None in (steps, start, guidance) or (start, end) == (0, 1):
            return end
        if guidance == 1:
            raise PydanticCustomError("no_effect", "guidance 1 switches guidance off: leave guidance_start and "
                                      "guidance_end out, or give more guidance", {})
        if not any(within(index, steps, start, end) for index in range(steps)):
            raise PydanticCustomError("no_effect", "none of {steps} steps lies between {start} and {end}: give "
                                      "guidance more of them", {"steps": steps, "start": start, "end": end})
        return end

    @field_validator("cache_branch_id")
    @classmethod
    def has_steps_between(cls, branch: int, others: ValidationInfo) -> int:
        if branch and others.data.get("cache_interval") == 1:
            raise PydanticCustomError("no_effect", "cache_interval 1 keeps no features: leave cache_branch_id out, or "
                                      "give an interval of 2 or more", {})
        return branch

    @field_validator("eta")
    @classmethod
    def has_an_effect(cls, eta: float, others: ValidationInfo) -> float:
        sampler = others.data.get("sampler")  # None: that is what is wrong
        if eta > 0 and sampler in SAMPLERS and not SAMPLERS[sampler].takes_noise:
            raise PydanticCustomError("no_effect", "{sampler} adds no noise, only {noisy}: set eta to 0",
                                      {"sampler": sampler, "noisy": " or ".join(NOISY)})
        return eta


def with_sampling(sampling: SamplingSettings, changes: Mapping[str, object], source: str) -> SamplingSettings:
    """The sampling settings with these changes, checked. `source` begins the sentence of the error."""
    return validated(SamplingSettings, {**sampling.model_dump(), **changes}, source) if changes else sampling
