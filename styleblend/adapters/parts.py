"""The parts that a style of each method is made of, and the names of their files."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Mapping, Tuple


@dataclass(frozen=True)
class Part:
    """One part of a style, in a file of its own: `<style>_<stem>.safetensors`."""

    # "embedding"; "stages": an embedding for each stage; or the network that its LoRA changes: "text_encoder" or "unet"
    kind: str
    stems: Tuple[str, ...]  # ours and the competition release's first, then the PyTorch release's
    title: str
    training: str  # what `styleblend train` calls the training that makes it; "": nothing is trained for it
    token: str = ""  # of an embedding


STYLEBLEND: Mapping[str, Part] = {
    "coarse_embeds": Part("embedding", ("coarse_style_embeds", "composition_style_embeds"), "coarse embedding",
                          "coarse", "<C>"),
    "fine_embeds": Part("embedding", ("fine_style_embeds", "texture_style_embeds"), "fine embedding", "fine", "<F>"),
    "text_lora": Part("text_encoder", ("text_encoder_lora",), "text encoder LoRA", "coarse"),
    "unet_lora": Part("unet", ("unet_lora",), "UNet LoRA", "fine"),
}
DREAMSTYLER: Mapping[str, Part] = {
    "stage_embeds": Part("stages", ("stage_style_embeds",), "embedding of each stage", "dreamstyler"),
}
STYLE_ENCODER: Mapping[str, Part] = {
    "style_tokens": Part("embedding", ("style_tokens",), "style tokens", "", "<E>"),
}
# method -> its parts, in the order in which they are listed
PARTS: Mapping[str, Mapping[str, Part]] = {"styleblend": STYLEBLEND, "style_aligned": {},
                                            "dreamstyler": DREAMSTYLER, "style_encoder": STYLE_ENCODER}


def trainings_of(method: str) -> Tuple[str, ...]:
    """The trainings that a style of a method goes through, in their order."""
    return tuple(dict.fromkeys(part.training for part in PARTS[method].values() if part.training))


def product_of(training: str) -> str:
    """The part by which a training counts as done: the one that it writes last."""
    return [name for parts in PARTS.values() for name, part in parts.items() if part.training == training][-1]


def method_of_training(training: str) -> str:
    """The method that a training is of."""
    return next(method for method, parts in PARTS.items() if any(one.training == training for one in parts.values()))


def part_named(name: str) -> Part:
    """The part of this name; no two methods have one of the same name."""
    return next(parts[name] for parts in PARTS.values() if name in parts)


def part_of_stages(method: str) -> str:
    """The part that holds an embedding for each stage; "" for a method that has none."""
    return next((name for name, part in PARTS[method].items() if part.kind == "stages"), "")


def part_of_tokens(method: str) -> str:
    """The embedding that a style of this method is, alone; "" for a method that has none, or more than it."""
    parts = PARTS[method]
    return next(iter(parts)) if [part.kind for part in parts.values()] == ["embedding"] else ""


def part_of_single(tensors: Dict[str, Any], part: str) -> Dict[str, Any]:
    """The tensors of one part of a file that holds a whole style (`styleblend export --format single`)."""
    about = part_named(part)
    if about.kind == "stages":
        return {}  # such a style is one file anyway
    start = f"emb.{about.token}" if about.kind == "embedding" else f"{about.kind}."
    return {key: value for key, value in tensors.items() if key.startswith(start)}

# of the training of a style encoder, in their order; each has its settings under its name
ENCODER_STAGES = ("tokens", "encoder", "finetune", "joint")
