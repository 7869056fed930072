"""`styleblend draw`: with and without a style, several seeds, settings of the sampling, and what has no effect."""
import numpy as np
import pytest
import yaml
from PIL import Image

from styleblend.cli import main
from styleblend.jobs.draw import DrawRequest, draw
from styleblend.jobs.events import Drawn, Progress, Written, result_of
from styleblend.record import read_record
from styleblend.settings import read_settings


def drawn(config, tmp_path, *more, name="picture.png"):
    assert main(["draw", "--config", str(config), "--output", str(tmp_path / name), "--overwrite",
                 *map(str, more)]) == 0
    return np.asarray(Image.open(tmp_path / name), int)


def refused(config, tmp_path, capsys, *more):
    assert main(["draw", "--config", str(config), "--output", str(tmp_path / "no.png"), *map(str, more)]) == 2
    assert not (tmp_path / "no.png").exists()
    return capsys.readouterr().err.splitlines()[-1]


def near(one, other):
    """Equal but for the last bits, which depend on what is drawn together: 1/255 at most."""
    return one.shape == other.shape and np.abs(one - other).max() <= 1


def test_the_events_of_a_picture(trained, tmp_path):
    events = []
    request = DrawRequest(read_settings(trained), "A cat.", "dots", output=tmp_path / "a.png")
    assert result_of(draw(request), events.append) == [tmp_path / "a.png"]
    *steps, last = events
    assert isinstance(last, Drawn) and last.path == tmp_path / "a.png" and last.record == read_record(last.path)
    assert all(isinstance(step, Progress) and (step.total, step.unit) == (2, "step") for step in steps)
    assert [steps[0].done, steps[-1].done] == [0, 2] and last.record.prompt == "A cat"
    assert np.array_equal(np.asarray(last.picture), np.asarray(Image.open(last.path)))


def test_a_job_that_is_closed_writes_nothing(trained, tmp_path):
    job = draw(DrawRequest(read_settings(trained), "A cat", "dots", output=tmp_path / "a.png"))
    assert isinstance(next(job), Progress)
    job.close()
    assert not (tmp_path / "a.png").exists()


def test_a_plain_picture_is_the_bases(trained, tmp_path):
    """Without a style: no LoRA, no token, no negative prompt but the one that is asked for.

    Its record says so, and draws it again.
    """
    plain = drawn(trained, tmp_path, "--prompt", "A cat")
    styled = drawn(trained, tmp_path, "--prompt", "A cat", "--style", "dots")
    drawn(trained, tmp_path, "--prompt", "A cat", name="plain.png")
    assert not near(plain, styled)
    record = read_record(tmp_path / "plain.png")
    assert (record.style, record.style_hash, record.adapters, record.sampling.fine_negative) == ("", "", {}, "")
    text = Image.open(tmp_path / "plain.png").info["parameters"]
    assert text.startswith("A cat.\n") and "style" not in text.lower().replace("styleblend 0", "")
    assert np.array_equal(drawn(trained, tmp_path, "--from", tmp_path / "plain.png", name="again.png"), plain)
    assert not np.array_equal(drawn(trained, tmp_path, "--prompt", "A cat", "--negative", "a dog"), plain)


def test_several_seeds(trained, tmp_path):
    """Each picture as it is alone, in a file of its own, and all on a contact sheet."""
    events, settings = [], read_settings(trained)
    request = DrawRequest(settings, "A cat", "dots", seed=5, count=3, output=tmp_path / "cat.png")
    files = result_of(draw(request), events.append)
    assert [path.name for path in files] == ["cat-5.png", "cat-6.png", "cat-7.png", "cat.png"]
    assert [event.path for event in events if isinstance(event, (Drawn, Written))] == files
    assert [event.done for event in events if isinstance(event, Progress) and event.title == "pictures"] == [0, 2, 3]
    for seed, path in zip((5, 6, 7), files):
        assert read_record(path).seed == seed
        alone = drawn(trained, tmp_path, "--prompt", "A cat", "--style", "dots", "--seed", seed, name="one.png")
        assert near(np.asarray(Image.open(path), int), alone)
    assert Image.open(files[-1]).width > 3 * 64


