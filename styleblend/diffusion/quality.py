"""Levels of quality by name: fewer calls of the UNet for nearly the same picture (docs/quality.md has the figures)."""
from __future__ import annotations

from typing import Mapping

BEST = "best"  # as the config and the style have it
# level -> what it changes of the sampling settings
QUALITIES: Mapping[str, Mapping[str, object]] = {"draft": {"sampler": "dpmpp_2m", "steps": 9, "eta": 0.0},
                                                 "normal": {"sampler": "dpmpp_2m", "steps": 15, "eta": 0.0}, BEST: {}}
