"""Depth of any picture, for ControlNets: Depth Anything V2 or DPT-hybrid, from a folder as transformers saves it."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Tuple

import numpy as np
from PIL import Image

from styleblend.base.weights import load
from styleblend.errors import StyleBlendError, printable
from styleblend.files.depth_maps import from_depth
from styleblend.files.hub import folder_of
from styleblend.files.tensor_files import read_safetensors
from styleblend.machine.runtime import jt
from styleblend.models.configs import read_config, read_object
from styleblend.models.depth_anything import DepthAnythingForDepthEstimation
from styleblend.models.depth_configs import read_depth_anything, read_dpt
from styleblend.models.dpt import DPTForDepthEstimation
from styleblend.models.resampling import cubic_matrix

PUBLISHED = ("depth-anything/Depth-Anything-V2-Small-hf", "Intel/dpt-hybrid-midas")
FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
CONTENTS = "config.json, preprocessor_config.json and model.safetensors"
ADVICE = "Download the whole folder again"
MAX_SIDE = 4096
LONGEST = 8  # times the short side: the longer, the more memory and the less sense


@dataclass(frozen=True)
class Size:
    """What a picture is resized to before a network reads it."""

    height: int = 384
    width: int = 384

    family = "depth estimator"
    file_defaults: Any = None
    accepted = {}


@dataclass(frozen=True)
class Preprocessing:
    """How a network wants its pictures: the fields of a preprocessor_config.json, and their defaults."""

    do_resize: bool = True
    do_rescale: bool = True
    do_normalize: bool = True
    do_pad: bool = False
    resample: int = 3
    rescale_factor: float = 1 / 255
    image_mean: tuple = (0.5, 0.5, 0.5)
    image_std: tuple = (0.5, 0.5, 0.5)
    keep_aspect_ratio: bool = False
    ensure_multiple_of: int = 1

    family = "depth estimator"
    file_defaults: Any = None
    accepted = {"do_resize": (True,), "do_rescale": (True,), "do_normalize": (True,), "do_pad": (False,),
                "resample": (1, 2, 3), "rescale_factor": (1 / 255,)}

    def size(self, width: int, height: int, wanted: Size) -> Tuple[int, int]:
        """(width, height) for a picture of this size.

        With its proportions kept, the side counts that has to change less. Halves are rounded to even multiples.
        """
        across, down = wanted.width / width, wanted.height / height
        if self.keep_aspect_ratio:
            across = down = across if abs(1 - across) < abs(1 - down) else down
        step = self.ensure_multiple_of
        return tuple(max(step, round(scale * side / step) * step) for scale, side in ((across, width), (down, height)))


# of the published networks, for a folder without a preprocessor_config.json
OWN = {"depth_anything": Preprocessing(image_mean=(0.485, 0.456, 0.406), image_std=(0.229, 0.224, 0.225),
                                       keep_aspect_ratio=True, ensure_multiple_of=14),
       "dpt": Preprocessing()}


class DepthEstimator:
    """Pictures to their depth, near large and far small, in no unit."""

    def __init__(self, network, preprocessing: Preprocessing, wanted: Size):
        self.network, self.preprocessing, self.wanted = network, preprocessing, wanted

    def prepared(self, picture: Image.Image) -> np.ndarray:
        """(3, H, W) float32, as the network reads it."""
        asked = self.preprocessing
        if max(picture.size) > LONGEST * min(picture.size):
            raise StyleBlendError(f"a picture of {picture.width} x {picture.height} is too long for its depth to be "
                                  f"estimated: crop it to at most {LONGEST} times its short side")
        size = asked.size(*picture.size, self.wanted)
        picture = picture.convert("RGB").resize(size, Image.Resampling(asked.resample))
        pixels = np.asarray(picture, np.float32) * np.float32(asked.rescale_factor)
        return ((pixels - np.float32(asked.image_mean)) / np.float32(asked.image_std)).transpose(2, 0, 1)

    def depth(self, picture: Image.Image) -> np.ndarray:
        """(height, width) float32, of the size of the picture."""
        with jt.no_grad():
            found = self.network(jt.array(self.prepared(picture)[None])).numpy()[0]
        jt.gc()
        height, width = found.shape
        return cubic_matrix(picture.height, height) @ found @ cubic_matrix(picture.width, width).T

    def control_picture(self, picture: Image.Image) -> np.ndarray:
        """uint8 (height, width, 3): the depth from black (far) to white (near), what ControlNets for depth read."""
        return from_depth(self.depth(picture))


def load_depth_estimator(name: str) -> DepthEstimator:
    """The estimator in a folder, or of the hub by its id. StyleBlendError for what is none, or is not whole."""
    folder = folder_of(str(name), FILES, CONTENTS)
    path, weights = folder / "config.json", folder / "model.safetensors"
    for file in (path, weights):
        if not file.is_file():
            raise StyleBlendError(f"{file} is missing: name a depth estimator by --depth-estimator or in the config "
                                  "(depth_estimator), a folder with config.json and model.safetensors, such as that of "
                                  f"{' or '.join(PUBLISHED)}, or its hub id")
    kind = str(read_object(path).get("model_type"))
    if kind == "depth_anything":
        network = DepthAnythingForDepthEstimation(*read_depth_anything(path))
    elif kind == "dpt":
        network = DPTForDepthEstimation(*read_dpt(path))
    else:
        raise StyleBlendError(f"{folder} is no depth estimator that is known here (its model_type is "
                              f"{printable(kind[:60])}): use {' or '.join(PUBLISHED)}")
    preprocessing, wanted = read_preprocessing(folder, kind, network)
    tensors = read_safetensors(weights)
    tensors.pop("backbone.embeddings.mask_token", None)  # is for the training of DINOv2
    load(network, tensors, str(weights), advice=ADVICE)
    return DepthEstimator(network, preprocessing, wanted)


def read_preprocessing(folder: Path, kind: str, network) -> Tuple[Preprocessing, Size]:
    """What preprocessor_config.json says, or, without it, what the published one does."""
    path = folder / "preprocessor_config.json"
    side = network.config.image_size if kind == "dpt" else None
    if not path.is_file():
        return OWN[kind], Size(side, side) if side else Size(518, 518)
    data = read_object(path)
    reader = str(data.get("image_processor_type") or data.get("feature_extractor_type") or "DPT")
    if not reader.startswith("DPT"):
        raise StyleBlendError(f"{path} is for a {printable(reader[:60])}, and only a DPTImageProcessor is known here: "
                              "download it again")
    asked, wanted = read_config(Preprocessing, path), read_size(path)
    if len(asked.image_mean) != 3 or len(asked.image_std) != 3:
        raise StyleBlendError(f"{path}: image_mean and image_std are not of three colours: download it again")
    if side and (asked.size(3, 2, wanted) != (side, side) or asked.keep_aspect_ratio):
        raise StyleBlendError(f"{path} asks for pictures of another size than {side} x {side}, which is all that "
                              "this network reads: download it again")
    patch = network.config.patch_size
    sides = (asked.ensure_multiple_of,) if asked.keep_aspect_ratio else asked.size(3, 2, wanted)
    if any(length % patch for length in sides):
        raise StyleBlendError(f"{path} asks for pictures that are not cut into patches of {patch} pixels: "
                              "download it again")
    return asked, wanted


def read_size(path: Path) -> Size:
    """The `size` of a preprocessor_config.json: height and width, or, in old files, one number for both."""
    size = read_object(path).get("size")
    if type(size) is int and 0 < size <= MAX_SIDE:
        return Size(size, size)
    if not isinstance(size, dict) or not {"height", "width"} <= set(size):
        raise StyleBlendError(f"{path}: size has no height and width: download it again")
    found = read_config(Size, path, "size")
    if max(found.height, found.width) > MAX_SIDE:
        raise StyleBlendError(f"{path}: size is {found.height} x {found.width}, and no depth estimator reads more than "
                              f"{MAX_SIDE} pixels a side: download it again")
    return found
