"""How the pictures of one style are drawn now: what the config, the style's own settings and a request say together."""
from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Dict, Mapping, Optional, Tuple

from styleblend.adapters.encoder_files import encoder_hash, ready_encoder
from styleblend.adapters.mixes import PART, is_mix, names_in, resolved
from styleblend.adapters.style_files import adapter_hashes, settings_in
from styleblend.errors import StyleBlendError
from styleblend.files.prompts import Prompt
from styleblend.files.shipped import adapters_of
from styleblend.methods.drawn_with import DrawnWith, drawn_plain, drawn_with, with_negative
from styleblend.record import Record, looked_at
from styleblend.settings import (FIRST_METHOD, KINDS, ContentSettings, ControlSettings, MethodSettings, RunSettings,
                                 SamplingSettings, Source, StyleEncoderSettings, StyleSettings, own_settings,
                                 validated, with_sampling)


@dataclass(frozen=True)
class Plan:
    """How the pictures of one style are drawn now. Without a style `name` is empty and the pictures are plain."""

    config: RunSettings
    name: str
    own: StyleSettings  # what the style says of itself
    sampling: SamplingSettings
    settings: MethodSettings
    adapters: Dict[str, str]
    control: Tuple[ControlSettings, ...] = ()
    content: Optional[ContentSettings] = None
    sources: Tuple[Source, ...] = ()  # of which media the prompt was made

    def record(self, phrase: str, seed: int, style_hash: str = "", base: str = "", decoder: str = "") -> Record:
        """What a picture says of itself; `style_hash`, `base` and `decoder` are known only where they are loaded."""
        return Record(phrase, seed, self.name, style_hash, base, self.sampling, self.settings, self.own.method,
                      dtype=self.dtype(), preset=getattr(self.own, "preset", None), adapters=self.adapters,
                      decoder=decoder, control=self.control, content=self.content, sources=self.sources,
                      pictures=looked_at(self.settings, self.control, self.content))

    def encoder(self) -> Optional[Path]:
        """What reads its reference pictures; None: there are none. StyleBlendError where that is not whole."""
        reads = isinstance(self.settings, StyleEncoderSettings) and self.settings.references and not self.name
        return ready_encoder(self.settings.encoder or self.config.encoder) if reads else None

    def dtype(self) -> str:
        """The type that is drawn in."""
        if self.config.dtype not in ("auto", "int8"):
            return self.config.dtype
        from styleblend.kernels.dtypes import drawn_as  # starts Jittor
        return drawn_as(self.config.dtype)

    def record_of(self, prompt: Prompt, *hashes: str) -> Record:
        """The same of a prompt of the style, with the seed that the style has for it."""
        return self.record(prompt.phrase(self.config.plain_prompt),
                           prompt.seed_of(self.own.seeds, self.sampling.seed), *hashes)


def plan_for(config: RunSettings, name: Optional[str], method: Optional[str] = None) -> Plan:
    """The plan of a style, from its small files alone; None: of pictures by this method, else of plain ones."""
    if not name and method:
        own = KINDS[method]()
        return planned_as(config, "", drawn_with(config, own, "the config"), {})
    if not name:
        return planned_as(config, "", drawn_plain(config), {})
    if is_mix(name):
        return plan_for_mix(config, resolved(config.adapters, name))
    folder = adapters_of(config.adapters, name)
    own = own_settings(config, name, settings_in(folder, name))
    return planned_as(config, name, drawn_with(config, own, f"style {name}"), adapter_hashes(folder, name))


def plan_for_mix(config: RunSettings, mix: str) -> Plan:
    """The plan of a mix of styles: the first one's, with the files of all."""
    first, *_ = plans = [plan_for(config, name) for name in names_in(mix)]
    return replace(first, name=mix, adapters={plan.name: plan.adapters[PART] for plan in plans})


def with_own(plan: Plan, changes: Mapping[str, object]) -> Plan:
    """The plan with other settings of its method. StyleBlendError where they would have no effect."""
    if not changes:
        return plan
    kind = type(plan.settings)
    unused = next((name for name in changes if name not in kind.model_fields), None)
    if unused == "references":
        raise StyleBlendError(f"--reference has no effect on {said_of(plan)}: leave it out")
    if unused:
        raise StyleBlendError(f"--{unused.replace('_', '-')} has no effect on {said_of(plan)}: leave it out, or name a "
                              "--style of another method")
    return replace(plan, settings=validated(kind, {**plan.settings.model_dump(), **changes}, "the options"))


def said_of(plan: Plan) -> str:
    """What is drawn, in words."""
    if plan.name:
        return f"{plan.name}, a style of {plan.own.method}"
    return "a plain picture" if plan.own.method == FIRST_METHOD else f"a picture by {plan.own.method}"


def with_encoder(plan: Plan) -> Plan:
    """The plan with the hash of the encoder that reads its reference pictures, where it has some."""
    settings = plan.settings
    if not isinstance(settings, StyleEncoderSettings):
        return plan
    if plan.name:
        unused = "reference" if settings.references else "encoder" if settings.encoder else None
        if unused:
            raise StyleBlendError(f"--{unused} has no effect on {plan.name}, which has its tokens: leave it out, or "
                                  "draw without the style")
        return plan
    if not settings.references:
        raise StyleBlendError("there is no style to draw in: give a picture of it (--reference), or name a --style "
                              "that styleblend encode has written")
    return replace(plan, adapters={"encoder": encoder_hash(plan.encoder())})


def with_options(plan: Plan, changes: Mapping[str, object], negative: Optional[str]) -> Plan:
    """The plan with other sampling settings and negative prompt. A size that was asked for is the saved picture's, too.

    StyleBlendError where a negative prompt would have no effect.
    """
    changes = dict(changes)
    if {"width", "height"} & set(changes):
        changes.setdefault("saved_size", None)
    sampling = with_sampling(plan.sampling, changes, "the options")
    return replace(plan, sampling=with_negative(sampling, plan.adapters, negative))


def planned_as(config: RunSettings, name: str, drawn: DrawnWith, adapters: Dict[str, str]) -> Plan:
    return Plan(config, name, drawn.own, drawn.sampling, drawn.settings, adapters)
