"""ComfyUI's bar, preview and cancel button for a job of the page."""
from __future__ import annotations

import base64
import contextlib
import io
from typing import Any, Dict

from PIL import Image

from .service import Service, ServiceError

try:
    from comfy.model_management import throw_exception_if_processing_interrupted
    from comfy.utils import ProgressBar
except ImportError:  # outside ComfyUI, as in tests: nobody looks on, and nobody cancels
    ProgressBar = None

WHOLE = 1000  # units of the bar
PREVIEW_SIDE = 512  # pixels, at most


def watched(service: Service, job: Dict[str, Any]) -> Dict[str, Any]:
    """Wait for a job; the job in the end. Where that is cancelled, or fails, it is stopped on the server, too."""
    bar, now = ProgressBar(WHOLE) if ProgressBar else None, job
    try:
        for now in service.follow(job):
            if bar:
                throw_exception_if_processing_interrupted()
                bar.update_absolute(round(WHOLE * share_of(now)), WHOLE, preview_of(now))
    except BaseException:
        if not now["ended"]:
            with contextlib.suppress(ServiceError):  # where the server has gone, there is nothing to stop
                service.stop(now)
        raise
    return now


def share_of(job: Dict[str, Any]) -> float:
    """How much of a job is done, 0 to 1: each kind of progress is a part of one unit of the kind around it."""
    if job["ended"]:
        return 1.0
    share = 0.0
    for one in reversed(job["progress"]):
        share = min(1.0, (one["done"] + share) / max(1, one["total"]))
    return share


def preview_of(job: Dict[str, Any]):
    """The picture as it looks now, as ComfyUI takes previews; None: there is none."""
    if not job["preview"]:
        return None
    with Image.open(io.BytesIO(base64.b64decode(job["preview"]))) as image:
        return "JPEG", image.convert("RGB"), PREVIEW_SIDE
