"""`styleblend eval` by CLIP, DINOv2 and the rest, without the judge: what is wrong is named, all else is scored.

The networks are small, with made-up weights under the published names (`tests/metrics/made_up_networks.py`). The
judge's own cases are in `tests/jobs/test_eval.py`.
"""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from styleblend.cli import main
from styleblend.metrics.networks import SOURCES
from made_up_networks import put_made_up

ROOT = Path(__file__).parents[2]
METRICS = "clip,dinov2,lpips,histogram,fid"
OF_PICTURES, OF_SETS = ({"clip_text", "clip_image", "dinov2", "lpips", "histogram", "histogram_rgb", "histogram_hsv"},
                        {"fid"})


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Of what METRICS needs."""
    folder = tmp_path_factory.mktemp("weights")
    put_made_up(folder, "clip", "dinov2", "squeezenet", "lpips", "inception")
    return folder


@pytest.fixture
def folders(tmp_path):
    """Two styles of the board with two prompts each, 64 pixels, of which the judge knows nothing."""
    rng = np.random.default_rng(0)

    def draw(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(path)

    for style in ("00", "01"):
        for prompt in ("Cat", "Ice cream"):
            draw(tmp_path / "result" / style / f"{prompt}.png")
        for name in ("boat", "red_apple"):
            draw(tmp_path / "data" / style / "images" / f"{name}.png")
        (tmp_path / "data" / style / "prompt.json").write_text(json.dumps({"0": "Cat", "1": "Ice cream"}))
    return tmp_path


def evaluate(folders, weights, *more, metrics=METRICS):
    return main(["eval", str(folders / "result"), "--data", str(folders / "data"),
                 "--output", str(folders / "report"), "--overwrite", "--no-judge", "--metrics", metrics,
                 "--weights", str(weights), *map(str, more)])


def scores(folders):
    return json.loads((folders / "report" / "scores.json").read_text())["runs"][0]


def test_all_is_scored(folders, weights, capsys):
    assert evaluate(folders, weights) == 0
    assert capsys.readouterr().err.count("styleblend:") == 0
    found = scores(folders)
    assert found["notes"] == [] and {style: set(values) for style, values in found["of_style"].items()} == {
        "00": OF_SETS, "01": OF_SETS}
    for style in ("00", "01"):
        assert [p["prompt"] for p in found["pictures"][style]] == ["Cat", "Ice cream"]
        assert all(set(p) == {"prompt", *OF_PICTURES} and None not in p.values() for p in found["pictures"][style])


def unlike(size):
    return lambda f: Image.new("RGB", size, "red").save(f / "result" / "01" / "Cat.png")


@pytest.mark.parametrize("spoil, words, left", [
    (lambda f: shutil.rmtree(f / "result" / "01"), "no pictures of 01", None),
    (lambda f: shutil.rmtree(f / "data" / "01"), "has no style 01: left out", None),
    (lambda f: (f / "result" / "01" / "Cat.png").write_bytes(b"no picture"),
     "01/Cat.png cannot be read", {"Ice cream"}),
    (lambda f: (f / "result" / "01" / "Cat.png").write_bytes((f / "result" / "01" / "Cat.png").read_bytes()[:900]),
     "01/Cat.png cannot be read", {"Ice cream"}),
    (lambda f: (f / "result" / "01" / "Cat.png").write_bytes(b""),
     "01/Cat.png cannot be read, it is empty", {"Ice cream"}),
    (lambda f: (f / "result" / "01" / "Cat.png").unlink(),
     "1 of the 2 prompts in prompt.json have no picture (Cat)", {"Ice cream"}),
    (lambda f: (f / "data" / "01" / "prompt.json").write_text("{"),
     "the names of the pictures are taken for their prompts", {"Cat", "Ice cream"}),
    (lambda f: (f / "data" / "01" / "images" / "boat.png").write_bytes(b"no picture"),
     "boat.png cannot be read", {"Cat", "Ice cream"})])
def test_what_cannot_be_scored_is_named_and_the_rest_is(folders, weights, capsys, spoil, words, left):
    spoil(folders)
    assert evaluate(folders, weights) == 0
    assert words in capsys.readouterr().err
    found = scores(folders)
    assert (words in " ".join(found["notes"])
            and words in re.sub(r"&#39;|&#34;", "", (folders / "report" / "report.html").read_text()))
    assert {style: {p["prompt"] for p in pictures} for style, pictures in found["pictures"].items()} == {
        "00": {"Cat", "Ice cream"}, **({"01": left} if left else {})}
    assert all(np.isfinite(p[name])
               for pictures in found["pictures"].values() for p in pictures for name in OF_PICTURES)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (65, 64), (512, 512)])
def test_pictures_of_any_size_are_scored(folders, weights, size):
    """The networks read what their own processors make of a picture.

    Only the judge wants a size (`tests/jobs/test_eval.py`).
    """
    unlike(size)(folders)
    assert evaluate(folders, weights) == 0
    found = scores(folders)
    assert found["notes"] == [] and all(np.isfinite(p[name]) for p in found["pictures"]["01"] for name in OF_PICTURES)


def test_style_pictures_that_are_gone_cost_only_the_comparisons(folders, weights, capsys):
    """CLIP-R and CLIP-IQA look at the drawn pictures alone; what compares is named for that style."""
    (folders / "weights").mkdir()
    shutil.copytree(weights, folders / "weights", dirs_exist_ok=True)
    (folders / "weights" / "words.txt").write_text("cat\ndog\n")
    shutil.rmtree(folders / "data" / "01" / "images")
    assert evaluate(folders, folders / "weights", metrics=METRICS + ",clip_r") == 0
    error, found = capsys.readouterr().err, scores(folders)
    for metric in METRICS.split(","):
        assert f"01 has no {metric}: there are no style pictures" in error
    assert (set(found["pictures"]["01"][0]) == {"prompt", "clip_r"}
            and set(found["pictures"]["00"][0]) == {"prompt", "clip_r", *OF_PICTURES})


@pytest.mark.parametrize("spoil, words", [
    (lambda w: shutil.rmtree(w / "clip"), "is missing: put openai/clip-vit-large-patch14"),
    (lambda w: (w / "clip" / "config.json").unlink(), "config.json is missing: put openai/clip-vit-large-patch14"),
    (lambda w: (w / "clip" / "model.safetensors").unlink(), "holds no weights"),
    (lambda w: (w / "clip" / "model.safetensors").write_bytes(b"torn"), "model.safetensors"),
    (lambda w: (w / "clip" / "config.json").write_text("{"), "config.json"),
    (lambda w: (w / "clip" / "merges.txt").unlink(), "merges.txt")])
def test_networks_that_cannot_be_had_are_named_and_the_others_speak(folders, weights, tmp_path, capsys, spoil, words):
    spoil(Path(shutil.copytree(weights, tmp_path / "spoilt")))
    assert evaluate(folders, tmp_path / "spoilt") == 0
    sentence, = [line for line in capsys.readouterr().err.splitlines() if line.startswith("styleblend:")]
    assert "clip is left out: " in sentence and words in sentence
    found = scores(folders)
    assert ("clip is left out" in found["notes"][0]
            and set(found["pictures"]["00"][0]) == {"prompt", *OF_PICTURES} - {"clip_text", "clip_image"})


def test_nothing_that_speaks_is_an_error(folders, tmp_path, capsys):
    assert evaluate(folders, tmp_path / "nowhere", metrics="clip,dinov2") == 2
    error = capsys.readouterr().err
    assert ("clip is left out" in error and "dinov2 is left out" in error
            and "could be scored" in error.splitlines()[-1] and not (folders / "report").exists())


def test_networks_out_of_the_cache_of_the_hub(folders, weights, tmp_path):
    """The whole way, in a process of its own that may not ask a network.

    The config holds an id, whose files are where huggingface_hub keeps them.
    """
    snapshot = tmp_path / "hf" / "hub" / "models--owner--small-clip" / "snapshots" / "abc"
    shutil.copytree(weights / "clip", snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    config = tmp_path / "config.yaml"
    config.write_text(f"base: b\ndata: {tmp_path / 'data'}\nadapters: a\nlook_alikes: l\n"
                      f"metrics: {{weights: {tmp_path / 'nowhere'}, "
                      "ids: {clip: owner/small-clip, dinov2: owner/not-here}}\n")
    done = subprocess.run([sys.executable, "-m", "styleblend", "eval", str(folders / "result"),
                           "--config", str(config), "--output", str(folders / "report"),
                           "--no-judge", "--metrics", "clip,dinov2"],
                          cwd=ROOT, env=dict(os.environ, HF_HOME=str(tmp_path / "hf"), HF_HUB_OFFLINE="1"),
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"dinov2 is left out: \S+ is missing, and owner/not-here on the hub \(\w+\) cannot be had: put "
                     + SOURCES["dinov2"][1], done.stderr)
    assert set(scores(folders)["pictures"]["00"][0]) == {"prompt", "clip_text", "clip_image"}
    assert str(snapshot) in json.loads((folders / "report" / "scores.json").read_text())["networks"]["clip"]
