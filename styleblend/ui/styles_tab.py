"""The tab of the styles that there are: what they are made of, and export, load and delete."""
from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable, List, Mapping, Optional, Sequence

import gradio as gr

from styleblend.errors import StyleBlendError
from styleblend.jobs.styles import delete_style
from styleblend.ui.folders import styles_found, uploaded
from styleblend.ui.queue import DONE, QueuedJob
from styleblend.ui.requests import Asked
from styleblend.ui.shown import status
from styleblend.ui.tabs import PRIVATE, Page, Watched, kindly, language, word
from styleblend.ui.words import said

FORMATS = ("kohya", "diffusers", "webui", "ldm", "single")


class StylesTab:
    def __init__(self, page: Page):
        self.page, self.choices = page, []
        self.table = gr.Dataframe(headers=["name", "method", "parts", "trained", "from"], type="array",
                                  interactive=False, wrap=True, elem_id="styles-table")
        with gr.Row(elem_classes="row"):
            self.refresh = gr.Button(word("refresh"), elem_id="styles-refresh")
            self.name = gr.Dropdown(page.style_choices(), value="", label=word("chosen_style"), elem_id="styles-name")
            self.format = gr.Dropdown(list(FORMATS), value=FORMATS[0], label=word("format"), elem_id="styles-format")
            self.export = gr.Button(word("export"), elem_id="styles-export")
            self.delete = gr.Button(word("delete"), variant="stop", elem_id="styles-delete")
        with gr.Row(visible=False, elem_classes="row") as self.question:
            gr.Markdown(word("really"))
            self.yes = gr.Button(word("yes_delete"), variant="stop", elem_id="styles-yes")
            self.no = gr.Button(word("no"), elem_id="styles-no")
        self.status = gr.HTML(elem_id="styles-status")
        self.files = gr.File(label=word("exported"), interactive=False, file_count="multiple", elem_id="styles-files")
        with gr.Row(elem_classes="row"):
            self.adapters = gr.File(label=word("load_files"), file_count="multiple", height=110,
                                    elem_id="styles-adapters")
            self.new_name = gr.Textbox(label=word("train_name"), elem_id="styles-new-name")
            self.load = gr.Button(word("load"), elem_id="styles-load")

    def connect(self, choosers: Mapping[Any, Callable[[], list]]) -> None:
        """The events. `choosers`: dropdowns of other tabs that list styles, and what is to be chosen in each."""
        self.choices = [self.page.style_choices, *choosers.values()]
        owner, lists = self.page.owner, [self.table, self.name, *choosers]
        self.lists = lists
        self.refresh.click(kindly(self.listed), None, lists, **PRIVATE)
        self.export.click(kindly(self.exported), [owner, self.name, self.format], None, **PRIVATE)
        self.load.click(kindly(self.loaded), [owner, self.adapters, self.new_name], None, **PRIVATE)
        self.delete.click(kindly(self.asked), [self.name], [self.question], **PRIVATE)
        self.no.click(lambda: gr.update(visible=False), None, [self.question], **PRIVATE)
        self.yes.click(kindly(self.deleted), [self.name], [self.question, *lists], **PRIVATE)

    # ---------------------------------------------------------------- what they do

    def listed(self) -> List[Any]:
        return [self.rows(), *[gr.update(choices=choices()) for choices in self.choices]]

    def rows(self) -> List[List[str]]:
        return [[one.name, one.method or "-", one.problem or ", ".join(one.parts).replace("_", " ") or "-",
                 time.strftime("%Y-%m-%d %H:%M", time.localtime(one.trained)) if one.trained else "-",
                 "the program" if one.shipped else "this folder"] for one in styles_found(self.page.settings)]

    def exported(self, owner: str, name: str, kind: str, request: gr.Request) -> None:
        self.page.submit(owner, Asked("export", {"name": chosen(name), "format": kind}), request)

    def loaded(self, owner: str, files: Optional[Sequence[str]], name: str, request: gr.Request) -> None:
        found = uploaded(files, self.page.uploads)
        if not found:
            raise StyleBlendError("there are no adapter files: drop them into the page")
        self.page.submit(owner, Asked("load", {"name": (name or "").strip(), "files": [str(path) for path in found]}),
                         request)

    def asked(self, name: str) -> Any:
        return gr.update(visible=bool(chosen(name)))

    def deleted(self, name: str, request: gr.Request) -> List[Any]:
        delete_style(self.page.settings, chosen(name))
        gr.Info(said(language(request), "deleted", name))
        return [gr.update(visible=False), *self.listed()]

    def watched(self) -> Watched:
        return Watched(("export", "load"), [self.status, self.files], self.show)

    def show(self, job: Optional[QueuedJob], language: str) -> List[Any]:
        files = [path for path in job.written if Path(path).is_file()] if job and job.state == DONE else None
        return [status(job, self.page.queue, language) if job else "", files or None]


def chosen(name: Optional[str]) -> str:
    """The name in the dropdown. StyleBlendError for none."""
    if not name:
        raise StyleBlendError("choose a style first")
    return name
