"""The names that other programs give to LoRAs and embeddings, and ours.

Read: diffusers (current, PEFT, the attention processors of early 2023), kohya, A1111, the published StyleBlend, and
the original names (`original_names`). Written: the current names of diffusers.
"""
from __future__ import annotations

import re
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Set, Tuple

import numpy as np

from styleblend.adapters.original_names import original_names, usual_prefix
from styleblend.errors import StyleBlendError, printable

# How a key ends; the layer's name is what stands before.
ENDINGS = (r"\.lora(?:_linear_layer|_layer)?\.(down|up)\.weight",  # diffusers; lora_layer: the published StyleBlend
           r"\.lora_([AB])(?:\.\w+)?\.weight",                     # PEFT, maybe with its adapter's name
           r"_lora\.(down|up)\.weight",                            # attention processors
           r"\.lora_(down|up)\.weight", r"\.(alpha)")              # kohya
PREFIXES = {"unet": ("unet.", "lora_unet_"), "text": ("text_encoder.", "lora_te_")}
BARE = {"unet": ("down_blocks.", "mid_block.", "up_blocks."), "text": ("text_model.", "encoder.layers.")}

# Widths of text states tell models apart: of an embedding, or of what a UNet's cross-attention reads.
MODELS = {128: "the mini base", 768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 1280: "Stable Diffusion XL",
          2048: "Stable Diffusion XL", 4096: "Flux or Stable Diffusion 3"}
OURS = (128, 1024)
MOST_VECTORS = 48  # of one token, of the 77 that the text encoder reads

# Files that are no adapter of ours: how a key of theirs begins or ends, what the file is, and what to do.
OTHER_MODEL = "get or train one for Stable Diffusion 2.x"
NO_ADAPTER = "give a LoRA or an embedding (a base is a diffusers folder: `base:` in a config)"
NOT_PLAIN = "train a plain LoRA for Stable Diffusion 2.x (kohya: --network_module networks.lora)"
FOREIGN = tuple((re.compile(pattern), what, advice) for pattern, what, advice in (
    (r"(state_dict\.)?(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner\.embedders)\."
     r"(?!.*[._](lora_\w+|alpha|diff|diff_b|hada_\w+|lokr_\w+|dora_scale)(\.\w+)*$)",
     "a whole checkpoint", NO_ADAPTER),
    (r"(control_model|controlnet_cond_embedding|controlnet_down_blocks)\.", "a ControlNet", NO_ADAPTER),
    (r"(ip_adapter|image_proj)\.", "an IP-Adapter", NO_ADAPTER),
    (r"vision_model\.", "an image encoder, or a style encoder",
     "draw with a style encoder by draw --method style_encoder --encoder, or keep what it reads by encode"),
    (r"conv_in\.weight$|encoder\.conv_in\.weight$|(text_model\.)?final_layer_norm\.weight$"
     r"|(text_model\.)?embeddings\.token_embedding\.weight$",
     "a network of a base", NO_ADAPTER),
    # its blocks have up to ten transformers, those of Stable Diffusion 1 and 2 have one
    (r"lora_te2_|text_encoder_2\.|text_encoders\.clip_g\.|conditioner\.embedders\.|clip_[lg]$|emb\.clip_[lg]$"
     r"|.*_blocks?[._].*transformer_blocks[._][1-9]", "made for Stable Diffusion XL", OTHER_MODEL),
    (r"(lora_unet_|diffusion_model\.|transformer\.)?(double|single)_blocks[_.]|lora_te3_|lora_unet_joint_blocks_"
     r"|lora_transformer_|(base_model\.model\.)?transformer[_.](?!resblocks)|text_encoders\.t5|t5xxl$"
     r"|(model\.)?diffusion_model\.(?!(input|output|middle|down|mid|up)_blocks?\.|(time|label)_em|out\.)"
     r"|(lora_unet_)?(single_)?transformer_blocks[_.]",
     "made for Flux, Stable Diffusion 3 or another transformer", OTHER_MODEL),
    (r".*\.hada_(w[12]_[ab]|t[12])$", "a LoHa of LyCORIS", NOT_PLAIN),
    (r".*\.lokr_(w[12](_[ab])?|t2)$", "a LoKr of LyCORIS", NOT_PLAIN),
    (r".*\.(lora_mid\.weight|oft_(blocks|diag)|on_input|diff|[ab][12]\.weight)$",
     "an adapter of LyCORIS that is no plain LoRA", NOT_PLAIN),
    (r".*\.(dora_scale|lora_magnitude_vector(\.\w+)*)$", "a DoRA", NOT_PLAIN)))
