"""The settings of a drawing that the page asks for: those of all methods, and those of each method alone."""
from __future__ import annotations

from typing import Any, List, Mapping, Optional

from styleblend.adapters.mixes import is_mix, names_in
from styleblend.adapters.style_files import settings_in
from styleblend.errors import StyleBlendError
from styleblend.files.names import check_name
from styleblend.files.shipped import adapters_of
from styleblend.settings import KINDS, RunSettings, SamplingSettings, StyleSettings, own_settings, validated
from styleblend.ui.fields import Field, fields_of

# sampling settings that have fields of their own, or change no picture
APART = ("seed", "coarse_negative", "fine_negative", "batch", "vae_strip")


def fields_of_sampling(settings: RunSettings) -> List[Field]:
    """The fields of how a picture is drawn, whatever the method."""
    return [field for field in fields_of(SamplingSettings, settings.sampling) if field.name not in APART]


def fields_of_method(settings: RunSettings, name: str) -> List[Field]:
    """The fields of a method's own settings, without the strength of a style, which has a field of its own."""
    kind = KINDS[name]
    now = getattr(settings, kind.section, None)
    return [field for field in fields_of(kind.drawing, now if isinstance(now, kind.drawing) else None)
            if field.name != kind.drawing.strength]


def method_that_draws(settings: RunSettings, style: str, method: str) -> str:
    """The style's own method, or that of the reference pictures; "" for a plain picture."""
    said = said_of_style(settings, style) if style else None
    return said.method if said else "" if style else method


def said_of_style(settings: RunSettings, style: str) -> Optional[StyleSettings]:
    """What a style, or the first of a mix, says of itself; None where it cannot be read."""
    try:
        first = check_name(names_in(style)[0] if is_mix(style) else style)  # before it leads anywhere
        return own_settings(settings, first, settings_in(adapters_of(settings.adapters, first), first))
    except StyleBlendError:
        return None


def check_own(settings: RunSettings, style: str, method: str, own: Mapping[str, Any]) -> None:
    """StyleBlendError for values of the method's own settings that cannot be beside what config and style say."""
    name = method_that_draws(settings, style, method)
    if not own or name not in KINDS:
        return
    kind = KINDS[name]
    now = getattr(settings, kind.section, None)
    now = now.model_dump() if isinstance(now, kind.drawing) else {}
    of_style = getattr(said_of_style(settings, style), kind.section, {}) if style else {}
    validated(kind.drawing, {**now, **of_style, **own}, "the method's settings")
