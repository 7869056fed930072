"""Where the networks are that make a prompt of other media."""
from __future__ import annotations

from typing import Optional

from pydantic import Field

from styleblend.settings.validation import Settings


class ContextSettings(Settings):
    """Where the networks are that describe pictures and shorten prompts."""

    captioner: Optional[str] = Field(None, description="folder or hub id of the BLIP that describes pictures, such as "
                                     "Salesforce/blip-image-captioning-base; default: "
                                     "checkpoints/blip-image-captioning-base, where that is there")
    rewriter: Optional[str] = Field(None, description="folder or hub id of the T5 that shortens prompts, such as "
                                    "google-t5/t5-small; default: checkpoints/t5-small, where that is there")