# The text encoder's whole table, which PEFT saves along with a LoRA where tokens were added to it.
TABLE = re.compile(r"base_model\.model\.(?:text_model\.)?embeddings\.(token_embedding)\.weight")
# What LoRAs of other programs also change: feed-forward, the projections around attention, convolutions.
OUTSIDE = re.compile(r"(?:.*[._])?(ff[._]net[._](?:0[._]proj|2)|proj_in|proj_out|mlp[._](?:fc[12]|c_fc|c_proj)"
                     r"|conv(?:1|2|_shortcut|_in|_out)?|time_emb_proj|linear_[12]"
                     # LDM's and OpenCLIP's
                     r"|(?:in|out|emb)_layers[._][123]|skip_connection|input_blocks[._]\d+[._]0(?:[._]op)?"
                     r"|(?:time_embed|label_emb)[._](?:0[._])?[02]|diffusion_model[._]out[._]2"
                     r"|text_projection|token_embedding)")
# What ComfyUI's trainer and LyCORIS train beside matrices: the vectors of biases, and of norms, whose layers end so.
BIASES, NORMS = ("diff_b", "b_norm"), ("diff", "w_norm")
NORM = re.compile(r"norm\w{0,5}$|(?:^|[._])ln_(?:1|2|final)$|(?:in|out)_layers[._]0$|diffusion_model[._]out[._]0$")
# Stable Diffusion 2's layers of attention, which those of the mini base are among.
UNET_PATHS = tuple(f"{block}.transformer_blocks.0.attn{n}.{layer}"
                   for block in [*(f"down_blocks.{i}.attentions.{j}" for i in range(3) for j in range(2)),
                                 "mid_block.attentions.0",
                                 *(f"up_blocks.{i}.attentions.{j}" for i in range(1, 4) for j in range(3))]
                   for n in (1, 2) for layer in ("to_q", "to_k", "to_v", "to_out.0"))
TEXT_PATHS = tuple(f"text_model.encoder.layers.{i}.self_attn.{layer}"
                   for i in range(23) for layer in ("q_proj", "k_proj", "v_proj", "out_proj"))


def flat(tensors: Dict[str, Any]) -> Dict[str, Any]:
    """Nested dicts, as the published StyleBlend writes them, with dotted names."""
    found = {}
    for key, value in tensors.items():
        found.update({f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value})
    return found


def vector(key: str) -> str:
    """"bias" or "norm" for a key that is one's difference, empty for any other."""
    layer, _, end = key.rpartition(".")
    is_norm = end in NORMS and (end == "w_norm" or NORM.search(layer[-40:]))  # names may be long; their ends count
    return "bias" if end in BIASES else "norm" if is_norm else ""


def refuse_foreign(keys: Iterable[str], source: str) -> None:
    """One sentence for a file that is for another model, of another method, or no adapter at all.

    `keys`: its dotted names.
    """
    keys = [key for key in keys if not vector(key)]
    for pattern, what, advice in FOREIGN:
        for key in keys:
            if pattern.match(key):
                raise StyleBlendError(f"{source} is {what} ({printable(key)}): {advice}")


def with_model(width: int) -> str:
    """A width and the model that has it."""
    return f"{width} ({MODELS[width]})" if width in MODELS else str(width)


def refuse_other_widths(widths: Set[int], source: str) -> None:
    """StyleBlendError for a file whose text widths are those of another model."""
    other = [width for width in sorted(widths) if width in MODELS and width not in OURS]
    if other:
        raise StyleBlendError(f"{source} is for the text width {with_model(other[-1])}, and StyleBlend needs "
                              f"{with_model(1024)}: get or train one for that")


def text_widths(shapes: Mapping[str, Tuple[int, ...]], source: str) -> Set[int]:
    """The widths of the text that the layers of a LoRA read, from the shapes of its matrices by key."""
    found = set()
    for key, shape in shapes.items():
        if len(shape) > 1 and (layer_and_end(key) or ("", ""))[1] == "down" and not outside_attention(key):
            network, layer, _ = split(key, source)
            if network == "text" or re.search(r"attn2[._](?:processor[._])?to_[kv]$", layer):
                found.add(shape[1])
    return found


