"""What is named as a base and is none: a checkpoint in one file, a LoRA, a file of a base, the folder above it."""
from __future__ import annotations

import re
from pathlib import Path
from typing import Sequence

from styleblend.errors import StyleBlendError, printable
from styleblend.files import content

SINGLE = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")  # how files end that are taken for a base
NETWORK = re.compile(r"(text_model\.|encoder\.|decoder\.)?(conv_in|final_layer_norm|encoder\.conv_in)\.weight"
                     r"|embeddings\.token_embedding\.weight")
TEXT_READER = re.compile(r".*input_blocks\.\d+\.1\.transformer_blocks\.0\.attn2\.to_k\.weight")
MODELS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}  # by what that reads


def diffusers_folder(copy: str) -> str:
    """What is wanted, and how it is got."""
    return f"a base is a diffusers folder: hf download {copy} --local-dir FOLDER"


def kind_of_weights(path: Path) -> str:
    """What a safetensors file is that is named as a base, with its article."""
    from styleblend.files import tensor_files  # needs packages, and the doctor imports this file without any
    names = tensor_files.read_names(path)
    if any("lora" in name.lower() or name.endswith(".alpha") for name in names):
        return "a LoRA"
    reader = next((name for name in names if TEXT_READER.fullmatch(name)), None)
    if reader or any(name.startswith(("model.diffusion_model.", "first_stage_model.")) for name in names):
        width = tensor_files.read_shapes(path, [reader])[reader][-1] if reader else 0
        return f"{MODELS.get(width, 'a checkpoint')} in one file"
    if any(NETWORK.fullmatch(name) for name in names):
        return "one network of a base"
    return f"a file of tensors ({printable(names[0], 40) if names else 'none'})"


def refuse_file(path: Path, copy: str) -> None:
    """StyleBlendError for a file that is named as a base, or for what would be one. `copy`: a base on the hub."""
    if not path.is_file():
        if path.suffix.lower() in SINGLE and not path.exists():
            raise StyleBlendError(f"{path} is not there, and would be a file: {diffusers_folder(copy)}")
        return
    if any((folder / "model_index.json").is_file() for folder in (path.parent, path.parent.parent)):
        folder = path.parent if (path.parent / "model_index.json").is_file() else path.parent.parent
        raise StyleBlendError(f"{path} is a file of a base: name its folder, {folder}")
    kind = content.kind_of(path)
    if kind == content.SAFETENSORS:
        what = kind_of_weights(path)
        if what == "a LoRA":
            raise StyleBlendError(f"{path} is a LoRA and no base: take it with styleblend load, and "
                                  "leave `base` as it is")
    elif kind:
        what = "a PyTorch checkpoint in one file"
    else:
        found = content.other(path)
        what = found.what if found else "a file"
    convert = " (diffusers' from_single_file converts it)" if what == f"{MODELS[1024]} in one file" else ""
    raise StyleBlendError(f"{path} is {what}; {diffusers_folder(copy)}{convert}")


def bases_below(folder: Path) -> Sequence[Path]:
    """Bases in the folders of a folder, and in the cache of a hub."""
    return sorted(index.parent for pattern in ("*", "snapshots/*")
                  for index in folder.glob(f"{pattern}/model_index.json"))


def refuse_other_folder(folder: Path, copy: str) -> None:
    """StyleBlendError for a folder beside that of a base, and for one that holds a checkpoint in one file."""
    if (folder / "model_index.json").is_file() or (folder / "unet").is_dir():
        return
    below = bases_below(folder)
    if below:
        raise StyleBlendError(f"{folder} is no base, and {below[0]} is one: name that")
    if (folder / "config.json").is_file() and (folder.parent / "model_index.json").is_file():
        raise StyleBlendError(f"{folder} is one network of a base: name the whole folder, {folder.parent}")
    single = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in SINGLE)
    if single:
        refuse_file(single[0], copy)
