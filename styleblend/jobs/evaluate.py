"""Score the pictures of a folder, compare it with other folders, and write the report."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Sequence

from styleblend.errors import StyleBlendError
from styleblend.files.claims import in_turn
from styleblend.files.output_files import free_path, refuse_taken, refuse_unwritable
from styleblend.jobs.asked_metrics import asked_metrics
from styleblend.jobs.choices import named_styles
from styleblend.jobs.events import Job, Log, Written
from styleblend.jobs.report import REPORT_FILES, differences, write_report
from styleblend.jobs.scoring import Run, score_run
from styleblend.metrics import Metric
from styleblend.metrics.judge import Judge
from styleblend.settings import RunSettings


@dataclass(frozen=True)
class EvaluateRequest:
    """What is to be scored: the pictures in `result`, and in each folder of `against` to compare it with.

    `data`: folder of the styles, None: the config's. `styles`: names with commas between them, None: all that have
    pictures. `judge`: whether the mini judge speaks. `metrics` names others (`asked_metrics`), whose networks are in
    the folder `weights`. The report is written into the folder `output`, where `overwrite` replaces another one; None:
    into a new folder.
    """

    settings: RunSettings
    result: Path
    against: Sequence[Path] = ()
    data: Optional[Path] = None
    styles: Optional[str] = None
    judge: bool = True
    metrics: Optional[str] = None
    weights: Optional[Path] = None
    output: Optional[Path] = None
    overwrite: bool = False

    def folder(self) -> Path:
        """Where the report is written. StyleBlendError where that is not possible."""
        folder = free_path(Path("report")) if self.output is None else Path(self.output)
        refuse_unwritable(folder)
        for file in REPORT_FILES:
            refuse_taken(folder / file, self.overwrite)
        return folder


@dataclass(frozen=True)
class Evaluation:
    """The scored folders, the first against each of the others (`report.differences`), and what gave the scores."""

    runs: List[Run]
    compared: List[dict]
    judge: Optional[Judge]
    metrics: List[Metric]
    report: Path  # the page


def evaluate(request: EvaluateRequest) -> Job[Evaluation]:
    """Score, compare, and write `scores.json` and `report.html`."""
    settings, judge, output = request.settings, Judge.load() if request.judge else None, request.folder()
    data = Path(request.data or settings.data)
    metrics, missing = asked_metrics(settings, request.metrics, request.weights)
    styles, runs = named_styles(request.styles) if request.styles is not None else None, []
    for folder in (request.result, *request.against):
        runs.append((yield from score_run(Path(folder), data, styles, judge, metrics, settings.pictures)))
    runs[0].notes[:0] = missing
    for note in dict.fromkeys(note for run in runs for note in run.notes):
        yield Log(note)
    if not runs[0].names() and not runs[0].of_style:
        raise StyleBlendError(f"nothing in {request.result} could be scored: it should hold <style>/<Prompt>.png of "
                              f"the styles in {data}, or a set of align")
    compared = differences(runs)
    with in_turn(output):  # the page and the scores of one run
        written = write_report(runs, compared, judge, output, metrics)
    for path in written:
        yield Written(path)
    return Evaluation(runs, compared, judge, metrics, written[-1])