def layer_and_end(key: str) -> Optional[Tuple[str, str]]:
    """The layer as a LoRA's key names it, and "down", "up" or "alpha"; None for any other key."""
    for ending in ENDINGS:
        match = re.fullmatch(f"(.+?){ending}", key)
        if match:
            return match[1], {"A": "down", "B": "up"}.get(match[2], match[2])
    return None


def is_lora_key(key: str) -> bool:
    return layer_and_end(key) is not None


def outside_attention(key: str) -> str:
    """The kind of layer ("ff_net_2") that a LoRA's key names, if it is one that no style changes.

    Empty for any other key.
    """
    named = layer_and_end(key)
    match = OUTSIDE.fullmatch(named[0]) if named else TABLE.fullmatch(key)
    return match[1].replace(".", "_") if match else vector(key)


def split(key: str, source: str) -> Tuple[str, str, str]:
    """A key as network ("unet" or "text"), the layer as the file names it, and "down", "up" or "alpha"."""
    name = key[len("base_model.model."):] if key.startswith("base_model.model.") else key
    name = re.sub("^lora_te1_", "lora_te_", name)  # so diffusers writes kohya's names, for any Stable Diffusion
    name = usual_prefix(name)
    for network in PREFIXES:
        for prefix in PREFIXES[network] + BARE[network]:
            if name.startswith(prefix):
                layer = name if prefix in BARE[network] or prefix.endswith("_") else name[len(prefix):]
                named = layer_and_end(layer)
                if named:
                    return network, *named
    raise StyleBlendError(f"{source}: {printable(key)} is no name that a LoRA of diffusers, PEFT, kohya, ComfyUI "
                          "or StyleBlend has: save it as a plain LoRA of one of these")


def layer_table(paths: Iterable[str], kind: str) -> Dict[str, str]:
    """Every name that a file may give a layer -> our name.

    Made from the network's paths: kohya's underscores cannot be undone by rule.
    """
    table, paths = {}, list(paths)
    for path, name in original_names(paths, kind).items():
        table[name] = table[PREFIXES[kind][1] + name.replace(".", "_")] = path
    for path in paths:
        processor = re.sub(r"\.(to_q|to_k|to_v|to_out)(?:\.0)?$", r".processor.\1", path)
        processor = re.sub(r"\.(q|k|v|out)_proj$", r".to_\1", processor)  # the text encoder's, of the same months
        short = path.replace("text_model.", "", 1)  # as transformers 5 names it
        for name in (path, short, processor, *(PREFIXES[kind][1] + p.replace(".", "_") for p in (path, short))):
            table[name] = path
    return table


def matrix(value: Any, key: str, source: str) -> np.ndarray:
    """A LoRA's matrix as float32; a 1x1 convolution, which some programs train for a linear layer, becomes one."""
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        raise StyleBlendError(f"{source}: {printable(key)} holds no floating-point numbers: "
                              "the file is no LoRA or is damaged")
    if value.ndim == 4 and value.shape[2:] == (1, 1):
        value = value[:, :, 0, 0]
    if value.ndim != 2 or 0 in value.shape:
        raise StyleBlendError(f"{source}: {printable(key)} has the shape {value.shape}, but only matrices, "
                              "LoRAs of linear layers, can be read")
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinity, which is refused by name later
        return np.ascontiguousarray(value, np.float32)


def silent_layers(ours: Mapping[str, np.ndarray]) -> List[str]:
    """The layers to which a LoRA adds nothing, since one of their matrices is zero or their alpha is."""
    layers = [key[:-len(".lora.up.weight")] for key in ours if key.endswith(".lora.up.weight")]
    return [layer for layer in layers
            if not (ours[f"{layer}.lora.up.weight"].any() and ours[f"{layer}.lora.down.weight"].any())]


def said_of_silence(ours: Mapping[str, np.ndarray]) -> str:
    """The rest of a sentence on the layers of a LoRA to which it adds nothing; empty where there are none."""
    silent, count = len(silent_layers(ours)), len(ours) // 2
    if not silent:
        return ""
    if silent == count:
        return "has a strength of 0 (its alpha or one of its matrices is 0): it changes nothing"
    return f"has a strength of 0 in {silent} of {count} layers, which it does not change"


