"""`styleblend transfer`: content pictures in a style of any method, what is kept, what is said, what is refused."""
import numpy as np
import pytest
import yaml
from PIL import Image

from drawing import save_style
from reference import seeded
from styleblend.adapters.stage_tokens import stage_token
from styleblend.adapters.style import Style
from styleblend.cli import main
from styleblend.machine.runtime import jt
from styleblend.methods.trajectories import encoded
from styleblend.pipeline import Pipeline, Progress
from styleblend.record import read_record
from styleblend.settings import KINDS, ContentSettings, read_settings


@pytest.fixture
def dreamed(trained, tmp_path):
    """The world with dots, a style of StyleBlend, ink of DreamStyler, and two content pictures."""
    rows = {stage_token(k): seeded.values(f"dream/ink/{k}", (32,)) for k in range(6)}
    save_style(tmp_path / "adapters" / "ink", "ink", Style("ink", {"stage_embeds": rows}, KINDS["dreamstyler"]()))
    (tmp_path / "photos").mkdir()
    y, x = np.mgrid[:80, :100]
    for number, name in enumerate(("red_barn", "old_boat")):
        square = ((abs(x - 50) < 20) & (abs(y - 40) < 15 + 5 * number)) * 255
        Image.fromarray(np.stack([square, 255 - square, x * 2], -1).astype(np.uint8)).save(
            tmp_path / "photos" / f"{name}.png")
    (tmp_path / "photos" / "old_boat.txt").write_text("a boat on the beach")
    config = yaml.safe_load(trained.read_text())
    config["sampling"]["steps"] = 5
    trained.write_text(yaml.safe_dump(config))
    return trained


def run(config, tmp_path, *more, content="photos/red_barn.png", style="ink"):
    return main(["transfer", "--config", str(config), "--content", str(tmp_path / content), "--output",
                 str(tmp_path / "out"), *(["--style", style] if style else []), *map(str, more)])


def pixels(path):
    return np.asarray(Image.open(path), int)


def drawn(config, tmp_path, *more, name="red_barn", **where):
    assert run(config, tmp_path, *more, "--overwrite", **where) == 0
    return pixels(tmp_path / "out" / f"{name}.png")


def test_a_picture_its_record_and_the_library(dreamed, tmp_path, tiny_base, capsys):
    found = drawn(dreamed, tmp_path)
    said = capsys.readouterr()
    assert "no ControlNet is there: drawn without" in said.err and "1 new pictures" in said.out
    record = read_record(tmp_path / "out" / "red_barn.png")
    assert (record.method, record.prompt, record.control, record.sampling.fine_negative) == (
        "dreamstyler", "A red barn", (), "")
    assert record.content == ContentSettings(picture=str(tmp_path / "photos" / "red_barn.png"))
    again = tmp_path / "again.png"
    assert main(["draw", "--config", str(dreamed), "--from", str(tmp_path / "out" / "red_barn.png"),
                 "--output", str(again)]) == 0
    assert np.array_equal(pixels(again), found)
    [picture] = Pipeline(tiny_base, read_settings(dreamed)).pictures(
        "A red barn", style="ink", content=record.content, fine_negative="")
    assert np.array_equal(picture.pixels, found)
    plain = Pipeline(tiny_base, read_settings(dreamed)).pictures("A red barn", style="ink", fine_negative="")
    assert np.abs(plain[0].pixels.astype(int) - found).max() > 3


def test_strength_and_prompt_are_heard(dreamed, tmp_path, tiny_base):
    """Less is nearer to what the autoencoder makes of the content: the made-up one does not give it back."""
    little, much = (drawn(dreamed, tmp_path, "--strength", share) for share in (0.2, 1))
    pipeline = Pipeline(tiny_base, read_settings(dreamed))
    clean = encoded(tiny_base, str(tmp_path / "photos" / "red_barn.png"), pipeline.settings.sampling)
    content = pipeline.decode(jt.array(clean))[0].astype(int)
    assert np.abs(little - content).mean() < 0.8 * np.abs(much - content).mean()
    other = drawn(dreamed, tmp_path, "--prompt", "A painting of snow, in the style of {}", "--strength", 1)
    assert np.abs(other - much).max() > 3


@pytest.mark.parametrize("style", ["ink", "dots", "ink:0-5"])
def test_a_style_of_every_method(dreamed, tmp_path, style):
    options = ("--mix", style) if ":" in style else ()
    found = drawn(dreamed, tmp_path, "--strength", 0.6, *options, style=None if options else style)
    assert found.shape == (64, 64, 3)
    assert read_record(tmp_path / "out" / "red_barn.png").style == style


