"""The tab that trains: pictures dropped in, their captions in a table, the loss and pictures while it learns."""
from __future__ import annotations

from pathlib import Path
from typing import Any, List, Optional, Sequence, Tuple

import gradio as gr

from styleblend.errors import StyleBlendError
from styleblend.files.captions import pictures_if_any, write_caption
from styleblend.files.names import check_name, entry
from styleblend.files.pictures import load_picture
from styleblend.settings import TrainingSettings
from styleblend.ui.fields import asked_for, fields_of
from styleblend.ui.folders import new_style_pictures, uploaded
from styleblend.ui.queue import QueuedJob
from styleblend.ui.requests import Asked, trainings
from styleblend.ui.shown import block, curves, status
from styleblend.ui.tabs import PLAIN_GALLERY, PRIVATE, Page, Watched, form, kindly, known, word
from styleblend.ui.words import said

LONGEST_CAPTION = 1000
MOST_SHOWN = 8  # pictures of a training, the newest


class TrainTab:
    def __init__(self, page: Page):
        self.page = page
        self.fields = list(fields_of(TrainingSettings, page.settings.training))
        with gr.Row(elem_classes="row"):
            with gr.Column(scale=5, min_width=300):
                self.build_form()
            with gr.Column(scale=5, min_width=300):
                self.status = gr.HTML(elem_id="train-status")
                with gr.Row(elem_classes="row"):
                    self.start = gr.Button(word("start_training"), variant="primary", elem_id="train-start")
                    self.stop = gr.Button(word("stop"), variant="stop", elem_id="train-stop")
                self.overwrite = gr.Checkbox(False, label=word("overwrite"), elem_id="train-overwrite")
                self.loss = gr.HTML(elem_id="train-loss")
                self.gallery = gr.Gallery(label=word("training_pictures"), columns=2, **PLAIN_GALLERY,
                                          elem_id="train-gallery")
                self.waiting = gr.HTML(elem_id="train-queue")
        self.propose.click(kindly(self.proposed), [page.owner, self.name, self.files], [self.table, self.files],
                           **PRIVATE)
        self.start.click(kindly(self.started),
                         [page.owner, self.name, self.method, self.overwrite, self.table, *self.settings], None,
                         **PRIVATE)
        self.stop.click(kindly(self.stopped), [page.owner], None, **PRIVATE)

    def build_form(self) -> None:
        methods = list(trainings())
        self.files = gr.File(label=word("train_pictures"), file_count="multiple", file_types=["image"], height=140,
                             elem_id="train-files")
        with gr.Row(elem_classes="row"):
            self.name = gr.Textbox(label=word("train_name"), elem_id="train-name", min_width=140)
            self.method = gr.Dropdown(methods, value=methods[0], label=word("train_method"), elem_id="train-method",
                                      min_width=140)
        self.propose = gr.Button(word("propose"), elem_id="train-propose")
        self.captions_status = gr.HTML(elem_id="captions-status")
        self.table = gr.Dataframe(headers=["picture", "caption"], type="array", interactive=True, wrap=True,
                                  static_columns=[0], label=word("captions"), column_widths=["35%", "65%"],
                                  elem_id="train-captions")
        with gr.Accordion(word("training_settings"), open=False, elem_id="train-settings"):
            self.settings = form(self.fields)

    # ---------------------------------------------------------------- what they do

    def proposed(self, owner: str, name: str, files: Optional[Sequence[str]], request: gr.Request) -> Tuple[Any, Any]:
        """Put the pictures in; captions by their names at once, then those that the job writes."""
        name, settings = (name or "").strip(), self.page.settings
        if not new_style_pictures(name, uploaded(files, self.page.uploads), settings):
            raise StyleBlendError("there are no pictures: drop 3 to 10 of one style into the page")
        self.page.submit(owner, Asked("captions", {"name": name}), request)
        return self.rows(name), None

    def rows(self, name: str) -> List[List[str]]:
        """A row for each picture of the style: its file and its caption."""
        return [[one.file, one.phrase] for one in pictures_if_any(entry(self.page.settings.data, check_name(name)))]

    def started(self, owner: str, request: gr.Request, name: str, method: str, overwrite: bool,
                table: Sequence[Sequence[str]], *values) -> None:
        name = check_name((name or "").strip())
        self.keep_captions(name, table)
        self.page.submit(owner, Asked("train", {"name": name, "part": method, "overwrite": bool(overwrite),
                                                "training": asked_for(self.fields, values)}), request)

    def keep_captions(self, name: str, table: Sequence[Sequence[str]]) -> None:
        """Write the captions that were changed in the table beside their pictures."""
        pictures = {one.file: one for one in pictures_if_any(entry(self.page.settings.data, name))}
        for file, caption in [row[:2] for row in table or () if len(row) > 1 and row[0]]:
            if file not in pictures:  # the table of another style, or a row that was added
                continue
            text = " ".join(str(caption or "").split())
            if len(text) > LONGEST_CAPTION:
                raise StyleBlendError(f"the caption of {file} is longer than {LONGEST_CAPTION} characters")
            if text and text != pictures[file].phrase:
                write_caption(pictures[file], text, overwrite=True)

    def stopped(self, owner: str) -> None:
        self.page.queue.stop(self.page.queue.latest(known(owner), "train"))

    # ---------------------------------------------------------------- what is shown

    def watched(self) -> List[Watched]:
        return [Watched(("train",), [self.status, self.loss, self.gallery, self.waiting], self.show),
                Watched(("captions",), [self.captions_status, self.table], self.show_captions)]

    def show(self, job: Optional[QueuedJob], language: str) -> List[Any]:
        return [status(job, self.page.queue, language), curves(job.values) if job else "",
                self.pictures(job), self.others(job, language)]

    def pictures(self, job: Optional[QueuedJob]) -> List[Any]:
        """The newest picture grids, which lie in a folder that the page hands out no files of."""
        found = [Path(path) for path in (job.written if job else ())][-MOST_SHOWN:]
        return [(load_picture(path), path.stem) for path in found if path.suffix == ".png" and path.is_file()]

    def others(self, job: Optional[QueuedJob], language: str) -> str:
        """All trainings of this browser, in their order."""
        if job is None:
            return ""
        jobs = self.page.queue.of(job.owner, "train")
        return "".join(block(one.state, f"{one.asked.values['name']} ({one.asked.values['part']}): "
                             f"{said(language, one.state, self.page.queue.place(one))}") for one in jobs[-6:]
                       if len(jobs) > 1)

    def show_captions(self, job: Optional[QueuedJob], language: str) -> List[Any]:
        if job is None:
            return ["", gr.skip()]
        rows = self.rows(job.asked.values["name"]) if job.ended else gr.skip()
        return [status(job, self.page.queue, language), rows]
