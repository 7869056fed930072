"""The process that turns speech into text: `python -m styleblend.context.listener MODEL` (see speech.py).

It has a process of its own, since CTranslate2 crashes at its first sentence where Jittor has loaded its oneDNN before.
And its memory is free again before a picture is drawn. Requests and answers are lines of JSON.
"""
from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Iterator, Tuple

import numpy as np

from styleblend.context.audio import pieces
from styleblend.errors import StyleBlendError, did_you_mean

RATE = 16_000
WINDOW, QUIET_FROM = 30, 20  # seconds that Whisper hears at once; a longer recording is cut where it is quietest
FRAME = RATE // 10
SILENCE = 1e-3  # the loudest sample of what counts as silence: -60 dB
MOST_TOKENS = 224  # of a window, as Whisper was trained; noise would give twice as many
NOT_SPEECH = 0.6  # Whisper's probability that nobody speaks: above it, what it writes is made up


def answer(**said) -> None:
    """Say something to the process that asked."""
    print(json.dumps(said), flush=True)


def windows(path: Path, seconds: float) -> Iterator[Tuple[np.ndarray, float, float]]:
    """Samples of half a minute at most, where they end, and how long the recording is (both in seconds)."""
    kept, ended = np.zeros(0, np.float32), 0
    length = None
    for piece in pieces(path, RATE, seconds):
        kept, length = np.concatenate([kept, piece.samples]), piece.length
        while len(kept) > WINDOW * RATE:
            end = quietest(kept[:WINDOW * RATE])
            ended += end
            yield kept[:end], ended / RATE, length or ended / RATE
            kept = kept[end:]
    ended += len(kept)
    yield kept, ended / RATE, length or ended / RATE


def quietest(samples: np.ndarray) -> int:
    """Where to cut a window: in the middle of its quietest tenth of a second near its end."""
    late = samples[QUIET_FROM * RATE:]
    power = np.square(late[:len(late) // FRAME * FRAME].reshape(-1, FRAME)).mean(1)
    return QUIET_FROM * RATE + int(power.argmin()) * FRAME + FRAME // 2


def hear(model, path: Path, language, seconds: float) -> None:
    """Answer with each window's text, then with the language that was heard."""
    languages = model.supported_languages
    if language and language not in languages:
        raise StyleBlendError(f"--language {language}: this model knows no such language, "
                              f"{did_you_mean(language, languages)}")
    heard, sure = language, 1.0
    for samples, ended, length in windows(path, seconds):
        text = ""
        if len(samples) and np.abs(samples).max() > SILENCE:
            segments, about = model.transcribe(samples, language=heard, beam_size=5, temperature=0.0,
                                               condition_on_previous_text=False, max_new_tokens=MOST_TOKENS)
            spoken = [one.text.strip() for one in segments if one.no_speech_prob <= NOT_SPEECH]
            text = " ".join(spoken)
            if text and heard is None:
                heard, sure = about.language, about.language_probability
        answer(text=text, seconds=ended, length=length)
    answer(language=heard, probability=sure)


def main(folder: str) -> None:
    # what a library prints is no answer: it goes where errors go
    sys.stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from faster_whisper import WhisperModel
    model = WhisperModel(folder, device="cpu", compute_type="int8", local_files_only=True,
                         cpu_threads=min(8, len(os.sched_getaffinity(0))))
    answer(ready=True)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            hear(model, Path(asked["path"]), asked["language"], asked["seconds"])
        except StyleBlendError as error:
            answer(error=str(error))


if __name__ == "__main__":
    main(sys.argv[1])
