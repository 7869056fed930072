"""The names of CLIP's first release in those of transformers: the layers of its transformers."""
from __future__ import annotations

import re
from typing import Dict, Optional

import numpy as np

PARTS = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
         "attn.out_proj": "self_attn.out_proj"}


def layer_tensors(name: str, tensor: np.ndarray) -> Optional[Dict[str, np.ndarray]]:
    """What "transformer.resblocks.3.mlp.c_fc.weight" is as "encoder.layers.3..."; None: it is no tensor of a layer.

    The projections to q, k and v are one tensor there, and three here.
    """
    match = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)[._](weight|bias)", name)
    if not match or match[2] not in (*PARTS, "attn.in_proj"):
        return None
    layer = f"encoder.layers.{match[1]}"
    if match[2] == "attn.in_proj":
        return {f"{layer}.self_attn.{part}_proj.{match[3]}": third for part, third in zip("qkv", np.split(tensor, 3))}
    return {f"{layer}.{PARTS[match[2]]}.{match[3]}": tensor}
