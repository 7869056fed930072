"""DreamStyler (Ahn et al. 2024): a style from one picture, in a token for each stage of the noise schedule.

The stages with much noise decide on the layout, those with little on brushwork and texture. Beside ordinary guidance
there is one with two dials, for the style and for what the prompt says.
"""
from __future__ import annotations

from functools import partial
from typing import Mapping, Sequence, Tuple

from styleblend.adapters.parts import DREAMSTYLER
from styleblend.adapters.stage_tokens import by_stage
from styleblend.base.base import Base
from styleblend.base.tokens import Tokenizer
from styleblend.diffusion.recipe import Recipe, classifier_free
from styleblend.errors import StyleBlendError
from styleblend.files.emphasis import escaped, spoken
from styleblend.methods.method import Request
from styleblend.models.rows import Rows
from styleblend.settings import DreamStylerSettings, RunSettings, SamplingSettings, StyleSettings, validated
from styleblend.settings.dreamstyler import FACTORS, PHRASE, TOKEN

IN_STYLE = f"in the style of {TOKEN}"  # what the prompt without the style does not have


def stage_of(time: float, stages: int, length: int) -> int:
    """The stage of a time step, floor(time * stages / length): 0 is the one with the least noise.

    In whole numbers, or numbers that are whole: a share of `length` would be rounded to the wrong side at borders.
    """
    return int(time * stages // length)


def guidance_of(settings: DreamStylerSettings, sampling: SamplingSettings) -> Mapping[str, float]:
    """The weight of each condition; they add up to 1.

    With u the negative prompt, ns the prompt without the style, nc the style without the context, v the whole prompt,
    and f = 1/2 in the published code, 1 in the paper (eq. 3 and 11), the noise is
    u + f c (ns - u) + f s (v - ns) + f s (nc - u) + f c (v - nc) + n (v - u).
    Where s = c, ns and nc have no weight: that is ordinary guidance, without their rows. A guidance of 1
    switches all of it off, as it does everywhere.
    """
    if not settings.use_sc_guidance or sampling.guidance == 1:
        return classifier_free(sampling.guidance)
    s, c, n, f = settings.sty_gamma, settings.con_gamma, settings.neg_gamma, FACTORS[settings.formula]
    if s == c:
        return classifier_free(n + f * (s + c))
    return {"negative": 1 - n - f * (s + c), "content": f * (c - s), "style": f * (s - c), "full": n + f * (s + c)}


def template_of(template: str, prompt: str) -> Tuple[str, str]:
    """What stands around a phrase, and the phrase. A prompt that has a place for the tokens itself is the whole of it.

    Of such a prompt the words of the style belong to the template, so that a long one does not lose them.
    """
    if TOKEN not in prompt:
        return template, prompt
    begin = prompt.find(IN_STYLE) if IN_STYLE in prompt else prompt.find(TOKEN)
    phrase = prompt[:begin].rstrip()
    if phrase.count("(") != phrase.count(")") or phrase.count("[") != phrase.count("]"):
        return PHRASE, prompt  # an emphasis goes over the place: it is read as a whole
    return PHRASE + prompt[len(phrase):], phrase


def with_tokens(text: str, tokens: str) -> str:
    """The text with the tokens of a stage; without any its words on the style are left out, and a comma stays."""
    return text.replace(TOKEN, tokens) if tokens else text.replace(IN_STYLE, "").replace(TOKEN, "")


def fitted(tokenizer: Tokenizer, template: str, prompt: str, tokens: str = "") -> str:
    """The text of one prompt in one stage; without `tokens` that of no style."""
    around, phrase = template_of(template, prompt)
    return tokenizer.fitted(with_tokens(around, tokens), with_tokens(phrase, tokens))


def fitted_caption(tokenizer: Tokenizer, template: str, caption: str, tokens: str) -> str:
    """The same of a caption, whose brackets are text, and so are those of the template: for `Tokenizer.encode`."""
    return spoken(fitted(tokenizer, escaped(template), escaped(caption), tokens))


class DreamStyler:
    """See `styleblend.methods.method.Method`. Its tokens are those of the style: one or more for each stage."""

    name, tokens, parts, Settings = "dreamstyler", (), DREAMSTYLER, DreamStylerSettings
    negatives = True

    def settings(self, config: RunSettings, own: StyleSettings, source: str) -> DreamStylerSettings:
        return validated(DreamStylerSettings, getattr(own, "dreamstyler", {}), source)

    def recipe(self, base: Base, tokenizer: Tokenizer, request: Request) -> Recipe:
        settings, sampling = request.settings or DreamStylerSettings(), request.sampling
        stages = [", ".join(tokens) for tokens in by_stage(tokenizer.placeholders)]
        if not stages:
            raise StyleBlendError("there are no tokens to draw with: name a --style that styleblend train dreamstyler "
                                  "has learned")
        guidance = guidance_of(settings, sampling)
        rows = Rows({"target": len(request.prompts)}, tuple(guidance))
        negative = sampling.fine_negative if request.negative is None else request.negative
        tokenizer.refuse_reserved([*request.prompts, settings.template, settings.null_context, negative])
        same = {"negative": [negative] * rows.latents,
                "content": [fitted(tokenizer, settings.template, prompt) for prompt in request.prompts]}

        def of_stage(tokens: str) -> Sequence[str]:
            texts = {**same, "style": [with_tokens(settings.null_context, tokens)] * rows.latents,
                     "full": [fitted(tokenizer, settings.template, prompt, tokens) for prompt in request.prompts]}
            return tuple(text for condition in rows.conditions for text in texts[condition])

        return Recipe(
            rows=rows, texts=tuple(map(of_stage, stages)), guidance=guidance, seeds={"target": tuple(request.seeds)},
            shown=("target",), stage=partial(stage_of, stages=len(stages), length=len(base.schedule)))