def number(value: Any, key: str, source: str) -> float:
    """The alpha of a layer: a number, or an array of one."""
    array = np.asarray(value) if isinstance(value, (int, float, np.ndarray)) else np.zeros(0)
    if array.dtype.kind not in "fiu" or array.size != 1 or not (np.abs(array) < 1e9).all():
        raise StyleBlendError(f"{source}: {printable(key)} is not one number: "
                              "the file is damaged, save or download it again")
    return float(array.reshape(-1)[0])


def pairs(tensors: Dict[str, Any], kind: str, source: str, rename: Callable[[str, str], str]) -> Dict[str, np.ndarray]:
    """The part of a LoRA file that is for one network ("unet" or "text").

    alpha / rank is multiplied into the up matrices. `rename(layer, key)` gives the layer its name in the result, whose
    keys are those of `styleblend.adapters.lora`. StyleBlendError where a matrix is missing, there twice, or of another
    rank than its other half.
    """
    found: Dict[Tuple[str, str], Any] = {}
    for key, value in flat(tensors).items():
        part, layer, end = split(key, source)
        if part != kind:
            continue
        path = rename(layer, key)
        if (path, end) in found:
            raise StyleBlendError(f"{source}: {printable(key)} is there a second time under another name: "
                                  "save it anew with one kind of names")
        found[path, end] = number(value, key, source) if end == "alpha" else matrix(value, key, source)
    ours = {}
    for path in dict.fromkeys(path for path, _ in found):
        down, up = found.get((path, "down")), found.get((path, "up"))
        if down is None or up is None:
            raise StyleBlendError(f"{source}: {printable(path)} has no {'down' if down is None else 'up'} matrix: "
                                  "the file is incomplete, save or download it again")
        if down.shape[0] != up.shape[1]:
            raise StyleBlendError(f"{source}: {printable(path)} has the rank {down.shape[0]} in its down matrix and "
                                  f"{up.shape[1]} in its up matrix: the file is damaged, save or download it again")
        factor = np.float32(found.get((path, "alpha"), down.shape[0]) / down.shape[0])
        with np.errstate(over="ignore"):
            ours[f"{path}.lora.down.weight"], ours[f"{path}.lora.up.weight"] = down, up if factor == 1 else up * factor
    return ours


def to_diffusers_unet(ours: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """Our UNet LoRA under the names that diffusers saves."""
    return {f"unet.{key}": value for key, value in ours.items()}


def to_diffusers_text(ours: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """Our text encoder LoRA under the names that diffusers saves."""
    return {"text_encoder." + key.replace(".lora.", ".lora_linear_layer."): value for key, value in ours.items()}


def embedding(tensors: Dict[str, Any], width: int, source: str) -> Tuple[Optional[str], np.ndarray]:
    """The token and its vectors (n, width) from an embedding of diffusers, A1111 or kohya.

    The token is None when the file names none.
    """
    refuse_foreign(tensors, source)
    token, vectors = None, {key: value for key, value in tensors.items() if isinstance(value, np.ndarray)}
    if isinstance(tensors.get("string_to_param"), dict):  # A1111
        token, vectors = tensors.get("name"), tensors["string_to_param"]
        token = token if isinstance(token, str) and token else None
    elif "emb_params" in tensors:  # kohya
        vectors = {"emb_params": tensors["emb_params"]}
    elif len(vectors) == 1:
        token = next(iter(vectors))
    if len(vectors) != 1:
        names = f" ({', '.join(printable(name) for name in list(vectors)[:3])})" if vectors else ""
        raise StyleBlendError(f"{source} holds {len(vectors)} embeddings{names}: give a file with one")
    vector = next(iter(vectors.values()))
    if not isinstance(vector, np.ndarray) or vector.dtype.kind != "f" or vector.ndim not in (1, 2) or vector.size == 0:
        raise StyleBlendError(f"{source} holds no vectors of floating-point numbers: give a textual inversion file")
    if vector.shape[-1] != width:
        raise StyleBlendError(f"{source}: the embedding has the width {with_model(vector.shape[-1])}, "
                              f"the base needs {with_model(width)}: get or train one for this base")
    with np.errstate(over="ignore"):
        return token, np.ascontiguousarray(vector.reshape(-1, width), np.float32)
