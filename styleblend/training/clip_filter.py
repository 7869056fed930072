"""Keep the look-alikes that are nearest to their style picture in CLIP's eyes."""
from __future__ import annotations

import sys
from pathlib import Path
from typing import List

import numpy as np

from styleblend.base import weight_file
from styleblend.captions import StylePicture
from styleblend.config import ClipVisionConfig, read_config
from styleblend.models.clip_vision import DEVIATION, MEAN, CLIPVisionModel
from styleblend.pictures import load_picture, to_array
from styleblend.runtime import jt
from styleblend.settings import LookAlikeSettings, PictureSettings
from styleblend.weights import load, read_safetensors


def load_clip(folder: Path) -> CLIPVisionModel:
    """The image tower of a CLIP folder (config.json and model.safetensors; the text tower is left out)."""
    network = CLIPVisionModel(read_config(ClipVisionConfig, Path(folder) / "config.json", "vision_config"))
    path = weight_file(Path(folder), ("model",))
    tensors = {k: t for k, t in read_safetensors(path).items() if k.startswith("vision_model.") and not k.endswith("position_ids")}
    load(network, tensors, str(path))
    return network


def patch_features(clip: CLIPVisionModel, path: Path, reading: PictureSettings = PictureSettings()) -> np.ndarray:
    """All patch tokens of a picture as one vector of length 1; the class token is left out."""
    size = clip.config.image_size
    pixels = (to_array(load_picture(path, reading.max_pixels), size, size, reading.fit) + 1) / 2
    pixels = (pixels - np.reshape(MEAN, (3, 1, 1))) / np.reshape(DEVIATION, (3, 1, 1))
    with jt.no_grad():
        tokens = clip(jt.array(pixels[None].astype(np.float32))).numpy()[0, 1:].reshape(-1)
    return tokens / np.linalg.norm(tokens)


def nearest_look_alikes(pictures: List[StylePicture], files: List[List[Path]], settings: LookAlikeSettings,
                        reading: PictureSettings = PictureSettings()) -> List[List[Path]]:
    """For each picture the `keep` files with the largest cosine similarity; without CLIP weights all of them, and a remark."""
    if settings.keep >= settings.candidates:
        return files
    if not settings.clip:
        print("look-alikes: no CLIP weights are set (training.look_alikes.clip), so all candidates are kept, good and bad", file=sys.stderr)
        return files
    clip = load_clip(Path(settings.clip))
    kept = []
    for picture, candidates in zip(pictures, files):
        wanted = patch_features(clip, picture.path, reading)
        likeness = [float(patch_features(clip, path) @ wanted) for path in candidates]
        kept.append([candidates[i] for i in np.argsort(likeness)[::-1][:settings.keep]])
    return kept
