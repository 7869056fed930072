"""Nodes that draw with StyleBlend from ComfyUI: they ask a `styleblend page` that runs, here or on another machine."""
from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
