"""What is in an adapter file: kind, rank, layers, tokens, width.

Reads names and shapes, changes nothing, and starts no Jittor.
"""
from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Dict, Set

import numpy as np

from styleblend.adapters.alphas import where_said
from styleblend.adapters.foreign_files import read_tensors, refuse_damaged
from styleblend.errors import StyleBlendError, printable
from styleblend.adapters.formats import (MOST_VECTORS, TEXT_PATHS, UNET_PATHS, flat, is_lora_key, layer_table, number,
                                         pairs, refuse_other_widths, said_of_silence, split, text_widths, with_model)
from styleblend.adapters.original_names import is_original
from styleblend.adapters.stage_tokens import is_staged
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
        writer = "original names, as of ComfyUI's trainer" if any(map(is_original, loras)) else writer
        facts["kind"] = "StyleBlend style in one file" if single else f"LoRA ({writer})"
        widths |= add_lora_facts(facts, loras, path)
    if vectors and (not loras or single):
        if is_staged(vectors):
            facts.update(kind="embedding of each stage (DreamStyler)", stages=str(len(vectors)))
        facts.setdefault("kind", "embedding (diffusers)")
        facts.setdefault("tokens", ", ".join(printable(key[4:] if key.startswith("emb.") else key) for key in vectors))
        widths |= embedding_widths(vectors, source)
        several = [str(len(value)) for value in vectors.values() if value.ndim == 2 and len(value) > 1]
        if several:
            facts["vectors"] = ", ".join(several)
    if not loras and not vectors:
        raise StyleBlendError(f"{source} is neither a LoRA nor an embedding: "
                              f"it holds {', '.join(printable(k) for k in list(entries)[:3]) or 'nothing'}")
    refuse_other_widths(widths, source)
    if len(widths) > 1:
        raise StyleBlendError(f"{source} has the text widths {' and '.join(map(with_model, sorted(widths)))}, "
                              "which no base has: get or train one for Stable Diffusion 2.x")
    facts["width"] = ", ".join(map(with_model, widths)) or "unknown"
    known = read_metadata(path)
    facts.update({key: printable(known[key]) for key in SHOWN_METADATA if key in known})
    return facts


def add_lora_facts(facts: Dict[str, str], loras: Dict[str, Any], path: Path) -> Set[int]:
    """Add a LoRA's rank, layers, strength and targets to `facts`; the text widths that it was made for."""
    source = str(path)
    tables = {network: layer_table(paths, network) for network, paths in (("text", TEXT_PATHS), ("unet", UNET_PATHS))}
    ours = {network: pairs(loras, network, source, attention_layer(tables[network], source)) for network in tables}
    downs = {(network, key): value for network, found in ours.items() for key, value in found.items()
             if key.endswith(".down.weight")}
    facts["rank"] = ", ".join(map(str, sorted({value.shape[0] for value in downs.values()})))
    facts["layers"] = ", ".join(f"{count} of the {NETWORKS[network]}"
                                for network, count in sorted(Counter(network for network, _ in downs).items()))
    strengths = {number(value, key, source) / downs[network, f"{tables[network][layer]}.lora.down.weight"].shape[0]
                 for key, value in loras.items() for network, layer, end in [split(key, source)] if end == "alpha"}
    facts["alpha / rank"] = ", ".join(f"{value:.3g}" for value in sorted(strengths)[:4]) or "1 (not said)"
    if strengths:
        facts["alpha is from"] = where_said(path, loras)
    silence = said_of_silence({f"{network} {key}": value for network in ours for key, value in ours[network].items()})
    if silence:
        facts["strength"] = silence
    facts["targets"] = ", ".join(sorted({target(key) for _, key in downs}))
    return text_widths({key: value.shape for key, value in loras.items() if isinstance(value, np.ndarray)}, source)


def embedding_widths(vectors: Dict[str, np.ndarray], source: str) -> Set[int]:
    """The text widths of embeddings. StyleBlendError for an array that is none."""
    for key, value in vectors.items():
        if (value.dtype.kind != "f" or value.ndim not in (1, 2) or value.size == 0
                or len(value.reshape(-1, value.shape[-1])) > MOST_VECTORS):
            raise StyleBlendError(f"{source} is neither a LoRA nor an embedding: "
                                  f"its {printable(key)} has the shape {value.shape} and the type {value.dtype}")
    return {value.shape[-1] for value in vectors.values()}


def target(key: str) -> str:
    """What kind of layer a LoRA changes ("to_q"), from our name of one of its matrices."""
    return key[:-len(".lora.down.weight")].removesuffix(".0").rpartition(".")[2]


def attention_layer(table: Dict[str, str], source: str):
    """A `rename` for `formats.pairs`: our name of a layer. Those that no Stable Diffusion 2.x has are refused."""
    def rename(layer: str, key: str) -> str:
        if layer not in table:
            raise StyleBlendError(f"{source}: {printable(key)} names no layer that a style changes: give a LoRA of "
                                  "Stable Diffusion 2.x's attention layers alone")
        return table[layer]
    return rename
