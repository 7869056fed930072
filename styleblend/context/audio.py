"""Sound files of any format that PyAV reads, as mono samples in pieces: a recording of hours is never in memory."""
from __future__ import annotations

from pathlib import Path
from typing import Iterator, NamedTuple, Optional

import numpy as np

from styleblend.errors import StyleBlendError, printable

EXTRA = 'pip install "styleblend-jittor[context]"'
# A playlist may name other files and addresses: none of them is opened, whatever its format.
ALONE = {"protocol_whitelist": "none"}
MOST_BROKEN = 100  # packets in a row that cannot be read


class Piece(NamedTuple):
    """Some sound that follows on the one before. `length`: seconds of the whole file, None where it does not say."""

    samples: np.ndarray  # float32 (n,) from -1 to 1
    length: Optional[float]


def pieces(path: Path, rate: int, seconds: float) -> Iterator[Piece]:
    """The first `seconds` of a sound file at `rate` samples a second, all channels mixed to one.

    StyleBlendError: it is not there, holds no sound, or PyAV is not installed.
    """
    try:
        import av
    except ImportError:
        raise StyleBlendError(f"to read {path} the extra for sound is needed: type {EXTRA}") from None
    if not Path(path).is_file():
        raise StyleBlendError(f"the sound file {path} does not exist: name one, such as note.wav or song.ogg")
    left = int(seconds * rate)
    with open(path, "rb") as file:
        try:
            with av.open(file, container_options=ALONE, metadata_errors="ignore") as container:
                if not container.streams.audio:
                    raise StyleBlendError(f"{path} holds no sound: name a recording, such as note.wav or song.ogg")
                length = container.duration / av.time_base if container.duration else None
                for samples in decoded(container, rate):
                    yield Piece(samples[:left], length)
                    left -= len(samples)
                    if left <= 0:
                        return
        except (av.FFmpegError, ValueError, OSError) as error:  # OSError: what the file's bytes make of it
            why = printable(str(getattr(error, "strerror", None) or error), 60)
            raise StyleBlendError(f"{path} cannot be read as sound ({why}): name a recording, such as note.wav or "
                                  "song.ogg") from None


def decoded(container, rate: int) -> Iterator[np.ndarray]:
    """The samples of the first stream of sound; packets that are broken are left out."""
    import av
    stream, broken = container.streams.audio[0], 0
    resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
            broken = 0
        except av.FFmpegError:
            broken += 1
            if broken >= MOST_BROKEN:
                raise
            continue
        for frame in frames:
            for one in resampler.resample(frame):
                yield finite(one.to_ndarray()[0])
    for one in resampler.resample(None):
        yield finite(one.to_ndarray()[0])


def finite(samples: np.ndarray) -> np.ndarray:
    """The samples from -1 to 1; a file of floating point numbers may hold anything."""
    return np.clip(np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0), -1, 1).astype(np.float32, copy=False)
