"""What the page shows of a job: how far it is, its preview, its loss as a curve. HTML, with all texts escaped."""
from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from styleblend.record import Record
from styleblend.ui.queue import FAILED, RUNNING, WAITING, JobQueue, QueuedJob
from styleblend.ui.words import said

MOST_POINTS = 400  # of a curve
WIDTH, HEIGHT = 480, 120


def status(job: Optional[QueuedJob], queue: JobQueue, language: str) -> str:
    """How far a job is, its bars, and what it said last."""
    if job is None:
        return block("", said(language, "nothing"))
    if job.state == WAITING:
        return block("waiting", said(language, "waiting", queue.place(job)))
    title = said(language, "stopping" if job.asked_to_stop and job.state == RUNNING else job.state)
    if job.state == RUNNING and not job.begun and not job.asked_to_stop:
        title = said(language, "starting")
    if job.state == FAILED:
        return block("failed", f"{title}: {job.error}", job.said)
    return block(job.state, title, job.said, [bar(one) for one in job.progress.values()])


def block(state: str, title: str, sentences: Sequence[str] = (), bars: Sequence[str] = ()) -> str:
    lines = "".join(f"<div class='said'>{html.escape(one)}</div>" for one in list(sentences)[-6:])
    return f"<div class='status {state}' data-state='{state}'><b>{html.escape(title)}</b>{''.join(bars)}{lines}</div>"


def bar(progress: dict) -> str:
    """One line of progress."""
    share = 100 * progress["done"] / max(1, progress["total"])
    text = f"{progress['title']}: {progress['done']} / {progress['total']} {progress['unit']}s {progress['note']}"
    return (f"<div class='bar'><div style='width:{share:.1f}%'></div></div>"
            f"<div class='bartext'>{html.escape(text.strip())}</div>")


def preview(job: Optional[QueuedJob]) -> str:
    """The picture as it looks now; nothing where none is drawn."""
    if job is None or not job.preview:
        return ""
    return f"<img class='preview' alt='preview' src='data:image/jpeg;base64,{job.preview}'>"


def curves(values: Dict[str, List[Tuple[int, float]]]) -> str:
    """The loss of each stage, with its mean over a twentieth of the steps, as a drawing."""
    return "".join(curve(title, points) for title, points in values.items() if len(points) > 1)


def curve(title: str, points: Sequence[Tuple[int, float]]) -> str:
    width = max(1, len(points) // 20)
    smooth = [(points[i][0], sum(loss for _, loss in points[max(0, i - width + 1):i + 1]) / min(i + 1, width))
              for i in range(len(points))]
    low, high = min(loss for _, loss in points), max(loss for _, loss in points)
    first, last = points[0][0], points[-1][0]

    def line(some: Sequence[Tuple[int, float]], colour: str) -> str:
        thinned = some[::max(1, len(some) // MOST_POINTS)]
        places = " ".join(f"{(step - first) / max(1, last - first) * WIDTH:.1f},"
                          f"{HEIGHT - (loss - low) / ((high - low) or 1) * HEIGHT:.1f}" for step, loss in thinned)
        return f"<polyline fill='none' stroke='{colour}' stroke-width='1.5' points='{places}'/>"

    return (f"<div class='curve'><div class='bartext'>{html.escape(title)}: {points[-1][1]:.4f}</div>"
            f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' preserveAspectRatio='none'>{line(points, '#bbb')}"
            f"{line(smooth, '#2563eb')}</svg></div>")


def scores(path: Optional[str]) -> str:
    """The means of each method of a comparison, of its scores.json; nothing where there is none yet."""
    if path is None:
        return ""
    runs = json.loads(Path(path).read_text(encoding="utf-8"))["runs"]
    rows = {Path(run["folder"]).name: {**run["means"]["all"], **run["of_board"]} for run in runs}
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("", *names))
    body = "".join(f"<tr><th>{html.escape(method)}</th>{''.join(map(cell, map(row.get, names)))}</tr>"
                   for method, row in rows.items())
    return f"<div class='scores'><table><tr>{head}</tr>{body}</table></div>"


def cell(value: Optional[float]) -> str:
    """A number of a table; a dash where there is none."""
    return f"<td>{'-' if value is None else f'{value:.3g}'}</td>"


def how_drawn(record: Optional[Record]) -> str:
    """What a picture says of itself, as text."""
    return record.chunks()["parameters"] if record else ""


CSS = """
.status {padding: .6em .8em; border-radius: 8px; background: var(--background-fill-secondary); min-height: 3em}
.status.failed {border-left: 4px solid #dc2626} .status.done {border-left: 4px solid #16a34a}
.status.running {border-left: 4px solid #2563eb}
.said, .bartext {font-size: .85em; opacity: .8; overflow-wrap: anywhere}
.bar {height: 8px; border-radius: 4px; background: var(--border-color-primary); margin-top: .5em; overflow: hidden}
.bar > div {height: 100%; background: #2563eb}
img.preview {width: 100%; max-width: 384px; border-radius: 8px; display: block; margin: .5em auto}
.scores {overflow-x: auto} .scores td, .scores th {padding: .2em .6em; text-align: right}
.curve svg {width: 100%; height: 110px; background: var(--background-fill-secondary); border-radius: 6px}
@media (max-width: 640px) {.gradio-container {padding: 4px !important} .row {flex-wrap: wrap}}
"""
