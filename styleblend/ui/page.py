"""The page: its tabs, who sees which job, and the server that hands it out."""
from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import gradio as gr
import uvicorn
from fastapi import FastAPI

from styleblend.settings import RunSettings
from styleblend.ui.compare_tab import CompareTab
from styleblend.ui.draw_tab import DrawTab
from styleblend.ui.folders import MOST_UPLOADED, own_temporary_folder, remove_folder
from styleblend.ui.guard import LOCAL, Guard, Password, is_local
from styleblend.ui.history_tab import HistoryTab
from styleblend.ui.programs import PLACE, application_for_programs
from styleblend.ui.queue import JobQueue
from styleblend.ui.requests import folder_of_exports
from styleblend.ui.shown import CSS
from styleblend.ui.styles_tab import StylesTab
from styleblend.ui.tabs import I18N, PRIVATE, Page, Watched, language, word
from styleblend.ui.train_tab import TrainTab

TICK = 0.5  # seconds between two looks at the jobs
FONTS = ["system-ui", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]  # of the machine: none is fetched
MONO = ["ui-monospace", "monospace"]


def build(settings: RunSettings, queue: JobQueue, uploads: Path) -> gr.Blocks:
    """All tabs, with what keeps them up to date."""
    with gr.Blocks(title="StyleBlend", analytics_enabled=False) as blocks:
        owner = gr.BrowserState(None, storage_key="styleblend-page", secret=secrets.token_hex(8))
        page = Page(settings, queue, uploads, owner)
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab(word("draw"), id="draw") as draw_tab:
                draw = DrawTab(page)
            with gr.Tab(word("train"), id="train"):
                train = TrainTab(page)
            with gr.Tab(word("compare"), id="compare") as compare_tab:
                compare = CompareTab(page)
            with gr.Tab(word("styles"), id="styles") as styles_tab:
                styles = StylesTab(page)
            with gr.Tab(word("history"), id="history") as history_tab:
                history = HistoryTab(page, draw, tabs)
        watched = [draw.watched(), *train.watched(), compare.watched(), styles.watched()]
        seen, timer = gr.State({}), gr.Timer(TICK)
        outputs = [seen, *[one for tab in watched for one in tab.outputs]]
        blocks.load(lambda name: name or secrets.token_urlsafe(24), [owner], [owner], **PRIVATE)
        timer.tick(Ticker(page, watched), [owner, seen], outputs, queue=False, **PRIVATE)
        styles.connect({draw.style: page.style_choices, history.style: page.style_choices,
                        compare.styles: compare.style_names})
        gr.on([draw_tab.select, compare_tab.select, styles_tab.select, history_tab.select, blocks.load], styles.listed,
              None, styles.lists, **PRIVATE)
        history_tab.select(history.found, [history.words, history.style], [history.gallery, history.paths], **PRIVATE)
    return blocks.queue(max_size=64, default_concurrency_limit=8)


class Ticker:
    """Says what has changed for a browser since it looked last."""

    __name__ = "tick"

    def __init__(self, page: Page, watched: Sequence[Watched]):
        self.page, self.watched = page, watched

    def __call__(self, owner: Optional[str], seen: Dict[str, tuple], request: gr.Request) -> List[Any]:
        updates: List[Any] = []
        seen = dict(seen or {})
        for one in self.watched:
            job = self.page.queue.latest(owner, *one.kinds) if owner else None
            state = (job.number, job.version, self.page.queue.place(job)) if job else (0, 0, 0)
            before = seen.get(one.kinds[0])
            if state == tuple(before or ()):
                updates += [gr.skip()] * len(one.outputs)
                continue
            seen[one.kinds[0]] = state
            updates += one.show(job, language(request))
        return [seen, *updates]


def application(settings: RunSettings, queue: JobQueue, uploads: Path, host: str, password: Optional[str]) -> Guard:
    """The page as an ASGI application, for browsers and for other programs, with its guard."""
    blocks, lets_in = build(settings, queue, uploads), Password(password) if password else None
    both = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    both.mount(PLACE, application_for_programs(settings, queue, uploads, lets_in))
    app = gr.mount_gradio_app(
        both, blocks, path="/", server_name=host, auth=lets_in, max_file_size=MOST_UPLOADED, ssr_mode=False,
        allowed_paths=[str(Path(settings.output).resolve()), str(folder_of_exports(settings).resolve())],
        footer_links=[], run_history=False, enable_monitoring=False, show_error=False, i18n=I18N, css=CSS,
        theme=gr.themes.Default(font=FONTS, font_mono=MONO))
    return Guard(app, None if password and not is_local(host) else LOCAL, uploads)


def prepare_environment(uploads: Path) -> None:
    """What Gradio reads of the environment: nothing is sent anywhere, uploads are this user's alone."""
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=str(uploads), GRADIO_SHARE="False")


def serve(settings: RunSettings, config: str, host: str, port: int, password: Optional[str]) -> None:
    """Hand the page out until Ctrl-C; the work that runs then ends its step first."""
    uploads = own_temporary_folder()
    prepare_environment(uploads)
    queue = JobQueue(config)
    try:
        # no proxy_headers: a program that names another machine in them would pass the limit of jobs
        server = uvicorn.Server(uvicorn.Config(application(settings, queue, uploads, host, password), host=host,
                                               port=port, log_level="warning", proxy_headers=False,
                                               timeout_graceful_shutdown=1))
        server.run()
    finally:
        queue.close()
        remove_folder(uploads)
