"""The public class: a base, and what it takes to draw with it. Encode the texts, denoise, decode.

    from styleblend import Pipeline, load_base
    pipeline = Pipeline(load_base("checkpoints/mini/base"), read_settings("configs/mini.yaml"))
    [picture] = pipeline.pictures("A rabbit", style="fxemoji")

Progress bars and files are the caller's: `draw` is a generator that says where it is after each step.
"""
from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from styleblend.adapters.mixes import is_mix
from styleblend.adapters.style import Applied, Style, applied, load_named, load_style, style_hash
from styleblend.adapters.style_files import find_style
from styleblend.base.base import Base
from styleblend.base.previews import Previews
from styleblend.base.steering import Steering
from styleblend.base.tokens import Tokenizer
from styleblend.diffusion.control_pictures import Controlled
from styleblend.diffusion.denoise import denoise, row_factors, slice_of
from styleblend.diffusion.recipe import Recipe
from styleblend.diffusion.text_weights import weighted
from styleblend.errors import StyleBlendError
from styleblend.files.prompts import phrase_of
from styleblend.files.scripts import hardly_known
from styleblend.machine.precision import computed_as
from styleblend.machine.runtime import jt
from styleblend.methods.content import prepare_content, with_content
from styleblend.methods.drawn_with import DrawnWith, drawn_plain, drawn_with, with_negative
from styleblend.methods.method import Method, Progress, Request
from styleblend.methods.registry import METHODS
from styleblend.models import decoder_strips
from styleblend.record import Record, looked_at
from styleblend.settings import (KINDS, LARGEST_SEED, ContentSettings, ControlSettings, MethodSettings, RunSettings,
                                 SamplingSettings, method_of, own_settings, validated)


@dataclass(frozen=True)
class Picture:
    """A picture that is done.

    `pixels`: uint8 (H, W, 3). `branch` drew it. `record` is all that it takes to draw it again.
    """

    pixels: np.ndarray
    branch: str
    record: Record


