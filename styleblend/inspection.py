"""What is in an adapter file: kind, rank, layers, tokens, width. Reads names and shapes, changes nothing."""
from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Dict

import numpy as np

from styleblend.errors import StyleBlendError
from styleblend.formats import flat, split
from styleblend.pickles import printable
from styleblend.style import read_tensors
from styleblend.weights import read_metadata

MODELS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 1280: "Stable Diffusion XL", 128: "the mini base"}
STYLES_OF_NAMES = (("lora_A", "PEFT"), ("lora_unet_", "kohya"), ("lora_te_", "kohya"), ("_lora.", "attention processors of early diffusers"),
                   (".lora_layer.", "published StyleBlend"))
SHOWN_METADATA = ("base", "style", "stage", "ss_output_name", "ss_network_dim", "ss_network_alpha", "ss_base_model_version", "modelspec.title", "modelspec.architecture",
                  "modelspec.trigger_phrase")


def inspect(path: Path) -> Dict[str, str]:
    """Facts about a file, name -> text. Raises StyleBlendError when it is no adapter."""
    path = Path(path)
    if not path.is_file():
        raise StyleBlendError(f"{path} is no file: name a .safetensors, .bin or .pt file")
    tensors = read_tensors(path)
    if any(key.startswith(("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")) for key in tensors):
        raise StyleBlendError(f"{path} is a whole checkpoint, not an adapter: a base is a diffusers folder (unet/ text_encoder/ vae/ tokenizer/ scheduler/)")
    if {"conv_in.weight", "conv_out.weight"} <= set(tensors) or "text_model.final_layer_norm.weight" in tensors or "encoder.conv_in.weight" in tensors:
        raise StyleBlendError(f"{path} is a network of a base, not an adapter: give the folder that it lies in as `base:` in a config")
    facts = {"file": str(path)}
    if isinstance(tensors.get("string_to_param"), dict):
        tensors, facts["kind"] = tensors["string_to_param"], "embedding (A1111)"
        facts["tokens"] = printable(path.stem)
    elif "emb_params" in tensors:
        facts.update(kind="embedding (kohya)", tokens=printable(path.stem))
    entries = flat(tensors)
    vectors = {key: v for key, v in entries.items() if isinstance(v, np.ndarray) and not any(word in key for word in ("lora", ".alpha"))}
    layers = {key: v for key, v in entries.items() if key not in vectors}
    if layers:
        whole = vectors and all(key.startswith("emb.") for key in vectors)
        facts["kind"] = "StyleBlend style in one file" if whole else "LoRA (" + next((n for w, n in STYLES_OF_NAMES if any(w in k for k in layers)), "diffusers") + ")"
        found = [split(key, str(path)) + (value,) for key, value in layers.items()]
        downs = [(network, layer, value) for network, layer, end, value in found if end == "down" and isinstance(value, np.ndarray) and value.ndim]
        facts["rank"] = ", ".join(map(str, sorted({v.shape[0] for _, _, v in downs}))) or "unknown"
        parts = Counter(network for network, _, _ in downs)
        facts["layers"] = ", ".join(f"{count} of the {'UNet' if network == 'unet' else 'text encoder'}" for network, count in sorted(parts.items()))
        # the text encoder's layers read its width; keys of cross-attention read it too
        widths = {v.shape[1] for network, layer, v in downs if network == "text" or ("attn2" in layer and ("to_k" in layer or "to_v" in layer))}
    else:
        widths = {v.shape[-1] for v in vectors.values() if v.dtype.kind == "f" and v.ndim in (1, 2)}
        if not vectors or len(widths) != 1:
            raise StyleBlendError(f"{path} is neither a LoRA nor an embedding: it holds {', '.join(printable(k) for k in list(entries)[:3]) or 'nothing'}")
        facts.setdefault("kind", "embedding (diffusers)")
    if vectors:
        facts.setdefault("tokens", ", ".join(printable(key[4:] if key.startswith("emb.") else key) for key in vectors))
        widths |= {v.shape[-1] for v in vectors.values() if v.ndim in (1, 2)}
    facts["width"] = ", ".join(f"{w}" + (f" ({MODELS[w]})" if w in MODELS else "") for w in sorted(widths)) or "unknown"
    broken = [key for key, v in entries.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f" and not np.isfinite(v).all()]
    if broken:
        facts["damage"] = f"NaN or infinity in {printable(broken[0])}" + (f" and {len(broken) - 1} more" if len(broken) > 1 else "")
    if path.suffix == ".safetensors":
        facts.update({key: printable(value) for key, value in read_metadata(path).items() if key in SHOWN_METADATA})
    return facts
