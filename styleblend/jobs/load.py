"""Take adapter files of other programs as a style: read them, check them against the base, write the style."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Sequence

from styleblend.adapters.load import gather, load_files
from styleblend.files.base_folder import find_base
from styleblend.files.names import check_name
from styleblend.files.output_files import refuse_unwritable
from styleblend.jobs.events import Job, Progress
from styleblend.settings import RunSettings


@dataclass(frozen=True)
class LoadRequest:
    """What is to be loaded: the adapter `files`, as the style `name`, into `output` (None: the config's adapters).

    `overwrite` replaces parts that are there; `attention_only` as in `adapters.load.gather`.
    """

    settings: RunSettings
    files: Sequence[Path]
    name: str
    output: Optional[Path] = None
    overwrite: bool = False
    attention_only: bool = False

    def folder(self) -> Path:
        """The folder of adapters that gets the style."""
        return Path(self.output or self.settings.adapters)


def load_style_files(request: LoadRequest) -> Job[List[str]]:
    """Load the files; returns sentences on what is there and what is not."""
    settings, name = request.settings, check_name(request.name)
    refuse_unwritable(request.folder())
    found = gather(request.files, request.attention_only)
    # not above: it starts Jittor, and what is wrong with a file is said before
    from styleblend.base.base import NETWORKS, base_by_parts
    total = len(NETWORKS) + 1

    def progress(done: int, note: str = "") -> Progress:
        return Progress(f"loading {name}", done, total, "part", note)

    loading, done, base = base_by_parts(find_base(settings.base, settings.base_id), settings.dtype), 0, None
    while base is None:
        try:
            yield progress(done, next(loading).replace("_", " "))
            done += 1
        except StopIteration as end:
            base = end.value
    yield progress(done, "style")
    said = load_files(found, name, base, request.folder(), request.overwrite)
    yield progress(total)
    return said
