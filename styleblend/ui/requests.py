"""What the page may ask for, as plain data: checked by the page before it waits, made a job by the worker.

The page's own process has no Jittor in it: what needs it is imported in the worker alone.
"""
from __future__ import annotations

import glob
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence

from styleblend.errors import StyleBlendError
from styleblend.files.base_folder import check_base
from styleblend.files.names import check_name, control_character
from styleblend.files.output_files import free_path
from styleblend.files.prompts import make_prompt, phrase_of
from styleblend.jobs.choices import known_style, ready_pictures, ready_to_draw
from styleblend.jobs.events import Job, Log, Progress
from styleblend.settings import (KINDS, LARGEST_SEED, AlignSettings, RunSettings, TrainingSettings, validated,
                                 with_sampling)
from styleblend.settings.study import StudySettings
from styleblend.ui.drawing_fields import check_own

MOST_PROMPTS, MOST_COUNT, MOST_SEEDS, LONGEST_PROMPT = 20, 64, 8, 4000
REFERENCES = "references"  # the setting of a method that draws in the style of pictures


@dataclass(frozen=True)
class Asked:
    """A piece of work: its kind, a key of WORK, and its values, which JSON can hold."""

    kind: str
    values: Mapping[str, Any]

    def line(self) -> str:
        return json.dumps({"kind": self.kind, "values": dict(self.values)})


def methods_by_pictures() -> List[str]:
    """The methods that draw in the style of reference pictures: those that have a setting for them."""
    return [name for name, kind in KINDS.items() if REFERENCES in kind.drawing.model_fields]


def check(asked: Asked, settings: RunSettings) -> None:
    """StyleBlendError where this cannot be done: said at once, not when its turn comes."""
    if asked.kind not in WORK:
        raise StyleBlendError(f"there is no work of the kind {asked.kind!r}")
    WORK[asked.kind].check(asked.values, settings)


def job_of(asked: Asked, settings: RunSettings) -> Job:
    """The job, in the worker."""
    return WORK[asked.kind].job(asked.values, settings)


def prompts_in(text: Optional[str]) -> List[str]:
    """The prompts of a text, one on each line; empty lines are none."""
    return [line.strip() for line in (text or "").splitlines() if line.strip()]


# ---------------------------------------------------------------- drawing

def check_prompts(prompts: Sequence[str]) -> None:
    """StyleBlendError for more of them, or longer ones, than the page takes."""
    if len(prompts) > MOST_PROMPTS:
        raise StyleBlendError(f"draw {MOST_PROMPTS} prompts at a time at most")
    for prompt in prompts:
        if len(prompt) > LONGEST_PROMPT:
            raise StyleBlendError(f"a prompt has {len(prompt)} characters: {LONGEST_PROMPT} are the most here")
        phrase_of(prompt)


def check_words(what: str, words: Optional[str]) -> None:
    """StyleBlendError for words beside a prompt that no picture's record can hold, or too many of them."""
    words = words or ""
    if len(words) > LONGEST_PROMPT:
        raise StyleBlendError(f"{what} has {len(words)} characters: {LONGEST_PROMPT} are the most here")
    if control_character(words):
        raise StyleBlendError(f"{what} holds the control character {control_character(words)}: take it out")


def check_last_seed(first: Optional[int], count: int) -> None:
    """StyleBlendError where so many pictures have no seeds from the first on."""
    if first is not None and first > LARGEST_SEED - count:
        raise StyleBlendError(f"the seed {first} is too large for {count} pictures: {LARGEST_SEED - count} is the "
                              "largest")


def check_draw(values: Mapping[str, Any], settings: RunSettings) -> None:
    if not values["prompts"]:
        raise StyleBlendError("there is nothing to draw: write a prompt, one on each line for several")
    check_prompts(values["prompts"])
    if not 1 <= values["count"] <= MOST_COUNT:
        raise StyleBlendError(f"draw {MOST_COUNT} pictures of each prompt at most")
    check_words("the negative prompt", values["negative"])
    check_last_seed(values["seed"], values["count"])
    with_sampling(settings.sampling, values["sampling"], "the settings")
    if values["strength"] is not None and not values["style"]:
        raise StyleBlendError("a strength has no effect without a style: leave it out, or name a style")
    check_own(settings, values["style"], values["method"], values["own"])
    if values["style"] and values["method"]:
        raise StyleBlendError("a style has its own method: choose a style or a method, not both")
    if values["method"]:
        if values["method"] not in methods_by_pictures():
            raise StyleBlendError(f"{values['method']!r} is no method that draws by pictures")
        if not values[REFERENCES]:
            raise StyleBlendError("drop a picture whose style is to be drawn, or choose no method")
    elif values[REFERENCES]:
        raise StyleBlendError("reference pictures have no effect here: choose a method that reads them")
    ready_pictures(settings, *values[REFERENCES])
    ready_to_draw(settings, *filter(None, [values["style"]]))


