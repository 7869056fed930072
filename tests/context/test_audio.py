"""Sound files as they come: formats, channels, rates, and what is no sound."""
import time

import numpy as np
import pytest
from PIL import Image

from sound_files import read_sound, write_hours, write_sound
from styleblend.context.audio import pieces
from styleblend.errors import StyleBlendError


def tone(seconds=1.0, rate=16_000, hz=440.0):
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)


def strongest(samples, rate=16_000):
    return np.fft.rfft(samples * np.hanning(len(samples))).__abs__().argmax() * rate / len(samples)


@pytest.mark.parametrize("name,rate,layout,codec", [
    ("192khz.wav", 192_000, "mono", "pcm_s24le"), ("5.1.flac", 48_000, "5.1", "flac"),
    ("8khz.wav", 8_000, "mono", "pcm_u8"), ("stereo.mp3", 44_100, "stereo", "libmp3lame"),
    ("phone.m4a", 44_100, "mono", "aac"), ("chat.ogg", 48_000, "mono", "libopus"),
    ("old.wav", 22_050, "stereo", "adpcm_ms")])
def test_formats_rates_and_channels(sound, tmp_path, name, rate, layout, codec):
    channels = {"mono": 1, "stereo": 2, "5.1": 6}[layout]
    path = write_sound(tmp_path / name, np.tile(tone(1, rate), (channels, 1)), rate, layout, codec)
    found = read_sound(path)
    assert found.dtype == np.float32 and found.ndim == 1 and abs(len(found) - 16_000) < 2_000
    assert abs(strongest(found[2000:12000]) - 440) < 3
    assert 0.2 < np.abs(found[4000:12000]).max() <= 1


def test_only_the_beginning_of_hours_is_read(sound, tmp_path):
    path = write_hours(tmp_path / "hours.wav", tone(), hours=3)
    begin = time.perf_counter()
    found = list(pieces(path, 16_000, 60))
    assert sum(len(piece.samples) for piece in found) == 16_000 * 60
    assert found[0].length == pytest.approx(3 * 3600, abs=1) and time.perf_counter() - begin < 2


def no_sound(tmp_path):
    picture, text, broken, empty = (tmp_path / name for name in ("a.png", "a.wav", "b.wav", "c.mp3"))
    Image.new("RGB", (9, 9)).save(picture)
    text.write_text("this is no sound\n" * 50)
    broken.write_bytes(b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x99\x99")
    empty.write_bytes(b"")
    return picture, text, broken, empty, tmp_path / "missing.wav", tmp_path


def test_what_is_no_sound_is_one_sentence(sound, tmp_path):
    for path in no_sound(tmp_path):
        with pytest.raises(StyleBlendError, match="(holds no sound|cannot be read as sound|does not exist).*: name"):
            list(pieces(path, 16_000, 10))


def test_a_playlist_opens_no_other_file(sound, tmp_path):
    """FFmpeg would follow it, also to other machines."""
    write_sound(tmp_path / "secret.ts", tone(3), codec="mp2")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n"
                                        f"file://{tmp_path}/secret.ts\n#EXT-X-ENDLIST\n")
    (tmp_path / "list.ffconcat").write_text(f"ffconcat version 1.0\nfile {tmp_path}/secret.ts\n")
    assert len(read_sound(tmp_path / "secret.ts")) > 40_000
    for name in ("list.m3u8", "list.ffconcat"):
        with pytest.raises(StyleBlendError):
            list(pieces(tmp_path / name, 16_000, 10))


def test_broken_packets_are_left_out_and_strange_numbers_are_none(sound, tmp_path):
    path = write_sound(tmp_path / "a.ogg", tone(4), codec="libopus")
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    for at in rng.integers(len(data) // 2, len(data), 40):
        data[at] ^= 0xFF
    path.write_bytes(data)
    assert len(read_sound(path)) > 16_000
    wild = np.array([0.1, np.nan, np.inf, -np.inf, 1e30, -3] * 4000, np.float32)
    found = read_sound(write_sound(tmp_path / "wild.wav", wild, codec="pcm_f32le"))
    assert np.isfinite(found).all() and np.abs(found).max() <= 1