def test_drawn_again_with_more_seeds(trained, tmp_path):
    first = drawn(trained, tmp_path, "--prompt", "A cat", "--style", "dots", "--seed", 9)
    drawn(trained, tmp_path, "--from", tmp_path / "picture.png", "--count", 2, name="more.png")
    assert near(np.asarray(Image.open(tmp_path / "more-9.png"), int), first)
    assert read_record(tmp_path / "more-10.png").seed == 10


def test_options_of_the_sampling(trained, tmp_path):
    """They count before the config and the style's own guidance, and the picture has the size that was asked for."""
    settings = yaml.safe_load(trained.read_text())
    settings["sampling"]["saved_size"] = 32
    trained.write_text(yaml.safe_dump(settings))
    (tmp_path / "adapters" / "dots" / "style.json").write_text('{"guidance": 4.0}')
    picture = drawn(trained, tmp_path, "--style", "dots", "--prompt", "A cat", "--steps", 3, "--sampler", "euler",
                    "--guidance", 2, "--width", 128, "--negative", "dogs")
    sampling = read_record(tmp_path / "picture.png").sampling
    assert (sampling.steps, sampling.sampler, sampling.guidance) == (3, "euler", 2.0)
    assert (sampling.width, sampling.height) == (128, 64)
    assert sampling.fine_negative == "dogs" and picture.shape == (64, 128, 3)
    assert drawn(trained, tmp_path, "--style", "dots", "--prompt", "A cat").shape == (32, 32, 3)
    assert read_record(tmp_path / "picture.png").sampling.guidance == 4.0
    drawn(trained, tmp_path, "--from", tmp_path / "picture.png", "--steps", 1, name="fewer.png")
    assert read_record(tmp_path / "fewer.png").sampling.steps == 1


def test_levels_of_quality_and_guidance_in_a_part_of_the_steps(trained, tmp_path):
    """A picture says what it was drawn with, so a level that means something else some day changes none of it."""
    draft = drawn(trained, tmp_path, "--style", "dots", "--prompt", "A cat", "--quality", "draft")
    sampling = read_record(tmp_path / "picture.png").sampling
    assert (sampling.sampler, sampling.steps) == ("dpmpp_2m", 9)
    assert np.array_equal(drawn(trained, tmp_path, "--from", tmp_path / "picture.png", name="again.png"), draft)
    part = drawn(trained, tmp_path, "--style", "dots", "--prompt", "A cat", "--quality", "draft", "--steps", 4,
                 "--guidance", 6, "--guidance-start", 0.25, "--guidance-end", 0.75)
    sampling = read_record(tmp_path / "picture.png").sampling
    assert (sampling.steps, sampling.guidance_start, sampling.guidance_end) == (4, 0.25, 0.75)
    assert np.array_equal(drawn(trained, tmp_path, "--from", tmp_path / "picture.png", name="again.png"), part)
    whole = drawn(trained, tmp_path, "--from", tmp_path / "picture.png", "--guidance-start", 0, "--guidance-end", 1,
                  name="whole.png")
    assert np.abs(whole.astype(int) - part).max() > 1


@pytest.mark.parametrize("prompt, phrase", [("A cat.", "A cat"), (" A cat ", "A cat"),
                                            ("Wait...", "Wait..."), ("Wait..", "Wait..")])
def test_the_full_stop_is_that_of_a_board(trained, tmp_path, prompt, phrase):
    """As `board` reads a prompt: its one full stop stands behind the style, dots that mean something stay."""
    drawn(trained, tmp_path, "--style", "dots", "--prompt", prompt)
    assert read_record(tmp_path / "picture.png").prompt == phrase
    drawn(trained, tmp_path, "--from", tmp_path / "picture.png", name="again.png")
    assert read_record(tmp_path / "again.png").prompt == phrase


@pytest.mark.parametrize("options, words", [
    (["--prompt", "A cat", "--strength", 1.2], "--strength has no effect without a style"),
    (["--prompt", "A cat", "--count", 0], "--count 0: give a number from 1"),
    (["--prompt", "A cat", "--style", "dots", "--guidance", 1, "--negative", "dogs"], "--negative has no effect"),
    (["--prompt", "A cat", "--seed", (1 << 63) - 2, "--count", 3], "is no seed"),
    (["--prompt", "A cat", "--steps", 0], "steps"),
    (["--prompt", "A cat", "--sampler", "magic"], "sampler"),
    (["--prompt", "A cat", "--width", 100], "width"),
    (["--prompt", "  "], "nothing to draw"),
    (["--style", "dots"], "--style and --prompt"),
])
def test_what_makes_no_sense_is_refused(trained, tmp_path, capsys, options, words):
    assert words in refused(trained, tmp_path, capsys, *options)


