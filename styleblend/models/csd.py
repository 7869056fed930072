"""CSD (Somepalli et al. 2024, "Measuring Style Similarity in Diffusion Models"): CLIP's ViT-L/14 with two heads.

One head says how a picture is drawn, the other one what it shows. The checkpoint has the names of CLIP's first release
behind `backbone.`, and the heads as matrices.
"""
from __future__ import annotations

from typing import Dict, Tuple

import numpy as np

from styleblend.machine.runtime import jt
from styleblend.models.clip_names import layer_tensors
from styleblend.models.clip_vision import CLIPVisionModel
from styleblend.models.configs import ClipVisionConfig
from styleblend.models.layers import empty

BACKBONE = "backbone."
HEADS = ("last_layer_style", "last_layer_content")
NAMES = {"class_embedding": "embeddings.class_embedding", "conv1.weight": "embeddings.patch_embedding.weight",
         "positional_embedding": "embeddings.position_embedding.weight",
         **{f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in (("ln_pre", "pre_layrnorm"),
                                                                   ("ln_post", "post_layernorm"))
            for kind in ("weight", "bias")}}


class CSD(CLIPVisionModel):
    """Pictures to vectors of their style and of their content."""

    def __init__(self, config: ClipVisionConfig, width: int):
        super().__init__(config)
        self.last_layer_style, self.last_layer_content = (empty(config.hidden_size, width) for _ in HEADS)

    def execute(self, pictures):
        """pictures (B, 3, image_size, image_size), normalised as CLIP's -> (B, 2, width): style, then content.

        The vectors may have any length.
        """
        found = self.vision_model.post_layernorm(super().execute(pictures)[:, 0])
        return jt.stack([found @ self.last_layer_style, found @ self.last_layer_content], dim=1)


def sizes(tensors: Dict[str, np.ndarray]) -> Tuple[ClipVisionConfig, int]:
    """The config of the image tower, and the width of the heads: the release has no config.json.

    KeyError, ValueError or IndexError when these are not the tensors of a CSD.
    """
    hidden, _, patch, _ = tensors["backbone.conv1.weight"].shape
    side = int(round((tensors["backbone.positional_embedding"].shape[0] - 1) ** 0.5)) * patch
    depth = sum(name.endswith("mlp.c_fc.weight") for name in tensors)
    inner = tensors["backbone.transformer.resblocks.0.mlp.c_fc.bias"].shape[0]
    if hidden % 64:
        raise ValueError("heads of 64 channels do not fit into its width")
    config = ClipVisionConfig(hidden, inner, depth, hidden // 64, side, patch)
    return config, tensors["last_layer_style"].shape[1]


def state_dict(content: dict) -> Dict[str, np.ndarray]:
    """The tensors of a checkpoint, which may have them under `model_state_dict`, and each name behind `module.`."""
    inner = content.get("model_state_dict", content)
    inner = inner if isinstance(inner, dict) else {}
    return {name[len("module."):] if name.startswith("module.") else name: tensor for name, tensor in inner.items()
            if isinstance(tensor, np.ndarray)}


def renamed(tensors: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """The tensors by the names of `CSD`; a name that the release does not have stays as it is."""
    found = {}
    for name, tensor in tensors.items():
        own = name[len(BACKBONE):] if name.startswith(BACKBONE) else ""
        layer = layer_tensors(own, tensor)
        if layer:
            found.update({f"vision_model.{part}": value for part, value in layer.items()})
        else:
            found[f"vision_model.{NAMES[own]}" if own in NAMES else name] = tensor
    return found
