"""What a style says of itself, in `style.json` beside its adapters or in a config: each method has a class for it."""
from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Dict, List, Literal, Mapping, Optional, Tuple, Type

from pydantic import (BeforeValidator, Field, SerializeAsAny, ValidationError, ValidationInfo, field_validator,
                      model_serializer)
from pydantic_core import InitErrorDetails, PydanticCustomError

from styleblend.errors import StyleBlendError, printable
from styleblend.files.text import parse_json, read_text
from styleblend.settings.drawing import SamplingSettings, Seed
from styleblend.settings.dreamstyler import DreamStylerSettings
from styleblend.settings.style_aligned import AlignSettings
from styleblend.settings.style_encoder import StyleEncoderSettings
from styleblend.settings.styleblend import PRESETS, BlendSettings
from styleblend.settings.validation import MethodSettings, Settings, in_words, unknown, validated

FIRST_METHOD = "styleblend"  # of files that name none: there was no other when they were written


class StyleSettings(Settings):
    """What the settings of all styles have. Every instance is of its method's class, see `KINDS`."""

    section: ClassVar[str]  # the key of the method's own settings in a config, a style and the record of a picture
    drawing: ClassVar[Type[MethodSettings]]  # what stands there
    shown_prompt: ClassVar[str] = "{prompt}"  # what other programs are told that a picture's prompt is

    method: str
    guidance: Optional[float] = Field(None, gt=1, allow_inf_nan=False, description="the style's own in place of the "
                                      "config's (sampling.guidance), unless that is 1: off")
    seeds: Dict[str, Seed] = Field({}, description="prompt -> seed, for prompts whose seed is not the config's")
    source: Optional[str] = Field(None, description="where the pictures come from")
    parts: Optional[List[str]] = Field(None, min_length=1, description="the parts of a style that is not whole, as "
                                       "`styleblend load` writes it; default: all that the method has")

    @field_validator("*")
    @classmethod
    def own_section_can_be(cls, value: Any, info: ValidationInfo) -> Any:
        """What a style says of its method's settings is checked, and kept as it is said."""
        if info.field_name == cls.section:
            cls.drawing.model_validate(value)
        return value

    def beside(self, folder: Path) -> StyleSettings:
        """The same, for a `style.json` in this folder: files that it names may lie there."""
        return self

    @model_serializer(mode="wrap")
    def with_method(self, write) -> Dict[str, Any]:
        """The method is written even where defaults are left out: a file without one is the first method's."""
        return {**({} if self.method == FIRST_METHOD else {"method": self.method}), **write(self)}


class StyleBlendStyle(StyleSettings):
    """A style of StyleBlend: what differs from the config's blend settings."""

    section: ClassVar[str] = "blend"
    drawing: ClassVar[Type[MethodSettings]] = BlendSettings
    shown_prompt: ClassVar[str] = "{prompt} in the style of <F>."
    within: ClassVar[Tuple[Type[Settings], ...]] = (BlendSettings,)

    method: Literal["styleblend"] = "styleblend"
    preset: Optional[str] = Field(None, description=f"{' or '.join(PRESETS)}: what it says counts in place of what the "
                                  "config's blend settings say")
    blend: Dict[str, Any] = Field({}, description="any of the blend settings: counts in place of the preset's")

    @field_validator("preset")
    @classmethod
    def is_known(cls, name: Optional[str]) -> Optional[str]:
        if name is not None and name not in PRESETS:
            raise unknown("preset", name, PRESETS)
        return name


class AlignedStyle(StyleSettings):
    """A style of StyleAligned: nothing was learned, it is a reference and what is taken over from it."""

    section: ClassVar[str] = "align"
    drawing: ClassVar[Type[MethodSettings]] = AlignSettings
    within: ClassVar[Tuple[Type[Settings], ...]] = (AlignSettings,)

    method: Literal["style_aligned"] = "style_aligned"
    align: Dict[str, Any] = Field({}, description="any of StyleAligned's settings")

    def beside(self, folder: Path) -> AlignedStyle:
        def placed(reference: Any) -> Dict[str, Any]:
            said = dict(reference)
            path = Path(folder) / said["picture"]
            return {**said, "picture": str(path)} if path.is_file() else said

        references = self.align.get("references", [])
        return self.model_copy(update={"align": {**self.align, "references": [placed(one) for one in references]}}
                               if references else {})


