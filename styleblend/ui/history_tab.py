"""The tab that remembers: all pictures of the output folder, found by words, with the settings that they carry."""
from __future__ import annotations

from pathlib import Path
from typing import Any, List, Optional, Tuple

import gradio as gr

from styleblend.errors import StyleBlendError
from styleblend.record import read_record
from styleblend.ui.draw_tab import DrawTab
from styleblend.ui.folders import history
from styleblend.ui.shown import how_drawn
from styleblend.ui.tabs import PLAIN_GALLERY, PRIVATE, Page, kindly, language, word
from styleblend.ui.words import said


class HistoryTab:
    def __init__(self, page: Page, draw: DrawTab, tabs: gr.Tabs):
        self.page, self.draw_tab = page, draw
        with gr.Row(elem_classes="row"):
            self.words = gr.Textbox(label=word("search"), elem_id="history-words", lines=1)
            self.style = gr.Dropdown(page.style_choices(), value="", label=word("style"), info=word("all_styles"),
                                     elem_id="history-style")
            self.look = gr.Button(word("look"), elem_id="history-look")
        self.gallery = gr.Gallery(columns=5, **PLAIN_GALLERY, show_label=False, elem_id="history-gallery")
        self.paths, self.chosen = gr.State([]), gr.State(None)
        with gr.Row(elem_classes="row"):
            self.use = gr.Button(word("use_settings"), variant="primary", elem_id="history-use")
            self.as_reference = gr.Button(word("as_reference"), elem_id="history-as-reference")
        self.record = gr.Textbox(label=word("record"), lines=5, interactive=False, elem_id="history-record")
        gr.on([self.look.click, self.words.submit, self.style.change], kindly(self.found), [self.words, self.style],
              [self.gallery, self.paths], **PRIVATE)
        self.gallery.select(kindly(self.choose), [self.paths], [self.chosen, self.record], **PRIVATE)
        self.use.click(kindly(self.restored), [self.chosen], [*draw.inputs, tabs], **PRIVATE)
        self.as_reference.click(kindly(self.reference), [self.chosen],
                                [draw.style, draw.method, draw.references, tabs], **PRIVATE)

    def found(self, words: Optional[str], style: Optional[str]) -> Tuple[List[Any], List[str]]:
        pictures = history(self.page.settings, words or "", style or "")
        shown = [(str(one.path), f"{one.record.prompt} · {one.record.seed}") for one in pictures]
        return shown, [path for path, _ in shown]

    def choose(self, paths: List[str], event: gr.SelectData) -> Tuple[Optional[str], str]:
        if not 0 <= event.index < len(paths):
            return None, ""
        return paths[event.index], how_drawn(read_record(Path(paths[event.index])))

    def restored(self, chosen: Optional[str], request: gr.Request) -> List[Any]:
        if not chosen:
            raise StyleBlendError(said(language(request), "choose_picture"))
        return [*self.draw_tab.filled(read_record(Path(chosen))), gr.update(selected="draw")]

    def reference(self, chosen: Optional[str], request: gr.Request) -> List[Any]:
        return [*self.draw_tab.reference(chosen, request), gr.update(selected="draw")]
