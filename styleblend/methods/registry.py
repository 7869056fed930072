"""The methods by name. A new one is one entry here."""
from __future__ import annotations

from typing import Mapping

from styleblend.methods.dreamstyler import DreamStyler
from styleblend.methods.method import Method
from styleblend.methods.style_aligned import StyleAligned
from styleblend.methods.style_encoder import StyleEncoder
from styleblend.methods.styleblend import StyleBlend

METHODS: Mapping[str, Method] = {method.name: method
                                 for method in (StyleBlend(), StyleAligned(), DreamStyler(), StyleEncoder())}
