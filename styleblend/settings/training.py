"""How a style is trained."""
from __future__ import annotations

from typing import Annotated, Any, ClassVar, List, Literal, Mapping, Optional

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from styleblend.settings.drawing import MOST_STEPS, Seed
from styleblend.settings.validation import A_PLACE, Settings


class LookAlikeSettings(Settings):
    """SDEdit look-alikes of each style picture: the same subject and layout, without the style."""

    renamed: ClassVar[Mapping[str, str]] = {"keep": "chosen"}

    prompt: str = Field("{prompt}, realistic.", pattern=r"^[^{}]*\{prompt\}[^{}]*$",
                        description="{prompt} stands for the caption")
    negative: str = "ugly, low quality, blur, distorted"
    steps: int = Field(20, ge=1, le=MOST_STEPS, description="fewer than the noise schedule of the base has")
    guidance: float = Field(7.5, ge=0)
    strengths: List[Annotated[float, Field(gt=0, le=1)]] = Field(
        [0.75, 0.8, 0.85], min_length=1,
        description="shares of the steps that are drawn again; each look-alike takes one")
    candidates: int = Field(15, ge=1, description="look-alikes that are drawn of each style picture")
    chosen: int = Field(10, ge=1, description="of these, how many are trained on: the nearest to the style picture "
                        "by CLIP")
    batch: int = Field(5, ge=1)
    clip: Optional[str] = Field(None, description="folder of CLIP ViT-L/14; without it all candidates are trained on",
                                json_schema_extra=A_PLACE)
    clip_id: Optional[str] = Field(None, description="hub id that is tried when the folder is not there",
                                   json_schema_extra=A_PLACE)


class OptimiserSettings(Settings):
    """AdamW, with a constant learning rate."""

    steps: int = Field(ge=0)
    lr: float = Field(gt=0)
    batch: int = Field(1, ge=1)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    weight_decay: float = Field(1e-2, ge=0)
    eps: float = Field(1e-8, gt=0)

    def rate(self, step: int) -> float:
        """The learning rate of a step, the first of which is 0."""
        return self.lr


class StageSettings(OptimiserSettings):
    """One training stage: AdamW with a step decay of the learning rate."""

    decay: float = Field(1.0, gt=0, le=1, description="factor of the learning rate ...")
    decay_every: int = Field(0, ge=0, description="... every so many steps; 0: never")
    rank: int = Field(16, ge=1)
    flip: bool = False

    def rate(self, step: int) -> float:
        return self.lr * self.decay ** (step // self.decay_every) if self.decay_every else self.lr


class StagesSettings(StageSettings):
    """DreamStyler's training: AdamW on the tokens of all stages. The defaults are those of its published command."""

    steps: int = Field(500, ge=0)
    lr: float = Field(2e-3, gt=0)
    batch: int = Field(8, ge=1)
    flip: bool = True
    stages: int = Field(6, ge=1, le=64, description="tokens, each for a part of the noise schedule")
    initial: str = Field("painting", description="the word that they start from: one that is one token")
    template: str = Field("A painting of {prompt}, in the style of {}", description="what pictures are learned under: "
                          "{prompt} stands for a caption, {} for the token; a caption with {} is the whole prompt. "
                          "Without {prompt} nothing says what a picture shows, and the tokens learn that, too")

    @field_validator("template")
    @classmethod
    def has_a_place(cls, template: str) -> str:
        if template.count("{}") != 1 or template.count("{prompt}") > 1:
            raise PydanticCustomError("no_place", "it needs {} once, and {prompt} once at most, as in {example}",
                                      {"prompt": "{prompt}", "example": cls.model_fields["template"].default})
        return template


class TrainingSettings(Settings):
    """The trainings of a style."""

    renamed: ClassVar[Mapping[str, str]] = {"keep": "checkpoints"}
    removed: ClassVar[Mapping[str, str]] = {"placeholder_coarse": "<C>", "placeholder_fine": "<F>"}  # and what it is

    seed: Seed = 2024
    initial_coarse: str = "&"
    initial_fine: List[str] = Field(["artistic"], min_length=1, description="words that <F> starts from, with a vector "
                                    "for each token; of several the one that suits the style pictures best")
    start: Optional[str] = Field(None, description="a style whose vectors <F> starts from in place of words, and "
                                 "DreamStyler's tokens from their mean; such as one of styleblend encode")
    look_alikes: LookAlikeSettings = LookAlikeSettings()
    coarse: StageSettings = StageSettings(steps=300, lr=1e-4)
    inversion: StageSettings = StageSettings(steps=500, lr=1e-2, beta1=0.85, decay=0.7, decay_every=30, flip=True)
    lora: StageSettings = StageSettings(steps=500, lr=5e-4, decay=0.5, decay_every=200, flip=True)
    dreamstyler: StagesSettings = StagesSettings()
    gradient_checkpointing: bool = Field(False, description="compute activations a second time instead of keeping "
                                         "them: less memory, about a third more time")
    save_every: int = Field(100, ge=1, description="steps between checkpoints")
    checkpoints: int = Field(2, ge=1, description="of each stage, how many stay: the newest, and those to fall back to")
    sample_every: int = Field(250, ge=0, description="steps between picture grids; 0: none")
    sample_prompts: List[str] = ["Cat", "House", "Apple"]
    coarse_score: Optional[str] = Field(None, description="what the grids of coarse training are scored by "
                                        "(docs/scoring.md); null: not at all")
    fine_score: Optional[str] = Field(None, description="the same for both stages of fine training")
    dreamstyler_score: Optional[str] = Field(None, description="the same for DreamStyler's training")
    encoder_score: Optional[str] = Field(None, description="the same for the trainings of a style encoder")
    keep_adapters: Literal["last", "best"] = Field("last", description="what becomes the adapters: the last step, or "
                                                   "the step whose grid has the best score")

    @model_validator(mode="before")
    @classmethod
    def without_removed(cls, data: Any) -> Any:
        """Older files may say what is so anyway; anything else never reached a prompt."""
        for key, value in cls.removed.items() if isinstance(data, dict) else ():
            if data.get(key, value) != value:
                raise PydanticCustomError("removed", "{key} cannot be set, the token is always {value}: take {key} out",
                                          {"key": key, "value": value})
        return {key: value for key, value in data.items() if key not in cls.removed} if isinstance(data, dict) else data

    @field_validator("initial_fine", mode="before")
    @classmethod
    def listed(cls, words: Any) -> Any:
        return [words] if isinstance(words, str) else words
