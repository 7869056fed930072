"""How much memory a run takes, from the sizes of its networks; leaner settings where that is too much.

Nothing is loaded for it. The numbers that are alive at a block's widest point are counted from its channels and pixels.
What Jittor and oneDNN take beyond those (copies in another order, blocks between uses) is in the factors, which were
measured on the CPU: docs/benchmarks.md compares both. On a card there are CUDA's own context and cuDNN's work space
instead; nothing of that is measured yet.
"""
from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from styleblend.adapters.encoder_files import encoder_size
from styleblend.base.base import NETWORKS, read_configs
from styleblend.files.base_folder import KNOWN_COPIES, find_base
from styleblend.files.hub import fetch, is_id
from styleblend.files.shipped import own_or_shipped
from styleblend.models.configs import ClipTextConfig, ControlNetConfig, UNetConfig, VaeConfig, read_config
from styleblend.models.controlnet import ControlNetModel
from styleblend.errors import StyleBlendError
from styleblend.jobs.events import Job, Log
from styleblend.kernels.bfloat16 import multiplied
from styleblend.kernels.dtypes import chosen, drawn_as, trained_as
from styleblend.machine.precision import computed_as, vae_type
from styleblend.machine.runtime import WORK_SPACE, device
from styleblend.settings import ControlSettings, RunSettings, read_settings
from styleblend.settings.control import BY_ESTIMATOR
from styleblend.training.scores import scoring_files
from styleblend.base.weights import parameters, types

MIB = 2 ** 20
PROCESS = 190 * MIB  # Python, Jittor and the compiled operators
CONTEXT = 500 * MIB  # of CUDA, cuBLAS and cuDNN in a card's memory
UNET, VAE = 1.9, 1.3  # measured peak / counted numbers
SIZES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
STRIP = 64
TOKENS = 77
SMALL_FILES = ["*/config.json", "scheduler/*.json"]  # what an estimate needs of a base on the hub
STABLE_DIFFUSION = {"text_encoder": ClipTextConfig(), "unet": UNetConfig(), "vae": VaeConfig()}  # 2.1


@dataclass(frozen=True)
class Block:
    """A part of a network, for one batch row, in numbers.

    Alive at its widest, kept for a backward pass, read, and waiting meanwhile.
    """

    live: int
    kept: int
    read: int
    waiting: int = 0


def resnet(before: int, after: int, pixels: int) -> Block:
    """Two norms and convolutions; oneDNN has a copy of what a convolution reads and writes in its own order."""
    return Block(max(3 * before + 2 * after, before + 4 * after) * pixels, (before + 4 * after) * pixels,
                 before * pixels)


def transformer(channels: int, pixels: int) -> Block:
    """Widest in the feed-forward part.

    Eight times the channels, four more behind the gate, the residual, the norm, the block's input.
    """
    return Block(16 * channels * pixels, 31 * channels * pixels, channels * pixels)


def resample(channels: int, pixels: int, after: int) -> Block:
    """A convolution from `pixels` to `after` of them; nearest neighbours are copied to the new size first."""
    return Block((pixels + 4 * max(pixels, after)) * channels, (max(pixels, after) + after) * channels,
                 pixels * channels)


