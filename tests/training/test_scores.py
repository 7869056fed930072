"""Scores of the grids during a training: who judges, and when nobody can.

Copies of the style pictures are noticed.
"""
import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageOps

from styleblend.cli import main
from styleblend.errors import StyleBlendError
from styleblend.metrics.judge import Judge, JudgeMetric
from styleblend.jobs.memory import Sizes, needed
from styleblend.machine.runtime import jt
from styleblend.settings import StageSettings, TrainingSettings, read_settings
from styleblend.training.checkpoints import Log
from styleblend.jobs.events import result_of
from styleblend.training.loop import loss_curve, train
from styleblend.training.scores import Scorer, likeness_limit, scorer_for
from styleblend.training.work import WorkDone
from styleblend.files.tensor_files import read_metadata, read_safetensors
from made_up_networks import CONFIGS, file_of, put

ROOT = Path(__file__).parents[2]
STYLE = "fxemoji"


@pytest.fixture(scope="module")
def settings():
    return read_settings(ROOT / "configs" / "mini.yaml")


def style_pictures(name=STYLE):
    return [Image.open(p).convert("RGB").resize((128, 128))
            for p in sorted((ROOT / "data" / "mini" / name / "images").glob("*.png"))]


def with_noise(pictures, strength=8):
    """What a training that learned its pictures by heart would draw."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(np.clip(np.asarray(p) + rng.normal(0, strength, (p.height, p.width, 3)), 0, 255)
                            .astype(np.uint8)) for p in pictures]


def with_training(settings, **changes):
    return settings.model_copy(update={"training": settings.training.model_copy(update=changes)})


def test_real_art_scores_above_noise(settings):
    scorer = scorer_for(settings, STYLE, "both")
    noise = with_noise([Image.new("RGB", (128, 128), "grey")] * 6, 200)
    names = [path.stem.replace("_", " ") for path in sorted((ROOT / "data" / "mini" / STYLE / "images").glob("*.png"))]
    assert scorer.score(style_pictures(), names) > 0.5 > 0.1 > scorer.score(noise, names)


def test_the_words_of_the_score_are_checked(settings):
    with pytest.raises(StyleBlendError, match="no score 'beauty'.*subject_top5"):
        scorer_for(settings, STYLE, "beauty")


@pytest.mark.parametrize("name", ["emojione-monotone", "fluent-3d", "fxemoji", "openmoji-black"])
def test_copies_of_the_style_pictures_are_a_leak_and_other_art_of_the_style_is_none(settings, name, caplog):
    """The other art: the styles' pictures to each other, and real drawings.

    Neither the judge nor a style has seen these.
    """
    scorer, pictures = scorer_for(settings, name, "both"), style_pictures(name)
    for copies in (with_noise(pictures), [p.rotate(10, Image.BICUBIC, fillcolor="white") for p in pictures],
                   [ImageOps.mirror(p) for p in pictures]):
        assert scorer.leaked(copies) == 1
    others = [n for n in ("emojione-monotone", "fluent-3d", "fxemoji", "openmoji-black") if n != name]
    assert scorer.leaked([p for n in others for p in style_pictures(n)]) <= 0.1
    for i in range(len(pictures)):  # each style picture to a style without it
        assert Scorer(name, {}, scorer.metrics, pictures[:i] + pictures[i + 1:]).leaked(pictures[i:i + 1]) == 0
    with np.load(Path(__file__).parents[1] / "data" / "judge_reference.npz") as data:
        assert scorer.leaked(list(map(Image.fromarray, data["pictures"]))) == 0
    scorer(with_noise(pictures), ["snake"] * len(pictures), Path("grid.png"))
    assert "the content leaks" in caplog.text


def test_the_limit_is_what_held_out_art_reaches():
    """Where that was measured; and the style's own pictures may be more alike, such as a cat and a black cat."""
    def of(angle):
        return np.array([[1.0, 0.0], [np.cos(angle), np.sin(angle)]])

    assert likeness_limit(of(1.2), 0.87) == 0.87 and likeness_limit(of(0.1), 0.87) == pytest.approx(np.cos(0.1))
    assert likeness_limit(of(1.2)[:1], 0.87) == 0.87
    assert (likeness_limit(of(1.2), None) == pytest.approx((1 + np.cos(1.2)) / 2)
            and likeness_limit(of(1.2)[:1], None) == np.inf)


