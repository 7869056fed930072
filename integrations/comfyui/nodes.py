"""The nodes: what they take, what they ask the page for, and what they give."""
from __future__ import annotations

import json
from typing import Any, Dict, List, Optional, Tuple

import torch

from .pictures import from_png, to_png
from .service import AT_HOME, SERVER, Service, ServiceError
from .watching import watched

LARGEST_SEED = 2**53 - 1  # more than a browser's numbers tell apart
MOST_COUNT = 64
DRAWN_REFERENCE = "reference.png"  # of a set whose reference is drawn, too: it is none of the set
LINES = "one on each line; empty lines are none"
SHARED = {  # inputs of both nodes
    "style": ("STRING", {"default": "", "tooltip": "a style of the server; empty: none"}),
    "negative": ("STRING", {"default": "", "tooltip": "negative prompt; empty: the style's or the config's own"}),
    "sampling": ("STRING", {"default": "", "multiline": True, "tooltip": "sampling settings as JSON, such as "
                            '{"steps": 20, "guidance": 5, "width": 512}; what is left out is the config\'s'}),
    "method_settings": ("STRING", {"default": "", "multiline": True, "tooltip": "settings of the method as JSON"}),
    "server": ("STRING", {"default": "", "tooltip": f"address of `styleblend page`; empty: that of {SERVER}, else "
                          f"{AT_HOME}"}),
}
PICTURES = ("IMAGE", "STRING")
NAMES = ("images", "records")


def inputs(required: Dict[str, Any], optional: Dict[str, Any]) -> Dict[str, Any]:
    return {"required": required, "optional": optional}


class StyleBlendDraw:
    """Pictures of each prompt, in a style with its exchange between two branches, or by a reference picture."""

    CATEGORY, FUNCTION, RETURN_TYPES, RETURN_NAMES = "StyleBlend", "draw", PICTURES, NAMES
    DESCRIPTION = "Draws prompts in a learned style of a `styleblend page` that runs, or by reference pictures."

    @classmethod
    def INPUT_TYPES(cls) -> Dict[str, Any]:
        return inputs({
            "prompts": ("STRING", {"default": "A rabbit", "multiline": True, "tooltip": LINES}),
            "style": SHARED["style"],
            "seed": ("INT", {"default": 0, "min": 0, "max": LARGEST_SEED, "control_after_generate": True}),
            "count": ("INT", {"default": 1, "min": 1, "max": MOST_COUNT, "tooltip": "pictures of each prompt, with the "
                              "seeds from this one on"}),
        }, {
            "reference": ("IMAGE", {"tooltip": "pictures whose style is drawn, in place of a style; name a method"}),
            "method": ("STRING", {"default": "", "tooltip": "how reference pictures are followed: style_encoder, "
                                  "style_aligned"}),
            "strength": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.05, "tooltip": "of the style"}),
            **{name: SHARED[name] for name in ("negative", "sampling", "method_settings", "server")}})

    def draw(self, prompts: str, style: str, seed: int, count: int, reference: Optional[torch.Tensor] = None,
             method: str = "", strength: float = 1.0, **shared: str) -> Tuple[torch.Tensor, str]:
        service = Service(shared.get("server", ""))
        said = {**shared_request(prompts, style, seed, **shared), "count": count, "method": method.strip()}
        if strength != 1:
            said["strength"] = strength
        said["references"] = [{"path": service.upload(one)} for one in png_files(reference)]
        job = watched(service, service.begin("draw", said))
        return from_png(service.pictures(job))


class StyleBlendAlign:
    """A set of prompts in one look (StyleAligned): of words, of the first prompt's picture, or of reference pictures.
    """

    CATEGORY, FUNCTION, RETURN_TYPES, RETURN_NAMES = "StyleBlend", "align", PICTURES, NAMES
    DESCRIPTION = "Draws a batch of prompts that share one look, in a `styleblend page` that runs. No training."

    @classmethod
    def INPUT_TYPES(cls) -> Dict[str, Any]:
        return inputs({
            "prompts": ("STRING", {"default": "A toy train\nA toy car\nA toy boat", "multiline": True,
                                   "tooltip": LINES}),
            "look": ("STRING", {"default": "", "tooltip": "words of the look, behind every prompt: macro photo"}),
            "seed": ("INT", {"default": 0, "min": 0, "max": LARGEST_SEED, "control_after_generate": True,
                             "tooltip": "of the first prompt; the others have the next ones"}),
        }, {
            "reference": ("IMAGE", {"tooltip": "pictures whose look is taken; none: the first prompt's picture"}),
            "reference_prompts": ("STRING", {"default": "", "multiline": True, "tooltip": "what each reference "
                                             f"picture shows, without its look: {LINES}; without a picture: what is "
                                             "drawn as the reference"}),
            "reference_strength": (["normal", "famous"], {"tooltip": "famous: of a picture that the base knows by "
                                                          "heart"}),
            **SHARED})

    def align(self, prompts: str, look: str, seed: int, reference: Optional[torch.Tensor] = None,
              reference_prompts: str = "", reference_strength: str = "normal", style: str = "",
              **shared: str) -> Tuple[torch.Tensor, str]:
        service = Service(shared.get("server", ""))
        said, lines = {**shared_request(prompts, style, seed, **shared), "look": look}, lines_in(reference_prompts)
        files = png_files(reference)
        if len(lines) not in (0, len(files) or 1):
            raise ServiceError(f"{len(lines)} reference prompts for {len(files)} reference pictures: write one for "
                               "each picture, or none")
        if files:
            said["references"] = [
                {"path": service.upload(file), "prompt": line, "strength": reference_strength}
                for file, line in zip(files, lines or [""] * len(files))]
        elif reference_strength != "normal":
            raise ServiceError(f"reference_strength {reference_strength} has no effect without a reference picture: "
                               "set it to normal, or connect one")
        else:
            said["reference_prompt"] = "".join(lines)
        job = watched(service, service.begin("align", said))
        job["pictures"] = [one for one in job["pictures"] if one["name"] != DRAWN_REFERENCE]
        return from_png(service.pictures(job))


def shared_request(prompts: str, style: str, seed: int, negative: str = "", sampling: str = "",
                   method_settings: str = "", server: str = "") -> Dict[str, Any]:
    """What both nodes ask for."""
    return {"prompts": prompts, "style": style, "seed": seed, "negative": negative,
            "sampling": json_object(sampling, "sampling"),
            "method_settings": json_object(method_settings, "method_settings")}


def json_object(text: str, field: str) -> Dict[str, Any]:
    """The settings in a field; empty: none. ServiceError for what is no JSON object."""
    try:
        found = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise ServiceError(f"{field}: this is no JSON ({error}): write settings such as {{\"steps\": 20}}") from None
    if not isinstance(found, dict):
        raise ServiceError(f"{field}: write settings in braces, such as {{\"steps\": 20}}")
    return found


def lines_in(text: str) -> List[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def png_files(images: Optional[torch.Tensor]) -> List[bytes]:
    return [] if images is None else to_png(images)


NODE_CLASS_MAPPINGS = {"StyleBlendDraw": StyleBlendDraw, "StyleBlendAlign": StyleBlendAlign}
NODE_DISPLAY_NAME_MAPPINGS = {"StyleBlendDraw": "StyleBlend: draw", "StyleBlendAlign": "StyleBlend: align a batch"}
