"""The methods that `compare` sets side by side: how each of them draws in one style, or why it cannot."""
from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple

from styleblend.adapters.parts import PARTS
from styleblend.adapters.style_files import find_style, settings_in
from styleblend.errors import StyleBlendError
from styleblend.files.captions import StylePicture, style_pictures
from styleblend.files.prompts import Prompt
from styleblend.files.shipped import adapters_of, data_of, holds_files
from styleblend.jobs.missing_pictures import Wanted
from styleblend.jobs.plans import Plan, plan_for, with_encoder, with_own
from styleblend.settings import FIRST_METHOD, KINDS, AlignSettings, RunSettings, validated
from styleblend.settings.study import METHODS, STYLE, StudySettings

FINE = ("fine_embeds", "unet_lora")  # the parts of the fine branch
WORDS = ", in the style of {}"  # of a plain prompt, as trainings' captions have it
# whose pictures one learns, and under which names it may be when nobody says
USUAL_NAMES = ("{style}", "{style}-one-picture", "{style}-dreamstyler")


@dataclass(frozen=True)
class Compared:
    """One method in one style of the study.

    `plan` says how its pictures are drawn, `only` with which parts of the style (None: all), and `words` stand behind
    each prompt.
    """

    method: str
    style: str
    plan: Plan
    only: Optional[Tuple[str, ...]] = None
    words: str = ""

    def path(self, output: Path, prompt: Prompt, seed: int) -> Path:
        """`<output>/<method>/<style>/<Prompt>-<seed>.png`."""
        return Path(output) / self.method / self.style / f"{prompt.name}-{seed}.png"

    def wanted(self, output: Path, prompt: Prompt, seed: int) -> Wanted:
        """A picture's file, and what it is to say of itself."""
        phrase = prompt.phrase(self.plan.config.plain_prompt) + self.words
        return Wanted(self.path(output, prompt, seed), self.plan.record(phrase, seed))


def compared(config: RunSettings, study: StudySettings, method: str, style: str) -> Compared:
    """A method in a style. StyleBlendError says what it lacks."""
    try:
        return COMPARED[method](config, study, style)
    except StyleBlendError as error:
        raise StyleBlendError(f"{method} cannot draw {style}: {error}") from None


def learned_as(config: RunSettings, study: StudySettings, method: str, kind: str, style: str) -> str:
    """The name under which a method of this kind has learned a style of the study."""
    said = study.learned.get(method)
    names = [name.replace(STYLE, style) for name in ([said] if said else USUAL_NAMES)]
    for name in names:
        folder = adapters_of(config.adapters, name)
        if holds_files(folder) and settings_in(folder, name).method == kind:
            find_style(config.adapters, name)
            return name
    train = (f"train all --styles {style}" if kind == FIRST_METHOD else
             f"train {kind} --pictures {data_of(config.data, style)} --name {style}-{kind}")
    raise StyleBlendError(f"{config.adapters} has no style of {kind} named {' or '.join(names)}: python -m styleblend "
                          f"{train}, or say in the study what it is called (learned)")


def looked_at(config: RunSettings, study: StudySettings, style: str) -> List[StylePicture]:
    """The pictures that are given to a method which learns nothing."""
    return style_pictures(data_of(config.data, style))[:study.references]


def with_styleblend(config: RunSettings, study: StudySettings, style: str, method: str = FIRST_METHOD) -> Compared:
    name = learned_as(config, study, method, FIRST_METHOD, style)
    return Compared(method, style, plan_for(config, name))


def with_fine(config: RunSettings, study: StudySettings, style: str) -> Compared:
    """StyleBlend's fine branch: the style without what the coarse one has learned."""
    found = with_styleblend(config, study, style, "fine")
    missing = [part for part in FINE if part not in found.plan.adapters]
    if missing:
        raise StyleBlendError(f"{found.plan.name} has no {', '.join(missing).replace('_', ' ')}")
    own = {part: one for part, one in found.plan.adapters.items() if part in FINE}
    return replace(found, plan=replace(found.plan, adapters=own), only=FINE)


def with_style_aligned(config: RunSettings, study: StudySettings, style: str) -> Compared:
    """StyleAligned: the config's settings of sharing, and pictures of the style as references."""
    pictures = [{"picture": str(p.path), "prompt": p.phrase} for p in looked_at(config, study, style)]
    settings = validated(AlignSettings, {**config.align.model_dump(), "references": pictures}, "the config (align)")
    plan = plan_for(config, None)
    settings.refuse_unfit(plan.sampling.sampler, plan.sampling.steps)
    return Compared("style_aligned", style, replace(plan, own=KINDS["style_aligned"](), settings=settings))


def with_dreamstyler(config: RunSettings, study: StudySettings, style: str) -> Compared:
    name = learned_as(config, study, "dreamstyler", "dreamstyler", style)
    return Compared("dreamstyler", style, plan_for(config, name))


def with_style_encoder(config: RunSettings, study: StudySettings, style: str) -> Compared:
    pictures = [{"picture": str(p.path)} for p in looked_at(config, study, style)]
    plan = with_own(plan_for(config, None, "style_encoder"), {"references": pictures})
    return Compared("style_encoder", style, with_encoder(plan))


def plain(config: RunSettings, study: StudySettings, style: str) -> Compared:
    """The style in words alone: those of the study, else its name."""
    words = study.words.get(style, WORDS.format(style.replace("-", " ").replace("_", " ")))
    words = words if words[:1] in ("", " ", ",") else f" {words}"
    return Compared("plain", style, plan_for(config, None), words=words)


COMPARED: Dict[str, Callable[[RunSettings, StudySettings, str], Compared]] = {
    "styleblend": with_styleblend, "fine": with_fine, "style_aligned": with_style_aligned,
    "dreamstyler": with_dreamstyler, "style_encoder": with_style_encoder, "plain": plain}


def chosen(config: RunSettings, study: StudySettings, styles: List[str]) -> Tuple[List[Compared], List[str]]:
    """Each method in each style, method by method, and a sentence on each method that is left out.

    A method that the study names must be able to draw all of its styles; of the others those that can. StyleBlendError
    where a method that is named cannot, or fewer than two methods are left.
    """
    found, left_out, count = [], [], 0
    for method in study.methods or METHODS:
        try:
            found += [compared(config, study, method, style) for style in styles]
            count += 1
        except StyleBlendError as error:
            if study.methods:
                raise
            left_out.append(f"left out: {error}")
    if count < 2:
        raise StyleBlendError("there is nothing to compare: fewer than two methods can draw these styles"
                              + "".join(f"; {sentence}" for sentence in left_out))
    return found, left_out


def trainings_of_parts(one: Compared) -> List[str]:
    """The trainings that learned what a method draws with; none: it learned nothing, or not on this machine."""
    parts = PARTS[one.plan.own.method] if one.plan.name else {}
    return list(dict.fromkeys(part.training for name, part in parts.items()
                              if part.training and name in one.plan.adapters and (not one.only or name in one.only)))