def test_a_strength_wants_something_to_scale(trained, tmp_path, capsys):
    """A style of which only the coarse part was loaded has no UNet LoRA."""
    folder = tmp_path / "adapters" / "dots"
    (folder / "style.json").write_text('{"parts": ["coarse_embeds", "text_lora"]}')
    for part in ("fine_style_embeds", "unet_lora"):
        (folder / f"dots_{part}.safetensors").unlink()
    command = ["--style", "dots", "--prompt", "A cat"]
    assert "no UNet LoRA" in refused(trained, tmp_path, capsys, *command, "--strength", 0.5)
    plain, other = drawn(trained, tmp_path, *command), drawn(trained, tmp_path, *command, "--negative", "a dog")
    assert not np.array_equal(plain, other)  # of the branch that is shown


def test_offload_of_a_config_is_heard(trained, tmp_path, capsys, monkeypatch):
    """On a GPU it is done, without one it is said; the picture is the same."""
    before = drawn(trained, tmp_path, "--style", "dots", "--prompt", "A cat")
    assert "offload" not in capsys.readouterr().err
    assert np.array_equal(drawn(trained, tmp_path, "--style", "dots", "--prompt", "A cat", "--offload"), before)
    assert "offload is of no use without a GPU" in capsys.readouterr().err
    trained.write_text(yaml.safe_dump({**yaml.safe_load(trained.read_text()), "offload": True}))
    assert np.array_equal(drawn(trained, tmp_path, "--style", "dots", "--prompt", "A cat"), before)
    assert "offload is of no use without a GPU" in capsys.readouterr().err
    monkeypatch.setattr("styleblend.base.base.device", lambda: "cuda")
    assert np.array_equal(drawn(trained, tmp_path, "--style", "dots", "--prompt", "A cat"), before)
    assert "of no use" not in capsys.readouterr().err


def test_a_lean_picture_has_the_record_of_any_other(trained, tmp_path, capsys):
    """What --max-memory changes is no setting of the picture."""
    drawn(trained, tmp_path, "--style", "dots", "--prompt", "A cat")
    drawn(trained, tmp_path, "--style", "dots", "--prompt", "A cat", "--max-memory", "230MB", name="lean.png")
    assert read_record(tmp_path / "lean.png") == read_record(tmp_path / "picture.png")
    assert "drawing once takes about" in capsys.readouterr().err


def test_one_of_several_is_not_written_over_the_picture_that_is_drawn_again(trained, tmp_path, capsys):
    drawn(trained, tmp_path, "--prompt", "A cat", "--seed", 5, name="cat-5.png")
    before = (tmp_path / "cat-5.png").read_bytes()
    again = ["draw", "--config", str(trained), "--from", str(tmp_path / "cat-5.png"), "--count", "2"]
    assert main([*again, "--output", str(tmp_path / "cat.png")]) == 2
    assert "would be lost" in capsys.readouterr().err and (tmp_path / "cat-5.png").read_bytes() == before


@pytest.mark.parametrize("options, words", [
    (["--style", ""], "--style is empty"),
    (["--count", "10000000000"], "from 1 to 10000"),
    (["--guidance", "inf"], "guidance"),
    (["--guidance", "1e30"], "guidance"),
])
def test_what_cannot_be_meant_is_refused(trained, tmp_path, capsys, options, words):
    command = ["draw", "--config", str(trained), "--prompt", "A cat", "--output", str(tmp_path / "a.png")]
    assert main([*command, *options]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "a.png").exists()


def test_a_folder_is_no_picture_whatever_its_name(trained, tmp_path, capsys):
    for name in ("folder", "folder.png"):
        (tmp_path / name).mkdir()
        assert main(["draw", "--config", str(trained), "--prompt", "A cat", "--output", str(tmp_path / name)]) == 2
        assert "is a folder" in capsys.readouterr().err