def test_a_folder_of_which_whole_pictures_are_kept(dreamed, tmp_path, capsys):
    assert run(dreamed, tmp_path, content="photos") == 0
    out = tmp_path / "out"
    assert "2 new pictures" in capsys.readouterr().out
    assert {path.name for path in out.glob("*.png")} == {"red_barn.png", "old_boat.png"}
    assert read_record(out / "old_boat.png").prompt == "a boat on the beach"
    first = {path.name: path.read_bytes() for path in out.glob("*.png")}
    (out / "old_boat.png").write_bytes(first["old_boat.png"][:100])
    assert run(dreamed, tmp_path, content="photos") == 0
    assert "1 new pictures" in capsys.readouterr().out
    assert first == {path.name: path.read_bytes() for path in out.glob("*.png")}
    assert run(dreamed, tmp_path, "--strength", 0.4, content="photos") == 0
    said = capsys.readouterr()
    assert "0 new pictures" in said.out and "kept, although drawn with other content pictures than now" in said.err


def test_a_controlnet_holds_it(dreamed, tmp_path, tiny_controlnet, capsys):
    free = drawn(dreamed, tmp_path, "--control", "none")
    assert "ControlNet" not in capsys.readouterr().err
    held = drawn(dreamed, tmp_path, "--control", "canny", "--controlnet", tiny_controlnet)
    [control] = read_record(tmp_path / "out" / "red_barn.png").control
    assert (control.kind, control.strength, control.picture) == (
        "canny", 0.8, str(tmp_path / "photos" / "red_barn.png"))
    assert np.abs(held - free).max() > 3
    less = drawn(dreamed, tmp_path, "--control", "canny", "--controlnet", tiny_controlnet, "--control-strength", 0.1)
    assert np.abs(less - held).max() > 0
    config = yaml.safe_load(dreamed.read_text())
    dreamed.write_text(yaml.safe_dump({**config, "controlnets": {"canny": str(tiny_controlnet)}}))
    assert np.array_equal(drawn(dreamed, tmp_path), held)  # the one that the config has
    capsys.readouterr()
    assert np.array_equal(drawn(dreamed, tmp_path, "--control", "depth"), free)
    assert "no ControlNet for depth is there: drawn without" in capsys.readouterr().err


def test_from_inverted_noise(dreamed, tmp_path):
    """Its own start and the whole way, no ControlNet; with a strength a part of the way."""
    found = drawn(dreamed, tmp_path, "--invert")
    record = read_record(tmp_path / "out" / "red_barn.png")
    assert record.content.begin == "inversion" and record.content.share() == 1 and record.control == ()
    assert np.array_equal(drawn(dreamed, tmp_path, "--invert"), found)
    assert np.abs(drawn(dreamed, tmp_path, "--strength", 1) - found).max() > 3
    assert np.abs(drawn(dreamed, tmp_path, "--invert", "--strength", 0.4) - found).max() > 3


def test_inverted_noise_leads_back_to_the_content(dreamed, tmp_path, tiny_base):
    """A plain drawing under the prompt of the inversion, without guidance, in many steps."""
    pipeline, picture = Pipeline(tiny_base, read_settings(dreamed)), str(tmp_path / "photos" / "red_barn.png")
    clean = encoded(tiny_base, picture, pipeline.settings.sampling)

    def last(begin):
        content = ContentSettings(picture=picture, begin=begin, strength=1)
        asked = pipeline.request("A red barn", content=content, guidance=1, steps=50, fine_negative="")
        [*_, step] = [event for event in pipeline.draw(asked) if isinstance(event, Progress)]
        return np.linalg.norm(step.x0.numpy() - clean) / np.linalg.norm(clean)

    assert last("inversion") < 0.3 * last("noise")


@pytest.mark.parametrize("options, where, words", [
    ([], dict(content="photos/red_bran.png"), "red_bran.png does not exist: did you mean"),
    ([], dict(content="adapters/ink"), "has no pictures: name a content picture, or a folder of them"),
    ([], dict(style=None), "give --style, or --mix"),
    ([], dict(style="inc"), "did you mean ink?"),
    (["--mix", "ink:0-2"], dict(style=None), "leaves stage 3 without a style"),
    (["--strength", 0], {}, "strength: input should be greater than 0"),
    (["--strength", 0.1], {}, "a strength of 0.1 leaves none of 5 steps"),
    (["--invert", "--sampler", "euler"], {}, "an inverted content picture is drawn by ddim, not by euler"),
    (["--control", "none", "--control-strength", 1], {}, "--control-strength has no effect with --control none"),
    (["--controlnet", "it"], {}, "--controlnet needs --control"),
    (["--control", "cany"], {}, "did you mean canny?"),
    (["--prompt", " "], {}, "the prompt is empty"),
])
def test_what_is_refused(dreamed, tmp_path, capsys, options, where, words):
    assert run(dreamed, tmp_path, *options, **where) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert words in said and not list((tmp_path / "out").glob("*.png"))


def test_a_style_that_looks_at_a_reference_is_refused(dreamed, tmp_path, capsys):
    (tmp_path / "adapters" / "look").mkdir()
    (tmp_path / "adapters" / "look" / "style.json").write_text('{"method": "style_aligned", "align": {"look": "ink"}}')
    assert run(dreamed, tmp_path, style="look") == 2
    assert "looks at a reference while it draws" in capsys.readouterr().err
