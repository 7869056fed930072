"""A trained style for other programs: diffusers, kohya's names (ComfyUI, A1111), or everything in one file.

What leaves this project is an ordinary LoRA and two embeddings. The exchange between the two branches is no weight and stays behind.
"""
from __future__ import annotations

from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np

from styleblend import weights
from styleblend.errors import StyleBlendError
from styleblend.formats import PREFIXES, embedding, pairs, to_diffusers_text, to_diffusers_unet
from styleblend.style import PARTS, part_file, read_part_file, settings_in

LOSS = ("written as an ordinary LoRA and two embeddings: both parts act on one picture at once, without the exchange of attention between "
        "two branches, so pictures differ from those that are drawn here")


def lora_of(tensors: dict, network: str, source: str) -> Dict[str, np.ndarray]:
    """One network's part of a LoRA with dotted names, under the keys of `styleblend.lora`; the base is not needed for it."""
    def ours(layer: str, key: str) -> str:
        if "." not in layer or ".processor." in layer:
            raise StyleBlendError(f"{source}: its names are not those of a trained style of this project: nothing to export")
        return f"text_model.{layer}" if network == "text" and not layer.startswith("text_model.") else layer

    return pairs(tensors, network, source, ours)


def read_style(folder: Path) -> Tuple[Dict[str, dict], Dict[str, np.ndarray]]:
    """The LoRAs {"unet" | "text": tensors} and the embeddings {"coarse" | "fine": (1, width)} of a style's folder."""
    folder = Path(folder)
    files = {part: part_file(folder, folder.name, part) for part in PARTS}
    if not any(files.values()):
        raise StyleBlendError(f"{folder} holds no trained style ({folder.name}_unet_lora.safetensors and the like): name a folder such as checkpoints/mini/styles/fxemoji")
    tensors = {part: read_part_file(path, part, folder.name) for part, path in files.items() if path}
    loras = {network: lora_of(tensors[part], network, str(files[part])) for network, part in (("unet", "unet_lora"), ("text", "text_lora")) if part in tensors}
    vectors = {}
    for kind in ("coarse", "fine"):
        part = f"{kind}_embeds"
        if part in tensors:
            width = next((v.shape[-1] for v in tensors[part].values() if isinstance(v, np.ndarray) and v.ndim), 0)
            vectors[kind] = embedding(tensors[part], width, str(files[part]))[1]
    return loras, vectors


def base_of(folder: Path) -> Dict[str, str]:
    """The fingerprint of the base that a style was trained on, where its files say one."""
    files = [path for path in (part_file(folder, folder.name, part) for part in PARTS) if path and path.suffix == ".safetensors"]
    return next(({"base": known["base"]} for known in map(weights.read_metadata, files) if "base" in known), {})


def kohya(loras: Dict[str, dict], strengths: Dict[str, float]) -> Dict[str, np.ndarray]:
    """kohya's names; the strength is in alpha, where these programs look for it."""
    found = {}
    for network, tensors in loras.items():
        for key, value in tensors.items():
            layer, end = key.replace(".lora.", "|").split("|")
            name = PREFIXES[network][1] + layer.replace(".", "_")
            found[f"{name}.lora_{end}"] = value
            if end == "down.weight":
                found[f"{name}.alpha"] = np.array(value.shape[0] * strengths[network], np.float32)
    return found


def diffusers(loras: Dict[str, dict], strengths: Dict[str, float]) -> Dict[str, np.ndarray]:
    """The names that diffusers saves; the strength is in the up matrices."""
    found = {}
    for network, tensors in loras.items():
        name = {"unet": to_diffusers_unet, "text": to_diffusers_text}[network]
        found.update(name({key: value * np.float32(strengths[network]) if key.endswith(".up.weight") else value for key, value in tensors.items()}))
    return found


def export(folder: Path, kind: str, output: Path, coarse_strength: float = 1.0, fine_strength: float = 1.0) -> List[Path]:
    """Write the style of `folder` into the folder `output`; the files. `kind`: "diffusers", "kohya", "webui" or "single"."""
    folder, output = Path(folder), Path(output)
    loras, vectors = read_style(folder)
    name, strengths = folder.name, {"text": coarse_strength, "unet": fine_strength}
    rank = next((v.shape[0] for tensors in loras.values() for key, v in tensors.items() if key.endswith(".down.weight")), 0)
    title = {"modelspec.title": name, "modelspec.trigger_phrase": f"in the style of {name}-fine"}
    written, known_base = [], base_of(folder)

    def write(file: str, tensors, metadata):
        weights.write_safetensors(output / file, tensors, {**metadata, **known_base})
        written.append(output / file)

    if kind == "single":
        tokens = {"coarse": "<C>", "fine": "<F>"}
        write(f"{name}.safetensors", {**diffusers(loras, strengths), **{f"emb.{tokens[k]}": v for k, v in vectors.items()}},
              {"styleblend": "1", "style": name, "settings": settings_in(folder, name).model_dump_json(exclude_defaults=True)})
    elif kind == "diffusers":
        write("pytorch_lora_weights.safetensors", diffusers(loras, strengths), {})
        for part, vector in vectors.items():
            write(f"{part}_learned_embeds.safetensors", {f"<{name}-{part}>": vector}, {})
    else:  # the same files; A1111 takes LoRAs and embeddings from two folders
        write(f"Lora/{name}.safetensors" if kind == "webui" else f"{name}.safetensors", kohya(loras, strengths),
              {"ss_network_module": "networks.lora", "ss_network_dim": str(rank), "ss_network_alpha": str(rank), "ss_output_name": name, "ss_v2": "True", **title})
        for part, vector in vectors.items():
            write(f"embeddings/{name}-{part}.safetensors" if kind == "webui" else f"{name}-{part}.safetensors", {"emb_params": vector}, {})
    return written
