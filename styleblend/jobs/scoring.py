"""Score a folder of pictures by each metric: `<folder>/<style>/<Prompt>.png` of a board, or a set of `align`."""
from __future__ import annotations

import base64
import contextlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

from styleblend.files.captions import style_pictures
from styleblend.errors import StyleBlendError
from styleblend.jobs.aligned_sets import AlignedSet
from styleblend.jobs.choices import set_to_score, styles_to_score
from styleblend.jobs.events import Job, Progress
from styleblend.metrics.judge import Judge, JudgeMetric
from styleblend.metrics import BoardMetric, Metric
from styleblend.metrics.looks import JudgedLooks
from styleblend.files.names import composed, entry, is_made
from styleblend.files.pictures import contained, load_picture
from styleblend.files.prompts import prompt_file, style_prompts
from styleblend.files.shipped import data_of
from styleblend.record import read_record
from styleblend.settings import PictureSettings

SHOWN = 320  # pixels of a picture's longer side in the report
SET = "set"  # what an aligned set is called in tables, unless it is drawn in a learned style


@dataclass(frozen=True)
class Scored:
    """One picture: its scores (NaN: none), and itself as a data URI, small enough for a page of hundreds."""

    prompt: str
    scores: Dict[str, float]
    image: str


@dataclass
class Run:
    """The scored pictures of one folder, and the scores that only a whole style or all styles together have;

    `notes` say what was left out and why.
    """

    folder: Path
    pictures: Dict[str, List[Scored]] = field(default_factory=dict)
    style_pictures: Dict[str, List[Tuple[str, str]]] = field(default_factory=dict)  # caption and data URI
    of_style: Dict[str, Dict[str, float]] = field(default_factory=dict)
    of_board: Dict[str, float] = field(default_factory=dict)
    notes: List[str] = field(default_factory=list)
    higher_is_better: Dict[str, bool] = field(default_factory=dict)

    def names(self) -> List[str]:
        """The scores that at least one picture has, in order."""
        return list(dict.fromkeys(name for pictures in self.pictures.values() for p in pictures for name,
                                  v in p.scores.items() if np.isfinite(v)))

    def mean(self, name: str, style: Optional[str] = None) -> float:
        """The mean of a score over the pictures of a style (None: of all) that have it; NaN when none has."""
        values = [p.scores.get(name, np.nan) for own,
                  pictures in self.pictures.items() if style in (None, own) for p in pictures]
        values = [v for v in values if np.isfinite(v)]
        return float(np.mean(values)) if values else np.nan


