"""Learn styles: each part of each style in turn, with its folders claimed.

One that cannot be trained does not stop the others.
"""
from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from styleblend.adapters import learned_from
from styleblend.adapters.parts import method_of_training, product_of, trainings_of
from styleblend.adapters.style_files import part_file, remove_part, settings_in
from styleblend.base.base import load_base
from styleblend.files.base_folder import find_base
from styleblend.errors import Busy, StyleBlendError
from styleblend.files.captions import StylePicture, read_pictures, style_pictures
from styleblend.files.layouts import point, pointed, walked
from styleblend.files.names import check_name, entry
from styleblend.files.output_files import refuse_unwritable
from styleblend.files.shipped import adapters_of, data_of, holds_files
from styleblend.files.whole_files import remove_unfinished
from styleblend.files.claims import claim
from styleblend.kernels.dtypes import trained_as
from styleblend.jobs.choices import check_pictures, styles_to_train
from styleblend.jobs.events import Event, Job, Log, Progress, Written
from styleblend.jobs.memory import Beside, within
from styleblend.pipeline import Pipeline
from styleblend.settings import FIRST_METHOD, RunSettings
from styleblend.training.coarse import train_coarse
from styleblend.training.dreamstyler import train_dreamstyler
from styleblend.training.fine import train_fine
from styleblend.training.look_alikes import DRAWN_WITH
from styleblend.training.loop import TrainingStep
from styleblend.training.work import WorkDone


class Training(NamedTuple):
    """What learns some parts of a style (`adapters.parts` says which), and its stages that have checkpoints."""

    train: Callable[..., Iterator]
    stages: Tuple[str, ...]


TRAININGS = {"coarse": Training(train_coarse, ("coarse",)), "fine": Training(train_fine, ("inversion", "lora")),
             "dreamstyler": Training(train_dreamstyler, ("dreamstyler",))}


@dataclass(frozen=True)
class TrainRequest:
    """What is to be learned: `parts` (keys of TRAININGS) of `styles` ("00,01"; None: all of the data folder).

    `pictures` is a folder anywhere, from which the one style `name` is learned in their place: the data folder gets the
    way to it and no copy. `overwrite` trains again what is trained, from the start. `share` leaves styles that another
    process trains now to it. `max_memory` as in `BoardRequest`.
    """

    settings: RunSettings
    parts: Sequence[str] = trainings_of(FIRST_METHOD)
    styles: Optional[str] = None
    overwrite: bool = False
    share: bool = False
    max_memory: Optional[str] = None
    pictures: Optional[Path] = None
    name: Optional[str] = None

    def sources(self) -> Tuple[Dict[str, Path], List[str]]:
        """The styles to learn, with the folder that leads to the pictures of each; sentences on what is left out."""
        data = Path(self.settings.data)
        if (self.pictures is None) != (self.name is None) or self.pictures is not None and self.styles is not None:
            raise StyleBlendError("--pictures FOLDER and --name NAME go together, and without --styles")
        if self.pictures is not None:
            name = check_name(self.name)
            if data_of(data, name) != entry(data, name):
                raise StyleBlendError(f"the style {name} comes with the program: choose another --name")
            folder = source_of(name, Path(self.pictures), entry(data, name), self.overwrite)
            return {name: folder}, check_pictures(name, style_pictures(folder), self.settings)
        names, left_out = styles_to_train(self.settings, self.styles)
        return {name: data_of(data, name) for name in names}, left_out


def source_of(name: str, pictures: Path, folder: Path, overwrite: bool) -> Path:
    """The folder of pictures that was given for a style. StyleBlendError where the style has others already."""
    if not pictures.is_dir():
        raise StyleBlendError(f"--pictures {pictures} is no folder: name one with 3 to 10 pictures of one style")
    if pictures.resolve() in (folder.resolve(), (folder / "images").resolve()):
        return folder
    if walked(folder).pictures:
        raise StyleBlendError(f"{folder} has pictures of its own: train them with --styles {name}, or choose another "
                              "--name")
    before = pointed_before(folder)
    if before not in (None, pictures.resolve()) and not overwrite:
        raise StyleBlendError(f"{name} is learned from the pictures in {before}: choose another --name, or begin anew "
                              "with --overwrite")
    return pictures


def pointed_before(folder: Path) -> Optional[Path]:
    """The folder elsewhere from which a style was learned until now; None: there was none, or it is gone."""
    try:
        found = pointed(folder)
    except StyleBlendError:
        return None
    return None if found == folder else found.resolve()


