"""The tab that compares: the same prompts and seeds by several methods, beside each other, with their scores."""
from __future__ import annotations

from pathlib import Path
from typing import Any, List, Optional, Sequence, Tuple

import gradio as gr

from styleblend.files.shipped import style_folders
from styleblend.settings.study import METHODS, StudySettings
from styleblend.ui.fields import number_of
from styleblend.ui.queue import QueuedJob
from styleblend.ui.requests import Asked, prompts_in
from styleblend.ui.shown import preview, scores, status
from styleblend.ui.tabs import PLAIN_GALLERY, PRIVATE, Page, Watched, gallery_of, kindly, known, word

SHEET, SCORES, REPORT = "sheet.png", "scores.json", "report.html"  # what a comparison writes beside its pictures


class CompareTab:
    def __init__(self, page: Page):
        self.page = page
        seeds = ", ".join(map(str, StudySettings().seeds))
        with gr.Row(elem_classes="row"):
            with gr.Column(scale=4, min_width=300):
                self.prompts = gr.Textbox(label=word("prompts"), info=word("own_prompts"), lines=2,
                                          elem_id="compare-prompts")
                self.methods = gr.Dropdown(list(METHODS), multiselect=True, label=word("methods"),
                                           info=word("all_methods"), elem_id="compare-methods")
                self.styles = gr.Dropdown(self.style_names(), multiselect=True, label=word("styles"),
                                          info=word("all_of_data"), elem_id="compare-styles")
                with gr.Row(elem_classes="row"):
                    self.seeds = gr.Textbox(label=word("seeds"), placeholder=seeds, lines=1, elem_id="compare-seeds",
                                            min_width=90)
                    self.references = gr.Textbox(label=word("looked_at"), placeholder="1", lines=1,
                                                 elem_id="compare-references", min_width=90)
                with gr.Row(elem_classes="row"):
                    self.go = gr.Button(word("start_compare"), variant="primary", elem_id="compare-go")
                    self.stop = gr.Button(word("stop"), variant="stop", elem_id="compare-stop")
            with gr.Column(scale=6, min_width=300):
                self.status = gr.HTML(elem_id="compare-status")
                self.preview = gr.HTML(elem_id="compare-preview")
        self.scores = gr.HTML(elem_id="compare-scores")
        self.report = gr.File(label=word("report"), interactive=False, elem_id="compare-report")
        self.gallery = gr.Gallery(label=word("pictures"), columns=3, **PLAIN_GALLERY, elem_id="compare-gallery")
        self.go.click(kindly(self.compared), [page.owner, self.prompts, self.methods, self.styles, self.seeds,
                                              self.references], None, **PRIVATE)
        self.stop.click(kindly(self.stopped), [page.owner], None, **PRIVATE)

    def style_names(self) -> List[str]:
        """The styles that have pictures."""
        return style_folders(self.page.settings.data)

    def compared(self, owner: str, prompts: str, methods: Sequence[str], styles: Sequence[str], seeds: str,
                 references: str, request: gr.Request) -> None:
        numbers = [number_of("seeds", one, whole=True) for one in (seeds or "").split(",") if one.strip()]
        self.page.submit(owner, Asked("compare", {
            "prompts": prompts_in(prompts), "methods": list(methods or ()), "styles": list(styles or ()),
            "seeds": numbers, "references": number_of("references", references, whole=True)}), request)

    def stopped(self, owner: str) -> None:
        self.page.queue.stop(self.page.queue.latest(known(owner), "compare"))

    def watched(self) -> Watched:
        return Watched(("compare",), [self.status, self.preview, self.scores, self.report, self.gallery], self.show)

    def show(self, job: Optional[QueuedJob], language: str) -> List[Any]:
        """All pictures of a prompt and seed stand in one row, method by method."""
        written = {Path(path).name: path for path in (job.written if job else ()) if Path(path).is_file()}
        pictures = sorted(gallery_of(job), key=place_of)  # stable: of one place in the order of the methods
        methods = {method_of(path) for path, _ in pictures}
        return [status(job, self.page.queue, language), preview(job), scores(written.get(SCORES)), written.get(REPORT),
                gr.update(value=[(path, f"{method_of(path)}: {text}") for path, text in pictures],
                          columns=max(1, len(methods)))]


def method_of(path: str) -> str:
    """The method of a picture: COMPARISON/method/style/Prompt-seed.png."""
    return Path(path).parts[-3]


def place_of(picture: Tuple[str, str]) -> Tuple[str, ...]:
    """What a picture shows, whoever drew it: its style, prompt and seed."""
    return Path(picture[0]).parts[-2:]
