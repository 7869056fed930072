"""Settings of a run: what a YAML file in `configs/` or a `style.json` may say, with defaults, ranges and clear errors."""
from __future__ import annotations

import difflib
import reprlib
from pathlib import Path
from typing import Annotated, Dict, List, Literal, Optional, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from styleblend.errors import StyleBlendError, printable
from styleblend.machine.precision import DType
from styleblend.files.limits import MAX_PIXELS
from styleblend.files.text import parse_json, read_text, refuse_deep


class Settings(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


LARGEST_SEED = (1 << 63) - 1  # what Jittor's generator takes
LONGEST_SIDE = 4096  # pixels; a config or the record of a picture that asks for more would only end in a lack of memory
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
SITES = 16
PRESETS = {
    "balanced": dict(c2f_sites=list(range(4, 10)), f2c_sites=[0, 1, 2, 3, 10, 11, 12, 13, 14, 15], scale=0.3, c2f_ratio=0.8, f2c_ratio=0.6),
    "strong_layout": dict(c2f_sites=list(range(13)), f2c_sites=[0, 1, 13, 14, 15], scale=0.5, c2f_ratio=0.9, f2c_ratio=0.6),
}


class BlendSettings(Settings):
    """How the two branches exchange attention. `c2f`: coarse gives to fine, `f2c`: fine gives to coarse."""

    c2f_sites: List[int] = Field(PRESETS["balanced"]["c2f_sites"], description="self-attention sites (0..15, forward order) whose Q goes coarse to fine")
    f2c_sites: List[int] = Field(PRESETS["balanced"]["f2c_sites"], description="self-attention sites whose K and V go fine to coarse")
    cross_c2f_sites: List[int] = Field([], description="cross-attention sites whose Q goes coarse to fine")
    cross_f2c_sites: List[int] = Field([], description="cross-attention sites whose Q goes fine to coarse")
    scale: float = Field(0.3, allow_inf_nan=False, description="factor of the UNet LoRA in the coarse branch (to_q, to_k, to_v)")
    fine_scale: float = Field(1.0, allow_inf_nan=False, description="factor of the UNet LoRA in the fine branch (all four projections): how strong the style is")
    negative_scale: float = Field(1.0, allow_inf_nan=False, description="what of it the negative prompt's rows feel; below 1 guidance leads towards the style, too. 1: as published")
    c2f_ratio: float = Field(0.8, ge=0, le=1, description="share of the steps, from the first, in which c2f is active")
    f2c_ratio: float = Field(0.6, ge=0, le=1, description="the same for f2c")
    window_steps: Optional[int] = Field(None, description="steps that the ratios count; default: the steps that are run")


class StyleSettings(Settings):
    """`style.json` beside the adapters: what differs from the config's blend settings."""

    method: str = "styleblend"
    preset: Optional[str] = Field(None, description="balanced or strong_layout: the start from which `blend` differs")
    blend: dict = Field({}, description="any field of the blend settings")
    guidance: Optional[float] = Field(None, gt=1, allow_inf_nan=False, description="the style's own in place of the config's (sampling.guidance), unless that is 1: off")
    seeds: Dict[str, Seed] = Field({}, description="prompt -> seed, for prompts whose seed is not the config's")
    source: Optional[str] = Field(None, description="where the pictures come from")
    parts: Optional[List[Literal["coarse_embeds", "fine_embeds", "text_lora", "unet_lora"]]] = Field(
        None, min_length=1, description="the parts of a style that is not whole, as `styleblend load` writes it; default: all four")


class SamplingSettings(Settings):
    """How a picture is drawn."""

    sampler: str = Field("ddim", pattern="^(ddim|dpmpp_2m|euler)$", description="ddim, dpmpp_2m or euler")
    steps: int = Field(30, ge=1, le=999)
    guidance: float = Field(7.5, ge=0, description="classifier-free guidance; 1 switches it off and halves the work")
    eta: float = Field(0.0, ge=0, le=1, description="noise of DDIM: 0 is deterministic")
    seed: Seed = 2024
    width: int = Field(768, multiple_of=8, ge=64, le=LONGEST_SIDE, description="pixels that are drawn")
    height: int = Field(768, multiple_of=8, ge=64, le=LONGEST_SIDE)
    output: Optional[int] = Field(512, ge=0, le=LONGEST_SIDE, description="pixels of the saved picture's longer side; null: as drawn")
    coarse_negative: str = ""
    fine_negative: str = "blur"
    batch: int = Field(1, ge=1, description="prompts drawn together")
    vae_strip: int = Field(0, ge=0, multiple_of=2, description="pixel rows that the decoder works on at a time: less memory for the same picture; 0: all")


class PictureSettings(Settings):
    """How style pictures are read."""

    fit: str = Field("crop", pattern="^(crop|pad)$", description="other proportions than the training size: crop to the middle, or pad with white")
    max_pixels: int = Field(MAX_PIXELS, ge=1, description="a picture with more is refused: while it is decoded a pixel takes up to twelve bytes")


class LookAlikeSettings(Settings):
    """SDEdit look-alikes of each style picture: the same subject and layout, without the style."""

    prompt: str = Field("{prompt}, realistic.", pattern=r"^[^{}]*\{prompt\}[^{}]*$", description="{prompt} stands for the caption")
    negative: str = "ugly, low quality, blur, distorted"
    steps: int = Field(20, ge=1, le=999)
    guidance: float = Field(7.5, ge=0)
    strengths: List[Annotated[float, Field(gt=0, le=1)]] = Field([0.75, 0.8, 0.85], min_length=1, description="shares of the steps that are drawn again; each look-alike takes one")
    candidates: int = Field(15, ge=1)
    keep: int = Field(10, ge=1, description="the candidates nearest to the style picture by CLIP that are kept")
    batch: int = Field(5, ge=1)
    clip: Optional[str] = Field(None, description="folder of CLIP ViT-L/14 for the filter; without it all candidates are kept")
    clip_id: Optional[str] = Field(None, description="hub id that is tried when the folder is not there")


class StageSettings(Settings):
    """One training stage: AdamW with a step decay of the learning rate."""

    steps: int = Field(ge=0)
    lr: float = Field(gt=0)
    batch: int = Field(1, ge=1)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    weight_decay: float = Field(1e-2, ge=0)
    eps: float = Field(1e-8, gt=0)
    decay: float = Field(1.0, gt=0, le=1, description="factor of the learning rate ...")
    decay_every: int = Field(0, ge=0, description="... every so many steps; 0: never")
    rank: int = Field(16, ge=1)
    flip: bool = False


class TrainingSettings(Settings):
    """Both trainings of a style."""

    seed: int = 2024
    placeholder_coarse: str = "<C>"
    placeholder_fine: str = "<F>"
    initial_coarse: str = "&"
    initial_fine: List[str] = Field(["artistic"], min_length=1, description="words that <F> starts from, with a vector for each token; of several the one that suits the style pictures best")
    look_alikes: LookAlikeSettings = LookAlikeSettings()
    coarse: StageSettings = StageSettings(steps=300, lr=1e-4)
    inversion: StageSettings = StageSettings(steps=500, lr=1e-2, beta1=0.85, decay=0.7, decay_every=30, flip=True)
    lora: StageSettings = StageSettings(steps=500, lr=5e-4, decay=0.5, decay_every=200, flip=True)
    gradient_checkpointing: bool = Field(False, description="compute activations a second time instead of keeping them: less memory, about a third more time")
    save_every: int = Field(100, ge=1, description="steps between checkpoints")
    keep: int = Field(2, ge=1, description="checkpoints of a stage that are kept: the newest, and those to fall back to")
    sample_every: int = Field(250, ge=0, description="steps between picture grids; 0: none")
    sample_prompts: List[str] = ["Cat", "House", "Apple"]
    coarse_score: Optional[str] = Field(None, description="what the grids of coarse training are scored by (docs/scoring.md); null: not at all")
    fine_score: Optional[str] = Field(None, description="the same for both stages of fine training")
    keep_adapters: Literal["last", "best"] = Field("last", description="what becomes the adapters: the last step, or the step whose grid has the best score")

    @field_validator("initial_fine", mode="before")
    @classmethod
    def listed(cls, words):
        return [words] if isinstance(words, str) else words


class NetworkIds(Settings):
    """Hub ids of the networks that measure pictures: each is fetched, as safetensors, when something needs it that is not in the folder."""

    clip: Optional[str] = Field(None, description="a CLIP with vision transformer, such as openai/clip-vit-large-patch14")
    clip_resnet: Optional[str] = Field(None, description="a CLIP RN50 of open_clip, such as timm/resnet50_clip.openai")
    dino: Optional[str] = Field(None, description="such as facebook/dino-vitb8")
    dinov2: Optional[str] = Field(None, description="such as facebook/dinov2-base")
    squeezenet: Optional[str] = None
    lpips: Optional[str] = None
    inception: Optional[str] = None
    efficientnet: Optional[str] = None


class MetricSettings(Settings):
    """Where the networks are that measure pictures."""

    weights: str = Field("checkpoints/metrics", description="folder with one folder a network (docs/metrics.md)")
    ids: NetworkIds = NetworkIds()


class RunSettings(Settings):
    """A whole config file."""

    base: str = Field(description="folder of the base model; without `base_id` also a hub id")
    base_id: Optional[str] = Field(None, description="hub id that is tried when the folder is not there")
    data: str = Field(description="folder with one folder a style: images/*.png and prompt.json")
    adapters: str = Field(description="folder with one folder of trained adapters a style")
    look_alikes: str = Field(description="folder in which the SDEdit pictures of coarse training are kept")
    output: str = "result"
    dtype: DType = Field("float32", description="what frozen weights and activations are kept in: float32, float16 or bfloat16 (see styleblend/precision.py)")
    offload: bool = Field(False, description="on a GPU: draw with each network in the host's memory while another one works; slower, and less memory of the card")
    plain_prompt: bool = Field(False, description="prompt.json holds whole prompts: draw them as they stand, without an article")
    blend: BlendSettings = BlendSettings()
    sampling: SamplingSettings = SamplingSettings()
    pictures: PictureSettings = PictureSettings()
    training: TrainingSettings = TrainingSettings()
    metrics: MetricSettings = MetricSettings()
    styles: Dict[str, StyleSettings] = Field({}, description="settings of single styles, as in style.json, for adapters that have none")


def known_keys(kind) -> List[str]:
    """All keys that a settings class and the groups in it know."""
    keys = list(kind.model_fields)
    for field in kind.model_fields.values():
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, Settings):
                keys += known_keys(inner)
    return keys