def data_uri(image: Image.Image) -> str:
    """The picture as WebP in a data URI, its longer side at most SHOWN pixels."""
    buffer = io.BytesIO()
    small = contained(image, min(SHOWN, image.width), min(SHOWN, image.height))
    small.save(buffer, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


class Opened(Sequence):
    """Pictures that are read when they are taken out: only those that are looked at are in memory."""

    def __init__(self, paths: Sequence[Path], settings: PictureSettings):
        self.paths, self.settings = paths, settings

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Image.Image:
        return load_picture(self.paths[number], self.settings.max_pixels)


def score_run(folder: Path, data: Path, names: Optional[Sequence[str]], judge: Optional[Judge],
              others: Sequence[Metric] = (),
              settings: PictureSettings = PictureSettings()) -> Job[Run]:
    """Score every picture of a folder.

    `others` are metrics beside the judge, of the same kind (`styleblend.metrics`).
    """
    run, aligned = Run(Path(folder)), set_to_score(folder, data, names)
    if aligned:
        yield from score_set(run, aligned, judge, others, settings)
        return run
    styles = styles_to_score(folder, data, names, run.notes)
    files = {name: sorted(entry(folder, name).glob("*.png")) for name in styles}
    # and what each has seen of the styles
    boards = {metric.name: (metric, []) for metric in others if isinstance(metric, BoardMetric)}
    done, total = 0, sum(map(len, files.values()))
    for name in styles:
        yield Progress(str(folder), done, total, "picture", name)
        metrics = [*([JudgeMetric(judge, name)] if judge else []), *others]
        yield from score_style(run, name, files[name], data_of(data, name), metrics, boards, settings)
        done += len(files[name])
        yield Progress(str(folder), done, total, "picture", name)
    for metric, parts in boards.values():
        if parts:
            run.of_board.update(metric.combined(parts))
    return run


def score_set(run: Run, aligned: AlignedSet, judge: Optional[Judge], others: Sequence[Metric],
              settings: PictureSettings) -> Job[None]:
    """Score a set of `align`: by how alike it is, by what it shows, by its likeness with its reference pictures."""
    metrics = [*([JudgeMetric(judge, aligned.style), JudgedLooks(judge)] if judge else []), *others]
    if not aligned.references:  # they were drawn
        metrics = [metric.alone() for metric in metrics]
    yield from score_pictures(run, aligned.style or SET, aligned.phrases, aligned.references, metrics, {}, settings,
                              aligned.shares)


def readable(paths: Sequence[Path], notes: List[str], settings: PictureSettings) -> Tuple[List[Path], List[str]]:
    """The pictures that can be read, and each as a data URI; `notes` get the others."""
    found, shown = [], []
    for path in paths:
        try:
            shown.append(data_uri(load_picture(path, settings.max_pixels)))
            found.append(path)
        except StyleBlendError as error:
            notes.append(f"{error}: left out")
    return found, shown


def texts_of(name: str, folder: Path, notes: List[str]) -> Dict[str, str]:
    """{name of the picture: prompt} of a style; without a prompt.json that can be read the names are the prompts."""
    if not prompt_file(folder).exists():
        return {}
    try:
        return {p.name: p.text for p in style_prompts(folder)}
    except StyleBlendError as error:
        notes.append(f"{name}: {error}; the names of the pictures are taken for their prompts")
        return {}


def prompt_of(path: Path) -> str:
    """The prompt of a picture that no prompt.json names: its name, or what its record says where that was made."""
    name = composed(path.stem)
    if is_made(name):
        with contextlib.suppress(StyleBlendError):  # drawn by something else
            return read_record(path).prompt
    return name


def captions_of(name: str, folder: Path, notes: List[str]) -> Dict[Path, str]:
    """{style picture: caption}; none where the folder of the pictures is not as it should be."""
    try:
        return {p.path: p.caption for p in style_pictures(folder)}
    except StyleBlendError as error:
        notes.append(f"{name}: {error}; its pictures are compared with none")
        return {}


def score_style(run: Run, name: str, files: Sequence[Path], folder: Path, metrics: Sequence[Metric],
                boards: Dict[str, tuple], settings: PictureSettings) -> Job[None]:
    """Score the pictures of one style and put them into the run."""
    texts, captions = texts_of(name, folder, run.notes), captions_of(name, folder, run.notes)
    missing = [prompt for prompt in texts if prompt not in {composed(path.stem) for path in files}]
    if missing:
        some = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        run.notes.append(f"{name}: {len(missing)} of the {len(texts)} prompts in prompt.json have no picture ({some})")
    phrases = {path: texts.get(composed(path.stem)) or prompt_of(path) for path in files}
    yield from score_pictures(run, name, phrases, captions, metrics, boards, settings)


def score_pictures(run: Run, name: str, texts: Mapping[Path, str], captions: Mapping[Path, str],
                   metrics: Sequence[Metric], boards: Dict[str, tuple], settings: PictureSettings,
                   shares: Optional[Mapping[Path, float]] = None) -> Job[None]:
    """Score pictures, each with its text, beside the style pictures, each with its caption and its share.

    What a metric cannot do is noted, and the others go on.
    """
    files, images = readable(list(texts), run.notes, settings)
    if not files:
        return
    models, shown = readable(list(captions), run.notes, settings)
    run.style_pictures[name] = [(captions[path], image) for path, image in zip(models, shown)]
    if shares and models:
        own = np.array([shares[path] for path in models])
        metrics = [metric.with_shares(own / own.sum()) for metric in metrics]
    prompts, phrases = [composed(path.stem) for path in files], [texts[path] for path in files]
    drawn, originals = Opened(files, settings), Opened(models, settings)
    of_pictures: Dict[str, np.ndarray] = {}
    for number, metric in enumerate(metrics):
        yield Progress("metrics", number, len(metrics), "metric", metric.name)
        if isinstance(metric, JudgeMetric):
            run.notes += metric.gaps(drawn, phrases)
        try:
            if metric.name in boards:
                part = metric.part(drawn, phrases, originals)
                boards[metric.name][1].append(part)
                found = metric.combined([part])
            else:
                found = metric.score(drawn, phrases, originals)
        except StyleBlendError as error:
            run.notes.append(f"{name} has no {metric.name}: {error}")
            continue
        run.higher_is_better.update(metric.higher_is_better)
        for key, value in found.items():
            if np.ndim(value):
                of_pictures[key] = np.asarray(value, float)
            else:
                run.of_style.setdefault(name, {})[key] = float(value)
    if metrics:
        yield Progress("metrics", len(metrics), len(metrics), "metric")
    run.pictures[name] = [Scored(prompt, {key: float(values[i]) for key, values in of_pictures.items()}, image)
                          for i, (prompt, image) in enumerate(zip(prompts, images))]