def test_a_style_that_the_judge_does_not_know_is_trained_without_a_score(settings, tmp_path, caplog):
    shutil.copytree(ROOT / "data" / "mini" / STYLE, tmp_path / "mine")
    own = settings.model_copy(update={"data": str(tmp_path)})
    scorer = scorer_for(own, "mine", "both")
    assert "does not know the style mine" in caplog.text
    caplog.clear()
    assert scorer(style_pictures(), ["snake"] * 6, Path("grid.png")) is None and scorer.leaked(style_pictures()) == 1
    with pytest.raises(StyleBlendError, match="--keep best needs a score.*mine"):
        scorer_for(with_training(own, keep_adapters="best"), "mine", "both")
    assert 0 <= scorer_for(with_training(own, keep_adapters="best"), "mine", "subject").score(
        style_pictures(), ["snake"] * 6) <= 1
    assert "style mine" not in caplog.text  # the subject needs no style that the judge knows


def test_no_grids_no_score(settings, caplog):
    assert (scorer_for(with_training(settings, sample_every=0), STYLE, "both") is None
            and scorer_for(settings, STYLE, None) is None)
    with pytest.raises(StyleBlendError, match="sample_every"):
        scorer_for(with_training(settings, sample_every=0, keep_adapters="best"), STYLE, "both")
    wide = settings.model_copy(update={"sampling": settings.sampling.model_copy(update={"width": 256})})
    # a config in another size trains, without a score
    assert scorer_for(wide, STYLE, "both") is None and "256 x 128" in caplog.text
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


def sampled(*scores):
    """In the place of what draws picture grids: these scores, one after the other."""
    score = iter(scores)

    def sample(path):
        yield WorkDone("picture grid", 0, 1, "step")
        return next(score)

    return sample


def test_of_equal_scores_the_first_is_kept_and_a_run_may_change_its_mind(tmp_path):
    """Scores of few pictures are often equal.

    The best step is written down also while the last one is to be kept, so "best" can be asked for later.
    """
    found = {}
    for keep in ("last", "best"):
        x, config = jt.array(np.zeros(1, np.float32)), TrainingSettings(
            lora=StageSettings(steps=4, lr=1.0), sample_every=1, save_every=2, keep_adapters=keep)
        result_of(train("lora", config, {"x": x}, lambda rng: (x * 1.0).sum(), tmp_path,
                        sample=sampled(0.1, 0.2, 0.2, 0.1)))
        found[keep] = float(x.numpy()[0])
    states = [float(read_safetensors(tmp_path / "lora" / f"step-00000{n}.safetensors")["p.x"][0]) for n in (2, 4)]
    assert [found["best"], found["last"]] == states and states[0] != states[1]


# ---------------------------------------------------------------- pictures that the judge does not know

@pytest.fixture
def clip_world(world, tmp_path):
    """A training in a size and style that the judge does not know, with a small CLIP at hand."""
    put(tmp_path / "weights", "clip", file_of("clip"), CONFIGS["clip"])
    settings = yaml.safe_load(world.read_text())
    settings["metrics"] = {"weights": str(tmp_path / "weights")}
    settings["training"].update(sample_every=2, sample_prompts=["Cat"], fine_score="clip_text,clip_image", save_every=1)
    settings["training"]["lora"].update(steps=5)
    world.write_text(yaml.safe_dump(settings))
    return world


def changed(path, **training):
    settings = yaml.safe_load(path.read_text())
    settings["training"].update(training)
    path.write_text(yaml.safe_dump(settings))
    return read_settings(path)


