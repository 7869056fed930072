"""What pictures are drawn with: a style's own settings over the config's. The library and every job ask here."""
from __future__ import annotations

from typing import Collection, Mapping, NamedTuple, Optional

from styleblend.errors import StyleBlendError
from styleblend.methods.method import Method
from styleblend.methods.registry import METHODS
from styleblend.settings import (MethodSettings, RunSettings, SamplingSettings, StyleBlendStyle, StyleSettings,
                                 sampling_for, with_sampling)


class DrawnWith(NamedTuple):
    """`own`: what the style says. `settings`: those of its method, what it says over what the config says."""

    own: StyleSettings
    sampling: SamplingSettings
    settings: MethodSettings


def drawn_with(config: RunSettings, own: StyleSettings, source: str,
               methods: Mapping[str, Method] = METHODS) -> DrawnWith:
    """What a style that says `own` is drawn with. `source` begins the sentence of an error."""
    method, sampling = methods[own.method], sampling_for(config.sampling, own)
    return DrawnWith(own, sampling if method.negatives else without_negatives(sampling),
                     method.settings(config, own, source))


def drawn_plain(config: RunSettings, method: Optional[Method] = None) -> DrawnWith:
    """The same of plain pictures, or of a method that needs no style.

    The config's negative prompts are those of a style's branches: a plain picture has none, unless it is asked for.
    """
    own, method = StyleBlendStyle(), method or METHODS[StyleBlendStyle().method]
    return DrawnWith(own, without_negatives(config.sampling), method.settings(config, own, "the config"))


def without_negatives(sampling: SamplingSettings) -> SamplingSettings:
    """The settings without the negative prompts that are those of a style's branches."""
    return sampling.model_copy(update={"fine_negative": "", "coarse_negative": ""})


def with_negative(sampling: SamplingSettings, parts: Collection[str], negative: Optional[str]) -> SamplingSettings:
    """The sampling settings with another negative prompt of what is shown; None: as they are.

    `parts` are those that the style has. StyleBlendError where it would have no effect, or is no text.
    """
    if negative is None:
        return sampling
    if sampling.guidance == 1:
        raise StyleBlendError("--negative has no effect where guidance is off (1): leave it out, or give a --guidance "
                              "above 1")
    coarse_only = parts and set(parts) <= {"coarse_embeds", "text_lora"}
    return with_sampling(sampling, {"coarse_negative" if coarse_only else "fine_negative": negative}, "--negative")
