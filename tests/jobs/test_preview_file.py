"""`draw --preview FILE`: written anew after each step, whole, and nothing else is ever replaced."""
import numpy as np
import pytest
from PIL import Image

from styleblend.cli import main
from styleblend.errors import StyleBlendError
from styleblend.jobs.draw import DrawRequest, draw
from styleblend.jobs.events import Progress, result_of
from styleblend.jobs.previews import TEXT, PreviewFile, side_by_side
from styleblend.settings import read_settings


def test_a_preview_is_there_after_each_step_and_the_picture_is_the_same(trained, tmp_path):
    plain = ["draw", "--config", str(trained), "--style", "dots", "--prompt", "A cat", "--output"]
    assert main([*plain, str(tmp_path / "a.png")]) == 0
    assert main([*plain, str(tmp_path / "b.png"), "--preview", str(tmp_path / "now.png")]) == 0
    assert np.array_equal(Image.open(tmp_path / "a.png"), Image.open(tmp_path / "b.png"))
    preview = Image.open(tmp_path / "now.png")
    assert preview.size == (64, 64) and preview.info[TEXT] == "drawing: 2 of 2"
    assert main([*plain, str(tmp_path / "c.png"), "--preview", str(tmp_path / "now.png")]) == 0  # its own is replaced


def test_steps_change_it(trained, tmp_path):
    seen, file = [], PreviewFile(tmp_path / "now.webp")

    def each(event):
        file.show(event)
        if isinstance(event, Progress) and event.preview:
            seen.append(np.asarray(Image.open(tmp_path / "now.webp")).copy())

    request = DrawRequest(read_settings(trained), "A cat", count=2, output=tmp_path / "a.png")
    result_of(draw(request), each)
    assert len(seen) == 2 and seen[0].shape == (64, 130, 3)  # two pictures beside each other
    assert not np.array_equal(seen[0], seen[1])
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]


def test_nothing_else_is_replaced(trained, tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "mine.png")
    (tmp_path / "text.png").write_text("mine")
    for name, words in (("mine.png", "no preview"), ("text.png", "no preview"), ("out.png", "of the picture, too"),
                        ("now.txt", "end it in .png"), (".", "is a folder"), ("", "is empty")):
        before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
        target = str(tmp_path / name) if name else ""
        assert main(["draw", "--config", str(trained), "--prompt", "A cat", "--output", str(tmp_path / "out.png"),
                     "--preview", target]) == 2
        assert words in capsys.readouterr().err
        assert before == {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}


def test_several_pictures_stand_beside_each_other():
    sheet = side_by_side(np.full((6, 8, 16, 3), 200, np.uint8), 16)
    assert sheet.size == (4 * 128 + 3 * 2, 2 * 64 + 2)
    assert side_by_side(np.zeros((1, 96, 96, 3), np.uint8), 96).size == (256, 256)


def test_a_folder_that_cannot_be_written_is_found_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StyleBlendError):
        PreviewFile(tmp_path / "file" / "now.png")