def test_a_training_is_scored_by_the_networks_that_are_at_hand(clip_world, tmp_path):
    assert main(["train", "fine", "--config", str(clip_world)]) == 0
    about = read_metadata(tmp_path / "adapters" / "dots" / "training" / "lora" / "step-000005.safetensors")
    scores = json.loads(about["scores"])
    assert (sorted(scores) == ["2", "4", "5"] and all(-1 <= score <= 1 for score in scores.values())
            and about["scored_by"] == "clip_text + clip_image")


@pytest.mark.parametrize("score, said, scored_by", [
    ("clip_text,dinov2=2", "scored by clip_text alone: dinov2 is left out: ", "clip_text"),
    ("both,clip_text", "scored by clip_text alone: the judge reads square pictures", "clip_text"),
    ("dinov2", "get no score: dinov2 is left out: ", None),
    ("clip_text,clip_image=-0.5", "", "clip_text + -0.5 clip_image")])
def test_what_cannot_be_scored_is_left_out_by_name(clip_world, caplog, score, said, scored_by):
    scorer = scorer_for(changed(clip_world), "dots", score)
    error = caplog.text
    assert said in error and bool(said) == bool(error) and (scorer.scored_by if scorer else None) == scored_by


def test_what_scores_is_counted_in_the_memory_of_a_training(clip_world, tmp_path):
    """CLIP ViT-L/14 is 1.7 GB, which stays beside the base."""
    def needs(**training):
        settings = changed(clip_world, **training)
        return needed(Sizes(Path(settings.base), "float32"), settings, "training")

    clip = (tmp_path / "weights" / "clip" / "model.safetensors").stat().st_size
    assert needs() - needs(fine_score="both") == clip == needs(fine_score="clip_image,dinov2") - needs(fine_score=None)
    assert needs(fine_score="clip_text", sample_every=0) + clip <= needs(fine_score="clip_text", sample_every=1)


def test_the_best_step_wants_the_whole_score(clip_world):
    settings = changed(clip_world, keep_adapters="best")
    assert scorer_for(settings, "dots", "clip_text").scored_by == "clip_text"
    with pytest.raises(StyleBlendError, match="--keep best needs a score: dinov2 is left out"):
        scorer_for(settings, "dots", "clip_text,dinov2")


def test_a_score_of_sets_is_none_of_a_picture(clip_world, tmp_path):
    put(tmp_path / "weights", "dino", file_of("dino"), CONFIGS["dino"])
    with pytest.raises(StyleBlendError, match="no score 'dino_set' of single pictures"):
        scorer_for(changed(clip_world), "dots", "dino_set")


def test_leaks_are_seen_by_the_network_that_scores(clip_world):
    scorer = scorer_for(changed(clip_world), "dots", "clip_text")
    assert scorer.watch.name == "clip" and scorer.leaked(with_noise(scorer.originals, 1)) == 1
    plain = [Image.new("RGB", (64, 64), colour) for colour in ("red", "white", "black")]
    assert scorer.leaked(plain) == 0
    # histograms say nothing of content
    assert scorer_for(changed(clip_world), "dots", "histogram").leaked(scorer.originals) == 0


# ---------------------------------------------------------------- the plot

def trained_line(folder, steps, scores, keep_going=True, **options):
    """A stage that moves a number, with made-up scores; what each plot was given."""
    x, plots = jt.array(np.zeros(1, np.float32)), []
    config = TrainingSettings(lora=StageSettings(steps=10, lr=1.0), sample_every=2, save_every=1)
    score = iter(scores)

    def sample(path):
        if len(plots) == steps:
            raise KeyboardInterrupt
        yield WorkDone("picture grid", 0, 1, "step")
        return next(score)

    with contextlib.ExitStack() as stack:
        if not keep_going:
            stack.enter_context(pytest.raises(KeyboardInterrupt))
        result_of(train("lora", config, {"x": x}, lambda rng: (x * 1.0).sum(), folder, sample=sample,
                        plot=lambda log: plots.append((len(log.losses), dict(log.scores), log.scored_by)), **options))
    return plots


