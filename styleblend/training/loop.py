"""The training loop of every stage: progress, checkpoints that resume exactly, picture grids, a loss curve."""
from __future__ import annotations

import hashlib
import json
import math
import signal
import sys
import threading
from pathlib import Path
from typing import Callable, Dict, List, Optional

import numpy as np
from tqdm import tqdm

from styleblend.errors import Stopped, StyleBlendError
from styleblend.runtime import jt
from styleblend.settings import StageSettings
from styleblend.training.optimiser import AdamW
from styleblend.weights import read_metadata, read_safetensors, write_safetensors


def step_rng(seed: int, stage: str, step: int) -> np.random.Generator:
    """The random numbers of one step: a function of seed, stage and step, so that there is no RNG state to save."""
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(stage.encode()).digest()[:4], "little"), step])


class StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a flag, so that a step is never cut in two; a second one stops at once."""

    def __init__(self):
        self.requested, self.previous = False, {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self.previous = {number: signal.signal(number, self.request) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def request(self, number, frame) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(self, *error) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: it was not set from Python


def train(stage: str, settings: StageSettings, parameters: Dict[str, "jt.Var"], loss_of: Callable, folder: Path, seed: int, save_every: int,
          identity: str = "", sample_every: int = 0, sample: Optional[Callable] = None) -> List[float]:
    """Train `parameters` for `settings.steps` steps of `loss_of(rng) -> loss`; the losses of all steps.

    `<folder>/<stage>.safetensors` holds the whole state, written every `save_every` steps and at the end; a run that was
    killed continues from it as if nothing had happened. `identity` names what the run depends on besides the settings
    (base, pictures): a checkpoint of something else is refused. `sample(path)` draws a picture grid.
    """
    folder = Path(folder)
    path, optimiser, losses = folder / f"{stage}.safetensors", AdamW(parameters, settings), []
    fingerprint = hashlib.sha256(json.dumps([settings.model_dump(), seed, identity], sort_keys=True).encode()).hexdigest()[:16]
    if path.is_file():
        metadata = read_metadata(path)
        if metadata.get("fingerprint") != fingerprint:
            raise StyleBlendError(f"{path} is a checkpoint of other settings, pictures or base: delete {folder} or pass --overwrite")
        try:
            optimiser.restore(read_safetensors(path), int(metadata["step"]))
            losses = json.loads(metadata["losses"])
        except (KeyError, ValueError):
            raise StyleBlendError(f"{path} does not belong to this training: delete {folder} or pass --overwrite") from None

    def save():
        write_safetensors(path, optimiser.state(), {"step": str(optimiser.step), "fingerprint": fingerprint, "losses": json.dumps(losses)})

    bar = tqdm(total=settings.steps, initial=optimiser.step, desc=stage, unit="step", file=sys.stderr, dynamic_ncols=True)
    with bar, StopRequest() as stop:
        while optimiser.step < settings.steps:
            loss = loss_of(step_rng(seed, stage, optimiser.step))
            optimiser.update(loss)
            value = float(loss.item())  # also cuts the graph: without it every step would grow one endless graph
            if not math.isfinite(value):
                raise StyleBlendError(f"the loss of {stage} became {value} at step {optimiser.step}: lower its learning rate in the config; "
                                      f"the last good state is in {path}")
            losses.append(value)
            bar.set_postfix(loss=f"{np.mean(losses[-50:]):.4f}", lr=f"{optimiser.lr():.1e}", refresh=False)
            bar.update()
            if optimiser.step % save_every == 0 or optimiser.step == settings.steps:
                save()
            if sample and sample_every and (optimiser.step % sample_every == 0 or optimiser.step == settings.steps):
                sample(folder / f"{stage}-{optimiser.step:05d}.png")
            if stop.requested and optimiser.step < settings.steps:
                save()
                raise Stopped(f"stopped at step {optimiser.step} of {stage}, which is saved: start the same command again to go on")
            if optimiser.step % 50 == 0:
                jt.gc()
    return losses


def loss_curve(path: Path, curves: Dict[str, List[float]]) -> None:
    """A PNG with the loss of every stage: each step, and a running mean over a twentieth of the run."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(8, 2.6 * len(curves)), layout="constrained")
    for axis, (stage, losses) in zip(np.atleast_1d(figure.subplots(len(curves), 1)), curves.items()):
        width = max(1, len(losses) // 20)
        axis.plot(losses, color="0.8", linewidth=0.7)
        axis.plot(np.arange(width - 1, len(losses)), np.convolve(losses, np.ones(width) / width, "valid"), color="tab:blue")
        axis.set(title=stage, xlabel="step", ylabel="loss")
    figure.savefig(path, dpi=100)
