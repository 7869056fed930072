"""Draw the same prompts and seeds by several methods, and say in one report which is better, slower or copies more."""
from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from styleblend.adapters import learned_from
from styleblend.base.base import base_for_drawing
from styleblend.errors import StyleBlendError
from styleblend.files.captions import pictures_if_any
from styleblend.files.claims import claim
from styleblend.files.pictures import contact_sheet, load_picture, whole_picture
from styleblend.files.prompts import Prompt, make_prompt
from styleblend.files.saved_pictures import save_picture
from styleblend.files.shipped import adapters_of, data_of, style_folders
from styleblend.files.text import parse_json
from styleblend.files.whole_files import remove_unfinished, write_bytes
from styleblend.jobs.asked_metrics import asked_metrics
from styleblend.jobs.choices import chosen_prompts, known_style
from styleblend.jobs.compared import Compared, chosen, trainings_of_parts
from styleblend.jobs.draw_items import Done, Drawer, DrawItem, Spread
from styleblend.jobs.evaluate import Evaluation
from styleblend.jobs.events import Job, Log, Progress, Written
from styleblend.jobs.memory import beside, within
from styleblend.jobs.missing_pictures import batches, missing_of, refuse_outputs
from styleblend.jobs.report import REPORT_FILES, differences, write_report
from styleblend.jobs.scoring import Run, score_pictures
from styleblend.metrics import Metric
from styleblend.metrics.judge import Judge, JudgeMetric
from styleblend.metrics.looks import JudgedLeak, JudgedLooks
from styleblend.settings import RunSettings
from styleblend.settings.study import StudySettings

SHEET, LOCK, MEASURED = "sheet.png", ".compare", "drawing.json"  # the last in the folder of each method
COLUMNS, CELL = 12, 96  # of the sheet; pixels of a picture in it
OF_DRAWING = {"draw_s": False, "peak_mib": False, "learn_s": False}  # what each costs, and that more is not better


@dataclass(frozen=True)
class CompareRequest:
    """A study, and where it goes: `output` (None: the study's, else "comparison") is kept whole by whole.

    `judge`: whether the mini judge speaks. `weights`: folder of the networks that the study's metrics need.
    `overwrite` draws again what is there. `max_memory` as in `BoardRequest`.
    """

    settings: RunSettings
    study: StudySettings
    output: Optional[Path] = None
    judge: bool = True
    weights: Optional[Path] = None
    overwrite: bool = False
    max_memory: Optional[str] = None

    @property
    def folder(self) -> Path:
        return Path(self.output or self.study.output or "comparison")


@dataclass
class Study:
    """What is drawn: the methods in their styles, and the prompts of each style."""

    compared: List[Compared]
    prompts: Dict[str, List[Prompt]]
    seeds: Sequence[int]
    folder: Path
    drawn: List[Path] = field(default_factory=list)

    def files(self, one: Compared) -> List[Path]:
        """The pictures of a method in a style, seed by seed."""
        return [one.path(self.folder, prompt, seed) for seed in self.seeds for prompt in self.prompts[one.style]]

    def methods(self) -> List[str]:
        return list(dict.fromkeys(one.method for one in self.compared))


def compare_methods(request: CompareRequest, spread: Optional[Spread] = None) -> Job[Evaluation]:
    """Draw what is missing, score all of it, and write a sheet and the report. `spread` as in `draw_board`."""
    judge = Judge.load() if request.judge else None
    metrics, missing_metrics = asked_metrics(request.settings, request.study.metrics, request.weights)
    study, left_out = planned_study(request)
    left_out += missing_metrics
    for sentence in left_out:
        yield Log(sentence)
    encoder = next(filter(None, (one.plan.encoder() for one in study.compared)), None)  # all have the config's
    lean = yield from within(request.settings, "drawing", request.max_memory,
                             beside(request.settings, (), request.study.references, encoder))
    paths = [path for one in study.compared for path in study.files(one)]
    pages = [study.folder / name for name in (SHEET, *REPORT_FILES)]
    refuse_outputs(paths, pages, study.folder / f"{LOCK}.lock", request.overwrite)
    with claim(study.folder, LOCK):
        remove_unfinished(study.folder, *{path.parent for path in paths})
        yield from draw_study(request, study, lean, spread)
        yield Written(write_sheet_of_study(request, study))
        runs = []
        for method in study.methods():
            runs.append((yield from scored(request, study, method, judge, metrics)))
        notes = list(dict.fromkeys(note for run in runs for note in run.notes))
        runs[0].notes[:0] = left_out
        compared = differences(runs)
        written = write_report(runs, compared, judge, study.folder, metrics)
    for note in notes:
        yield Log(note)
    for path in written:
        yield Written(path)
    return Evaluation(runs, compared, judge, metrics, written[-1])


def planned_study(request: CompareRequest) -> Tuple[Study, List[str]]:
    """What is to be drawn, and sentences on what is left out. StyleBlendError where something that is named is not."""
    config, study = request.settings, request.study
    styles = [known_style(config, name) for name in study.styles or style_folders(config.data)]
    if not styles:
        raise StyleBlendError(f"{config.data} has no styles: name some with --styles")
    choice = [make_prompt(text) for text in study.prompts] if isinstance(study.prompts, list) else study.prompts
    choice = str(choice) if isinstance(choice, int) else choice
    prompts = {name: chosen_prompts(data_of(config.data, name), choice) for name in styles}
    found, left_out = chosen(config, study, styles)
    return Study(found, prompts, study.seeds, request.folder), left_out


