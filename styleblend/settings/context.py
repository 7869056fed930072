"""Where the networks are that make a prompt of other media."""
from __future__ import annotations

from typing import Optional

from pydantic import Field

from styleblend.settings.validation import Settings


class ContextSettings(Settings):
    """Where the networks are that describe pictures, hear music and speech, and shorten prompts."""

    captioner: Optional[str] = Field(None, description="folder or hub id of the BLIP that describes pictures, such as "
                                     "Salesforce/blip-image-captioning-base; default: "
                                     "checkpoints/blip-image-captioning-base, where that is there")
    rewriter: Optional[str] = Field(None, description="folder or hub id of the T5 that shortens prompts, such as "
                                    "google-t5/t5-small; default: checkpoints/t5-small, where that is there")
    speech: Optional[str] = Field(None, description="the Whisper that hears speech: a folder of faster-whisper, a size "
                                  "such as small or large-v3, or a hub id; default: small")
    music: Optional[str] = Field(None, description="folder or hub id of the CLAP that hears the mood of music, such as "
                                 "laion/clap-htsat-unfused, or musicnn for the program's own tagger; default: "
                                 "checkpoints/clap-htsat-unfused, where that is there, else musicnn")
    moods: Optional[str] = Field(None, description="file with the moods that music may have; default: the program's")


class Source(Settings):
    """Where a part of a prompt comes from."""

    kind: str = Field(max_length=20, description="image, speech, music, weather or look")
    given: str = Field(max_length=4096, description="the file, the place, or the words that were typed")
    text: str = Field(max_length=20_000, description="what was seen, heard or read")
    source: str = Field(max_length=400, description="who says so")
