"""Style Encoder (Chang 2025): the style of any picture at once. Nothing is trained for it.

A vision encoder writes eight style tokens, which stand in the prompt as one word. Beside ordinary guidance, from the
negative prompt to the prompt without the style, there is one from there to the prompt with it.
"""
from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Iterator, Mapping

import numpy as np

from styleblend.adapters.encoder_files import encoder_hash, find_encoder
from styleblend.adapters.parts import STYLE_ENCODER
from styleblend.adapters.style import Style
from styleblend.adapters.style_encoders import load_style_encoder, style_tokens
from styleblend.base.base import Base
from styleblend.base.tokens import Tokenizer
from styleblend.diffusion.recipe import Recipe
from styleblend.errors import StyleBlendError
from styleblend.files.pictures import changed_at, load_picture
from styleblend.files.style_pictures import read_by_encoder
from styleblend.methods.method import Progress, Request
from styleblend.models.rows import Rows
from styleblend.settings import KINDS, RunSettings, StyleEncoderSettings, StyleSettings, validated
from styleblend.settings.style_encoder import TEMPLATE, TOKEN

PART = "style_tokens"
WORD = STYLE_ENCODER[PART].token  # it stands in the prompt for all of them
IN_STYLE = re.compile(f",? in the style of {WORD}|,? *{WORD}")  # what the prompt without the style does not have


def guidance_of(style: float, scale: float) -> Mapping[str, float]:
    """The weight of each condition; they add up to 1, and those of no weight are not drawn.

    With u the negative prompt, t the prompt without the style and v the whole of it the noise is
    u + scale (t - u) + style (v - t).
    """
    weights = {"negative": 1 - scale, "text": scale - style, "full": style}
    return {condition: weight for condition, weight in weights.items() if weight}


def encoded_style(base: Base, settings: StyleEncoderSettings, config: RunSettings) -> Style:
    """The style of reference pictures: the weighted mean of their tokens, and the encoder's prompt."""
    path = find_encoder(settings.encoder or config.encoder)
    encoder = load_style_encoder(path, base)
    about = encoder.config
    pixels = [read_by_encoder(load_picture(Path(one.picture), config.pictures.max_pixels), about.image_size, about.fit)
              for one in settings.counted()]
    tokens = np.concatenate([style_tokens(encoder, one[None]) for one in pixels])
    mean = sum(np.float32(weight) * one for weight, one in zip(settings.weights(), tokens))
    return style_of(mean, about.template, str(path), {"encoder": encoder_hash(path)})


def style_of(tokens: np.ndarray, template: str, source: str, files: Mapping[str, str]) -> Style:
    """The style that `tokens` (n, width) are, in prompts of the encoder's `template`."""
    own = {} if template == TEMPLATE else {"template": template}
    says = validated(KINDS[StyleEncoder.name], {"method": StyleEncoder.name, "style_encoder": own}, source)
    return Style("", {PART: tokens}, says, dict(files))


class StyleEncoder:
    """See `styleblend.methods.method.Method`."""

    name, tokens, parts, Settings = "style_encoder", (WORD,), STYLE_ENCODER, StyleEncoderSettings
    negatives = False  # as published; a plain picture, which it is but for a word, has none either

    def settings(self, config: RunSettings, own: StyleSettings, source: str) -> StyleEncoderSettings:
        said = {**config.style_encoder.model_dump(), **getattr(own, "style_encoder", {})}
        return validated(StyleEncoderSettings, said, source)

    def prepare(self, pipeline, request: Request) -> Iterator[Progress]:
        """Returns the request with the style of its reference pictures; yields nothing, since that takes no steps."""
        settings = request.settings or StyleEncoderSettings()
        if not settings.references or request.style is not None:
            return request
        # the batches of one drawing have the same references
        key = (settings.references, settings.encoder, [changed_at(Path(picture)) for picture in settings.pictures()])
        if self.name not in pipeline.kept or pipeline.kept[self.name][0] != key:
            pipeline.kept[self.name] = key, encoded_style(pipeline.base, settings, pipeline.settings)
        yield from ()
        return replace(request, style=pipeline.kept[self.name][1])

    def recipe(self, base: Base, tokenizer: Tokenizer, request: Request) -> Recipe:
        settings, sampling = request.settings or StyleEncoderSettings(), request.sampling
        if request.style is None or not request.style.has(PART):
            raise StyleBlendError("there is no style to draw in: give a picture of it (--reference), or name a --style "
                                  "that styleblend encode has written")
        template = settings.template or getattr(request.style.settings, self.name, {}).get("template", TEMPLATE)
        negative = sampling.fine_negative if request.negative is None else request.negative
        tokenizer.refuse_reserved([*request.prompts, template, negative])
        guidance = guidance_of(settings.style_guidance, sampling.guidance)
        rows = Rows({"target": len(request.prompts)}, tuple(guidance))
        full = [tokenizer.fitted(template.replace(TOKEN, WORD), prompt) for prompt in request.prompts]
        # of the same words, also where some were left out: what is left between the two is the style
        texts = {"negative": [negative] * rows.latents, "text": [IN_STYLE.sub("", one) for one in full], "full": full}
        return Recipe(rows, (tuple(text for condition in guidance for text in texts[condition]),), guidance,
                      {"target": tuple(request.seeds)}, ("target",))