def draw_study(request: CompareRequest, study: Study, lean: RunSettings, spread: Optional[Spread]) -> Job[None]:
    """Draw the missing pictures, here or elsewhere."""
    pieces = yield from missing_pieces(request, study, lean)
    items = [item for _, item in pieces]
    total = sum(len(study.files(one)) for one in study.compared)
    there = total - sum(len(item.outputs) for item in items)
    for path in [path for item in items for path in item.outputs] if request.overwrite else []:
        path.unlink(missing_ok=True)
    if spread and items:
        for (one, item), done in zip(pieces, (yield from spread(items))):
            study.drawn += note_done(study, one, item, done)
        return
    drawer = Drawer(base_for_drawing(lean), lean) if items else None
    for one, item in pieces:
        yield Progress("pictures", there + len(study.drawn), total, "picture", f"{one.method} {item.title}")
        study.drawn += note_done(study, one, item, (yield from item.run(drawer)))
    if items:
        yield Progress("pictures", there + len(study.drawn), total, "picture")


def missing_pieces(request: CompareRequest, study: Study, lean: RunSettings) -> Job[List[Tuple[Compared, DrawItem]]]:
    """The batches that have something to draw, method by method, so that the memory of each can be told."""
    found = []
    for one in study.compared:
        wanted = [one.wanted(study.folder, prompt, seed) for seed in study.seeds for prompt in study.prompts[one.style]]
        missing = yield from missing_of(wanted, request.overwrite)
        for batch in batches(wanted, [place for place in wanted if place.path in missing], lean.sampling.batch):
            todo = frozenset(place.path for place in batch if place.path in missing)
            found.append((one, DrawItem(one.plan, tuple(batch), todo, one.only, measured=True)))
    return found


# ---------------------------------------------------------------- time and memory

def measured(folder: Path) -> Dict[str, Dict[str, float]]:
    """Of each picture of a method ("<style>/<Prompt>-<seed>.png") what it took: seconds, and the peak of memory."""
    try:
        found = parse_json((folder / MEASURED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: one for name, one in found.items() if isinstance(one, dict)} if isinstance(found, dict) else {}


def note_done(study: Study, one: Compared, item: DrawItem, done: Done) -> List[Path]:
    """Write down what a batch took, each of its pictures an equal part of the time; returns the files."""
    folder = study.folder / one.method
    found, share = measured(folder), done.seconds / len(item.wanted)
    for path in done.files:
        found[f"{path.parent.name}/{path.name}"] = {"seconds": round(share, 3),
                                                     **({"peak_mib": done.peak_mib} if done.peak_mib else {})}
    write_bytes(folder / MEASURED, (json.dumps(found, indent=0, ensure_ascii=False) + "\n").encode("utf-8"))
    return list(done.files)


def cost(study: Study, method: str, config: RunSettings) -> Dict[str, float]:
    """What a method takes: the median of a picture's seconds, the most memory, the seconds to learn a style.

    What is not known is not in it.
    """
    took = measured(study.folder / method)
    own = [took[name] for one in study.compared if one.method == method for path in study.files(one)
           for name in [f"{path.parent.name}/{path.name}"] if name in took]
    seconds = [float(one["seconds"]) for one in own if "seconds" in one]
    peaks = [float(one["peak_mib"]) for one in own if "peak_mib" in one]
    learned = [learning(one, config) for one in study.compared if one.method == method]
    found = {"draw_s": statistics.median(seconds) if seconds else None, "peak_mib": max(peaks, default=None),
             "learn_s": statistics.mean(learned) if learned and None not in learned else None}
    return {name: value for name, value in found.items() if value is not None}


def learning(one: Compared, config: RunSettings) -> Optional[float]:
    """The seconds of the trainings of one style; 0 where nothing is learned, None where nobody has counted."""
    if not one.plan.name:
        return 0.0
    folder = adapters_of(config.adapters, one.plan.name)
    each = [learned_from.seconds(folder, part) for part in trainings_of_parts(one)]
    return None if None in each else sum(each)


# ---------------------------------------------------------------- scores

def scored(request: CompareRequest, study: Study, method: str, judge: Optional[Judge],
           metrics: Sequence[Metric]) -> Job[Run]:
    """The scores of one method in all styles."""
    run, config = Run(study.folder / method), request.settings
    for one in [one for one in study.compared if one.method == method]:
        phrases = {one.path(study.folder, prompt, seed): prompt.phrase(config.plain_prompt)
                   for seed in study.seeds for prompt in study.prompts[one.style]}
        captions = {p.path: p.caption for p in pictures_if_any(data_of(config.data, one.style))}
        own = [JudgeMetric(judge, one.style), JudgedLooks(judge), JudgedLeak(judge)] if judge else []
        yield from score_pictures(run, one.style, phrases, captions, [*own, *metrics], {}, config.pictures)
    run.of_board.update(cost(study, method, config))
    run.higher_is_better.update(OF_DRAWING)
    return run


def write_sheet_of_study(request: CompareRequest, study: Study) -> Path:
    """One picture of all: for each style its own pictures, then a row for each method, drawn with the first seed."""
    rows = []
    for style in dict.fromkeys(one.style for one in study.compared):
        own = [(f"{style}: {p.caption}", load_picture(p.path, request.settings.pictures.max_pixels))
               for p in pictures_if_any(data_of(request.settings.data, style))[:COLUMNS]]
        rows += [own] if own else []
        for one in [one for one in study.compared if one.style == style]:
            paths = [one.path(study.folder, prompt, study.seeds[0]) for prompt in study.prompts[style][:COLUMNS]]
            cells = [(one.method, picture) for picture in map(whole_picture, paths) if picture]
            rows += [cells] if cells else []
    return save_picture(study.folder / SHEET, contact_sheet(rows, CELL))