def train_styles(request: TrainRequest) -> Job[None]:
    """Train every part of every style. Closing it saves the step of the stage that is trained then.

    StyleBlendError at the end names what could not be trained, where there were others to go on with. Busy, unless
    `share`, when another process trains a style now.
    """
    settings, began, failed = request.settings, time.time(), []
    names, left_out = request.sources()
    for sentence in left_out:
        yield Log(sentence)
    for name, folder in names.items():
        for place in (settings.adapters, settings.look_alikes):
            refuse_unwritable(Path(place) / name)
        found = read_pictures(folder)
        yield Log(f"{name}: {found.summary()}")
        if folder == request.pictures:
            point(entry(settings.data, name), folder)
    base = find_base(settings.base, settings.base_id)
    stages = tuple(stage for part in request.parts for stage in TRAININGS[part].stages)
    settings = yield from within(settings, "training", request.max_memory, Beside(stages=stages))
    for name in names:
        for part in request.parts:
            try:
                yield from train_part(name, part, settings, base, request.overwrite, began if request.share else None)
            except Busy as busy:
                if not request.share:
                    raise
                yield Log(f"{busy}; going on with the next one")
            except StyleBlendError as error:  # of one style: the others need not wait for it
                if len(names) == 1:
                    raise
                failed.append(f"{name} ({part})")
                yield Log(f"{name}: {error}; going on with the next one")
    if failed:
        some = ", ".join(failed[:4]) + (" and others" if failed[4:] else "")
        raise StyleBlendError(f"{len(failed)} trainings failed: {some}; what is wrong with each is said above")


def train_part(name: str, part: str, settings: RunSettings, base: Path, overwrite: bool,
               began: Optional[float] = None) -> Job[None]:
    """Train one part of a style, unless it is there, with its folders claimed: Busy when another process has them.

    `overwrite` leaves alone what one of several workers has trained since this one `began`: it was asked to do the
    same.
    """
    train, product = TRAININGS[part].train, product_of(part)
    folder, look_alikes = Path(settings.adapters) / name, Path(settings.look_alikes) / name
    pictures = style_pictures(data_of(settings.data, name))
    with contextlib.ExitStack() as claims:
        claims.enter_context(claim(folder / "training", part))
        there = adapters_of(settings.adapters, name)  # a shipped style is trained, too, and stays as it is
        refuse_other_method(name, part, there)
        done = part_file(there, name, product)
        if done and overwrite and began is not None and done.stat().st_mtime >= began:
            yield Log(f"{name}: {part} has just been trained by another worker")
            return
        if done and not overwrite:
            others = learned_from.changed(folder, part, pictures)
            yield Log(f"{name}: {part} is trained already ({there}); --overwrite trains it again"
                      + (f", which its pictures ask for: {others}" if others else ""))
            return
        if part == "coarse":
            claims.enter_context(claim(look_alikes, "look-alikes"))
        remove_unfinished(folder, folder / "training", look_alikes)
        if overwrite:
            forget(name, part, folder, look_alikes)
        refuse_other_pictures(name, part, folder, pictures)
        learned_from.note(folder, part, pictures)
        yield Log(f"{name}: learning the {part} style")
        # a training frees networks when their work is done, so each begins with the base anew
        steps = train(Pipeline(load_base(base, trained_as(settings.dtype))), name, settings)
        with timed(folder, part), contextlib.closing(steps):
            for step in steps:
                yield as_event(step)
        yield Log(f"{name}: {part} style is in {folder}")


@contextlib.contextmanager
def timed(folder: Path, part: str) -> Iterator[None]:
    """Count the time of a run of this training: `compare` shows it. A disk that is full shall not end it by this."""
    begin = time.monotonic()
    try:
        yield
    finally:
        with contextlib.suppress(StyleBlendError):
            learned_from.add_seconds(folder, part, time.monotonic() - begin)


def refuse_other_method(name: str, part: str, folder: Path) -> None:
    """StyleBlendError where a style of this name is there already, of another method."""
    own, asked = settings_in(folder, name).method if holds_files(folder) else None, method_of_training(part)
    if own not in (None, asked):
        raise StyleBlendError(f"{name} is a style of {own} already: learn its pictures under another name, with "
                              f"--pictures FOLDER --name {name[:40]}-{asked}")


def refuse_other_pictures(name: str, part: str, folder: Path, pictures: List[StylePicture]) -> None:
    """StyleBlendError where a training would go on with other pictures than it began with."""
    begun = any((folder / "training" / stage / "latest").is_file() for stage in TRAININGS[part].stages)
    others = learned_from.changed(folder, part, pictures) if begun else None
    if others:
        raise StyleBlendError(f"the {part} training of {name} began with other pictures ({others}): put them back to "
                              "go on, or begin anew with --overwrite")


def forget(name: str, part: str, folder: Path, look_alikes: Path) -> None:
    """Remove what an earlier training of this part left, so that it begins anew."""
    learned_from.time_of(folder, part).unlink(missing_ok=True)
    for stage in TRAININGS[part].stages:
        shutil.rmtree(folder / "training" / stage, ignore_errors=True)
    # what is written last goes first: so a stopped run, started again without --overwrite, goes on where it was
    remove_part(folder, name, product_of(part))
    for file in [look_alikes / DRAWN_WITH, *look_alikes.glob("*.png")] if part == "coarse" else []:
        file.unlink(missing_ok=True)


def as_event(step: Union[TrainingStep, WorkDone, Path]) -> Event:
    """What a training yields, as the event of a job."""
    if isinstance(step, Path):
        return Written(step)
    if isinstance(step, WorkDone):
        return Progress(step.title, step.done, step.total, step.unit)
    numbers = [("loss", step.loss, ".4f"), ("lr", step.lr, ".1e"), ("score", step.score, ".3f")]
    note = ", ".join(f"{name}={value:{form}}" for name, value, form in numbers if value is not None)
    return Progress(step.stage, step.step, step.steps, "step", note if step.loss is not None else "", value=step.loss)
