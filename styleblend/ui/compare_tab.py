"""The tab that compares: the same prompts and seeds through two or more styles and methods, beside each other."""
from __future__ import annotations

from pathlib import Path
from typing import Any, List, Optional, Sequence

import gradio as gr

from styleblend.errors import StyleBlendError
from styleblend.ui.fields import number_of
from styleblend.ui.folders import kept_references, uploaded
from styleblend.ui.queue import QueuedJob
from styleblend.ui.requests import PLAIN, REFERENCES, Asked, contestants_of
from styleblend.ui.shown import preview, status
from styleblend.ui.tabs import PLAIN_GALLERY, PRIVATE, Page, Watched, gallery_of, kindly, known, word


class CompareTab:
    def __init__(self, page: Page):
        self.page = page
        with gr.Row(elem_classes="row"):
            with gr.Column(scale=4, min_width=300):
                self.prompts = gr.Textbox(label=word("prompts"), lines=2, elem_id="compare-prompts")
                self.contestants = gr.Dropdown(contestants_of(page.settings), value=[PLAIN], multiselect=True,
                                               label=word("contestants"), elem_id="compare-contestants")
                self.references = gr.File(label=word("references"), file_count="multiple", file_types=["image"],
                                          height=110, elem_id="compare-references")
                with gr.Row(elem_classes="row"):
                    self.seed = gr.Textbox(str(page.settings.sampling.seed), label=word("first_seed"), lines=1,
                                           elem_id="compare-seed", min_width=90)
                    self.count = gr.Textbox("1", label=word("count"), lines=1, elem_id="compare-count", min_width=90)
                with gr.Row(elem_classes="row"):
                    self.go = gr.Button(word("start_compare"), variant="primary", elem_id="compare-go")
                    self.stop = gr.Button(word("stop"), variant="stop", elem_id="compare-stop")
            with gr.Column(scale=6, min_width=300):
                self.status = gr.HTML(elem_id="compare-status")
                self.preview = gr.HTML(elem_id="compare-preview")
        self.gallery = gr.Gallery(label=word("pictures"), columns=3, **PLAIN_GALLERY, elem_id="compare-gallery")
        self.go.click(kindly(self.compared), [page.owner, self.prompts, self.contestants, self.references, self.seed,
                                              self.count], None, **PRIVATE)
        self.stop.click(kindly(self.stopped), [page.owner], None, **PRIVATE)

    def compared(self, owner: str, prompts: str, contestants: Sequence[str], references: Optional[Sequence[str]],
                 seed: str, count: str, request: gr.Request) -> None:
        first, count = number_of("seed", seed, whole=True), number_of("count", count, whole=True)
        if first is None:
            raise StyleBlendError("a comparison needs a first seed: all are drawn with the same seeds")
        files = kept_references(uploaded(references, self.page.uploads), self.page.settings)
        lines = [line.strip() for line in (prompts or "").splitlines() if line.strip()]
        self.page.submit(owner, Asked("compare", {"prompts": lines, "contestants": list(contestants or ()),
                                                  "seed": first, "count": count or 1, REFERENCES: files}),
                         request)

    def stopped(self, owner: str) -> None:
        self.page.queue.stop(self.page.queue.latest(known(owner), "compare"))

    def watched(self) -> Watched:
        return Watched(("compare",), [self.status, self.preview, self.gallery], self.show)

    def show(self, job: Optional[QueuedJob], language: str) -> List[Any]:
        """All pictures of a prompt and seed stand in one row, in the order of the contestants."""
        names = job.asked.values["contestants"] if job else []
        pictures = [(path, f"{who_drew(path, names)}: {text}") for path, text in gallery_of(job)]
        return [status(job, self.page.queue, language), preview(job),
                gr.update(value=pictures, columns=max(1, len(names)))]


def who_drew(path: str, names: Sequence[str]) -> str:
    """The contestant of a picture, by the folder that it lies in."""
    folder = Path(path).parent.name
    number = folder.partition("-")[0]
    return names[int(number) - 1] if number.isdecimal() and 0 < int(number) <= len(names) else folder
