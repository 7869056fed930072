"""The method, top to bottom: encode the prompts of each branch, denoise the branches side by side, decode.

Progress bars, previews and files are the caller's: `generate` returns pictures, `callback` sees every step.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Callable, List, Optional, Sequence, Tuple

import numpy as np

from styleblend.adapters import lora
from styleblend.models import decoder_strips as strips
from styleblend.base.base import Base
from styleblend.diffusion.schedule import seeded_noise
from styleblend.errors import StyleBlendError
from styleblend.models.attention import AttentionContext, RowLayout
from styleblend.machine.runtime import jt
from styleblend.methods.exchange import exchange
from styleblend.diffusion.samplers import SAMPLERS, TIMESTEPS
from styleblend.settings import BlendSettings, SamplingSettings
from styleblend.adapters.style import Style, apply_loras


@dataclass(frozen=True)
class Branch:
    """One row of pictures that is denoised: its prompt, and how much of each LoRA it feels."""

    name: str
    prompt: str  # "{prompt}" is replaced
    text_scale: float
    unet_scale: Optional[float]  # of to_q, to_k, to_v; None: the blend settings' for this branch


COARSE = Branch("coarse", "{prompt} in the style of <C>.", 1.0, None)
FINE = Branch("fine", "{prompt} in the style of <F>.", 0.0, None)
PLAIN = Branch("plain", "{prompt}.", 0.0, 0.0)


def branches_of(style: Optional[Style]) -> Tuple[Branch, ...]:
    """The branches that a style has something for. Without its embedding a branch's prompt has no placeholder."""
    if style is None:
        return (PLAIN,)
    halves = ((COARSE, style.coarse, style.text_lora), (FINE, style.fine, style.unet_lora))
    return tuple(branch if vector is not None else replace(branch, prompt=PLAIN.prompt) for branch, vector, lora in halves if vector is not None or lora)