class DreamStyle(StyleSettings):
    """A style of DreamStyler: a token for each stage of the noise schedule."""

    section: ClassVar[str] = "dreamstyler"
    drawing: ClassVar[Type[MethodSettings]] = DreamStylerSettings
    shown_prompt: ClassVar[str] = "{prompt} in the style of <S>"
    within: ClassVar[Tuple[Type[Settings], ...]] = (DreamStylerSettings,)

    method: Literal["dreamstyler"] = "dreamstyler"
    dreamstyler: Dict[str, Any] = Field({}, description="any of DreamStyler's settings")


class EncodedStyle(StyleSettings):
    """A style of Style Encoder: the tokens that it wrote of one picture or several."""

    section: ClassVar[str] = "style_encoder"
    drawing: ClassVar[Type[MethodSettings]] = StyleEncoderSettings
    shown_prompt: ClassVar[str] = "{prompt} in the style of <E>"
    within: ClassVar[Tuple[Type[Settings], ...]] = (StyleEncoderSettings,)

    method: Literal["style_encoder"] = "style_encoder"
    style_encoder: Dict[str, Any] = Field({}, description="any of Style Encoder's settings, but no references")

    @field_validator("style_encoder")
    @classmethod
    def has_tokens_of_its_own(cls, value: Dict[str, Any]) -> Dict[str, Any]:
        if value.get("references"):
            raise PydanticCustomError("no_effect", "references have no effect on a style, which has its tokens: take "
                                      "them out", {})
        return value


KINDS: Mapping[str, Type[StyleSettings]] = {"styleblend": StyleBlendStyle, "style_aligned": AlignedStyle,
                                            "dreamstyler": DreamStyle, "style_encoder": EncodedStyle}


def method_of(settings: Optional[MethodSettings], otherwise: str) -> str:
    """The method that these settings are of; `otherwise` for those of none that is known."""
    return next((name for name, kind in KINDS.items() if kind.drawing is type(settings)), otherwise)


def of_its_method(data: Any) -> Any:
    """A dict as the settings of the method that it names, anything else as it is. Raises ValidationError."""
    if not isinstance(data, dict):
        return data
    method = data.get("method", FIRST_METHOD)
    if not isinstance(method, str) or method not in KINDS:
        details = InitErrorDetails(type=unknown("method", method, KINDS), loc=("method",), input=method)
        raise ValidationError.from_exception_data(StyleSettings.__name__, [details])
    return KINDS[method].model_validate(data)


StyleOfAnyMethod = Annotated[SerializeAsAny[StyleSettings], BeforeValidator(of_its_method)]  # a field of settings


def read_style_settings(path: Path) -> StyleSettings:
    """`style.json`, or the defaults when there is none."""
    return style_settings_from(read_text(path), str(path)) if Path(path).is_file() else StyleBlendStyle()


def style_settings_from(text: str, source: str) -> StyleSettings:
    """A style's settings from JSON."""
    try:
        data = parse_json(text)
    except ValueError as error:
        why = printable(str(error), 150)
        raise StyleBlendError(f"{source} cannot be read as JSON ({why}): mend or delete it") from None
    if not isinstance(data, dict):
        raise StyleBlendError(f"{source} holds no JSON object: mend or delete it")
    try:
        return of_its_method(data)
    except ValidationError as error:
        raise StyleBlendError(f"{source}: {in_words(error, StyleSettings)}") from None


def sampling_for(config: SamplingSettings, style: StyleSettings) -> SamplingSettings:
    """The config's sampling settings with the style's own guidance.

    Where the config switches guidance off it stays off: half the work and the memory.
    """
    off = style.guidance is None or config.guidance == 1
    return config if off else config.model_copy(update={"guidance": style.guidance})


def blend_for(config: BlendSettings, style: StyleBlendStyle, source: str) -> BlendSettings:
    """The config's blend settings; over them come those that the style's preset has, over these the style's own."""
    preset = PRESETS[style.preset] if style.preset else {}
    return validated(BlendSettings, {**config.model_dump(), **preset, **style.blend}, source)
