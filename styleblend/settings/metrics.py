"""Where the networks are that measure pictures."""
from __future__ import annotations

from typing import Optional

from pydantic import Field

from styleblend.settings.validation import Settings


class NetworkIds(Settings):
    """Hub ids of the networks that measure pictures.

    Each is fetched, as safetensors, when something needs it that is not in the folder.
    """

    clip: Optional[str] = Field(None, description="a CLIP with vision transformer: openai/clip-vit-large-patch14")
    clip_resnet: Optional[str] = Field(None, description="a CLIP RN50 of open_clip, such as timm/resnet50_clip.openai")
    dino: Optional[str] = Field(None, description="such as facebook/dino-vitb8")
    dinov2: Optional[str] = Field(None, description="such as facebook/dinov2-base")
    csd: Optional[str] = Field(None, description="CSD, the likeness of styles: tomg-group-umd/CSD-ViT-L")
    squeezenet: Optional[str] = None
    lpips: Optional[str] = None
    inception: Optional[str] = None
    efficientnet: Optional[str] = None


class MetricSettings(Settings):
    """Where the networks are that measure pictures."""

    weights: str = Field("checkpoints/metrics", description="folder with one folder a network (docs/metrics.md)")
    ids: NetworkIds = NetworkIds()
