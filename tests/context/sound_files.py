"""Sound files for tests, written by PyAV."""
import wave

import numpy as np


def write_sound(path, samples, rate=16_000, layout="mono", codec="pcm_s16le", **options):
    """Write float samples, (n,) or (channels, n), in the format of the file's ending."""
    import av
    samples = np.atleast_2d(np.asarray(samples, np.float32))
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = layout
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(format=stream.format, layout=layout, rate=rate)
        for part in [frame, None]:
            for one in resampler.resample(part):
                container.mux(stream.encode(one))
        container.mux(stream.encode(None))
    return path


def read_sound(path, rate=16_000, seconds=60.0):
    """All samples of a file."""
    from styleblend.context.audio import pieces
    return np.concatenate([piece.samples for piece in pieces(path, rate, seconds)])


def write_hours(path, samples, hours, rate=16_000):
    """A WAV file of so many hours: the samples, then silence that takes no place on the disk."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.setnframes(int(hours * 3600 * rate))
        file.writeframesraw((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
        file._nframeswritten = int(hours * 3600 * rate)
        file._datawritten = file._nframeswritten * 2
    with open(path, "r+b") as file:
        file.truncate(44 + int(hours * 3600 * rate) * 2)
    return path