class Pipeline:
    """Draws with one base.

    Nothing of a style is put into the base, so several pipelines on one base do not disturb each other.

    `settings`: a config, whose sampling settings, blend and adapters' folder count where a request does not say
    otherwise.
    """

    def __init__(self, base: Base, settings: Optional[RunSettings] = None, methods: Mapping[str, Method] = METHODS):
        self.base, self.methods = base, methods
        self.settings = settings or settings_of(base)
        self._tokenizers: Dict[Tuple[str, ...], Tokenizer] = {}
        self._remarked = False  # on a prompt that the text encoder hardly knows
        self.kept: Dict[str, tuple] = {}  # method -> what it prepared last, behind what that depends on
        self.steering = Steering(base, self.settings)
        self.preview = Previews(base, self.settings.taesd)  # of the x0 of a `Progress`: uint8 (n, H, W, 3), or None
        self._applied: tuple = (None, Applied(), "")  # the style that was drawn last, ready to draw with, and its hash

    # ---------------------------------------------------------------- what to draw

    def style(self, style: Union[None, str, Path, Style]) -> Optional[Style]:
        """A style: loaded already, a folder of adapters, the name of one in the config's folder of adapters, or a mix
        of several such as "ink:0-2,wax:3-5" (`adapters.mixes`)."""
        if style is None or isinstance(style, Style):
            return style
        if is_mix(str(style)) and not Path(style).is_dir():
            return load_named(self.settings.adapters, str(style), self.base)
        folder = Path(style)
        if not folder.is_dir():
            folder = find_style(self.settings.adapters, str(style))
        return load_style(folder, folder.resolve().name, self.base)

    def request(self, *prompts: str, style: Union[None, str, Path, Style] = None,
                seeds: Union[None, int, Sequence[int]] = None, negative: Optional[str] = None,
                settings: Optional[MethodSettings] = None, control: Sequence[ControlSettings] = (),
                content: Optional[ContentSettings] = None, **sampling) -> Request:
        """A request with the settings of the config and of the style itself. `prompts` are phrases such as "A rabbit".

        `seeds`: one for all prompts or one for each; default: the config's. `settings`: of a method, in place of the
        style's; they also say which method draws, such as `styleblend.settings.AlignSettings` for StyleAligned.
        `control`: pictures that hold the layout. `content`: a picture that is drawn anew, by image to image.
        `sampling`: any field of `styleblend.settings.SamplingSettings`, such as steps=20 or guidance=5.
        """
        style = self.style(style)
        own, drawn, ordinary = self.drawn_with(style, method_of(settings, self.plain))
        drawn = validated(SamplingSettings, {**drawn.model_dump(), **sampling}, "the request") if sampling else drawn
        drawn = with_negative(drawn, style.parts if style else (), negative)
        method = method_of(settings, own.method if style else self.plain)
        return Request(tuple(map(phrase_of, prompts)), seeds_for(prompts, drawn.seed if seeds is None else seeds),
                       drawn, style, method, ordinary if settings is None else settings, own=own,
                       control=tuple(control), content=content)

    @property
    def plain(self) -> str:
        """The method of pictures without a style."""
        return Request.method if Request.method in self.methods else next(iter(self.methods))

    def drawn_with(self, style: Optional[Style], method: str = "") -> DrawnWith:
        """The style's own settings over the config's. Without one `method` may find a style, in reference pictures."""
        if style is None and (method in ("", self.plain) or not self.methods[method].parts):
            return drawn_plain(self.settings, self.methods[self.plain])
        if style is None:
            return drawn_with(self.settings, KINDS[method](), "the config", self.methods)
        own = own_settings(self.settings, style.name, style.settings)
        return drawn_with(self.settings, own, f"style {style.name}", self.methods)

    # ---------------------------------------------------------------- drawing

    def pictures(self, *prompts: str, **options) -> List[Picture]:
        """The pictures of these prompts; `options` as in `request`."""
        return [event for event in self.draw(self.request(*prompts, **options)) if isinstance(event, Picture)]

    def draw(self, request: Request, style: Optional[Applied] = None, texts: Optional[Sequence] = None,
             once: bool = False) -> Iterator[Union[Progress, Picture]]:
        """`Progress` after each step, then each `Picture`.

        These are of the recipe's shown branches, in the order of the prompts. `style`: adapters that are being trained,
        in place of the request's. `texts`: what `encode` gave for this request's recipe. `once` uses the base up: each
        network is freed when its work is done.
        """
        self.check(request.sampling)
        request = yield from self.prepared(request)
        records = self.records(request)
        style = self.applied(request.style) if style is None else style
        recipe = self.recipe(request, style)
        texts = self.encode(recipe, request.method, style) if texts is None else texts
        if once:
            self.base.text_encoder = None
            jt.gc()
        step = None
        for step in denoise(self.base, recipe, texts, request.sampling, style.of("unet")):
            yield Progress(step.index + 1, step.count, shown(step.x0, recipe))
        if once:
            self.base.unet = None
            jt.gc()
        latents, n = shown(step.x, recipe), 0
        for branch in recipe.shown:
            for sample in range(recipe.rows.branches[branch]):
                yield Picture(self.decode(latents[n:n + 1], request.sampling.vae_strip)[0], branch, records[sample])
                n += 1
        jt.gc()

    def prepared(self, request: Request) -> Iterator[Progress]:
        """Yields the steps of what has to be computed first, for the method or a content picture.

        Returns the request with it.
        """
        prepare = getattr(self.methods[request.method], "prepare", None)
        request = (yield from prepare(self, request)) if prepare else request
        return (yield from prepare_content(self, request))

    def records(self, request: Request) -> List[Record]:
        """What the picture of each prompt says of itself."""
        style, base = request.style, self.base
        one = Record("", 0, style.name if style else "", self._last(style)[2], base.fingerprint(),
                     request.sampling, request.settings, request.method, dtype=base.dtype,
                     preset=getattr(request.own, "preset", None), adapters=style.files if style else {},
                     control=request.control, content=request.content,
                     decoder=base.decoder_fingerprint(),
                     pictures=looked_at(request.settings, request.control, request.content))
        return [replace(one, prompt=prompt, seed=seed) for prompt, seed in zip(request.prompts, request.seeds)]

    def check(self, sampling: SamplingSettings) -> None:
        """Refuse a size that latents cannot have, more steps than the base's noise schedule has, and more depth."""
        self.base.schedule.config.refuse_more_steps(sampling.steps, "sampling.steps")
        skips = len(self.base.unet.skip_channels)
        if sampling.cache_branch_id >= skips:
            raise StyleBlendError(f"cache_branch_id must be 0 to {skips - 1}, not {sampling.cache_branch_id}: the "
                                  f"base's UNet has {skips} skip connections")
        down = self.base.vae.config.downscale
        if sampling.width % down or sampling.height % down:
            raise StyleBlendError(f"width and height must be multiples of {down}, "
                                  f"not {sampling.width} x {sampling.height}")

    # ---------------------------------------------------------------- the parts of it

    def applied(self, style: Optional[Style]) -> Applied:
        """The style as the networks take it; that of the last one is kept."""
        return self._last(style)[1]

    def _last(self, style: Optional[Style]) -> tuple:
        if self._applied[0] is not style:
            named = style and style.name  # the style of reference pictures has no name: its encoder's hash says more
            self._applied = (style, applied(self.base, style), style_hash(style) if named else "")
        return self._applied

    def tokenizer(self, method: str, style: Optional[Applied] = None) -> Tokenizer:
        """The base's tokenizer with the method's placeholders, and those of the style's stages.

        Each is as many ids long as the style has vectors for it.
        """
        tokens = self.tokens(method, style)
        if tokens not in self._tokenizers:
            self._tokenizers[tokens] = self.base.tokenizer(tokens)
        vectors = style.vectors if style else {}
        self._tokenizers[tokens].spread([len(vectors[token]) if token in vectors else 1 for token in tokens])
        return self._tokenizers[tokens]

    def tokens(self, method: str, style: Optional[Applied] = None) -> Tuple[str, ...]:
        """The placeholders of a method, then those that the style itself brings: how many stages there are is its."""
        own = tuple(self.methods[method].tokens)
        return own + tuple(token for token in (style.vectors if style else ()) if token not in own)

    def recipe(self, request: Request, style: Optional[Applied] = None) -> Recipe:
        """What the request's method says about this drawing, and its control pictures."""
        style = self.applied(request.style) if style is None else style
        remark = None if self._remarked else hardly_known(request.prompts)
        if remark:
            self._remarked = True
            warnings.warn(remark, stacklevel=2)
        recipe = self.methods[request.method].recipe(self.base, self.tokenizer(request.method, style), request)
        recipe = with_content(recipe, request)
        if not request.control:
            return recipe
        branches = tuple(recipe.rows.branches) if recipe.steered is None else recipe.steered
        pictures = self.steering.pictures(request.control, request.sampling)
        return replace(recipe, residuals=Controlled(pictures, branches, request.sampling.steps))

    def encode(self, recipe: Recipe, method: str, style: Applied) -> List[Any]:
        """Of each stage the text states of all rows, (rows, tokens, width): 77 tokens for each text of a prompt."""
        tokenizer, width = self.tokenizer(method, style), self.base.text_encoder.config.hidden_size
        vectors = [style.vectors[token] if token in style.vectors else jt.zeros((1, width))
                   for token in self.tokens(method, style)]
        placeholders, states = jt.concat(vectors) if vectors else None, []
        with jt.no_grad(), self.base.at_work("text_encoder"):
            for texts in recipe.texts:
                ids, weights = tokenizer.read(texts)
                rows, chunks, length = ids.shape
                scale = recipe.text_scale and np.repeat(recipe.text_scale, chunks)
                state = self.base.text_encoder(ids.reshape(-1, length), placeholders, style.of("text_encoder"),
                                               row_factors(scale))
                state = weighted(state, weights.reshape(-1, length)).reshape(rows, chunks * length, width)
                state.sync()  # one computation, not one more in the graph of every step
                states.append(state)
        return states

    def decode(self, latents, strip: int = 0) -> np.ndarray:
        """Scaled latents (N, 4, h, w) -> pictures uint8 (N, H, W, 3).

        One at a time, since the decoder is the widest part. `strip`: as `vae_strip` of the settings.
        """
        pictures = []
        with jt.no_grad(), self.base.at_work("vae"):
            for n in range(latents.shape[0]):
                latent = latents[n:n + 1] / self.base.vae.scale
                picture = (decoder_strips.decode(self.base.vae, latent, strip)
                           if strip else self.base.vae.decode(latent).numpy())[0]
                if not np.isfinite(picture).all():
                    raise StyleBlendError("the picture came out as NaN or infinity: " + self.cure())
                pictures.append(picture)
        pixels = np.clip(np.stack(pictures) / 2 + 0.5, 0, 1)
        return (pixels * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)

    def cure(self) -> str:
        """What helps where numbers are not finite."""
        if computed_as(self.base.dtype) == "float32":
            return "the adapters do not fit this base, or the weights are broken"
        return f"draw it with --dtype float32{' or bfloat16' if self.base.dtype == 'float16' else ''}"


def seeds_for(prompts: Sequence[str], seeds: Union[int, Sequence[int]]) -> Tuple[int, ...]:
    """A seed for each prompt. StyleBlendError for what is none."""
    found = (seeds,) * len(prompts) if np.ndim(seeds) == 0 else tuple(seeds)
    for seed in found:
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed <= LARGEST_SEED:
            raise StyleBlendError(f"{seed!r} is no seed: give a number from 0 to {LARGEST_SEED}")
    return tuple(map(int, found))


def settings_of(base: Base) -> RunSettings:
    """Settings for a base without a config: pictures of the size that it was trained for."""
    side = base.unet.config.sample_size * base.vae.config.downscale
    return RunSettings(base=str(base.folder), data="data", adapters="checkpoints/styles",
                       look_alikes="data/look_alikes",
                       sampling=SamplingSettings(width=side, height=side, saved_size=None))


def shown(latents, recipe: Recipe):
    """The latents of the shown branches, (n, 4, h, w)."""
    parts = [latents[slice_of(recipe, branch)] for branch in recipe.shown]
    return parts[0] if len(parts) == 1 else jt.concat(parts)
