"""The scores of `eval` as tables on the terminal."""
from __future__ import annotations

from typing import Optional, Sequence

from rich.console import Console
from rich.table import Table

from styleblend.jobs.report import FEW, labels, said_by, shown
from styleblend.jobs.scoring import Run
from styleblend.metrics import Metric
from styleblend.metrics.judge import Judge

AT_ONCE = 5  # scores in a table


def print_tables(runs: Sequence[Run], compared: Sequence[dict], judge: Optional[Judge],
                 metrics: Sequence[Metric] = ()) -> None:
    """Means of every style and run (an arrow down: less is better); then the `differences`.

    For single styles these are of the first score only.
    """
    console, names, short = Console(), runs[0].names(), labels(runs)
    for begin in range(0, len(names), AT_ONCE):
        some = names[begin:begin + AT_ONCE]
        table = Table(title="means", caption=said_by(judge, metrics) if begin + AT_ONCE >= len(names) else None,
                      caption_justify="left")
        for title in ["style", *(["folder"] if len(runs) > 1 else []), "n"]:
            table.add_column(title, overflow="fold")
        for name in some:
            title = name if runs[0].higher_is_better[name] else name + " ↓"
            table.add_column(title, justify="right", overflow="fold", min_width=6)
        for style in [*runs[0].pictures, None]:
            for run, label in zip(runs, short):
                count = sum(len(pictures) for own, pictures in run.pictures.items() if style in (None, own))
                table.add_row(style or "all", *([label] if len(runs) > 1 else []), str(count),
                              *(shown(run.mean(name, style)) for name in some))
        console.print(table)
    for run, label in zip(runs, short):
        for style, scores in run.of_style.items():
            console.print(f"{label} {style}: " + ", ".join(f"{name} {shown(value)}" for name, value in scores.items()))
        if run.of_board:
            console.print(f"{label}, all styles together: "
                          + ", ".join(f"{name} {shown(value)}" for name, value in run.of_board.items()))
    if len(runs) > 1:
        table = Table("style", "other", "score", "mean", "95 % interval", "pairs", title=f"{short[0]} minus the other",
                      caption=FEW, caption_justify="left")
        for d in compared:
            if d["pairs"] and (d["style"] == "all" or d["name"] in names[:1]):
                table.add_row(d["style"], d["other"], d["name"], f"{d['mean']:+.3f}",
                              f"{d['low']:+.3f} to {d['high']:+.3f}", str(d["pairs"]))
        console.print(table)


