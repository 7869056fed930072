"""The metrics that a request names beside the judge."""
from __future__ import annotations

from pathlib import Path
from typing import List, Optional, Tuple

from styleblend.metrics import Metric, load_metrics, refuse_unknown
from styleblend.settings import RunSettings


def metric_names(names: Optional[str]) -> Optional[List[str]]:
    """["clip", "dino"] of "clip,dino"; None of "all". StyleBlendError for a name that no metric has."""
    wanted = None if names == "all" else [name.strip() for name in (names or "").split(",") if name.strip()]
    refuse_unknown(wanted)
    return wanted


def asked_metrics(settings: RunSettings, names: Optional[str],
                  weights: Optional[Path] = None) -> Tuple[List[Metric], List[str]]:
    """The metrics of "clip,dino" or "all" (None: none), and a sentence on each that cannot be had.

    Their networks are in the folder `weights`, by default the config's. StyleBlendError for a name that no metric has.
    """
    if not names:
        return [], []
    wanted = metric_names(names)
    return load_metrics(Path(weights or settings.metrics.weights), wanted, settings.metrics.ids)