def folder_of_pictures(settings: RunSettings) -> Path:
    """Where the page keeps what it draws."""
    return Path(settings.output) / "page"


def draw_job(values: Mapping[str, Any], settings: RunSettings) -> Job[List[Path]]:
    """Each prompt in turn, in files of their own."""
    files, prompts = [], values["prompts"]
    for number, prompt in enumerate(prompts):
        if len(prompts) > 1:
            yield Progress("prompts", number, len(prompts), "prompt", prompt[:60])
        files += yield from draw_prompt(prompt, values, settings)
    return files


def draw_prompt(prompt: str, values: Mapping[str, Any], settings: RunSettings) -> Job[List[Path]]:
    """The pictures of one prompt, in files that have free names."""
    from styleblend.jobs.draw import BY_CHANCE, DrawRequest, draw
    own, folder = dict(values["own"]), folder_of_pictures(settings)
    if values[REFERENCES]:
        own[REFERENCES] = [{"picture": picture} for picture in values[REFERENCES]]
    seed = BY_CHANCE if values["seed"] is None else values["seed"]
    folder.mkdir(parents=True, exist_ok=True)
    output = free_path(folder / f"{make_prompt(prompt).name}.png",
                       lambda path: path.exists() or any(folder.glob(f"{glob.escape(path.stem)}-*.png")))
    return (yield from draw(DrawRequest(
        settings, prompt, values["style"] or None, None, seed, values["count"], values["strength"],
        values["negative"], values["sampling"], output=output, own=own, method=values["method"] or None)))


# ---------------------------------------------------------------- a set in one look

def aligned(values: Mapping[str, Any], settings: RunSettings) -> AlignSettings:
    """What the set takes over from its reference: the config's, but for what is asked for."""
    return validated(AlignSettings, {**settings.align.model_dump(), **values["align"]}, "the set")


def check_align(values: Mapping[str, Any], settings: RunSettings) -> None:
    if not values["prompts"]:
        raise StyleBlendError("there is nothing to draw: write a prompt, one on each line for several")
    check_prompts(values["prompts"])
    asked, sampling = aligned(values, settings), with_sampling(settings.sampling, values["sampling"], "the settings")
    check_words("the negative prompt", values["negative"])
    check_words("the look", asked.look)
    check_words("the reference's prompt", asked.reference_prompt)
    for one in asked.references:
        check_words("a reference's prompt", one.prompt)
    check_last_seed(settings.sampling.seed if values["seed"] is None else values["seed"], len(values["prompts"]))
    asked.refuse_without_style(values["style"])
    asked.refuse_unfit(sampling.sampler, sampling.steps)
    ready_pictures(settings, *asked.pictures())
    ready_to_draw(settings, *filter(None, [values["style"]]))


def align_job(values: Mapping[str, Any], settings: RunSettings) -> Job[List[Path]]:
    """In a folder of its own: the set, its reference where it was drawn, and their sheet."""
    from styleblend.jobs.align import AlignRequest, align
    return align(AlignRequest(settings, values["prompts"], aligned(values, settings),
                              new_folder(folder_of_pictures(settings) / "aligned"), values["style"] or None,
                              values["seed"], values["negative"], values["sampling"]))


# ---------------------------------------------------------------- comparison

def study_of(values: Mapping[str, Any]) -> StudySettings:
    """What is compared, of what was filled in."""
    said = {name: value for name, value in values.items() if value not in (None, [])}
    return validated(StudySettings, said, "the comparison")


def check_compare(values: Mapping[str, Any], settings: RunSettings) -> None:
    study = study_of(values)
    check_prompts(values["prompts"])
    if len(study.seeds) > MOST_SEEDS:
        raise StyleBlendError(f"compare with {MOST_SEEDS} seeds at most")
    if study.methods and len(study.methods) < 2:
        raise StyleBlendError("choose two or more methods to compare, or none: then all that can")
    for name in study.styles or ():
        known_style(settings, name)
    check_base(settings.base, settings.base_id)


