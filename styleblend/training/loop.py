"""The training loop of every stage: progress, checkpoints that resume exactly, picture grids, a loss curve."""
from __future__ import annotations

import hashlib
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Generator, Iterator, Optional, Union

import numpy as np

from styleblend.errors import StyleBlendError
from styleblend.files.whole_files import write_bytes
from styleblend.machine.precision import loss_scale
from styleblend.machine.runtime import jt, say
from styleblend.settings import TrainingSettings
from styleblend.settings.training import OptimiserSettings
from styleblend.training.checkpoints import Checkpoints, Log
from styleblend.training.optimiser import AdamW
from styleblend.training.work import WorkDone, ended


def step_rng(seed: int, stage: str, step: int) -> np.random.Generator:
    """The random numbers of one step: a function of seed, stage and step, so that there is no RNG state to save."""
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(stage.encode()).digest()[:4], "little"), step])


@dataclass(frozen=True)
class TrainingStep:
    """`step` of the `steps` of a stage are made.

    `loss`: mean of the last 50; `score`: of the last picture grid that has one. None before the first.
    """

    stage: str
    step: int
    steps: int
    lr: float
    loss: Optional[float] = None
    score: Optional[float] = None


def train(stage: str, config: TrainingSettings, parameters: Dict[str, "jt.Var"], loss_of: Callable, folder: Path,
          identity: str = "", sample: Optional[Callable] = None, dtype: str = "float32", scored_by: str = "",
          plot: Optional[Callable] = None, settings: Optional[OptimiserSettings] = None
          ) -> Generator[Union[TrainingStep, WorkDone, Path], None, Log]:
    """Train `parameters` for the steps of the stage `stage` with `loss_of(rng) -> loss`.

    Its `settings` are those that `config` has under its name, unless they are given.

    Yields a `TrainingStep` before the first step and after each, and the path of each picture grid; returns the losses
    of all steps and the scores of the grids. Closing the generator saves the step that was made last.

    The checkpoints in `<folder>/<stage>/`, written every `config.save_every` steps and at the end, hold the whole
    state: a run that was killed continues as if nothing had happened. `identity` names what the run depends on besides
    the settings (base, pictures): a checkpoint of something else is refused. `sample(path)` is a generator that draws a
    picture grid, yields what is done of it, and may return its score; with `config.keep_adapters` "best" the parameters
    end as they were at the best one.
    `scored_by` names what gives the scores: those of something else, before the run was stopped, are let go.
    `plot(log)` is called after each grid and at the end. `dtype` is that of the networks.
    """
    folder, settings = Path(folder), settings or getattr(config, stage)
    optimiser = AdamW(parameters, settings, loss_scale(dtype))
    checkpoints = Checkpoints(folder / stage, fingerprint_of(settings, config.seed, identity, dtype),
                              config.checkpoints)
    log, plot = resumed(stage, checkpoints, optimiser, scored_by), plot or (lambda log: None)
    saved = optimiser.step
    try:
        yield present(stage, optimiser, log)
        while optimiser.step < settings.steps:
            log.losses.append(make_step(stage, optimiser, loss_of(step_rng(config.seed, stage, optimiser.step)),
                                        checkpoints))
            last, path = optimiser.step == settings.steps, folder / f"{stage}-{optimiser.step:05d}.png"
            grid = sample and config.sample_every and (optimiser.step % config.sample_every == 0 or last)
            if grid:  # before the step is saved: a run that is killed while it draws goes on from before it
                yield from ended(make_grid(sample, path, log, checkpoints, optimiser, plot))
            if optimiser.step % config.save_every == 0 or last:
                checkpoints.save(optimiser.step, optimiser.state(), log)
                saved = optimiser.step
            if grid:
                yield path
            yield present(stage, optimiser, log)
            if optimiser.step % 50 == 0:
                jt.gc()
    except GeneratorExit:  # between two steps: a grid is drawn to its end first
        if optimiser.step > saved:
            checkpoints.save(optimiser.step, optimiser.state(), log)
        plot(log)
        raise
    plot(log)
    if config.keep_adapters == "best" and log.scores:
        take_best(stage, checkpoints, parameters, log)
    return log


