"""The tab that draws: what is asked for on the left, how it looks while it is drawn and the pictures on the right."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import gradio as gr

from styleblend.errors import StyleBlendError
from styleblend.record import Record, read_record
from styleblend.settings import KINDS
from styleblend.ui.drawing_fields import fields_of_method, fields_of_sampling, method_that_draws
from styleblend.ui.fields import Field, asked_for, filled_in, number_of
from styleblend.ui.folders import kept_references, uploaded
from styleblend.ui.queue import QueuedJob
from styleblend.ui.requests import REFERENCES, Asked, methods_by_pictures, prompts_in
from styleblend.ui.shown import how_drawn, preview, status
from styleblend.ui.tabs import PLAIN_GALLERY, PRIVATE, Page, Watched, form, gallery_of, kindly, known, language, word
from styleblend.ui.words import said

BEFORE = 9  # components of the form before those of the settings


class DrawTab:
    """`inputs` are the components of the form, in the order in which `asked` takes their values."""

    def __init__(self, page: Page):
        self.page = page
        self.sampling = fields_of_sampling(page.settings)
        self.own: Dict[str, List[Field]] = {name: fields_of_method(page.settings, name) for name in KINDS}
        with gr.Row(elem_classes="row"):
            with gr.Column(scale=5, min_width=300):
                self.build_form()
            with gr.Column(scale=5, min_width=300):
                self.build_results()
        self.connect()

    # ---------------------------------------------------------------- components

    def build_form(self) -> None:
        self.prompts = gr.Textbox(label=word("prompts"), placeholder="A rabbit", lines=2, elem_id="prompts")
        with gr.Row(elem_classes="row"):
            self.go = gr.Button(word("go"), variant="primary", elem_id="go", min_width=90)
            self.again = gr.Button(word("again"), elem_id="again", min_width=90)
            self.stop = gr.Button(word("stop"), variant="stop", elem_id="stop", min_width=90)
        self.status = gr.HTML(elem_id="draw-status")
        self.preview = gr.HTML(elem_id="draw-preview")
        with gr.Row(elem_classes="row"):
            self.style = gr.Dropdown(self.page.style_choices(), value="", label=word("style"),
                                     info=word("no_style"), elem_id="style", min_width=140)
            self.method = gr.Dropdown([("-", ""), *((name, name) for name in methods_by_pictures())], value="",
                                      label=word("method"), info=word("no_method"), elem_id="method", min_width=140)
        self.references = gr.File(label=word("references"), file_count="multiple", file_types=["image"], height=110,
                                  elem_id="references")
        with gr.Row(elem_classes="row"):
            self.count = gr.Textbox("1", label=word("count"), lines=1, elem_id="count", min_width=90)
            self.seed = gr.Textbox(label=word("seed"), lines=1, elem_id="seed", min_width=90,
                                   placeholder=str(self.page.settings.sampling.seed))
            self.locked = gr.Checkbox(False, label=word("locked"), info=word("locked_info"), elem_id="locked",
                                      min_width=90)
        with gr.Row(elem_classes="row"):
            self.negative = gr.Textbox(label=word("negative"), lines=1, elem_id="negative", min_width=140)
            self.strength = gr.Textbox(label=word("strength"), lines=1, placeholder="1", elem_id="strength",
                                       min_width=140)
        with gr.Accordion(word("settings"), open=False, elem_id="settings"):
            fields = form(self.sampling)
        self.accordions, own = [], []
        for name, its in self.own.items():
            with gr.Accordion(f"{name}", open=False, visible=False, elem_id=f"settings-{name}") as accordion:
                own += form(its)
            self.accordions.append(accordion)
        self.inputs = [self.prompts, self.style, self.method, self.references, self.count, self.seed, self.locked,
                       self.negative, self.strength, *fields, *own]

    def build_results(self) -> None:
        self.gallery = gr.Gallery(label=word("pictures"), columns=3, **PLAIN_GALLERY, elem_id="draw-gallery")
        self.paths, self.chosen = gr.State([]), gr.State(None)
        with gr.Row(elem_classes="row"):
            self.as_reference = gr.Button(word("as_reference"), size="sm", elem_id="draw-as-reference")
            self.use = gr.Button(word("use_settings"), size="sm", elem_id="draw-use")
        self.record = gr.Textbox(label=word("record"), lines=4, interactive=False, elem_id="draw-record")

    def connect(self) -> None:
        owner = self.page.owner
        gr.on([self.go.click, self.prompts.submit], kindly(self.draw), [owner, *self.inputs], None, **PRIVATE)
        self.again.click(kindly(self.draw_again), [owner], None, **PRIVATE)
        self.stop.click(kindly(self.end), [owner], None, **PRIVATE)
        gr.on([self.style.change, self.method.change], self.shown_settings, [self.style, self.method],
              self.accordions, **PRIVATE)
        self.locked.change(self.seed_to_lock, [owner, self.locked, self.seed], [self.seed], **PRIVATE)
        self.gallery.select(self.choose, [self.paths], [self.chosen, self.record], **PRIVATE)
        self.as_reference.click(kindly(self.reference), [self.chosen], [self.style, self.method, self.references],
                                **PRIVATE)
        self.use.click(kindly(self.settings_of_picture), [self.chosen], self.inputs, **PRIVATE)

    # ---------------------------------------------------------------- what they do

    def asked(self, values: List[Any]) -> Asked:
        """What the form asks for."""
        prompts, style, method, references, count, seed, locked, negative, strength = values[:BEFORE]
        files = uploaded(references, self.page.uploads)
        sampling = asked_for(self.sampling, values[BEFORE:])
        start, own = BEFORE + len(self.sampling), {}
        active = method_that_draws(self.page.settings, style or "", method or "")
        for name, fields in self.own.items():
            if name == active:
                own = asked_for(fields, values[start:start + len(fields)])
            start += len(fields)
        seed = number_of("seed", seed, whole=True)
        seed = self.page.settings.sampling.seed if seed is None else seed
        return Asked("draw", {
            "prompts": prompts_in(prompts), "style": style or "", "method": method or "",
            REFERENCES: kept_references(files, self.page.settings),
            "count": number_of("count", count, whole=True) or 1, "seed": seed if locked else None,
            "negative": (negative or "").strip() or None, "strength": number_of("strength", strength, whole=False),
            "sampling": sampling, "own": own})

    def draw(self, owner: str, request: gr.Request, *values) -> None:
        self.page.submit(owner, self.asked(list(values)), request)

    def draw_again(self, owner: str, request: gr.Request) -> None:
        last = self.page.queue.latest(known(owner), "draw")
        if last is None:
            raise StyleBlendError(said(language(request), "nothing"))
        self.page.submit(owner, last.asked, request)

    def end(self, owner: str) -> None:
        self.page.queue.stop(self.page.queue.latest(known(owner), "draw"))

    def shown_settings(self, style: str, method: str) -> List[Any]:
        active = method_that_draws(self.page.settings, style or "", method or "")
        return [gr.update(visible=name == active) for name in self.own]

    def seed_to_lock(self, owner: str, locked: bool, seed: str) -> Any:
        """The seed of the last picture, where the field is empty."""
        job = self.page.queue.latest(known(owner), "draw")
        return str(job.pictures[-1]["seed"]) if locked and not seed and job and job.pictures else gr.skip()

    def choose(self, paths: List[str], event: gr.SelectData) -> Tuple[Optional[str], str]:
        """The picture that was chosen, by its number: paths are never the browser's to say."""
        path = paths[event.index] if 0 <= event.index < len(paths) else None
        return path, how_drawn(read_record(Path(path))) if path else ""

    def reference(self, chosen: Optional[str], request: gr.Request) -> List[Any]:
        """The form with this picture as a reference."""
        if not chosen:
            raise StyleBlendError(said(language(request), "choose_picture"))
        return [gr.update(value=""), gr.update(value=methods_by_pictures()[0]), gr.update(value=[chosen])]

    def settings_of_picture(self, chosen: Optional[str], request: gr.Request) -> List[Any]:
        if not chosen:
            raise StyleBlendError(said(language(request), "choose_picture"))
        return self.filled(read_record(Path(chosen)))

    def filled(self, record: Record) -> List[Any]:
        """The form as it draws the picture of this record."""
        settings = record.settings.model_dump()
        references = [one for one in record.settings.pictures() if Path(one).is_file()]
        strength = settings.get(record.settings.strength) if record.settings.strength and record.style else None
        found = [record.prompt, record.style, "" if record.style or not references else record.method,
                 references or None, "1", str(record.seed), True, record.sampling.fine_negative or "",
                 "" if strength in (None, 1) else str(strength)]
        found += filled_in(self.sampling, record.sampling.model_dump())
        for name, fields in self.own.items():
            found += filled_in(fields, settings) if name == record.method else [""] * len(fields)
        return [gr.update(value=value) for value in found]

    def watched(self) -> Watched:
        return Watched(("draw",), [self.status, self.preview, self.gallery, self.paths], self.show)

    def show(self, job: Optional[QueuedJob], language: str) -> List[Any]:
        pictures = gallery_of(job)
        return [status(job, self.page.queue, language), preview(job), pictures, [path for path, _ in pictures]]
