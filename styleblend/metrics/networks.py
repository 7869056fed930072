"""The folder with the weights of the measuring networks, and the networks out of it, each loaded once."""
from __future__ import annotations

from pathlib import Path
from typing import Optional

# need -> (folder, what to put there)
SOURCES = {
    "clip": ("clip", "openai/clip-vit-large-patch14 (or -base-patch32): config.json, model.safetensors, vocab.json, merges.txt"),
    "clip_resnet": ("clip-rn50", "CLIP RN50 as open_clip's model.safetensors, and CLIP's vocab.json and merges.txt"),
    "dino": ("dino", "facebook/dino-vitb8: config.json and model.safetensors"),
    "dinov2": ("dinov2", "facebook/dinov2-base: config.json and model.safetensors"),
    "lpips": ("lpips", "SqueezeNet 1.1 of torchvision (squeezenet1_1*.pth) and the linear heads of LPIPS v0.1 (squeeze.pth), or both as .safetensors"),
    "inception": ("inception", "the Inception of FID (pt_inception-2015-12-05*.pth), or the same as .safetensors"),
    "words": ("words.txt", "the words among which CLIP-R chooses, one a line"),
}


class Networks:
    """The networks of one folder. A network is an attribute named as in SOURCES."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def missing(self, need: str) -> Optional[str]:
        """What to put where when a source is not there; else None."""
        name, contents = SOURCES[need]
        return None if (self.folder / name).exists() else f"{self.folder / name} is missing, which holds {contents}"
