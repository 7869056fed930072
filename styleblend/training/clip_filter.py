"""Keep the look-alikes that are nearest to their style picture in CLIP's eyes."""
from __future__ import annotations

from pathlib import Path
from typing import Generator, List, Optional

import numpy as np

from styleblend.files.base_folder import weight_file
from styleblend.files.captions import StylePicture
from styleblend.models.configs import ClipVisionConfig, read_config
from styleblend.errors import StyleBlendError
from styleblend.files.hub import fetch
from styleblend.metrics.preprocessing import Preprocessing
from styleblend.models.clip_vision import DEVIATION, MEAN, CLIPVisionModel
from styleblend.files.pictures import load_picture, padded
from styleblend.machine.runtime import jt, say
from styleblend.settings import LookAlikeSettings, PictureSettings
from styleblend.base.weights import load
from styleblend.files.tensor_files import read_safetensors
from styleblend.training.work import WorkDone

FILES = ("config.json", "model.safetensors")
SETTING = "training.look_alikes.clip"


def find_clip(settings: LookAlikeSettings) -> Optional[Path]:
    """The CLIP folder that the settings name, or that their hub id fetches.

    None: nothing is to be filtered, or no CLIP is set, which is said.

    StyleBlendError when one is set and cannot be had: what is asked for is not skipped.
    """
    if settings.chosen >= settings.candidates:
        return None
    if not settings.clip and not settings.clip_id:
        say(f"look-alikes: no CLIP weights are set ({SETTING}), so all candidates are kept, good and bad")
        return None
    folder, tried = Path(settings.clip or ""), [settings.clip] if settings.clip else []
    if settings.clip_id and not (settings.clip and folder.is_dir()):
        try:
            folder = fetch(settings.clip_id, FILES)
        except StyleBlendError as error:
            tried.append(str(error))
    if not (folder / "config.json").is_file() or not any(folder.glob("model*.safetensors")):
        raise StyleBlendError(f"no CLIP for the look-alikes (tried {', '.join(tried)}): "
                              "name a folder with openai/clip-vit-large-patch14 in "
                              f"{SETTING}, or take that setting out to keep all")
    return folder


def load_clip(folder: Path) -> CLIPVisionModel:
    """The image tower of a CLIP folder (config.json and model.safetensors; the text tower is left out)."""
    network = CLIPVisionModel(read_config(ClipVisionConfig, Path(folder) / "config.json", "vision_config"))
    path = weight_file(Path(folder), ("model",))
    tensors = {k: t for k, t in read_safetensors(path).items()
               if k.startswith("vision_model.") and not k.endswith("position_ids")}
    load(network, tensors, str(path))
    return network


def prepared(path: Path, size: int, reading: PictureSettings = PictureSettings()) -> np.ndarray:
    """(3, size, size) of a picture as CLIP's own processor makes it.

    Where style pictures are padded for the training, with the same white around the whole.
    """
    picture = load_picture(path, reading.max_pixels)
    if reading.fit == "pad":
        picture = padded(picture, max(picture.size), max(picture.size))
    return Preprocessing(size, size, mean=MEAN, deviation=DEVIATION)(picture)


def patch_features(clip: CLIPVisionModel, path: Path, reading: PictureSettings = PictureSettings()) -> np.ndarray:
    """All patch tokens of a picture as one vector of length 1; the class token is left out."""
    with jt.no_grad():
        tokens = clip(jt.array(prepared(path, clip.config.image_size, reading)[None])).numpy()[0, 1:].reshape(-1)
    return tokens / np.linalg.norm(tokens)


def nearest_look_alikes(pictures: List[StylePicture], files: List[List[Path]], keep: int, folder: Path,
                        reading: PictureSettings = PictureSettings()
                        ) -> Generator[WorkDone, None, List[List[Path]]]:
    """Choose for each picture the `keep` files with the largest cosine similarity, by the CLIP in `folder`."""
    clip, kept = load_clip(folder), []
    for picture, candidates in zip(pictures, files):
        yield WorkDone("choosing look-alikes", len(kept), len(pictures), "picture")
        wanted = patch_features(clip, picture.path, reading)
        likeness = [float(patch_features(clip, path, reading) @ wanted) for path in candidates]
        kept.append([candidates[i] for i in np.argsort(likeness)[::-1][:keep]])
    yield WorkDone("choosing look-alikes", len(kept), len(pictures), "picture")
    return kept
