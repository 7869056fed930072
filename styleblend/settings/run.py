"""A whole config file: what a run draws and trains with."""
from __future__ import annotations

from pathlib import Path
from typing import Dict, Literal, Optional

import yaml
from pydantic import Field

from styleblend.errors import StyleBlendError
from styleblend.files.text import read_text, refuse_deep
from styleblend.settings.drawing import SamplingSettings
from styleblend.settings.metrics import MetricSettings
from styleblend.settings.pictures import PictureSettings
from styleblend.settings.styleblend import BlendSettings
from styleblend.settings.styles import StyleOfAnyMethod
from styleblend.settings.training import TrainingSettings
from styleblend.settings.validation import Settings, validated

DType = Literal["float32", "float16", "bfloat16"]


class RunSettings(Settings):
    """A whole config file."""

    base: str = Field(description="folder of the base model; without `base_id` also a hub id")
    base_id: Optional[str] = Field(None, description="hub id that is tried when the folder is not there")
    data: str = Field(description="folder with one folder a style: images/*.png and prompt.json")
    adapters: str = Field(description="folder with one folder of trained adapters a style")
    look_alikes: str = Field(description="folder in which the SDEdit pictures of coarse training are kept")
    output: str = Field("result", description="folder of the pictures that are drawn")
    dtype: DType = Field("float32", description="what frozen weights and activations are kept in: float32, float16 or "
                         "bfloat16 (see styleblend/machine/precision.py)")
    offload: bool = Field(False, description="on a GPU: draw with each network in the host's memory while another one "
                          "works; slower, and less memory of the card")
    plain_prompt: bool = Field(False, description="prompt.json holds whole prompts: draw them as they stand, without "
                               "an article")
    blend: BlendSettings = Field(BlendSettings(), description="of StyleBlend")
    sampling: SamplingSettings = SamplingSettings()
    pictures: PictureSettings = PictureSettings()
    training: TrainingSettings = TrainingSettings()
    metrics: MetricSettings = MetricSettings()
    controlnets: Dict[str, str] = Field({}, description="kind of control -> folder of its ControlNet")
    styles: Dict[str, StyleOfAnyMethod] = Field({}, description="settings of single styles, as in style.json, for "
                                                "adapters that have none")


def read_settings(path: Path) -> RunSettings:
    """A config file, checked in full."""
    if not Path(path).is_file():
        raise StyleBlendError(f"the config {path} does not exist: configs/mini.yaml and configs/sd21.yaml come with "
                              "the project")
    text = read_text(path)
    try:
        refuse_deep(text)
        data = yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise StyleBlendError(f"{path} cannot be read as YAML: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(data, dict):
        raise StyleBlendError(f"{path} holds no settings: see configs/mini.yaml")
    return validated(RunSettings, data, str(path))
