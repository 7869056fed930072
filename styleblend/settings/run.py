"""A whole config file: what a run draws and trains with."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Literal, Optional, Set, Union

import yaml
from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from styleblend.errors import StyleBlendError, printable
from styleblend.files.shipped import find_config, own_or_shipped
from styleblend.files.text import read_text, refuse_deep
from styleblend.settings.context import ContextSettings
from styleblend.settings.control import ControlNetFolders
from styleblend.settings.drawing import SamplingSettings
from styleblend.settings.metrics import MetricSettings
from styleblend.settings.pictures import PictureSettings
from styleblend.settings.style_aligned import AlignSettings
from styleblend.settings.style_encoder import StyleEncoderSettings
from styleblend.settings.style_encoder_training import EncoderTrainingSettings
from styleblend.settings.styleblend import BlendSettings
from styleblend.settings.styles import StyleOfAnyMethod, StyleSettings
from styleblend.settings.training import TrainingSettings
from styleblend.settings.validation import Settings, validated

DType = Literal["float32", "float16", "bfloat16", "int8-float32", "int8-bfloat16"]  # that something was drawn in


class RunSettings(Settings):
    """A whole config file."""

    base: str = Field(description="folder of the base model; without `base_id` also a hub id")
    base_id: Optional[str] = Field(None, description="hub id that is tried when the folder is not there")
    data: str = Field(description="folder with one folder a style: images/*.png and prompt.json")
    adapters: str = Field(description="folder with one folder of trained adapters a style")
    look_alikes: str = Field(description="folder in which the SDEdit pictures of coarse training are kept")
    output: str = Field("result", description="folder of the pictures that are drawn")
    dtype: Literal[DType, "auto", "int8"] = Field(
        "auto", description="what frozen weights and activations are kept in: float32, float16, bfloat16 (see "
        "styleblend/machine/precision.py), int8 (for drawing on a CPU: matrices of a byte a number, the rest as auto; "
        "int8-float32, int8-bfloat16: the rest as it says), or auto: bfloat16 for drawing on a CPU with matrix tiles, "
        "else float32")
    offload: bool = Field(False, description="on a GPU: draw with each network in the host's memory while another one "
                          "works; slower, and less memory of the card")
    plain_prompt: bool = Field(False, description="prompt.json holds whole prompts: draw them as they stand, without "
                               "an article")
    blend: BlendSettings = Field(BlendSettings(), description="of StyleBlend")
    align: AlignSettings = Field(AlignSettings(), description="of StyleAligned: what a set takes over from its "
                                 "reference, unless a style or an option says otherwise")
    style_encoder: StyleEncoderSettings = Field(StyleEncoderSettings(), description="of Style Encoder: template and "
                                                "style_guidance, unless a style or an option says otherwise")
    sampling: SamplingSettings = SamplingSettings()
    pictures: PictureSettings = PictureSettings()
    training: TrainingSettings = TrainingSettings()
    encoder_training: EncoderTrainingSettings = Field(EncoderTrainingSettings(), description="of `train encoder`; "
                                                      "seed, checkpoints and grids as under training")
    encoders: str = Field("checkpoints/encoders", description="folder with one folder a style encoder that is trained "
                          "here")
    metrics: MetricSettings = MetricSettings()
    controlnets: ControlNetFolders = ControlNetFolders()
    depth_estimator: str = Field("checkpoints/depth-anything-v2-small", description="folder or hub id of the network "
                                 "that sees the depth of control pictures")
    encoder: Optional[str] = Field(None, description="folder of the style encoder that reads reference pictures")
    taesd: Optional[str] = Field(None, description="TAESD for previews, as a folder, a .safetensors file or a hub id; "
                                 "where it is not there, previews show colours only")
    context: ContextSettings = Field(ContextSettings(), description="of what makes prompts of other media")
    styles: Dict[str, StyleOfAnyMethod] = Field({}, description="settings of single styles, as in style.json, for "
                                                "adapters that have none")

    @field_validator("style_encoder")
    @classmethod
    def without_pictures(cls, settings: StyleEncoderSettings) -> StyleEncoderSettings:
        if settings.references or settings.encoder:
            raise PydanticCustomError("elsewhere", "references are given with --reference, and the encoder's folder is "
                                      "the config's own key: encoder: FOLDER", {})
        return settings


def read_settings(path: Union[str, Path]) -> RunSettings:
    """A config, by its file or its name (`find_config`), checked in full.

    What it only reads (the base, networks that measure) is looked for in the current folder, then in what is shipped.
    """
    path = find_config(path)
    return with_shipped(validated(RunSettings, read_yaml(path, "settings", "configs/mini.yaml"), str(path)))


def with_shipped(settings: RunSettings) -> RunSettings:
    """The settings with the shipped folder in the place of each that is only read and is not there itself."""
    metrics, looks = settings.metrics, settings.training.look_alikes
    metrics = metrics.model_copy(update={"weights": str(own_or_shipped(metrics.weights))})
    looks = looks.model_copy(update={"clip": str(own_or_shipped(looks.clip)) if looks.clip else looks.clip})
    return settings.model_copy(update={
        "base": str(own_or_shipped(settings.base)), "metrics": metrics,
        "training": settings.training.model_copy(update={"look_alikes": looks})})


def read_yaml(path: Path, what: str, example: str) -> Dict[str, Any]:
    """The keys of a YAML file that holds `what`, as `example` does. StyleBlendError where they cannot be read."""
    text = read_text(path)
    try:
        refuse_deep(text)
        data = parse_yaml(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise StyleBlendError(f"{path} cannot be read as YAML: {' '.join(str(error).split())[:160]}") from None
    if not isinstance(data, dict):
        raise StyleBlendError(f"{path} holds no {what}: see {example}")
    return data


def parse_yaml(text: str) -> Any:
    """What a YAML text holds. ValueError names a key that is there twice, of which the first would have no effect."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        refuse_twice(node, "", set())
        return loader.construct_document(node) if node is not None else None
    finally:
        loader.dispose()


def refuse_twice(node: Optional[yaml.Node], where: str, seen: Set[int]) -> None:
    """ValueError for a key that a mapping, or one in it, has twice. `seen`: nodes that were looked at, by identity."""
    if node is None or id(node) in seen or isinstance(node, yaml.ScalarNode):
        return
    seen.add(id(node))
    lines: Dict[tuple, int] = {}
    for item in node.value:
        key, value = item if isinstance(node, yaml.MappingNode) else (None, item)
        name = where
        if isinstance(key, yaml.ScalarNode):
            name, line = f"{where}.{key.value}".lstrip("."), key.start_mark.line + 1
            if (key.tag, key.value) in lines:
                raise ValueError(f"the key {printable(name)} is there twice, in lines {lines[key.tag, key.value]} and "
                                 f"{line}: take one of them out")
            lines[key.tag, key.value] = line
        refuse_twice(value, name, seen)


def own_settings(config: RunSettings, name: str, said: StyleSettings) -> StyleSettings:
    """What a style says of itself (`style.json`); where that is nothing, what the config says of it."""
    return config.styles.get(name, said) if said == type(said)(parts=said.parts) else said
