"""A ControlNet beside a base: a diffusers folder of its own, loaded strictly, with the sizes of the base's UNet."""
from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from styleblend.base.base import Base
from styleblend.base.weights import load
from styleblend.errors import StyleBlendError, printable
from styleblend.files.base_folder import FILES, weight_file
from styleblend.files.tensor_files import stored_tensors
from styleblend.models.configs import ControlNetConfig, UNetEncoderConfig, read_config, read_object
from styleblend.models.controlnet import ControlNetModel

ADVICE = "Download the whole folder again, or use a ControlNet of Stable Diffusion 2.x"


def load_controlnet(folder: Path, base: Base) -> ControlNetModel:
    """The ControlNet in `folder` for this base. StyleBlendError for one that is another model's, or not whole."""
    folder = Path(folder)
    path = folder / "config.json"
    if not path.is_file():
        raise StyleBlendError(f"{folder} is no ControlNet: give a diffusers folder with config.json and "
                              "diffusion_pytorch_model.safetensors")
    refuse_other_models(path, base)
    config = read_config(ControlNetConfig, path)
    wrong = next((field.name for field in fields(UNetEncoderConfig)
                  if getattr(config, field.name) != getattr(base.unet.config, field.name)), None)
    if wrong:
        raise StyleBlendError(f"{folder} does not fit the base {base.folder}: {wrong} is {getattr(config, wrong)}, "
                              f"that of the UNet {getattr(base.unet.config, wrong)}: use a ControlNet that was trained "
                              "on this base")
    network = ControlNetModel(config)
    weights = weight_file(folder, FILES["unet"])
    load(network, stored_tensors(weights), str(weights), base.dtype, ADVICE)
    return network


def refuse_other_models(path: Path, base: Base) -> None:
    """StyleBlendError that names the model where a ControlNet is of another family."""
    data = read_object(path)
    kind = str(data.get("_class_name", "ControlNetModel"))
    width, mine = data.get("cross_attention_dim"), base.unet.config.cross_attention_dim
    family = {768: "Stable Diffusion 1.x", 2048: "SDXL"}.get(width, None if width == mine else "another model")
    if data.get("addition_embed_type"):
        family = "SDXL"
    if kind != "ControlNetModel":
        raise StyleBlendError(f"{path.parent} is no ControlNet, but a {printable(kind[:60])}: give the folder "
                              "of one of Stable Diffusion 2.x")
    if family:
        raise StyleBlendError(f"{path.parent} is a ControlNet of {family} (its text is {width} wide, that of this base "
                              f"{mine}): use one of Stable Diffusion 2.x")