def compare_job(values: Mapping[str, Any], settings: RunSettings) -> Job[Any]:
    """In a folder of its own: the pictures, their sheet and the report."""
    from styleblend.jobs.compare import CompareRequest, compare_methods
    folder = new_folder(folder_of_pictures(settings) / "compared")
    return compare_methods(CompareRequest(settings, study_of(values), folder))


def new_folder(folder: Path) -> Path:
    """`folder`-1, or the next number that is free."""
    number = next(n for n in range(1, 1_000_000) if not folder.with_name(f"{folder.name}-{n}").exists())
    return folder.with_name(f"{folder.name}-{number}")


# ---------------------------------------------------------------- training

def check_train(values: Mapping[str, Any], settings: RunSettings) -> None:
    from styleblend.jobs.choices import styles_to_train
    if values["part"] not in trainings():
        raise StyleBlendError(f"there is no training {values['part']!r}")
    with_training(settings, values["training"])
    styles_to_train(settings, known_style(settings, values["name"]))
    check_base(settings.base, settings.base_id)


def trainings() -> Dict[str, tuple]:
    """What can be trained here: a method, and its parts in turn."""
    from styleblend.adapters.parts import PARTS, trainings_of
    return {method: trainings_of(method) for method in PARTS if trainings_of(method)}


def with_training(settings: RunSettings, changes: Mapping[str, Any]) -> RunSettings:
    """The settings with these of the trainings, some of them within their stages."""
    now = settings.training.model_dump()
    merged = {**now, **{key: {**now[key], **value} if isinstance(value, dict) else value
                        for key, value in changes.items()}}
    return settings.model_copy(update={"training": validated(TrainingSettings, merged, "the settings")})


def train_job(values: Mapping[str, Any], settings: RunSettings) -> Job[None]:
    from styleblend.jobs.train import TrainRequest, train_styles
    return train_styles(TrainRequest(with_training(settings, values["training"]), trainings()[values["part"]],
                                     values["name"], values["overwrite"]))


def check_captions(values: Mapping[str, Any], settings: RunSettings) -> None:
    known_style(settings, values["name"])


def captions_job(values: Mapping[str, Any], settings: RunSettings) -> Job[Any]:
    from styleblend.jobs.captions import write_captions
    return write_captions(settings, values["name"])


# ---------------------------------------------------------------- styles

def check_load(values: Mapping[str, Any], settings: RunSettings) -> None:
    from styleblend.adapters.foreign_files import read_tensors
    check_name(values["name"])
    for file in values["files"]:
        read_tensors(Path(file))  # by a reader that runs nothing; what is wrong with it is said here


def load_job(values: Mapping[str, Any], settings: RunSettings) -> Job[Any]:
    from styleblend.jobs.load import LoadRequest, load_style_files
    said = yield from load_style_files(LoadRequest(settings, [Path(file) for file in values["files"]], values["name"]))
    for sentence in said:
        yield Log(sentence)


def check_export(values: Mapping[str, Any], settings: RunSettings) -> None:
    from styleblend.adapters.style_files import find_style
    find_style(settings.adapters, values["name"])


def export_job(values: Mapping[str, Any], settings: RunSettings) -> Job[List[Path]]:
    from styleblend.adapters.export import export
    from styleblend.adapters.style_files import find_style
    from styleblend.jobs.events import Written
    folder = folder_of_exports(settings) / values["name"]
    files = export(find_style(settings.adapters, values["name"]), values["format"], folder, overwrite=True)
    for file in files:
        yield Written(file)
    return files


def folder_of_exports(settings: RunSettings) -> Path:
    return Path(settings.output) / "exported"


class Kind(NamedTuple):
    """A kind of work: what is checked before it waits, and its job."""

    check: Callable[[Mapping[str, Any], RunSettings], None]
    job: Callable[[Mapping[str, Any], RunSettings], Job]


WORK: Mapping[str, Kind] = {"draw": Kind(check_draw, draw_job), "align": Kind(check_align, align_job),
                            "train": Kind(check_train, train_job), "compare": Kind(check_compare, compare_job),
                            "captions": Kind(check_captions, captions_job), "load": Kind(check_load, load_job),
                            "export": Kind(check_export, export_job)}
