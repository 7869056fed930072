"""A tokenizer for made-up bases."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def tokenizer_folder() -> Path:
    """CLIP's vocabulary is 1.5 MB: it is borrowed from a base that is there."""
    for folder in (ROOT / "checkpoints" / "mini" / "base" / "tokenizer",
                   Path(os.environ.get("STYLEBLEND_GOLDEN", "nowhere")) / "base" / "tokenizer"):
        if (folder / "vocab.json").is_file():
            return folder
    pytest.skip("no tokenizer: neither checkpoints/mini/base nor STYLEBLEND_GOLDEN is there")