def test_the_loss_and_the_scores_are_plotted_at_each_grid_and_on_from_there_by_a_resumed_run(tmp_path):
    whole = trained_line(tmp_path / "whole", 99, [0.1, 0.3, 0.2, 0.5, 0.4], scored_by="clip_text")
    assert whole[0] == (2, {2: 0.1}, "clip_text") and whole[2] == (6, {2: 0.1, 4: 0.3, 6: 0.2}, "clip_text")
    before = trained_line(tmp_path / "cut", 2, [0.1, 0.3], keep_going=False, scored_by="clip_text")
    after = trained_line(tmp_path / "cut", 99, [0.2, 0.5, 0.4], scored_by="clip_text")
    assert before + after == whole


def test_scores_of_another_kind_are_no_part_of_the_plot(tmp_path, caplog):
    """A run that goes on with other weights at hand: the loss goes on, the scores begin anew."""
    trained_line(tmp_path, 2, [0.9, 0.8], keep_going=False, scored_by="both")
    plots = trained_line(tmp_path, 99, [0.1, 0.2, 0.3], scored_by="clip_text")
    assert plots[-1] == (10, {6: 0.1, 8: 0.2, 10: 0.3}, "clip_text") and "scored by both until now" in caplog.text


def test_the_plot_of_a_resumed_training_is_that_of_an_unbroken_one(clip_world, tmp_path):
    """To the pixel."""
    assert main(["train", "fine", "--config", str(clip_world)]) == 0
    curve = tmp_path / "adapters" / "dots" / "training" / "fine-loss.png"
    whole = curve.read_bytes()
    assert main(["train", "fine", "--config", str(clip_world), "--overwrite"]) == 0
    (tmp_path / "adapters" / "dots" / "dots_unet_lora.safetensors").unlink()
    lora = tmp_path / "adapters" / "dots" / "training" / "lora"
    (lora / "step-000005.safetensors").unlink()
    (lora / "latest").write_text("step-000004.safetensors\n")
    curve.unlink()
    assert main(["train", "fine", "--config", str(clip_world)]) == 0 and curve.read_bytes() == whole


def test_the_curve_shows_scores_beside_the_loss(tmp_path):
    """The orange line and its axis are there only with scores."""
    def orange(path):
        return (np.abs(np.asarray(Image.open(path).convert("RGB"), int) - (255, 127, 14)).max(-1) < 40).sum()

    losses = list(np.linspace(1, 0.5, 40))
    loss_curve(tmp_path / "plain.png", {"lora": Log(losses, {})})
    loss_curve(tmp_path / "scored.png", {"inversion": Log([], {}),
                                         "lora": Log(losses, {20: 0.1, 40: 0.4}, "clip_text")})
    assert orange(tmp_path / "plain.png") == 0 and orange(tmp_path / "scored.png") > 300


def test_the_measurement_behind_the_limit_runs(tmp_path):
    """On made-up art: pictures that the judge would have to have held out, none like another, and copies of them."""
    judge = Judge.load()
    subjects = sorted(subject for subject, style in judge.heldout_pairs if style == STYLE)[:14]
    art = [picture for name in ("emojione-monotone", "fluent-3d", "fxemoji") for picture in style_pictures(name)][:14]
    np.savez(tmp_path / "art.npz", picture=np.stack([np.asarray(p) for p in art]), subject=np.arange(14),
             style=np.zeros(14, int))
    (tmp_path / "art.json").write_text(json.dumps({"styles": [STYLE], "subjects": subjects}))
    done = subprocess.run([sys.executable, "-m", "benchmarks.likeness", str(tmp_path), "--draws", "3"], cwd=ROOT,
                          capture_output=True, text=True, check=True)
    highest = next(line for line in done.stdout.splitlines() if line.startswith("highest")).split()
    assert float(highest[1]) < JudgeMetric.held_out and highest[4:] == ["0.0%"] + ["100.0%"] * 5
