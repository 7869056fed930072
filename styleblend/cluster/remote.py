"""What a machine of a cluster runs: one process that holds the base and does one piece of work after another."""
from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from socket import gethostname
from typing import Any, Dict, List, Optional

from styleblend.errors import StyleBlendError
from styleblend.settings import RunSettings


@dataclass(frozen=True)
class Came:
    """What became of a piece of work: what it gave, or why it could not be done.

    `sentences` are for the user. `files`: what was written, where it is sent back and not on storage that all share.
    """

    done: Any = None
    error: Optional[str] = None
    sentences: List[str] = field(default_factory=list)
    files: Dict[Path, bytes] = field(default_factory=dict)


class Worker:
    """Work on one machine. `folder` is where the run was started: paths are relative to it on every machine."""

    def __init__(self, settings: RunSettings, folder: str, collect: bool):
        self.settings, self.folder, self.collect = settings, folder, collect
        self.drawer = None

    def about(self) -> Dict[str, str]:
        """What this machine would draw with: it goes to the folder and loads the base. This is asked first."""
        from styleblend.cluster.nodes import about
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise StyleBlendError(f"{self.folder} is not on {gethostname()} ({error.strerror}): start the command in a "
                                  "folder that every machine has") from None
        return about(self.ready().base)

    def ready(self):
        """What draws here, loaded once."""
        from styleblend.base.base import base_for_drawing
        from styleblend.jobs.draw_items import Drawer
        if self.drawer is None:
            self.drawer = Drawer(base_for_drawing(self.settings), self.settings)
        return self.drawer

    def do(self, item) -> Came:
        """Do one piece of work."""
        from styleblend.jobs.events import Log, result_of
        said: List[str] = []

        def hear(event) -> None:
            if isinstance(event, Log):
                said.append(event.sentence)

        if not item.draws:
            self.drawer = None  # a training loads networks of its own: two bases need not fit
        drawer = self.ready() if item.draws else None
        try:
            if not self.collect:
                return Came(result_of(item.run(drawer), hear), sentences=said)
            with tempfile.TemporaryDirectory() as folder:
                done = result_of(item.moved(Path(folder)).run(drawer), hear)
                return Came(item.came(done), sentences=said, files=item.sent(done))
        except StyleBlendError as error:
            return Came(error=str(error), sentences=said)
