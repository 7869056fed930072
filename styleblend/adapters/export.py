"""A trained style for other programs: diffusers, kohya's names (ComfyUI, A1111), the original ones, or all in one file.

What leaves this project is an ordinary LoRA and two embeddings. The exchange between the two branches is no weight and
stays behind.
"""
from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import numpy as np
from safetensors.numpy import save

from styleblend.files import tensor_files
from styleblend.adapters.foreign_files import refuse_damaged
from styleblend.models.configs import ScheduleConfig, UNetConfig, VaeConfig, read_config
from styleblend.errors import StyleBlendError
from styleblend.files.claims import in_turn
from styleblend.files.output_files import refuse_taken, refuse_unwritable
from styleblend.adapters.formats import PREFIXES, embedding, pairs, to_diffusers_text, to_diffusers_unet, with_model
from styleblend.adapters.original_names import TEXT_START, UNET_START, original_names
from styleblend.settings import BlendSettings, StyleSettings, blend_for
from styleblend.adapters.parts import PARTS, STYLEBLEND, part_named, part_of_stages, part_of_tokens
from styleblend.adapters.stage_tokens import named_rows, stage_vectors
from styleblend.adapters.style_files import missing_part, part_file, read_part_file, settings_in

Files = Dict[str, Tuple[Dict[str, np.ndarray], Dict[str, str]]]  # name of a file -> its tensors, its metadata
LOSS = ("written as an ordinary LoRA and two embeddings: both act on one picture at once, without the exchange of "
        "attention between two branches, so pictures differ from those that are drawn here")


def lora_of(tensors: dict, network: str, source: str) -> Dict[str, np.ndarray]:
    """One network's part of a LoRA with dotted names, under the keys of `styleblend.adapters.lora`.

    The base is not needed for it.
    """
    def ours(layer: str, key: str) -> str:
        if "." not in layer or ".processor." in layer:
            raise StyleBlendError(f"{source}: its names are not those of a trained style of this project: "
                                  "nothing to export")
        return f"text_model.{layer}" if network == "text" and not layer.startswith("text_model.") else layer

    return pairs(tensors, network, source, ours)


def read_style(folder: Path) -> Tuple[Dict[str, dict], Dict[str, np.ndarray]]:
    """The LoRAs {"unet" | "text": tensors} and the embeddings {"coarse" | "fine": (1, width)} of a style's folder."""
    folder = Path(folder)
    files = {part: part_file(folder, folder.name, part) for part in STYLEBLEND}
    if not any(files.values()):
        raise StyleBlendError(f"{folder} holds no trained style ({folder.name}_unet_lora.safetensors and the like): "
                              "name a folder such as checkpoints/mini/styles/fxemoji")
    tensors = {part: read_part_file(path, part, folder.name) for part, path in files.items() if path}
    loras, vectors = {}, {}
    for network, part in (("unet", "unet_lora"), ("text", "text_lora")):
        if part in tensors:
            loras[network] = lora_of(tensors[part], network, str(files[part]))
            refuse_damaged(loras[network], str(files[part]))
    for kind in ("coarse", "fine"):
        part = f"{kind}_embeds"
        if part in tensors:
            width = next((v.shape[-1] for v in tensors[part].values() if isinstance(v, np.ndarray) and v.ndim), 0)
            vectors[kind] = embedding(tensors[part], width, str(files[part]))[1]
            refuse_damaged({"its vector": vectors[kind]}, str(files[part]))
    return loras, vectors


def base_of(folder: Path) -> Dict[str, str]:
    """The fingerprint of the base that a style was trained on, where its files say one."""
    parts = PARTS[settings_in(folder, folder.name).method]
    files = [path for path in (part_file(folder, folder.name, part) for part in parts) if path]
    return next(({"base": known["base"]} for known in map(tensor_files.read_metadata, files) if "base" in known), {})


def kohya_name(network: str, layers: List[str]) -> Dict[str, str]:
    """kohya's name of each layer."""
    return {layer: PREFIXES[network][1] + layer.replace(".", "_") for layer in layers}


def ldm_name(network: str, layers: List[str]) -> Dict[str, str]:
    """The original name of each layer, as the original's whole checkpoints have it."""
    start = {"unet": UNET_START, "text": TEXT_START}[network]
    return {layer: start + name for layer, name in original_names(layers, network).items()}