def unet_blocks(config: UNetConfig, height: int, width: int) -> Iterator[Block]:
    """The UNet's blocks for a latent of this size, in forward order."""
    channels, skips = config.block_out_channels, [config.block_out_channels[0] * height * width]
    sizes = [(height, width)]
    for level, kind in enumerate(config.down_block_types):
        pixels, last = sizes[-1][0] * sizes[-1][1], level == len(channels) - 1
        for i in range(config.layers_per_block):
            yield replace(resnet(channels[max(level - 1, 0)] if i == 0 else channels[level], channels[level], pixels),
                          waiting=sum(skips))
            if kind.startswith("CrossAttn"):
                yield replace(transformer(channels[level], pixels), waiting=sum(skips))
            skips.append(channels[level] * pixels)
        if not last:
            sizes.append(tuple((side + 1) // 2 for side in sizes[-1]))
            yield replace(resample(channels[level], pixels, sizes[-1][0] * sizes[-1][1]), waiting=sum(skips))
            skips.append(channels[level] * sizes[-1][0] * sizes[-1][1])
    pixels = sizes[-1][0] * sizes[-1][1]
    for block in (resnet(channels[-1], channels[-1], pixels), transformer(channels[-1], pixels),
                  resnet(channels[-1], channels[-1], pixels)):
        yield replace(block, waiting=sum(skips))
    before = channels[-1]
    for level, kind in zip(reversed(range(len(channels))), config.up_block_types):
        pixels = sizes[level][0] * sizes[level][1]
        for i in range(config.layers_per_block + 1):
            before += skips.pop() // pixels
            yield replace(resnet(before, channels[level], pixels), waiting=sum(skips))
            if kind.startswith("CrossAttn"):
                yield replace(transformer(channels[level], pixels), waiting=sum(skips))
            before = channels[level]
        if level:
            yield replace(resample(before, pixels, sizes[level - 1][0] * sizes[level - 1][1]), waiting=sum(skips))


def decoder_blocks(config: VaeConfig, height: int, width: int) -> Iterator[Block]:
    """The blocks of the VAE's decoder for a latent of this size; the encoder's are as large, and one fewer a level."""
    before, pixels = config.block_out_channels[-1], height * width
    yield resnet(before, before, pixels)
    yield Block(7 * before * pixels, 0, before * pixels)
    for level, channels in enumerate(reversed(config.block_out_channels)):
        for _ in range(config.layers_per_block + 1):
            yield resnet(before, channels, pixels)
            before = channels
        if level < len(config.block_out_channels) - 1:
            yield resample(channels, pixels, 4 * pixels)
            pixels *= 4


@dataclass(frozen=True)
class Beside:
    """What a drawing has beside the base and its own pictures, and a training beside its settings.

    `references`: rows of reference pictures in each batch; `controlnets`, `estimators`: folders of networks that make
    something of control pictures. `stages`: those of the trainings, as their settings are called. `encoder`: what reads
    the style of reference pictures, a folder or a file.
    """

    references: int = 0
    controlnets: Tuple[Path, ...] = ()
    estimators: Tuple[Path, ...] = ()
    stages: Tuple[str, ...] = ("coarse", "inversion", "lora")
    encoder: Optional[Path] = None

    def reading(self) -> int:
        """What the encoder takes. It reads one picture at a time: 45 MiB beside the 1,160 of a ViT-L/14."""
        return encoder_size(self.encoder) if self.encoder else 0


def beside(settings: RunSettings, control: Sequence[ControlSettings], references: int = 0,
           encoder: Optional[Path] = None) -> Beside:
    """What these control pictures, references and encoder bring. What is not on this machine yet is not counted."""
    networks = [one.network or settings.controlnets.of(one.kind) for one in control]
    estimators = [one.estimator or settings.depth_estimator for one in control if one.kind in BY_ESTIMATOR]
    return Beside(references, *(tuple(folder for folder in dict.fromkeys(own_or_shipped(name) for name in found if name)
                                      if (folder / "config.json").is_file()) for found in (networks, estimators)),
                  encoder=encoder)


class Sizes:
    """The networks of a base folder: bytes of their weights, and of what they compute, at one precision.

    Without a folder they are those of Stable Diffusion 2.1. Of a folder only the descriptions are read. `on_card`: in a
    card's memory; default: where Jittor computes now.
    """

    def __init__(self, folder: Optional[Path], dtype: str, on_card: Optional[bool] = None):
        on_card = device() == "cuda" if on_card is None else on_card
        self.program = CONTEXT + WORK_SPACE if on_card else PROCESS
        self.configs, self.dtype = read_configs(folder) if folder else STABLE_DIFFUSION, drawn_as(dtype)
        self.kept = computed_as(self.dtype)  # what is computed
        # else products of half precision read copies in float32
        self.as_it_is = self.kept == "float32" or not on_card and multiplied(self.kept)
        self.weights: Dict[str, int] = {}
        for part, network in NETWORKS.items():
            built = network(self.configs[part])  # lazy: its parameters exist when somebody reads them
            self.weights[part] = weights_of(built, vae_type(self.dtype) if part == "vae" else self.dtype)
            if part == "unet":  # a product reads a copy in an order of its own
                most = max(math.prod(p.shape) for p in parameters(built).values())
                self.largest = most * (SIZES[self.kept] if self.as_it_is else 8)
                if self.kept != self.dtype:  # what int8 is widened to, and the product's copy
                    self.largest = 2 * most * SIZES[self.kept if self.as_it_is else "float32"]
        self.always = self.program + sum(self.weights.values())

    def controlnet(self, folder: Path, rows: int, height: int, width: int) -> int:
        """Its weights, and what it adds to the UNet's skip connections."""
        added = max(block.waiting for block in unet_blocks(self.configs["unet"], height, width))
        return (weights_of(ControlNetModel(read_config(ControlNetConfig, folder / "config.json")), self.dtype)
                + rows * added * SIZES[self.kept])

    def unet(self, rows: int, height: int, width: int) -> int:
        """A call without gradient."""
        widest = max(block.live + block.waiting for block in unet_blocks(self.configs["unet"], height, width))
        return int(UNET * rows * widest * SIZES[self.kept]) + self.largest

    def unet_step(self, rows: int, height: int, width: int, checkpointing: bool) -> int:
        """A training step: what is kept for the backward pass.

        With checkpointing that is what each block reads, and one block several times.
        """
        blocks = list(unet_blocks(self.configs["unet"], height, width))
        kept = sum(block.kept for block in blocks)
        if checkpointing:
            kept = sum(block.read for block in blocks) + 4 * max(block.kept for block in blocks)
        text = self.configs["text_encoder"]
        kept += TOKENS * text.num_hidden_layers * (12 * text.hidden_size + 2 * text.intermediate_size)
        # the float32 copies that products read are kept, too
        return int(UNET * rows * kept * (SIZES[self.kept] + (0 if self.as_it_is else 4))) + self.largest

    def vae(self, height: int, width: int, strip: int) -> int:
        """A picture through the encoder or the decoder.

        In strips nearly half of what is alive at the widest point waits, as float32.
        """
        widest = max(block.live for block in decoder_blocks(self.configs["vae"], height, width))
        if not strip:
            return int(VAE * widest * SIZES[vae_type(self.dtype)])
        share = min(1.0, (strip + 2) / (height * self.configs["vae"].downscale))
        return int(4 * widest * (0.45 + VAE * share))


def weights_of(network, dtype: str) -> int:
    """Bytes of its parameters, which are not made for this, and of int8 the factor of each channel."""
    kinds = types(network, dtype)
    return sum(math.prod(p.shape) * SIZES[kinds[name]] + (4 * p.shape[0] if kinds[name] == "int8" else 0)
               for name, p in parameters(network).items())


def drawing(sizes: Sizes, settings: RunSettings, more: Beside = Beside()) -> Dict[str, int]:
    """What is there in each phase of drawing pictures with both branches, in bytes."""
    sampling, down = settings.sampling, sizes.configs["vae"].downscale
    rows = max(2 * sampling.batch, more.references + sampling.batch) * (1 if sampling.guidance == 1 else 2)
    latent = (sampling.height // down, sampling.width // down)
    estimators = sum((folder / "model.safetensors").stat().st_size for folder in more.estimators)
    control = sum(sizes.controlnet(folder, rows, *latent) for folder in more.controlnets) + estimators
    working = {"UNet step": ("unet", sizes.unet(rows, *latent) + control),
               "VAE decode": ("vae", sizes.vae(*latent, sampling.vae_strip) + control)}
    if estimators:  # they compute before the first step
        working["depth"] = ("text_encoder", control + estimators)
    if settings.offload and device() == "cuda":
        return {"text": sizes.program + max(sizes.weights["text_encoder"], more.reading()),
                **{name: sizes.program + sizes.weights[part] + size for name, (part, size) in working.items()}}
    # the encoder goes before the text is read, but the pools of Jittor and the C library keep what it took
    return {name: sizes.always + more.reading() + size for name, (_, size) in working.items()}


def drawing_once(sizes: Sizes, settings: RunSettings, more: Beside = Beside()) -> Dict[str, int]:
    """The same where each network is freed when its work is done."""
    phases, freed = drawing(sizes, settings.model_copy(update={"offload": False}), more), sizes.weights["text_encoder"]
    return {**phases, "text": sizes.always + more.reading(), "UNet step": phases["UNet step"] - freed,
            "VAE decode": phases["VAE decode"] - freed - sizes.weights["unet"]}


def training(sizes: Sizes, settings: RunSettings, more: Beside = Beside()) -> Dict[str, int]:
    """What is there in each phase of learning a style, in bytes."""
    sampling, config, down = settings.sampling, settings.training, sizes.configs["vae"].downscale
    latent = (sampling.height // down, sampling.width // down)
    batch = max(getattr(config, stage).batch for stage in more.stages)
    grids = sizes.unet((1 if sampling.guidance == 1 else 2) * sampling.batch, *latent) if config.sample_every else 0
    looks = sizes.unet((1 if config.look_alikes.guidance == 1 else 2) * config.look_alikes.batch, *latent)
    phases = {"VAE encode": sizes.vae(*latent, 0), **({"look-alikes": looks} if "coarse" in more.stages else {}),
              "VAE decode": sizes.vae(*latent, sampling.vae_strip),
              "picture grids": grids, "training step": sizes.unet_step(batch, *latent, config.gradient_checkpointing)}
    always = sizes.always + sum(path.stat().st_size for path in scoring_files(settings))
    return {name: always + size for name, size in phases.items()}


PHASES: Dict[str, Callable] = {"drawing": drawing, "drawing once": drawing_once, "training": training}


def needed(sizes: Sizes, settings: RunSettings, kind: str, more: Beside = Beside()) -> int:
    """The most that is there at a time."""
    return max(PHASES[kind](sizes, settings, more).values())


def table(folder: Optional[Path], settings: RunSettings) -> List[Tuple[str, int]]:
    """Rows of a report: the parts, then what is there in all in each phase of each kind of work.

    Where a training has another type than a drawing, as with "auto" and "int8", its rows name it.
    """
    drawn, trained = Sizes(folder, settings.dtype), Sizes(folder, trained_as(settings.dtype))
    same = drawn.dtype == trained.dtype
    parts = [("program", drawn.program),
             *((f"weights of the {part.replace('_', ' ')}{'' if same else f', {drawn.dtype}'}", size)
               for part, size in drawn.weights.items())]
    encoder = own_or_shipped(settings.encoder) if settings.encoder else None
    if encoder and encoder.exists():
        parts.append(("weights of the style encoder, where pictures are read", encoder_size(encoder)))
    return parts + [(f"{kind}{'' if same or kind != 'training' else f' in {trained.dtype}'}: {name}", size)
                    for kind, phases in PHASES.items()
                    for name, size in phases(trained if kind == "training" else drawn, settings).items()]


def what_fits(memory: int) -> Iterator[str]:
    """What of Stable Diffusion 2.1 fits into so many bytes, a sentence for drawing and one for learning."""
    settings = read_settings("sd21")
    for kind in ("drawing", "training"):
        fitting = [f"{side} pixels in {dtype}" for dtype in ("float32", "float16", "bfloat16") for side in (768, 512)
                   if needed(Sizes(None, dtype, on_card=True), at_size(settings, side), kind) <= memory]
        yield f"{kind} with Stable Diffusion 2.1: {', '.join(fitting) or 'does not fit; the mini base does'}"


def at_size(settings: RunSettings, side: int) -> RunSettings:
    """The settings for square pictures, one at a time."""
    return settings.model_copy(update={"sampling": settings.sampling.model_copy(
        update={"width": side, "height": side, "batch": 1})})


def leaner(settings: RunSettings, kind: str) -> Iterator[Tuple[str, RunSettings]]:
    """Settings that take less, each with all before it. A picture or a style changes by its last bits at most."""
    def changed(group: str, **values) -> RunSettings:
        return settings.model_copy(update={group: getattr(settings, group).model_copy(update=values)})

    if kind == "training" and not settings.training.gradient_checkpointing:
        settings = changed("training", gradient_checkpointing=True)
        yield "gradient checkpointing (training.gradient_checkpointing)", settings
    if not settings.sampling.vae_strip:
        settings = changed("sampling", vae_strip=STRIP)
        yield f"the VAE's decoder in strips (sampling.vae_strip: {STRIP})", settings
    if kind == "drawing" and not settings.offload and device() == "cuda":
        settings = settings.model_copy(update={"offload": True})
        yield "each network in the host's memory while another one works (offload)", settings
    if settings.sampling.batch > 1:
        settings = changed("sampling", batch=1)
        yield "one picture at a time (sampling.batch: 1)", settings
    if kind == "training" and settings.training.look_alikes.batch > 1:
        settings = changed("training", look_alikes=settings.training.look_alikes.model_copy(update={"batch": 1}))
        yield "one look-alike at a time (training.look_alikes.batch: 1)", settings


def parse_size(text: str) -> int:
    """Bytes of "8GB", "7.5 GiB" or "900M". A plain number is refused: nobody means bytes."""
    match = re.fullmatch(r"\s*([0-9]{1,12}(?:\.[0-9]{1,12})?)\s*(?:([kmgt])(i?)b?|b)?\s*", text.lower())
    if not match or not float(match[1]):
        raise StyleBlendError(f"--max-memory {text[:40]} is no size: write 8GB, 7.5GiB or 900MB")
    if not match[0].strip()[-1].isalpha():
        raise StyleBlendError(f"--max-memory {text} has no unit: write {text.strip()}GB for gigabytes, "
                              f"{text.strip()}MB for megabytes")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** " kmgt".index(match[2] or " "))


def fitted(settings: RunSettings, folder: Path, kind: str, limit: str, more: Beside = Beside()) -> Job[RunSettings]:
    """The settings, made leaner until `kind` (one of PHASES) of the base in `folder` fits into `limit`.

    The estimate and every change are said. StyleBlendError when even the leanest do not fit.
    """
    allowed, sizes = parse_size(limit), Sizes(folder, settings.dtype)
    now = needed(sizes, settings, kind, more)
    yield Log(f"{kind} takes about {now / MIB:,.0f} MiB of the {allowed / MIB:,.0f} MiB that are allowed")
    for what, settings_then in leaner(settings, kind):
        if now <= allowed:
            break
        settings, now = settings_then, needed(sizes, settings_then, kind, more)
        yield Log(f"{what}: about {now / MIB:,.0f} MiB")
    if now > allowed:
        others = ["bfloat16"] if kind == "training" or device() == "cuda" else ["bfloat16", "int8"]
        narrower = [dtype for dtype in others if needed(Sizes(folder, dtype), settings, kind, more) < now]
        cures = (f"--dtype {' or '.join(narrower)}, or " if narrower else "") + (
            "fewer reference pictures, or " if more.references > 1 else "") + (
            "a smaller style encoder, or " if more.encoder else "") + (
            "a smaller sampling.width and height in the config")
        raise StyleBlendError(f"{kind} takes about {now / MIB:,.0f} MiB at the least, and --max-memory allows "
                              f"{allowed / MIB:,.0f}: try {cures}")
    return settings


def within(settings: RunSettings, kind: str, limit: Optional[str], more: Beside = Beside()) -> Job[RunSettings]:
    """The settings with the type to draw or train in, where there is a limit `fitted` to the base that they name.

    What "auto" stands for is said, unless it is float32.
    """
    dtype = trained_as(settings.dtype) if kind == "training" else drawn_as(settings.dtype)
    sentence = chosen(settings.dtype, dtype)
    if sentence:
        yield Log(sentence)
    settings = settings.model_copy(update={"dtype": dtype})
    if not limit:
        return settings
    return (yield from fitted(settings, find_base(settings.base, settings.base_id), kind, limit, more))


def estimate(settings: RunSettings) -> Job[List[Tuple[str, int]]]:
    """`table` of the base that the settings name. No weights are needed: of Stable Diffusion 2.1 no file at all."""
    here, hub_id = Path(settings.base).is_dir(), settings.base_id or settings.base
    if not here and hub_id in KNOWN_COPIES:
        yield Log(f"{settings.base} is not there: estimated from the known sizes of Stable Diffusion 2.1")
        return table(None, settings)
    hub = not here and settings.base_id and is_id(settings.base_id)
    folder = fetch(settings.base_id, SMALL_FILES) if hub else find_base(settings.base)
    return table(folder, settings)