class StyleBlendPipeline:
    """A base with the adapters of one style (or none) put in."""

    def __init__(self, base: Base, style: Optional[Style] = None):
        self.base, self.style = base, style
        self.tokenizer = base.tokenizer(("<C>", "<F>"))
        self.set_style(style)

    def set_style(self, style: Optional[Style]) -> None:
        """Change the style; the base stays loaded."""
        self.style = style
        width = self.base.text_encoder.config.hidden_size
        if style is None:
            lora.remove(self.base.text_encoder)
            lora.remove(self.base.unet)
            self.placeholders = jt.zeros((2, width))
            self.tokenizer.spread((1, 1))
        else:
            apply_loras(self.base, style)
            vectors = [np.zeros((1, width), np.float32) if v is None else np.atleast_2d(v) for v in (style.coarse, style.fine)]
            self.placeholders = jt.array(np.concatenate(vectors).astype(np.float32))
            self.tokenizer.spread([len(v) for v in vectors])

    def texts(self, prompts: Sequence[str], branch: Branch) -> List[str]:
        """The prompts of a branch: phrases such as "A dog", put in front of the branch's style."""
        self.tokenizer.refuse_reserved(prompts)
        return [self.tokenizer.fitted(branch.prompt, p) for p in prompts]

    def encode(self, prompts: Sequence[str], branches: Sequence[Branch], guidance: bool, negatives: dict):
        """Text states for all rows, in the order of RowLayout: (rows, 77, width)."""
        self.tokenizer.refuse_reserved(list(negatives.values()))
        texts, scales = [], []
        for cond in (False, True) if guidance else (True,):
            for branch in branches:
                texts += self.texts(prompts, branch) if cond else [negatives.get(branch.name, "")] * len(prompts)
                scales += [branch.text_scale] * len(prompts)
        with jt.no_grad(), self.base.at_work("text_encoder"):
            text = self.base.text_encoder(self.tokenizer.encode(texts), self.placeholders, jt.array(np.array(scales, np.float32)))
            text.sync()  # one computation, not one more in the graph of every step
            return text

    def encode_for(self, prompts: Sequence[str], sampling: SamplingSettings, branches: Sequence[Branch]):
        """`encode` with the guidance and the negative prompts of the sampling settings."""
        negatives = {"coarse": sampling.coarse_negative, "fine": sampling.fine_negative}
        return self.encode(prompts, branches, sampling.guidance != 1, negatives)

    def denoise(self, text, latents, layout: RowLayout, branches: Sequence[Branch], sampling: SamplingSettings, blend: BlendSettings,
                noise: Optional[Callable] = None, callback: Optional[Callable] = None, start: int = 0):
        """Both branches from the same noise. `text` as from `encode`, `latents` (samples, 4, h, w) -> (branches, samples, 4, h, w).

        `start`: of DDIM, the first step that is made.
        """
        def of_rows(of_branches: Sequence[float]):
            negative = [scale * blend.negative_scale if b.name == "fine" else scale for b, scale in zip(branches, of_branches)] if layout.guidance else []
            return np.repeat([*negative, *of_branches], layout.samples).astype(np.float32)

        of_blend = {"coarse": blend.scale, "fine": blend.fine_scale}
        scales = (of_rows([of_blend[b.name] if b.unet_scale is None else b.unet_scale for b in branches]),
                  of_rows([blend.fine_scale if b.name == "fine" else 1 for b in branches]))  # the others feel to_out in full, as published
        apart = layout.guidance and not all(np.array_equal(*np.split(rows, 2)) for rows in scales)  # from the first layer on, not only behind the text
        lora_scale, out_scale = (None if (rows == 1).all() else jt.array(rows) for rows in scales)
        controls = exchange(blend, self.base.unet.sites) if {"coarse", "fine"} <= set(layout.branches) else ()

        def model(x, t, step):
            context = AttentionContext(layout, step, sampling.steps, controls, lora_scale, out_scale, projected, times)
            if not layout.guidance:
                return self.base.unet(x, t, text, context)
            uncond, cond = jt.chunk(self.base.unet(jt.concat([x, x]) if apart else x, t, text, context), 2)
            return uncond + sampling.guidance * (cond - uncond)

        def each_step(step, steps, x0, x):
            x.sync()  # one step is one graph: a graph of all steps would hold every activation
            if callback:
                callback(step, steps, x0, x)

        x = jt.concat([latents] * len(branches))
        extra = dict(eta=sampling.eta, noise=noise, start=start) if sampling.sampler == "ddim" else {}
        with jt.no_grad(), self.base.at_work("unet"):
            projected = self.base.unet.project_text(text, lora_scale)
            times = self.base.unet.project_times(TIMESTEPS[sampling.sampler](self.base.schedule, sampling.steps))
            jt.sync([var for pair in projected.values() for var in pair] + list(times.values()))
            x = SAMPLERS[sampling.sampler](model, x, self.base.schedule, sampling.steps, callback=each_step, **extra)
        return x.reshape([len(branches), layout.samples] + list(x.shape[1:]))

    def decode(self, latents, strip: int = 0) -> np.ndarray:
        """Scaled latents (N, 4, h, w) -> pictures uint8 (N, H, W, 3), one at a time: the decoder is the widest part. `strip`: as `vae_strip` of the settings."""
        pictures = []
        with jt.no_grad(), self.base.at_work("vae"):
            for n in range(latents.shape[0]):
                latent = latents[n:n + 1] / self.base.vae.scale
                picture = (strips.decode(self.base.vae, latent, strip) if strip else self.base.vae.decode(latent).numpy())[0]
                if not np.isfinite(picture).all():
                    raise StyleBlendError("the picture came out as NaN or infinity: "
                                          + ("the adapters do not fit this base, or the weights are broken" if self.base.dtype == "float32" else
                                             f"draw it with --dtype float32{' or bfloat16' if self.base.dtype == 'float16' else ''}"))
                pictures.append(picture)
        pixels = np.clip(np.stack(pictures) / 2 + 0.5, 0, 1)
        return (pixels * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingSettings = SamplingSettings(),
                 blend: BlendSettings = BlendSettings(), branches: Optional[Tuple[Branch, ...]] = None, all_branches: bool = False,
                 callback: Optional[Callable] = None, text=None, once: bool = False) -> np.ndarray:
        """Pictures uint8 (N, H, W, 3) of the last branch (all branches: (branches, N, H, W, 3)). `branches`: default those of the style.

        `prompts` are phrases such as "A dog"; each has its own seed, so a picture does not depend on its neighbours.
        `text`: the states of these prompts from `encode_for`, when they are there already. `once` uses the pipeline up: each network
        is freed when its work is done.
        """
        branches = branches_of(self.style) if branches is None else branches
        self.base.schedule.config.refuse_more_steps(sampling.steps, "sampling.steps")
        down = self.base.vae.config.downscale
        if sampling.width % down or sampling.height % down:
            raise StyleBlendError(f"width and height must be multiples of {down}, not {sampling.width} x {sampling.height}")
        shape = (1, self.base.unet.config.in_channels, sampling.height // down, sampling.width // down)
        layout = RowLayout(tuple(b.name for b in branches), sampling.guidance != 1, len(prompts))
        text = self.encode_for(prompts, sampling, branches) if text is None else text
        if once:
            self.base.text_encoder = None
            jt.gc()
        latents = jt.array(np.concatenate([seeded_noise(seed, shape) for seed in seeds]))

        def noise(step):  # for eta > 0: a seed for each picture and step, the same for every branch
            own = [seeded_noise(seed * 1_000_003 + step + 1 & 0x7FFFFFFF, shape) for seed in seeds]
            return jt.array(np.concatenate(own * len(branches)))

        x = self.denoise(text, latents, layout, branches, sampling, blend, noise, callback)
        if once:
            self.base.unet = None
            jt.gc()
        chosen = x if all_branches else x[len(branches) - 1:]
        pictures = self.decode(chosen.reshape([-1] + list(x.shape[2:])), sampling.vae_strip)
        jt.gc()
        return pictures.reshape((len(branches), len(prompts)) + pictures.shape[1:]) if all_branches else pictures
