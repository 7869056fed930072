"""How style pictures are read."""
from __future__ import annotations

from pydantic import Field

from styleblend.settings.validation import Settings


class PictureSettings(Settings):
    """How style pictures are read."""

    fit: str = Field("crop", pattern="^(crop|pad)$",
                     description="other proportions than the training size: crop to the middle, or pad with white")
    max_pixels: int = Field(64_000_000, ge=1, description="a picture with more is refused: while it is decoded a pixel "
                            "takes up to twelve bytes")