def validated(kind, data: dict, source: str):
    """An instance of `kind`; the first problem becomes one StyleBlendError, an unknown key with its nearest known one."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(first["loc"][-1]), known_keys(kind), 1, 0.4)
            raise StyleBlendError(f"{source}: unknown key {printable(where)}" + (f"; did you mean {near[0]}?" if near else "")) from None
        raise StyleBlendError(f"{source}: {printable(where)}: {first['msg'][0].lower() + first['msg'][1:]} (got {printable(reprlib.repr(first.get('input')))})") from None


def read_settings(path: Path) -> RunSettings:
    """A config file, checked in full."""
    if not Path(path).is_file():
        raise StyleBlendError(f"the config {path} does not exist: configs/mini.yaml and configs/sd21.yaml come with the project")
    text = read_text(path)
    try:
        refuse_deep(text)
        data = yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise StyleBlendError(f"{path} cannot be read as YAML: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(data, dict):
        raise StyleBlendError(f"{path} holds no settings: see configs/mini.yaml")
    return validated(RunSettings, data, str(path))


def read_style_settings(path: Path) -> StyleSettings:
    """`style.json`, or the defaults when there is none."""
    return style_settings_from(read_text(path), str(path)) if Path(path).is_file() else StyleSettings()


def style_settings_from(text: str, source: str) -> StyleSettings:
    """A style's settings from JSON."""
    try:
        data = parse_json(text)
    except ValueError as error:
        raise StyleBlendError(f"{source} cannot be read as JSON ({printable(str(error), 150)}): mend or delete it") from None
    if not isinstance(data, dict):
        raise StyleBlendError(f"{source} holds no JSON object: mend or delete it")
    return validated(StyleSettings, data, source)


def sampling_for(config: SamplingSettings, style: StyleSettings) -> SamplingSettings:
    """The config's sampling settings with the style's own guidance. Where the config switches guidance off it stays off: half the work and the memory."""
    return config if style.guidance is None or config.guidance == 1 else config.model_copy(update={"guidance": style.guidance})


def blend_for(config: BlendSettings, style: StyleSettings, source: str) -> BlendSettings:
    """The config's blend settings, replaced by the style's preset, then by the style's own fields."""
    if style.preset is not None and style.preset not in PRESETS:
        raise StyleBlendError(f"{source}: unknown preset {style.preset!r}; known: {', '.join(PRESETS)}")
    start = PRESETS[style.preset] if style.preset else config.model_dump()
    blend = validated(BlendSettings, {**start, **style.blend}, source)
    for name in ("c2f_sites", "f2c_sites", "cross_c2f_sites", "cross_f2c_sites"):
        wrong = [s for s in getattr(blend, name) if not 0 <= s < SITES]
        if wrong:
            raise StyleBlendError(f"{source}: {name} has {wrong[0]}; sites are numbered 0 to {SITES - 1}")
    return blend
