"""Folders of the Hugging Face hub, or of its cache on this machine."""
from __future__ import annotations

import re
from pathlib import Path
from typing import Sequence

from styleblend.errors import StyleBlendError


class NotFetched(StyleBlendError):
    """A model of the hub that cannot be had, and why."""

    def __init__(self, hub_id: str, reason: str):
        super().__init__(f"{hub_id} on the hub ({reason})")
        self.reason = reason


def is_id(text: str) -> bool:
    """Whether a text has the form of a hub id: owner/name."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", str(text)))


def folder_of(name: str, files: Sequence[str], contents: str) -> Path:
    """A folder as it is, or that of a hub id, of which only `files` are fetched; `contents`: what to put into a folder.

    A folder that is not there yet can look like an id: nobody wants what a stranger called "checkpoints" has there.
    """
    if Path(name).is_dir() or Path(name).parent.is_dir() or not is_id(name):
        return Path(name)
    try:
        return fetch(name, files)
    except NotFetched as error:
        raise StyleBlendError(f"{error} cannot be had: put its {contents} into a folder, and give the folder") from None


def fetch(hub_id: str, patterns: Sequence[str]) -> Path:
    """A local folder with those files of a model that fit the patterns; what the cache has is not fetched again.

    NotFetched: it cannot be had, and why.
    """
    from huggingface_hub import snapshot_download
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(patterns)))
    except Exception as error:  # no network, no such model, no disk, no id: the library has a class for each
        raise NotFetched(hub_id, type(error).__name__) from None
