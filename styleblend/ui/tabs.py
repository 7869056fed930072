"""What all tabs share: the page that they are on, fields of settings as components, errors as one sentence."""
from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence, Tuple

import gradio as gr

from styleblend.adapters.style_files import style_names_in
from styleblend.errors import StyleBlendError
from styleblend.settings import RunSettings
from styleblend.ui.fields import Field
from styleblend.ui.queue import JobQueue, QueuedJob
from styleblend.ui.requests import Asked, check
from styleblend.ui.words import WORDS, language_of, said, words_of

PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}  # of every event: programs have ui/programs.py
# of every gallery: without the button that shares pictures with a hub
PLAIN_GALLERY = {"height": "auto", "object_fit": "contain", "interactive": False,
                 "buttons": ["download", "fullscreen"]}
I18N = gr.I18n(**{"en": words_of("en"), "zh": words_of("zh"), "zh-CN": words_of("zh"), "zh-TW": words_of("zh")})


def word(key: str):
    """A text in the browser's language."""
    if key not in WORDS:
        raise KeyError(key)
    return I18N(key)


@dataclass(frozen=True)
class Page:
    """What the tabs work with. `uploads`: where Gradio puts what is dropped into the page."""

    settings: RunSettings
    queue: JobQueue
    uploads: Path
    owner: Any  # the component that holds the browser's secret name

    def submit(self, owner: str, asked: Asked, request: gr.Request) -> QueuedJob:
        """Check work and put it into the queue; says which place it has."""
        check(asked, self.settings)
        job = self.queue.submit(known(owner), asked)
        gr.Info(said(language(request), "added", self.queue.place(job)), duration=3)
        return job

    def style_choices(self) -> List[Tuple[str, str]]:
        return [("-", ""), *((name, name) for name in style_names_in(self.settings.adapters))]


@dataclass(frozen=True)
class Watched:
    """What shows a job of these kinds: `show(job, language)` gives a value for each of `outputs`."""

    kinds: Tuple[str, ...]
    outputs: Sequence[Any]
    show: Callable[[Optional[QueuedJob], str], Sequence[Any]]


def known(owner: Optional[str]) -> str:
    """The browser's secret name. StyleBlendError where it has none yet."""
    if not isinstance(owner, str) or len(owner) < 20:
        raise StyleBlendError("this page was not loaded in full: load it again")
    return owner


def language(request: Optional[gr.Request]) -> str:
    return language_of(request.headers.get("accept-language", "") if request else "")


def kindly(function: Callable) -> Callable:
    """An event's function whose StyleBlendErrors are told as a sentence."""
    @functools.wraps(function)
    def told(*values, **named):
        try:
            return function(*values, **named)
        except StyleBlendError as error:
            raise gr.Error(" ".join(str(error).split()), print_exception=False) from None
    return told


def component(field: Field):
    """The component of a field; empty: what counts anyway."""
    about = {"label": field.label, "info": f"{field.description}{'; ' * bool(field.description)}{field.bounds}"
             f"default: {field.shown_default}", "elem_id": f"field-{field.name.replace('.', '-')}"}
    if field.kind == "choice":
        return gr.Dropdown([("-", ""), *((one, one) for one in field.choices)], value="", **about)
    # also of numbers: Gradio's field of a number cannot be empty
    return gr.Textbox(value="", lines=1, placeholder=field.shown_default, **about)


def form(fields: Sequence[Field]) -> List[Any]:
    """Components of these fields, some beside each other."""
    found = []
    for start in range(0, len(fields), 3):
        with gr.Row(elem_classes="row"):
            found += [component(field) for field in fields[start:start + 3]]
    return found


def gallery_of(job: Optional[QueuedJob]) -> List[Tuple[str, str]]:
    """The pictures of a job that are there, with their prompts and seeds."""
    return [(one["path"], f"{one['prompt']} · {one['seed']}") for one in (job.pictures if job else ())
            if Path(one["path"]).is_file()]
