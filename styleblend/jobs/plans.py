"""How the pictures of one style are drawn now: what the config, the style's own settings and a request say together."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Mapping, Optional

from styleblend.adapters.style import Style, adapter_hashes, settings_in
from styleblend.files.prompts import Prompt
from styleblend.record import Record
from styleblend.settings import (BlendSettings, RunSettings, SamplingSettings, StyleBlendStyle, StyleSettings,
                                 blend_for, sampling_for, validated)


def style_settings(settings: RunSettings, style: Style) -> StyleSettings:
    """`style.json` where there is one, else what the config says of this style."""
    own = style.settings
    return own if own != type(own)(parts=own.parts) else settings.styles.get(style.name, own)


@dataclass(frozen=True)
class Plan:
    """How the pictures of one style are drawn now. Without a style `name` is empty and the pictures are plain."""

    settings: RunSettings
    name: str
    own: StyleSettings
    sampling: SamplingSettings
    blend: BlendSettings
    adapters: Dict[str, str]

    def record(self, phrase: str, seed: int, style_hash: str = "", base: str = "", decoder: str = "") -> Record:
        """What a picture says of itself; `style_hash`, `base` and `decoder` are known only where they are loaded."""
        return Record(phrase, seed, self.name, style_hash, base, self.sampling, self.blend, dtype=self.settings.dtype,
                      preset=self.own.preset, adapters=self.adapters, decoder=decoder)

    def record_of(self, prompt: Prompt, *hashes: str) -> Record:
        """The same of a prompt of the style, with the seed that the style has for it."""
        return self.record(prompt.phrase(self.settings.plain_prompt),
                           self.own.seeds.get(prompt.name, self.sampling.seed), *hashes)


def with_sampling(sampling: SamplingSettings, changes: Mapping[str, object], source: str) -> SamplingSettings:
    """The sampling settings with these changes, checked. `source` begins the sentence of the error."""
    return validated(SamplingSettings, {**sampling.model_dump(), **changes}, source) if changes else sampling


def plan_of_style(settings: RunSettings, name: str) -> Plan:
    """The plan of a style, from its small files alone."""
    folder = Path(settings.adapters) / name
    own = style_settings(settings, Style(name, settings=settings_in(folder, name)))
    return Plan(settings, name, own, sampling_for(settings.sampling, own),
                blend_for(settings.blend, own, f"style {name}"), adapter_hashes(folder, name))


def plan_without_style(settings: RunSettings) -> Plan:
    """The plan of plain pictures.

    The negative prompt of the config is one of the style's branches: a plain picture has none, unless it is asked for.
    """
    sampling = settings.sampling.model_copy(update={"fine_negative": "", "coarse_negative": ""})
    return Plan(settings, "", StyleBlendStyle(), sampling, settings.blend, {})


def plan_for(settings: RunSettings, name: Optional[str]) -> Plan:
    return plan_of_style(settings, name) if name else plan_without_style(settings)
