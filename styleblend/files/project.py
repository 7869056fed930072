"""A folder to work in: a config, and the folders that it names for one's own pictures and adapters."""
from __future__ import annotations

from pathlib import Path
from typing import List

import yaml

from styleblend.errors import StyleBlendError, did_you_mean
from styleblend.files.shipped import CONFIGS, shipped_folder
from styleblend.files.text import read_text
from styleblend.files.whole_files import not_written, write_bytes


def make_project(folder: Path, name: str) -> List[Path]:
    """Write the shipped config `name` into `folder` and make the folders that it names; what is there now.

    StyleBlendError where there is a config already: nothing is changed then.
    """
    source, target = shipped_folder() / CONFIGS / f"{name}.yaml", Path(folder) / CONFIGS / f"{name}.yaml"
    known = sorted(path.stem for path in source.parent.glob("*.yaml"))
    if name not in known:
        raise StyleBlendError(f"no config {name} comes with the program: {did_you_mean(name, known)}")
    if target.exists():
        raise StyleBlendError(f"{target} is there already, so this is a project folder: nothing is changed; name "
                              "another folder, or remove that file")
    text = read_text(source)
    settings = yaml.safe_load(text)
    folders = [Path(folder) / settings[key] for key in ("data", "adapters")]
    for path in folders:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise not_written(path, error) from None
    write_bytes(target, text.encode("utf-8"))  # last: with it this is a project folder
    return [target, *folders]
