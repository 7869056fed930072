"""What is in an adapter file: kind, rank, layers, tokens, width.

Reads names and shapes, changes nothing, and starts no Jittor.
"""
from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Dict, Set

import numpy as np

from styleblend.adapters.foreign_files import read_tensors, refuse_damaged
from styleblend.errors import StyleBlendError, printable
from styleblend.adapters.formats import (MODELS, MOST_VECTORS, OURS, TARGET, flat, is_lora_key, number, pairs, split,
                                         with_model)
from styleblend.files.tensor_files import read_metadata

STYLES_OF_NAMES = (("lora_A", "PEFT"), ("lora_unet_", "kohya"), ("lora_te", "kohya"),
                   ("_lora.", "attention processors of early diffusers"), (".lora_layer.", "published StyleBlend"))
NETWORKS = {"text": "text encoder", "unet": "UNet"}
SHOWN_METADATA = ("base", "style", "stage", "ss_output_name", "ss_network_dim", "ss_network_alpha",
                  "ss_base_model_version", "modelspec.title", "modelspec.architecture", "modelspec.trigger_phrase")


def inspect(path: Path) -> Dict[str, str]:
    """Facts about a file, name -> text. Raises StyleBlendError when it is no adapter that a base of ours could take."""
    path, source = Path(path), str(path)
    tensors = read_tensors(path)
    facts = {"file": source.encode(errors="backslashreplace").decode()}
    if isinstance(tensors.get("string_to_param"), dict):
        tensors, facts["kind"], facts["tokens"] = tensors["string_to_param"], "embedding (A1111)", printable(path.stem)
    elif "emb_params" in tensors:
        facts.update(kind="embedding (kohya)", tokens=printable(path.stem))
    entries = flat(tensors)
    arrays = {key: v for key, v in entries.items() if isinstance(v, np.ndarray)}
    refuse_damaged(arrays, source)
    loras = {key: v for key, v in entries.items() if is_lora_key(key)}
    vectors = {key: v for key, v in arrays.items() if key not in loras}
    widths = set()
    if loras:
        single = vectors and all(key.startswith("emb.") for key in vectors)
        if not single:
            loras.update(vectors)  # what is neither is named below
        writer = next((n for w, n in STYLES_OF_NAMES if any(w in k for k in loras)), "diffusers")
        facts["kind"] = "StyleBlend style in one file" if single else f"LoRA ({writer})"
        widths |= add_lora_facts(facts, loras, source)
    if vectors and (not loras or single):
        facts.setdefault("kind", "embedding (diffusers)")
        facts.setdefault("tokens", ", ".join(printable(key[4:] if key.startswith("emb.") else key) for key in vectors))
        widths |= embedding_widths(vectors, source)
    if not loras and not vectors:
        raise StyleBlendError(f"{source} is neither a LoRA nor an embedding: "
                              f"it holds {', '.join(printable(k) for k in list(entries)[:3]) or 'nothing'}")
    refuse_other_widths(widths, source)
    facts["width"] = ", ".join(map(with_model, widths)) or "unknown"
    if path.suffix == ".safetensors":
        known = read_metadata(path)
        facts.update({key: printable(known[key]) for key in SHOWN_METADATA if key in known})
    return facts


def add_lora_facts(facts: Dict[str, str], loras: Dict[str, Any], source: str) -> Set[int]:
    """Add a LoRA's rank, layers, strength and targets to `facts`; the text widths that it was made for."""
    downs = {(network, key): value for network in NETWORKS
             for key, value in pairs(loras, network, source, attention_layer(source)).items()
             if key.endswith(".down.weight")}
    facts["rank"] = ", ".join(map(str, sorted({value.shape[0] for value in downs.values()})))
    facts["layers"] = ", ".join(f"{count} of the {NETWORKS[network]}"
                                for network, count in sorted(Counter(network for network, _ in downs).items()))
    strengths = {number(value, key, source) / downs[network, f"{layer}.lora.down.weight"].shape[0]
                 for key, value in loras.items() for network, layer, end in [split(key, source)] if end == "alpha"}
    facts["alpha / rank"] = ", ".join(f"{value:.3g}" for value in sorted(strengths)[:4]) or "1 (not said)"
    facts["targets"] = ", ".join(sorted({target(split(key, source)[1]) for key in loras}))
    # the text encoder's layers read its width; keys of cross-attention read it too
    return {value.shape[1] for (network, key), value in downs.items()
            if network == "text" or ("attn2" in key and ("to_k" in key or "to_v" in key))}


def embedding_widths(vectors: Dict[str, np.ndarray], source: str) -> Set[int]:
    """The text widths of embeddings. StyleBlendError for an array that is none."""
    for key, value in vectors.items():
        if (value.dtype.kind != "f" or value.ndim not in (1, 2) or value.size == 0
                or len(value.reshape(-1, value.shape[-1])) > MOST_VECTORS):
            raise StyleBlendError(f"{source} is neither a LoRA nor an embedding: "
                                  f"its {printable(key)} has the shape {value.shape} and the type {value.dtype}")
    return {value.shape[-1] for value in vectors.values()}


def refuse_other_widths(widths: Set[int], source: str) -> None:
    """StyleBlendError for a file that is for another model, or for several."""
    other = [w for w in sorted(widths) if w in MODELS and w not in OURS]
    if other or len(widths) > 1:
        raise StyleBlendError(f"{source} has the text width {' and '.join(map(with_model, sorted(widths)))}; "
                              f"StyleBlend needs {with_model(1024)}: get or train one for that")


def target(layer: str) -> str:
    """What kind of layer a LoRA changes ("to_q"), empty when it is none that a style has."""
    match = TARGET.fullmatch(layer)
    return (match[1] or match[2]) if match else ""


def attention_layer(source: str):
    """A `rename` for `formats.pairs` that keeps the file's names and refuses layers that no style changes."""
    def rename(layer: str, key: str) -> str:
        if not target(layer):
            raise StyleBlendError(f"{source}: {printable(key)} names no layer that a style changes: "
                                  "use a LoRA that was trained on the attention layers of Stable Diffusion 2.x alone")
        return layer
    return rename
