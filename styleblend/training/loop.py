"""The training loop of every stage: progress, checkpoints that resume exactly, picture grids, a loss curve."""
from __future__ import annotations

import hashlib
import io
import json
import math
import signal
import sys
import threading
from pathlib import Path
from typing import Callable, Dict, Optional

import numpy as np
from tqdm import tqdm

from styleblend.errors import Stopped, StyleBlendError
from styleblend.files.whole_files import write_bytes
from styleblend.machine.precision import loss_scale
from styleblend.machine.runtime import jt, say
from styleblend.settings import TrainingSettings
from styleblend.machine.signals import handle
from styleblend.training.checkpoints import Checkpoints, Log
from styleblend.training.optimiser import AdamW


def step_rng(seed: int, stage: str, step: int) -> np.random.Generator:
    """The random numbers of one step: a function of seed, stage and step, so that there is no RNG state to save."""
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(stage.encode()).digest()[:4], "little"), step])


class StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a flag, so that a step is never cut in two; a second one stops at once."""

    def __init__(self):
        self.requested, self.previous = False, {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self.previous = {number: handle(number, self.request) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def request(self, number, frame) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(self, *error) -> None:
        for number, handler in self.previous.items():
            handle(number, handler)


def train(stage: str, config: TrainingSettings, parameters: Dict[str, "jt.Var"], loss_of: Callable, folder: Path, identity: str = "",
          sample: Optional[Callable] = None, dtype: str = "float32", scored_by: str = "", plot: Optional[Callable] = None) -> Log:
    """Train `parameters` for the steps of the stage `stage` of `config` with `loss_of(rng) -> loss`; the losses of all steps and the scores of the grids.

    The checkpoints in `<folder>/<stage>/`, written every `config.save_every` steps and at the end, hold the whole state: a run
    that was killed continues as if nothing had happened. `identity` names what the run depends on besides the settings (base,
    pictures): a checkpoint of something else is refused. `sample(path)` draws a picture grid and may return its score; with `config.keep_adapters` "best" the
    parameters end as they were at the best one. `scored_by` names what gives the scores: those of something else, before the run was stopped, are let go.
    `plot(log)` is called after each grid and at the end. `dtype` is that of the networks.
    """
    folder, settings = Path(folder), getattr(config, stage)
    optimiser, log = AdamW(parameters, settings, loss_scale(dtype)), Log([], {}, scored_by)
    depends = [settings.model_dump(), config.seed, identity] + ([] if dtype == "float32" else [dtype])
    fingerprint = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]
    checkpoints = Checkpoints(folder / stage, fingerprint, config.checkpoints)
    state = checkpoints.restore()
    if state:
        step, tensors, log = state
        if scored_by and log.scored_by not in ("", scored_by):
            say(f"{stage}: the pictures were scored by {log.scored_by} until now, and are by {scored_by} from here: the scores so far cannot be compared, and are let go")
            log.scores.clear()
        log = log._replace(scored_by=scored_by or log.scored_by)
        try:
            optimiser.restore(tensors, step)
        except (KeyError, ValueError):
            raise StyleBlendError(f"{checkpoints.folder} does not belong to this training: delete it or pass --overwrite") from None

    def save():
        checkpoints.save(optimiser.step, optimiser.state(), log)

    bar = tqdm(total=settings.steps, initial=optimiser.step, desc=stage, unit="step", file=sys.stderr, dynamic_ncols=True)
    with bar, StopRequest() as stop:
        while optimiser.step < settings.steps:
            loss = loss_of(step_rng(config.seed, stage, optimiser.step))
            optimiser.update(loss)
            value = float(loss.item())  # also cuts the graph: without it every step would grow one endless graph
            if not math.isfinite(value):
                raise StyleBlendError(f"the loss of {stage} became {value} at step {optimiser.step}: lower its learning rate in the config; "
                                      f"the last good state is in {checkpoints.folder}")
            log.losses.append(value)
            # the grid first: a run that is killed while it draws goes on from before it
            if sample and config.sample_every and (optimiser.step % config.sample_every == 0 or optimiser.step == settings.steps):
                score = sample(folder / f"{stage}-{optimiser.step:05d}.png")
                if score is not None:
                    log.scores[optimiser.step] = score
                    if optimiser.step == log.best():  # also where the last step is to be kept: the run may go on with another choice
                        checkpoints.save_best(optimiser.step, {name: p.numpy() for name, p in parameters.items()})
                if plot:
                    plot(log)
            stopping = stop.requested
            if stopping or optimiser.step % config.save_every == 0 or optimiser.step == settings.steps:
                save()
            # the bar last: where the terminal or the pipe behind it is gone it fails, and what was to be saved is
            score = {"score": f"{list(log.scores.values())[-1]:.3f}"} if log.scores else {}
            bar.set_postfix(loss=f"{np.mean(log.losses[-50:]):.4f}", lr=f"{optimiser.lr():.1e}", **score, refresh=False)
            bar.update()
            if stopping:
                break
            if optimiser.step % 50 == 0:
                jt.gc()
    if plot:
        plot(log)
    if stop.requested:
        raise Stopped(f"stopped at step {optimiser.step} of {stage}, which is saved")
    if config.keep_adapters == "best" and log.scores:
        step = log.best()
        for name, array in checkpoints.best(step).items():
            parameters[name].update(jt.array(array))
        say(f"{stage}: the parameters of step {step} are kept, whose pictures have the best score ({log.scores[step]:.3f})")
    return log


def loss_curve(path: Path, logs: Dict[str, Log]) -> None:
    """A PNG with the loss of every stage that has steps: each step, a running mean over a twentieth of the run, and the scores of the picture grids."""
    from matplotlib.figure import Figure
    logs = {stage: log for stage, log in logs.items() if log.losses}
    if not logs:
        return
    figure = Figure(figsize=(8, 2.6 * len(logs)), layout="constrained")
    for axis, (stage, (losses, scores, scored_by)) in zip(np.atleast_1d(figure.subplots(len(logs), 1)), logs.items()):
        width = max(1, len(losses) // 20)
        axis.plot(losses, color="0.8", linewidth=0.7)
        axis.plot(np.arange(width - 1, len(losses)), np.convolve(losses, np.ones(width) / width, "valid"), color="tab:blue")
        axis.set(title=stage, xlabel="step", ylabel="loss")
        if scores:
            beside = axis.twinx()
            beside.plot([step - 1 for step in scores], list(scores.values()), "o-", color="tab:orange")
            beside.set_ylabel(f"score: {scored_by}" if scored_by else "score", color="tab:orange")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    write_bytes(path, buffer.getvalue())
