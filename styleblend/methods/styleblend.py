"""StyleBlend (Chen et al. 2025): a coarse and a fine branch from the same noise, which exchange attention.

In chosen self-attention sites and steps the coarse branch gives its queries to the fine one (layout), and the fine
branch gives its keys and values to the coarse one (texture, colour).
"""
from __future__ import annotations

from typing import Dict, List, Optional, Tuple

from styleblend.adapters.parts import STYLEBLEND
from styleblend.adapters.style import Style
from styleblend.base.base import Base
from styleblend.base.tokens import Tokenizer
from styleblend.diffusion.recipe import Recipe, classifier_free
from styleblend.methods.exchange import exchange
from styleblend.methods.method import Request
from styleblend.models.rows import Rows
from styleblend.settings import BlendSettings, RunSettings, StyleSettings, blend_for

PLAIN = "{prompt}."
TEMPLATES = {"coarse": "{prompt} in the style of <C>.", "fine": "{prompt} in the style of <F>.", "plain": PLAIN}
# of each branch its token and its LoRA
PARTS_OF = {"coarse": ("coarse_embeds", "text_lora"), "fine": ("fine_embeds", "unet_lora")}


def templates_of(style: Optional[Style], only: Optional[Tuple[str, ...]] = None) -> Dict[str, str]:
    """The branches that draw, with their prompts: those that the style has something for.

    Without its embedding a branch's prompt has no placeholder. `only` names the branches whatever the style has.
    """
    if only:
        return {name: TEMPLATES[name] for name in only}
    found = {name: TEMPLATES[name] if style.has(token) else PLAIN for name, (token, lora) in PARTS_OF.items()
             if style and (style.has(token) or style.has(lora))}
    return found or {"plain": PLAIN}


class StyleBlend:
    """See `styleblend.methods.method.Method`."""

    name, tokens, parts, Settings = "styleblend", ("<C>", "<F>"), STYLEBLEND, BlendSettings
    negatives = True

    def settings(self, config: RunSettings, own: StyleSettings, source: str) -> BlendSettings:
        return blend_for(config.blend, own, source)

    def recipe(self, base: Base, tokenizer: Tokenizer, request: Request) -> Recipe:
        blend, sampling, samples = request.settings or BlendSettings(), request.sampling, len(request.prompts)
        templates = templates_of(request.style, request.branches)
        names = tuple(templates)
        guidance = classifier_free(sampling.guidance)
        rows = Rows(dict.fromkeys(names, samples), tuple(guidance))
        negatives = {"coarse": sampling.coarse_negative, "fine": sampling.fine_negative,
                     "plain": sampling.fine_negative}
        if request.negative is not None:
            negatives[names[-1]] = request.negative
        tokenizer.refuse_reserved([*request.prompts, *negatives.values()])
        texts = {"negative": [negatives[name] for name in names for _ in range(samples)],
                 "full": [tokenizer.fitted(template, prompt) for template in templates.values()
                          for prompt in request.prompts]}

        def of_rows(of_branch: Dict[str, float], negative_scale: float = 1.0) -> Tuple[float, ...]:
            found: List[float] = []
            for condition in rows.conditions:
                for name in names:
                    less = negative_scale if condition == "negative" and name == "fine" else 1
                    found += [of_branch[name] * less] * samples
            return tuple(found)

        return Recipe(
            rows=rows, texts=(tuple(text for condition in rows.conditions for text in texts[condition]),),
            guidance=guidance,
            seeds=dict.fromkeys(names, tuple(request.seeds)), shown=names[-1:],
            text_scale=of_rows({"coarse": 1.0, "fine": 0.0, "plain": 0.0}),
            lora_scale=of_rows({"coarse": blend.scale, "fine": blend.fine_scale, "plain": 0.0}, blend.negative_scale),
            # the coarse branch feels the LoRA of to_out in full, as published
            out_scale=of_rows({"coarse": 1.0, "fine": blend.fine_scale, "plain": 0.0}, blend.negative_scale),
            controls=exchange(blend, base.unet.sites) if {"coarse", "fine"} <= set(names) else ())
