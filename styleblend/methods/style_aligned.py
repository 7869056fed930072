"""StyleAligned (Hertz et al. 2023): a set of pictures that shares the look of a reference. Nothing is trained.

In self-attention every picture also attends to the reference, and its queries and keys get the reference's mean and
deviation. The reference is drawn from a prompt, or it is a picture, held on the way that noise takes to it.
"""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np

from styleblend.adapters.style import Style
from styleblend.base.base import Base
from styleblend.base.tokens import Tokenizer
from styleblend.diffusion.controls import AdaIN, Control, FullSharing, SharedKV, shared_sites
from styleblend.diffusion.recipe import Recipe, classifier_free
from styleblend.diffusion.schedule import seeded_noise
from styleblend.errors import StyleBlendError
from styleblend.files.pictures import changed_at
from styleblend.machine.runtime import jt
from styleblend.methods.method import Progress, Request
from styleblend.methods.trajectories import trajectory_of
from styleblend.models.rows import Reference, Rows
from styleblend.settings import AlignSettings, RunSettings, StyleSettings, validated
from styleblend.settings.style_aligned import BY_ATTENTION

REFERENCE, TARGET = "reference", "target"
IN_STYLE = " in the style of <F>"  # a learned style of StyleBlend: its fine embedding and UNet LoRA


def with_look(prompt: str, look: str) -> str:
    """A phrase with the words of the look: "A toy train, macro photo"."""
    return ", ".join(words for words in (prompt, look) if words)


def template_of(prompt: str, look: str, style: Optional[Style]) -> Tuple[str, str]:
    """What stands around a prompt, and the prompt: the look itself where there is none."""
    behind = f", {look}" if look and prompt else ""
    return "{prompt}" + behind + learned(style) + ".", prompt or look


def learned(style: Optional[Style]) -> str:
    """The words of a learned style, which stand behind those of the look."""
    return IN_STYLE if style and style.has("fine_embeds") else ""


def reference_of(settings: AlignSettings) -> Reference:
    """The rows that the set looks at: one, or with the blend by attention one for each reference picture."""
    return Reference(REFERENCE, settings.weights() if settings.blend == BY_ATTENTION else (1.0,))


def reference_prompts(settings: AlignSettings) -> List[str]:
    """What each reference row shows. One that several pictures became shows what all of them show."""
    prompts = [one.prompt for one in settings.counted()] or [settings.reference_prompt]
    if not settings.references and not settings.look and not settings.reference_prompt:
        raise StyleBlendError("there is nothing to align to: give a look, a reference prompt or a reference picture")
    if settings.blend != BY_ATTENTION:
        prompts = [", ".join(prompt for prompt in prompts if prompt)]
    return prompts


def controls_of(settings: AlignSettings, reference: Reference, sites: Tuple[int, ...]) -> Tuple[Control, ...]:
    """What happens in attention at the sites that share."""
    if settings.full_attention_share:
        return (FullSharing(sites),)
    scale, shift = zip(*settings.scores())
    adain = AdaIN(sites, reference=reference, queries=settings.adain_queries, keys=settings.adain_keys,
                  values=settings.adain_values)
    shared = SharedKV(sites, reference=reference, scale=scale, shift=shift)
    some = settings.adain_queries or settings.adain_keys or settings.adain_values
    return (*((adain,) if some else ()), *((shared,) if settings.share_attention else ()))


class StyleAligned:
    """See `styleblend.methods.method.Method`."""

    name, tokens, parts, Settings = "style_aligned", ("<C>", "<F>"), {}, AlignSettings
    negatives = True

    def settings(self, config: RunSettings, own: StyleSettings, source: str) -> AlignSettings:
        return validated(AlignSettings, {**config.align.model_dump(), **getattr(own, "align", {})}, source)

    def prepare(self, pipeline, request: Request) -> Iterator[Progress]:
        """Yields the steps of the inversion; returns the request with the trajectory of its reference pictures."""
        settings = request.settings or AlignSettings()
        if not settings.references or request.trajectory is not None:
            return request
        settings.refuse_unfit(request.sampling.sampler, request.sampling.steps)
        # the batches of a set have one reference
        key = settings, request.sampling, [changed_at(Path(one.picture)) for one in settings.counted()]
        if self.name not in pipeline.kept or pipeline.kept[self.name][0] != key:
            texts = [f"{with_look(prompt, settings.look)}." for prompt in reference_prompts(settings)]
            pipeline.kept[self.name] = key, (yield from trajectory_of(pipeline, request, settings, texts))
        return replace(request, trajectory=pipeline.kept[self.name][1])

    def recipe(self, base: Base, tokenizer: Tokenizer, request: Request) -> Recipe:
        settings, sampling = request.settings or AlignSettings(), request.sampling
        reference, guidance = reference_of(settings), classifier_free(sampling.guidance)
        rows = Rows({REFERENCE: len(reference.weights), TARGET: len(request.prompts)}, tuple(guidance))
        negative = sampling.fine_negative if request.negative is None else request.negative
        shown = [*reference_prompts(settings), *request.prompts]
        tokenizer.refuse_reserved([*shown, settings.look, negative])
        styled = [settings.style_on_reference] * rows.branches[REFERENCE] + [True] * rows.branches[TARGET]
        texts = {"negative": [negative] * rows.latents,
                 "full": [tokenizer.fitted(*template_of(prompt, settings.look, request.style if yes else None))
                          for prompt, yes in zip(shown, styled)]}
        scales = tuple(settings.style_scale if yes else 0.0 for yes in styled) * len(rows.conditions)
        first = sampling.seed if settings.reference_seed is None else settings.reference_seed
        return Recipe(
            rows=rows, texts=(tuple(text for condition in rows.conditions for text in texts[condition]),),
            guidance=guidance, shown=(TARGET,), steered=(TARGET,),
            seeds={REFERENCE: (first,) * rows.branches[REFERENCE], TARGET: tuple(request.seeds)},
            text_scale=(0.0,) * rows.count, lora_scale=scales, out_scale=scales,
            controls=controls_of(settings, reference, shared_sites(base.unet.sites, settings.only_self_level)),
            pooled_norms=reference if settings.share_group_norm else None,
            **(held(base, request, settings) if settings.references else {}))


def held(base: Base, request: Request, settings: AlignSettings) -> Dict[str, Any]:
    """`start` and `pinned` of a recipe whose reference follows `request.trajectory`, `offset` steps ahead at first.

    As published: after step i it stands where the trajectory is after step max(offset, i).
    """
    sampling, size, path = request.sampling, base.vae.config.downscale, request.trajectory
    if path is None:
        raise ValueError("reference pictures need their trajectory: ask `prepare` for a request that has it")
    shape = (1, base.unet.config.in_channels, sampling.height // size, sampling.width // size)
    noise = jt.array(np.concatenate([seeded_noise(seed, shape) for seed in request.seeds]))
    ahead = settings.ahead(sampling.steps)
    return {"start": {REFERENCE: path[ahead], TARGET: noise},
            "pinned": {REFERENCE: [path[max(ahead, index) + 1] for index in range(sampling.steps)]}}