def with_alphas(loras: Dict[str, dict], strengths: Dict[str, float], named) -> Dict[str, np.ndarray]:
    """kohya's endings behind names of `named`; the strength is in alpha, where these programs look for it."""
    found = {}
    for network, tensors in loras.items():
        names = named(network, [key.split(".lora.")[0] for key in tensors])
        for key, value in tensors.items():
            layer, end = key.split(".lora.")
            found[f"{names[layer]}.lora_{end}"] = value
            if end == "down.weight":
                found[f"{names[layer]}.alpha"] = np.array(value.shape[0] * strengths[network], np.float32)
    return found


def diffusers(loras: Dict[str, dict], strengths: Dict[str, float]) -> Dict[str, np.ndarray]:
    """The names that diffusers saves; the strength is in the up matrices."""
    found = {}
    for network, tensors in loras.items():
        name = {"unet": to_diffusers_unet, "text": to_diffusers_text}[network]
        found.update(name({key: value * np.float32(strengths[network]) if key.endswith(".up.weight") else value
                           for key, value in tensors.items()}))
    return found


def own_settings(folder: Path) -> StyleSettings:
    """What the style says of itself."""
    folder = Path(os.path.abspath(folder))
    return settings_in(folder, folder.name)


def own_blend(folder: Path) -> BlendSettings:
    """How the style's own settings draw it."""
    return blend_for(BlendSettings(), own_settings(folder), str(folder))


def one_or_dynamic(values) -> str:
    """kohya's word for a network whose layers differ."""
    found = sorted(set(values))
    return f"{found[0]:g}" if len(found) == 1 else "Dynamic"


def model_facts(base: Optional[Path], vectors: Dict[str, np.ndarray], adapter: str) -> Dict[str, str]:
    """Stability's model specification as kohya writes it, of a base whose folder is known.

    `adapter`: "lora" or "textual-inversion".
    """
    if base is None:
        return {}
    unet = read_config(UNetConfig, Path(base) / "unet/config.json")
    vae = read_config(VaeConfig, Path(base) / "vae/config.json")
    schedule = read_config(ScheduleConfig, Path(base) / "scheduler/scheduler_config.json")
    other = next((v.shape[-1] for v in vectors.values() if v.shape[-1] != unet.cross_attention_dim), None)
    if other:
        raise StyleBlendError(f"{base} has the text width {with_model(unet.cross_attention_dim)}, "
                              f"and the style {with_model(other)}: name the config of the base that it was trained on")
    v, size = schedule.prediction_type == "v_prediction", unet.sample_size * vae.downscale
    facts = {"modelspec.sai_model_spec": "1.0.0", "modelspec.implementation": "diffusers",
             "modelspec.resolution": f"{size}x{size}", "modelspec.prediction_type": "v" if v else "epsilon"}
    if unet.cross_attention_dim == 1024:  # the mini base has no name in that specification
        facts["modelspec.architecture"] = f"stable-diffusion-v2-{'768-v' if v else '512'}/{adapter}"
    return facts


def kohya_facts(name: str, tensors: Dict[str, np.ndarray], facts: Dict[str, str], width: int) -> Dict[str, str]:
    """The header of a LoRA as kohya's scripts write it; `facts`: `model_facts`."""
    ranks = [value.shape[0] for key, value in tensors.items() if key.endswith(".lora_down.weight")]
    alphas = [float(value) for key, value in tensors.items() if key.endswith(".alpha")]
    found = {"ss_network_module": "networks.lora", "ss_output_name": name, "ss_v2": "True",
             "ss_network_dim": one_or_dynamic(ranks), "ss_network_alpha": one_or_dynamic(alphas)}
    if width == 1024:
        found["ss_base_model_version"] = "sd_v2_v" if facts.get("modelspec.prediction_type") == "v" else "sd_v2"
    # both of a file with these fields alone: of all that follows the header, and of 64 KiB from the first MiB on
    data = save(tensors, found)
    found["sshs_model_hash"] = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little"):]).hexdigest()
    found["sshs_legacy_hash"] = hashlib.sha256(data[1 << 20:(1 << 20) + (1 << 16)]).hexdigest()[:8]
    return found


def in_one_file(folder: Path, loras: Dict[str, np.ndarray], vectors: Dict[str, np.ndarray]) -> Files:
    """The whole style in one file of diffusers' names, with its settings. `vectors`: by their tokens."""
    settings = settings_in(folder, folder.name).model_dump_json(exclude_defaults=True)
    return {f"{folder.name}.safetensors": ({**loras, **{f"emb.{token}": vector for token, vector in vectors.items()}},
                                           {"styleblend": "1", "style": folder.name, "settings": settings})}