def fingerprint_of(settings: OptimiserSettings, seed: int, identity: str, dtype: str) -> str:
    """16 hex digits that change with anything that a run depends on."""
    depends = [settings.model_dump(), seed, identity] + ([] if dtype == "float32" else [dtype])
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]


def present(stage: str, optimiser: AdamW, log: Log) -> TrainingStep:
    """Where the stage is."""
    loss, scores = float(np.mean(log.losses[-50:])) if log.losses else None, list(log.scores.values())
    return TrainingStep(stage, optimiser.step, optimiser.settings.steps, optimiser.lr(), loss,
                        scores[-1] if scores else None)


def resumed(stage: str, checkpoints: Checkpoints, optimiser: AdamW, scored_by: str) -> Log:
    """The log of an earlier run, whose state the optimiser gets; an empty one where there is none."""
    state = checkpoints.restore()
    if not state:
        return Log([], {}, scored_by)
    step, tensors, log = state
    if scored_by and log.scored_by not in ("", scored_by):
        say(f"{stage}: the pictures were scored by {log.scored_by} until now, and are by {scored_by} from here: "
            "the scores so far cannot be compared, and are let go")
        log.scores.clear()
    try:
        optimiser.restore(tensors, step)
    except (KeyError, ValueError):
        raise StyleBlendError(f"{checkpoints.folder} does not belong to this training: "
                              "delete it or pass --overwrite") from None
    checkpoints.leave_out_old(step)
    return log._replace(scored_by=scored_by or log.scored_by)


def make_step(stage: str, optimiser: AdamW, loss, checkpoints: Checkpoints) -> float:
    """One step down the gradient; the loss as a number. StyleBlendError when it is none."""
    optimiser.update(loss)
    value = float(loss.item())  # also cuts the graph: without it every step would grow one endless graph
    if not math.isfinite(value):
        raise StyleBlendError(f"the loss of {stage} became {value} at step {optimiser.step}: lower its learning rate "
                              "in the config; "
                              f"the last good state is in {checkpoints.folder}")
    return value


def make_grid(sample: Callable, path: Path, log: Log, checkpoints: Checkpoints, optimiser: AdamW,
              plot: Callable) -> Iterator[WorkDone]:
    """Draw a picture grid, note its score, and plot the curve."""
    keep_score((yield from sample(path)), log, checkpoints, optimiser)
    plot(log)


def keep_score(score: Optional[float], log: Log, checkpoints: Checkpoints, optimiser: AdamW) -> None:
    """Note the score of a picture grid, and keep the parameters if it is the best so far."""
    if score is None:
        return
    log.scores[optimiser.step] = score
    if optimiser.step == log.best():  # also where the last step is to be kept: the run may go on with another choice
        checkpoints.save_best(optimiser.step, {name: p.numpy() for name, p in optimiser.parameters.items()})


def take_best(stage: str, checkpoints: Checkpoints, parameters: Dict[str, "jt.Var"], log: Log) -> None:
    """Set the parameters to those of the step with the best score."""
    step = log.best()
    for name, array in checkpoints.best(step).items():
        parameters[name].update(jt.array(array))
    say(f"{stage}: the parameters of step {step} are kept, whose pictures have the best score ({log.scores[step]:.3f})")


def loss_curve(path: Path, logs: Dict[str, Log]) -> None:
    """A PNG with the loss of every stage that has steps.

    Each step, a running mean over a twentieth of the run, and the scores of the picture grids.
    """
    from matplotlib.figure import Figure
    logs = {stage: log for stage, log in logs.items() if log.losses}
    if not logs:
        return
    figure = Figure(figsize=(8, 2.6 * len(logs)), layout="constrained")
    for axis, (stage, (losses, scores, scored_by)) in zip(np.atleast_1d(figure.subplots(len(logs), 1)), logs.items()):
        width = max(1, len(losses) // 20)
        axis.plot(losses, color="0.8", linewidth=0.7)
        axis.plot(np.arange(width - 1, len(losses)), np.convolve(losses, np.ones(width) / width, "valid"),
                  color="tab:blue")
        axis.set(title=stage, xlabel="step", ylabel="loss")
        if scores:
            beside = axis.twinx()
            beside.plot([step - 1 for step in scores], list(scores.values()), "o-", color="tab:orange")
            beside.set_ylabel(f"score: {scored_by}" if scored_by else "score", color="tab:orange")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    write_bytes(path, buffer.getvalue())
