"""What the page may ask for, as plain data: checked by the page before it waits, made a job by the worker.

The page's own process has no Jittor in it: what needs it is imported in the worker alone.
"""
from __future__ import annotations

import glob
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple

from styleblend.errors import StyleBlendError
from styleblend.files.base_folder import check_base
from styleblend.files.names import check_name
from styleblend.files.output_files import free_path
from styleblend.files.prompts import make_prompt, phrase_of
from styleblend.jobs.choices import known_style, ready_pictures, ready_to_draw
from styleblend.jobs.events import Job, Log, Progress
from styleblend.settings import KINDS, RunSettings, TrainingSettings, validated, with_sampling

MOST_PROMPTS, MOST_COUNT, LONGEST_PROMPT = 20, 64, 4000
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


# ---------------------------------------------------------------- drawing

def check_draw(values: Mapping[str, Any], settings: RunSettings) -> None:
    prompts = values["prompts"]
    if not prompts:
        raise StyleBlendError("there is nothing to draw: write a prompt, one on each line for several")
    if len(prompts) > MOST_PROMPTS or not 1 <= values["count"] <= MOST_COUNT:
        raise StyleBlendError(f"draw {MOST_PROMPTS} prompts at a time, and {MOST_COUNT} pictures of each, at most")
    for prompt in prompts:
        if len(prompt) > LONGEST_PROMPT:
            raise StyleBlendError(f"a prompt has {len(prompt)} characters: {LONGEST_PROMPT} are the most here")
        phrase_of(prompt)
    with_sampling(settings.sampling, values["sampling"], "the settings")
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
        files += yield from draw_into(folder_of_pictures(settings), prompt, values, settings)
    return files


def draw_into(folder: Path, prompt: str, values: Mapping[str, Any], settings: RunSettings) -> Job[List[Path]]:
    """The pictures of one prompt, in files of this folder that have free names."""
    from styleblend.jobs.draw import BY_CHANCE, DrawRequest, draw
    own = dict(values["own"])
    if values[REFERENCES]:
        own[REFERENCES] = [{"picture": picture} for picture in values[REFERENCES]]
    seed = BY_CHANCE if values["seed"] is None else values["seed"]
    folder.mkdir(parents=True, exist_ok=True)
    output = free_path(folder / f"{make_prompt(prompt).name}.png",
                       lambda path: path.exists() or any(folder.glob(f"{glob.escape(path.stem)}-*.png")))
    return (yield from draw(DrawRequest(
        settings, prompt, values["style"] or None, None, seed, values["count"], values["strength"],
        values["negative"], values["sampling"], output=output, own=own, method=values["method"] or None)))


# ---------------------------------------------------------------- comparison

PLAIN = "plain"


def contestants_of(settings: RunSettings) -> List[str]:
    """What can be compared: plain pictures, each method that draws by pictures, each style."""
    from styleblend.adapters.style_files import style_names_in
    return [PLAIN, *(f"by pictures: {name}" for name in methods_by_pictures()),
            *(f"style: {name}" for name in style_names_in(settings.adapters))]


def drawing_of(contestant: str, values: Mapping[str, Any]) -> Dict[str, Any]:
    """What one of them draws, as the values of `draw_job`."""
    kind, _, name = contestant.partition(": ")
    by_pictures = kind == "by pictures"
    return {"prompts": values["prompts"], "count": values["count"], "seed": values["seed"], "negative": None,
            "strength": None, "sampling": {}, "own": {}, "style": name if kind == "style" else "",
            "method": name if by_pictures else "", REFERENCES: values[REFERENCES] if by_pictures else []}


def check_compare(values: Mapping[str, Any], settings: RunSettings) -> None:
    contestants = values["contestants"]
    known = contestants_of(settings)
    strange = next((one for one in contestants if one not in known), None)
    if strange is not None:
        raise StyleBlendError(f"there is no {str(strange)[:60]!r} to compare")
    if len(contestants) < 2 or len(set(contestants)) < len(contestants):
        raise StyleBlendError("choose two or more different styles or methods to compare")
    drawings = [drawing_of(one, values) for one in contestants]
    for drawing in drawings:
        check_draw(drawing, settings)
    if values[REFERENCES] and not any(drawing[REFERENCES] for drawing in drawings):
        raise StyleBlendError("reference pictures have no effect here: choose a method that reads them")


def compare_job(values: Mapping[str, Any], settings: RunSettings) -> Job[None]:
    """The same prompts and seeds by each in turn, prompt by prompt, in a folder of its own."""
    from styleblend.files.names import file_name
    total = len(values["contestants"]) * len(values["prompts"])
    folder = new_folder(folder_of_pictures(settings) / "compared")
    for number, prompt in enumerate(values["prompts"]):
        for place, contestant in enumerate(values["contestants"]):
            yield Progress("comparison", number * len(values["contestants"]) + place, total, "drawing", contestant)
            drawing = {**drawing_of(contestant, values), "prompts": [prompt]}
            yield from draw_into(folder / f"{place + 1}-{file_name(contestant)}", prompt, drawing, settings)
    yield Progress("comparison", total, total, "drawing")


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


WORK: Mapping[str, Kind] = {"draw": Kind(check_draw, draw_job), "train": Kind(check_train, train_job),
                            "compare": Kind(check_compare, compare_job),
                            "captions": Kind(check_captions, captions_job), "load": Kind(check_load, load_job),
                            "export": Kind(check_export, export_job)}