def for_diffusers(name: str, loras: Dict[str, dict], vectors: Dict[str, np.ndarray],
                  strengths: Dict[str, float]) -> Files:
    """What `load_lora_weights` and `load_textual_inversion` of diffusers read."""
    # in lower case: of a token with capital letters diffusers finds the first vector alone
    return {"pytorch_lora_weights.safetensors": (diffusers(loras, strengths), {}),
            **for_diffusers_vectors(name, vectors)}


def for_diffusers_vectors(name: str, vectors: Dict[str, np.ndarray]) -> Files:
    """The embeddings, one a file, for `load_textual_inversion`."""
    return {f"{part}_learned_embeds.safetensors": ({f"<{name.lower()}-{part.lower()}>": vector}, {})
            for part, vector in vectors.items()}


def for_kohya(name: str, loras: Dict[str, dict], vectors: Dict[str, np.ndarray], strengths: Dict[str, float],
              base: Optional[Path], lora_folder: str = "", embeddings_folder: str = "") -> Files:
    """kohya's names with kohya's headers; A1111 takes LoRAs and embeddings from two folders."""
    tensors, facts = with_alphas(loras, strengths, kohya_name), model_facts(base, vectors, "lora")
    header = kohya_facts(name, tensors, facts, next((v.shape[-1] for v in vectors.values()), 0))
    return {f"{lora_folder}{name}.safetensors": (tensors, {**header, **facts, **title(name)}),
            **kohya_embeddings(f"{embeddings_folder}{name}", vectors, base)}


def kohya_embeddings(start: str, vectors: Dict[str, np.ndarray], base: Optional[Path]) -> Files:
    """The embeddings as kohya's scripts save them; `start`: how the names of the files begin."""
    facts = model_facts(base, vectors, "textual-inversion")
    return {f"{start}-{part}.safetensors": ({"emb_params": vector}, facts) for part, vector in vectors.items()}


def title(name: str) -> Dict[str, str]:
    """What to call a style, and what to write into a prompt."""
    return {"modelspec.title": name, "modelspec.trigger_phrase": f"in the style of {name}-fine"}


def for_ldm(name: str, loras: Dict[str, dict], vectors: Dict[str, np.ndarray], strengths: Dict[str, float],
            base: Optional[Path]) -> Files:
    """The original names: LDM's for the UNet, OpenCLIP's for the text encoder, with q, k and v apart."""
    return {f"{name}.safetensors": (with_alphas(loras, strengths, ldm_name),
                                    {**model_facts(base, vectors, "lora"), **title(name)}),
            **kohya_embeddings(name, vectors, base)}


def of_stages(folder: Path, kind: str, base: Optional[Path]) -> Files:
    """A style of stages: an embedding for each of them, or in "single" upstream's one file with all of them."""
    name, rows = folder.name, stage_rows(folder)
    if kind == "single":
        return {f"{name}.safetensors": (named_rows(name, rows), {})}
    found = {f"T{stage}": row[None] for stage, row in enumerate(rows)}
    if kind == "diffusers":
        return for_diffusers_vectors(name, found)
    return kohya_embeddings(f"embeddings/{name}" if kind == "webui" else name, found, base)


def stage_rows(folder: Path) -> List[np.ndarray]:
    """The vectors (width,) of the stages of a style in `folder`, from 0 on."""
    part = part_of_stages(own_settings(folder).method)
    path = part_file(folder, folder.name, part)
    if path is None:
        raise missing_part(folder, folder.name, part)
    tensors = read_part_file(path, part, folder.name)
    width = next((value.shape[-1] for value in tensors.values() if isinstance(value, np.ndarray) and value.ndim), 0)
    rows = stage_vectors(tensors, width, str(path))
    refuse_damaged(rows, str(path))
    return list(rows.values())


def has_stages(folder: Path) -> bool:
    """Whether the style in `folder` is one of embeddings by stage."""
    return bool(part_of_stages(own_settings(folder).method))


def is_embedding(folder: Path) -> bool:
    """Whether the style in `folder` is made of embeddings alone: of one, or of one by stage."""
    return has_stages(folder) or bool(part_of_tokens(own_settings(folder).method))


