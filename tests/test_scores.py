"""Scores of the grids during a training: who judges, when nobody can, and that copies of the style pictures are noticed."""
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from styleblend.cli import main
from styleblend.errors import StyleBlendError
from styleblend.runtime import jt
from styleblend.settings import StageSettings, TrainingSettings, read_settings
from styleblend.training.loop import train
from styleblend.training.scores import scorer_for
from styleblend.weights import read_metadata, read_safetensors

ROOT = Path(__file__).parents[1]
STYLE = "fxemoji"


@pytest.fixture(scope="module")
def settings():
    return read_settings(ROOT / "configs" / "mini.yaml")


def style_pictures(name=STYLE):
    """uint8 (N, 128, 128, 3)."""
    return np.stack([np.asarray(Image.open(p).convert("RGB").resize((128, 128))) for p in sorted((ROOT / "data" / "mini" / name / "images").glob("*.png"))])


def with_training(settings, **changes):
    return settings.model_copy(update={"training": settings.training.model_copy(update=changes)})


def test_real_art_scores_above_noise(settings):
    scorer = scorer_for(settings, STYLE, "both")
    noise = np.random.default_rng(0).integers(0, 255, (6, 128, 128, 3), np.uint8)
    names = [path.stem.replace("_", " ") for path in sorted((ROOT / "data" / "mini" / STYLE / "images").glob("*.png"))]
    assert scorer.score(style_pictures(), names) > 0.5 > 0.1 > scorer.score(noise, names)


def test_the_words_of_the_score_are_checked(settings):
    with pytest.raises(StyleBlendError, match="no score 'beauty'.*subject_top5"):
        scorer_for(settings, STYLE, "beauty")


@pytest.mark.parametrize("name", ["emojione-monotone", "fluent-3d", "fxemoji", "openmoji-black"])
def test_copies_of_the_style_pictures_are_a_leak_and_other_art_of_the_style_is_none(settings, name, capsys):
    """The other art: what each style picture looks like to the others, with itself taken out of the style."""
    scorer, pictures = scorer_for(settings, name, "both"), style_pictures(name)
    near_copies = np.clip(pictures.astype(int) + np.random.default_rng(0).normal(0, 8, pictures.shape), 0, 255).astype(np.uint8)
    assert scorer.leaked(near_copies) == 1
    others = [n for n in ("emojione-monotone", "fluent-3d", "fxemoji", "openmoji-black") if n != name]
    assert scorer.leaked(np.concatenate([style_pictures(n) for n in others])) <= 0.1
    scorer(near_copies, ["snake"] * len(pictures), Path("grid.png"))
    assert "the content leaks" in capsys.readouterr().err


def test_a_style_that_the_judge_does_not_know_is_trained_without_a_score(settings, tmp_path, capsys):
    shutil.copytree(ROOT / "data" / "mini" / STYLE, tmp_path / "mine")
    own = settings.model_copy(update={"data": str(tmp_path)})
    scorer = scorer_for(own, "mine", "both")
    assert "does not know the style mine" in capsys.readouterr().err
    assert scorer(style_pictures(), ["snake"] * 6, Path("grid.png")) is None and scorer.leaked(style_pictures()) == 1
    with pytest.raises(StyleBlendError, match="--keep best needs a score.*mine"):
        scorer_for(with_training(own, keep_adapters="best"), "mine", "both")
    assert 0 <= scorer_for(with_training(own, keep_adapters="best"), "mine", "subject").score(style_pictures(), ["snake"] * 6) <= 1
    assert "style mine" not in capsys.readouterr().err  # the subject needs no style that the judge knows


def test_no_grids_no_score(settings, capsys):
    assert scorer_for(with_training(settings, sample_every=0), STYLE, "both") is None and scorer_for(settings, STYLE, None) is None
    with pytest.raises(StyleBlendError, match="sample_every"):
        scorer_for(with_training(settings, sample_every=0, keep_adapters="best"), STYLE, "both")
    wide = settings.model_copy(update={"sampling": settings.sampling.model_copy(update={"width": 256})})
    assert scorer_for(wide, STYLE, "both") is None and "256 x 128" in capsys.readouterr().err  # a config in another size trains, without a score
    with pytest.raises(StyleBlendError, match="256 x 128"):
        scorer_for(with_training(wide, keep_adapters="best"), STYLE, "both")


def test_a_training_keeps_its_best_step(world, tmp_path):
    """The whole way: the adapters are those of the grid with the best score, which the checkpoint remembers."""
    settings = yaml.safe_load(world.read_text())
    shutil.copytree(ROOT / "data" / "mini" / STYLE, tmp_path / "data" / STYLE)
    settings["sampling"].update(width=128, height=128)
    settings["training"].update(sample_every=1, sample_prompts=["Dog"], fine_score="both", save_every=1)
    settings["training"]["lora"].update(steps=3, lr=0.1)
    world.write_text(yaml.safe_dump(settings))
    assert main(["train", "fine", "--styles", STYLE, "--keep", "best", "--config", str(world)]) == 0
    training = tmp_path / "adapters" / STYLE / "training"
    scores = json.loads(read_metadata(training / "lora" / "step-000003.safetensors")["scores"])
    assert sorted(scores) == ["1", "2", "3"]
    assert read_metadata(training / "lora" / "best.safetensors")["step"] == max(scores, key=scores.get)


def test_of_equal_scores_the_first_is_kept_and_a_run_may_change_its_mind(tmp_path):
    """Scores of few pictures are often equal. The best step is written down also while the last one is to be kept, so "best" can be asked for later."""
    found = {}
    for keep in ("last", "best"):
        x, config = jt.array(np.zeros(1, np.float32)), TrainingSettings(lora=StageSettings(steps=4, lr=1.0), sample_every=1, save_every=2, keep_adapters=keep)
        scores = iter((0.1, 0.2, 0.2, 0.1))
        train("lora", config, {"x": x}, lambda rng: (x * 1.0).sum(), tmp_path, sample=lambda path: next(scores))
        found[keep] = float(x.numpy()[0])
    states = [float(read_safetensors(tmp_path / "lora" / f"step-00000{n}.safetensors")["p.x"][0]) for n in (2, 4)]
    assert [found["best"], found["last"]] == states and states[0] != states[1]