def of_tokens(folder: Path, kind: str, base: Optional[Path]) -> Files:
    """A style that is one word: an embedding with all of its vectors."""
    name, part = folder.name, part_of_tokens(own_settings(folder).method)
    path = part_file(folder, name, part)
    if path is None:
        raise missing_part(folder, name, part)
    tensors = read_part_file(path, part, name)
    width = next((value.shape[-1] for value in tensors.values() if isinstance(value, np.ndarray) and value.ndim), 0)
    vectors = embedding(tensors, width, str(path))[1]
    refuse_damaged({"its vectors": vectors}, str(path))
    if kind == "single":
        return in_one_file(folder, {}, {part_named(part).token: vectors})
    if kind == "diffusers":
        return {f"{name}_learned_embeds.safetensors": ({f"<{name.lower()}>": vectors}, {})}
    facts = model_facts(base, {name: vectors}, "textual-inversion")
    return {f"{'embeddings/' if kind == 'webui' else ''}{name}.safetensors": ({"emb_params": vectors}, facts)}


def stages_in(folder: Path) -> int:
    """How many stages the style in `folder` has."""
    return len(stage_rows(Path(os.path.abspath(folder))))


def prompt_editing(name: str, stages: int) -> str:
    """What stands in A1111's prompt for a style of stages: the tokens in the steps of their stages.

    A drawing begins in the last stage; `[a:b:0.5]` goes from a to b at half of the steps.
    """
    found = f"{name}-T{stages - 1}"
    for number in range(1, stages):
        found = f"[{found}:{name}-T{stages - 1 - number}:{number / stages:.3g}]"
    return found


def export(folder: Path, kind: str, output: Path, coarse_strength: float = 1.0, fine_strength: float = 1.0,
           base: Optional[Path] = None, overwrite: bool = False) -> List[Path]:
    """Write the style of `folder` into the folder `output`; the files.

    `kind`: "diffusers", "kohya", "webui", "ldm" or "single". `fine_scale` of the style's settings is multiplied in,
    except into "single", which carries the settings. `base`: the folder of the base, for kohya's headers. Files that
    are there are replaced with `overwrite` only.
    """
    folder, output = Path(os.path.abspath(folder)), Path(output)  # "." has no name of its own
    for option, strength in (("--coarse-strength", coarse_strength), ("--fine-strength", fine_strength)):
        if not abs(strength) <= 1000:  # not for NaN either
            raise StyleBlendError(f"{option} {strength} is no strength: give a number such as 0.8")
    refuse_unwritable(output)
    if is_embedding(folder):
        if (coarse_strength, fine_strength) != (1, 1):
            raise StyleBlendError(f"--{'fine' if coarse_strength == 1 else 'coarse'}-strength has no effect on "
                                  f"{folder.name}, which has no LoRA: leave it out")
        files = of_stages(folder, kind, base) if has_stages(folder) else of_tokens(folder, kind, base)
        return write_files(files, output, base_of(folder), overwrite)
    loras, vectors = read_style(folder)
    scale = 1 if kind == "single" else own_blend(folder).fine_scale
    strengths = {"text": coarse_strength, "unet": fine_strength * scale}
    if kind == "single":
        tokens = {STYLEBLEND[f"{kind}_embeds"].token: vector for kind, vector in vectors.items()}
        files = in_one_file(folder, diffusers(loras, strengths), tokens)
    elif kind == "diffusers":
        files = for_diffusers(folder.name, loras, vectors, strengths)
    elif kind == "ldm":
        files = for_ldm(folder.name, loras, vectors, strengths, base)
    else:
        folders = ("Lora/", "embeddings/") if kind == "webui" else ()
        files = for_kohya(folder.name, loras, vectors, strengths, base, *folders)
    if not all(np.isfinite(value).all() for tensors, _ in files.values() for value in tensors.values()):
        raise StyleBlendError(f"with {' and '.join(f'{s:g}' for s in strengths.values())} as strengths of the text "
                              "encoder's and the UNet's LoRA there are numbers beyond float32: give smaller ones")
    return write_files(files, output, base_of(folder), overwrite)


def write_files(files: Files, output: Path, known_base: Dict[str, str], overwrite: bool) -> List[Path]:
    """Write the files into the folder `output`; their paths. Each says which base it is of."""
    with in_turn(output):  # one style's files, not the LoRA of one and the embeddings of another
        for file in files:
            refuse_taken(output / file, overwrite)
        for file, (tensors, metadata) in files.items():
            tensor_files.write_safetensors(output / file, tensors, {**metadata, **known_base})
    return [output / file for file in files]
