"""Training: learns something real, resumes exactly, touches only what it should.

And the whole way from pictures to pictures.
"""
import inspect
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from styleblend.adapters import lora
from styleblend.base.base import load_base
from styleblend.cli import main
from styleblend.cli.running import follow
from styleblend.jobs.events import result_of
from styleblend.jobs.train import as_event
from styleblend.diffusion.schedule import seeded_noise
from styleblend.machine.runtime import jt
from styleblend.settings import StageSettings, TrainingSettings
from styleblend.training.loop import train
from styleblend.training.optimiser import AdamW
from styleblend.training.picture_grids import grid_writer
from styleblend.training.starting_words import starting_words
from styleblend.files.tensor_files import read_metadata, read_safetensors

ROOT = Path(__file__).parents[2]
MINI = ROOT / "checkpoints" / "mini" / "base"


def test_adamw_is_pytorchs():
    """Three steps on f(x) = sum(a x^2), by hand in float64 (Loshchilov & Hutter 2019, algorithm 2)."""
    settings = StageSettings(steps=3, lr=0.1, weight_decay=0.05, decay=0.5, decay_every=2)
    a, start = np.array([1.0, -2.0, 3.0]), np.array([0.5, 1.5, -1.0])
    x = jt.array(start.astype(np.float32))
    optimiser = AdamW({"x": x}, settings)
    for _ in range(3):
        optimiser.update((jt.array(a.astype(np.float32)) * x * x).sum())
    p, m, v = start.copy(), 0, 0
    for t in range(1, 4):
        lr, g = 0.1 * 0.5 ** ((t - 1) // 2), 2 * a * p
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        p = p * (1 - lr * 0.05) - lr * (m / (1 - 0.9 ** t)) / (np.sqrt(v / (1 - 0.999 ** t)) + 1e-8)
    np.testing.assert_allclose(x.numpy(), p, rtol=2e-6)


def test_only_adapters_change_and_all_files_come_out(world, tmp_path):
    base = Path(yaml.safe_load(world.read_text())["base"])
    before = {p: p.read_bytes() for p in base.rglob("*.safetensors")}
    assert main(["train", "all", "--config", str(world)]) == 0
    assert before == {p: p.read_bytes() for p in base.rglob("*.safetensors")}
    made = sorted(p.name for p in (tmp_path / "adapters" / "dots").glob("*.safetensors"))
    assert made == ["dots_coarse_style_embeds.safetensors", "dots_fine_style_embeds.safetensors",
                    "dots_text_encoder_lora.safetensors", "dots_unet_lora.safetensors"]
    assert len(list((tmp_path / "look" / "dots").glob("*.png"))) == 4
    assert (tmp_path / "adapters" / "dots" / "training" / "fine-loss.png").is_file()

    assert main(["test", "--config", str(world)]) == 0
    result = tmp_path / "result"
    first = {p.name: p.read_bytes() for p in (result / "dots").glob("*.png")}
    assert (sorted(first) == ["Cat.png", "Owl.png"] and (result / "index.html").is_file()
            and (result / "dots.png").is_file())
    # a torn picture is drawn again, a whole one is left alone; batches and shards draw the same
    (result / "dots" / "Cat.png").write_bytes(first["Cat.png"][:200])
    assert main(["test", "--config", str(world), "--batch", "1", "--shard", "1/2"]) == 0
    assert main(["test", "--config", str(world), "--batch", "1", "--shard", "2/2", "--overwrite"]) == 0
    for name, data in first.items():
        import io
        again, once = (np.asarray(Image.open(io.BytesIO(d)), int)
                       for d in ((result / "dots" / name).read_bytes(), data))
        assert np.abs(again - once).max() <= 1


@pytest.mark.parametrize("stage, part", [("lora", "fine"), ("coarse", "coarse")])
def test_a_killed_run_resumes_exactly(world, tmp_path, stage, part):
    """Bit for bit the adapters of a run that was never killed."""
    settings = yaml.safe_load(world.read_text())
    settings["training"]["save_every"] = 3
    settings["training"][stage]["steps"] = 8
    whole, killed = dict(settings, adapters=str(tmp_path / "whole")), dict(settings, adapters=str(tmp_path / "killed"))
    for name, s in (("whole", whole), ("killed", killed)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(s))
    assert main(["train", part, "--config", str(tmp_path / "whole.yaml")]) == 0
    state = tmp_path / "killed" / "dots" / "training" / stage / "latest"
    # Jittor's own handler ends this process as well when a child is killed
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    process = subprocess.Popen([sys.executable, "-m", "styleblend", "train", part,
                                "--config", str(tmp_path / "killed.yaml")], cwd=ROOT, stderr=subprocess.PIPE)
    end = time.time() + 240
    while not state.exists() and process.poll() is None and time.time() < end:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert state.exists()
    assert main(["train", part, "--config", str(tmp_path / "killed.yaml")]) == 0
    for path in (tmp_path / "whole" / "dots").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "killed" / "dots" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_saves_and_says_how_to_go_on(world, tmp_path, number):
    """Ctrl-C and SIGTERM: exit code 130, the present step is in the checkpoint although no regular one was due.

    At step 3 nothing is compiled any more.
    """
    settings = yaml.safe_load(world.read_text())
    settings["training"].update(save_every=100_000, lora=dict(settings["training"]["lora"], steps=100_000))
    world.write_text(yaml.safe_dump(settings))
    process = subprocess.Popen([sys.executable, "-m", "styleblend", "train", "fine", "--config", str(world)], cwd=ROOT,
                               stderr=subprocess.PIPE, text=True, env=dict(os.environ, TQDM_MININTERVAL="0"))
    seen = ""
    while "lora:" not in seen or " 3/100000" not in seen:
        read = process.stderr.read(1)
        assert read, seen
        seen += read
    process.send_signal(number)
    try:
        _, rest = process.communicate(timeout=60)
    except subprocess.TimeoutExpired as late:
        process.kill()
        pytest.fail(f"still running after a minute; it said: {late.stderr[-500:]}")
    assert process.returncode == 130 and "start the same command again" in rest
    folder = tmp_path / "adapters" / "dots" / "training" / "lora"
    assert int(read_metadata(folder / (folder / "latest").read_text().strip())["step"]) >= 1


def test_a_stop_is_saved_before_a_terminal_that_is_gone_is_written_to(tmp_path, monkeypatch):
    """As when the program behind a pipe ends first, or a connection breaks."""
    class Terminal(io.StringIO):
        gone = False

        def write(self, text):
            if self.gone:
                raise BrokenPipeError
            return super().write(text)

    def loss_of(rng):
        if len(losses := seen.setdefault("losses", [])) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            terminal.gone = True
        losses.append(0)
        return (x * x).sum()

    seen, terminal, x = {}, Terminal(), jt.array(np.ones(3, np.float32))
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TQDM_MININTERVAL", "0")
    settings = TrainingSettings(coarse=StageSettings(steps=50, lr=0.1), save_every=1000)
    steps = train("coarse", settings, {"x": x}, loss_of, tmp_path)
    with pytest.raises(BrokenPipeError):
        follow((as_event(step) for step in steps), step_ends=True)
    steps.close()
    terminal.gone = False
    assert int(read_metadata(tmp_path / "coarse" / (tmp_path / "coarse" / "latest").read_text().strip())["step"]) == 3


def test_a_training_that_is_closed_saves_its_step_and_goes_on_as_an_unbroken_one(tmp_path):
    """Before the first step there is nothing to save; a step that is saved already is not saved again."""
    def run(folder, stop=None):
        x = jt.array(np.ones(3, np.float32))
        steps = train("coarse", settings, {"x": x},
                      lambda rng: (x * jt.array(rng.standard_normal(3).astype(np.float32)) + x * x).sum(), folder)
        for step in steps:
            if step.step == stop:
                steps.close()
        return x.numpy()

    settings = TrainingSettings(coarse=StageSettings(steps=6, lr=0.1), save_every=4)
    saved = tmp_path / "cut" / "coarse"
    run(tmp_path / "cut", stop=0)
    assert not list(saved.glob("step-*"))
    run(tmp_path / "cut", stop=3)
    assert [p.name for p in saved.glob("step-*")] == ["step-000003.safetensors"]
    when = (saved / "step-000003.safetensors").stat().st_mtime_ns
    run(tmp_path / "cut", stop=3)
    assert (saved / "step-000003.safetensors").stat().st_mtime_ns == when
    np.testing.assert_array_equal(run(tmp_path / "cut"), run(tmp_path / "whole"))


def test_checkpoint_of_other_settings_is_refused(world, tmp_path, capsys):
    assert main(["train", "fine", "--config", str(world)]) == 0
    settings = yaml.safe_load(world.read_text())
    settings["training"]["lora"]["lr"] = 0.5
    world.write_text(yaml.safe_dump(settings))
    (tmp_path / "adapters" / "dots" / "dots_unet_lora.safetensors").unlink()
    assert main(["train", "fine", "--config", str(world)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["train", "fine", "--config", str(world), "--overwrite"]) == 0


@pytest.mark.skipif(not MINI.is_dir(), reason="checkpoints/mini/base is not there")
def test_learning_is_real():
    """On a style that the base never saw, the loss on pictures that the training never saw goes down."""
    from styleblend.files.captions import style_pictures
    from styleblend.pipeline import Pipeline
    from styleblend.training.latents import encode_pictures
    from styleblend.training.noise_loss import noise_loss
    from styleblend.training.prompts import prompt_ids
    base = load_base(MINI)
    pipeline = Pipeline(base)
    pictures = style_pictures(sorted((ROOT / "data" / "mini").glob("*/images"))[0].parent)
    cache = result_of(encode_pictures(base, [p.path for p in pictures], 128, 128, mirror=False))
    nothing = jt.zeros((2, base.text_encoder.config.hidden_size))  # <F> is not learned here
    texts = base.text_encoder(prompt_ids(pipeline.tokenizer("styleblend"), "fine", pictures), nothing).numpy()
    train, held = np.arange(len(pictures) - 2), np.arange(len(pictures) - 2, len(pictures))

    def loss(rng, index):
        return noise_loss(base, cache, rng, index, lambda index: jt.array(texts[index]), loras)

    def held_loss():
        with jt.no_grad():
            return np.mean([loss(np.random.default_rng(i), np.repeat(held, 4)).item() for i in range(8)])

    loras = lora.new(base.unet, lora.UNET_TARGETS, 16, np.random.default_rng(0))
    optimiser, before = AdamW(lora.parameters(base.unet, loras), StageSettings(steps=60, lr=1e-3)), held_loss()
    for step in range(60):
        rng = np.random.default_rng([7, step])
        value = loss(rng, rng.choice(train, 4))
        optimiser.update(value)
        value.item()
    after = held_loss()
    print(f"loss on held-out pictures {before:.4f} -> {after:.4f}")
    assert after < 0.97 * before


@pytest.mark.skipif(not MINI.is_dir(), reason="checkpoints/mini/base is not there")
@pytest.mark.parametrize("style, best", [("emojione-monotone", "black and white"), ("fluent-3d", "smooth gradient")])
def test_the_fine_token_starts_from_the_words_that_suit_the_pictures(style, best):
    """Two styles that the base never saw, and of its own styles the one that a person would call nearest."""
    from styleblend.files.captions import style_pictures
    from styleblend.pipeline import Pipeline
    from styleblend.training.latents import encode_pictures
    pipeline = Pipeline(load_base(MINI))
    pictures = style_pictures(ROOT / "data" / "mini" / style)
    cache = result_of(encode_pictures(pipeline.base, [p.path for p in pictures], 128, 128, mirror=False))
    for phrases in (["black and white", "smooth gradient", "noto"], ["noto", "smooth gradient", "black and white"]):
        assert result_of(starting_words(pipeline, phrases, pictures, cache, seed=1, batch=4)) == best
    assert result_of(starting_words(pipeline, ["noto"], pictures, cache, seed=1, batch=4)) == "noto"


def test_words_of_several_tokens_become_as_many_vectors(world, tmp_path, capsys):
    """Before a step they are the words themselves.

    They learn together, and the style draws and is exported as any other.
    """
    settings = yaml.safe_load(world.read_text())
    table = load_base(Path(settings["base"])).text_encoder.text_model.embeddings.token_embedding.weight
    words = [int(i) for i in load_base(Path(settings["base"])).tokenizer().ids_of("black and white")]

    def learned(steps):
        settings["training"].update(initial_fine="black and white",
                                    inversion=dict(settings["training"]["inversion"], steps=steps))
        world.write_text(yaml.safe_dump(settings))
        assert main(["train", "fine", "--config", str(world), "--overwrite"]) == 0
        return read_safetensors(tmp_path / "adapters" / "dots" / "dots_fine_style_embeds.safetensors")["<F>"]

    start = np.stack([table[i].numpy() for i in words]).reshape(3, -1)
    np.testing.assert_array_equal(learned(0), start)
    assert (np.abs(learned(2) - start).max(axis=1) > 1e-3).all()
    assert main(["train", "coarse", "--config", str(world)]) == 0 and main(["test", "--config", str(world)]) == 0
    assert main(["export", str(tmp_path / "adapters" / "dots"), "--format", "webui",
                 "--output", str(tmp_path / "out")]) == 0
    assert (read_safetensors(tmp_path / "out" / "embeddings" / "dots-fine.safetensors")["emb_params"].shape
            == start.shape)


@pytest.mark.parametrize("words", ["a {b}", "{prompt}", "}{"])
def test_words_with_braces_are_words(world, tmp_path, words):
    """Alone, and where the one that suits the pictures best is looked for."""
    settings, learned = yaml.safe_load(world.read_text()), []
    settings["training"]["inversion"]["steps"] = 0
    for phrases in ([words], [words, words]):
        settings["training"]["initial_fine"] = phrases
        world.write_text(yaml.safe_dump(settings))
        assert main(["train", "fine", "--config", str(world), "--overwrite"]) == 0
        learned.append(read_safetensors(tmp_path / "adapters" / "dots" / "dots_fine_style_embeds.safetensors")["<F>"])
    tokens = load_base(Path(settings["base"])).tokenizer().ids_of(words)
    assert np.array_equal(*learned) and len(np.atleast_2d(learned[0])) == len(tokens)


@pytest.mark.parametrize("words, why", [("<F>", "cannot start from"), ("", "cannot start from"),
                                        ([], "at least 1 item")])
def test_words_that_nothing_can_start_from(world, capsys, words, why):
    settings = yaml.safe_load(world.read_text())
    settings["training"]["initial_fine"] = words
    world.write_text(yaml.safe_dump(settings))
    assert main(["train", "fine", "--config", str(world)]) == 2
    assert why in capsys.readouterr().err


def test_look_alikes_of_other_settings_are_not_taken(world, tmp_path, capsys):
    """They lie beside the adapters for long: a config that has changed since must not train on them without a word."""
    assert main(["train", "coarse", "--config", str(world)]) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "look" / "dots").glob("*.png")}
    settings = yaml.safe_load(world.read_text())
    settings["adapters"] = str(tmp_path / "others")
    settings["training"]["look_alikes"]["strengths"] = [0.5]
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(settings))
    assert main(["train", "coarse", "--config", str(other)]) == 2
    said = capsys.readouterr().err
    assert "strengths" in said and "--overwrite" in said
    assert main(["train", "coarse", "--config", str(other), "--overwrite"]) == 0
    after = {path.name: path.read_bytes() for path in (tmp_path / "look" / "dots").glob("*.png")}
    assert sorted(after) == sorted(before) and after != before

    note = tmp_path / "look" / "dots" / "drawn_with.json"
    said = json.loads(note.read_text())
    assert said["strengths"] == "[0.5]" and said["dtype"] == "float32"
    assert not {"keep", "chosen", "candidates"} & set(said)  # how many there are says nothing about one
    note.unlink()  # one's own pictures: nobody knows how they were drawn, so nobody says it
    shutil.rmtree(tmp_path / "others")
    assert (main(["train", "coarse", "--config", str(world)]) == 0
            and main(["train", "coarse", "--config", str(other)]) == 0)
    assert not note.exists() and after == {path.name: path.read_bytes()
                                           for path in (tmp_path / "look" / "dots").glob("*.png")}


def test_the_pictures_of_a_grid_have_noise_of_their_own():
    """Jittor's generator takes the seeds 0 and 1 for the same."""
    noises = [seeded_noise(seed, (1, 4, 4)) for seed in inspect.signature(grid_writer).parameters["seeds"].default]
    assert len(noises) == 2 and not np.array_equal(*noises)
    assert np.array_equal(seeded_noise(0, (1, 4, 4)), seeded_noise(1, (1, 4, 4)))


def test_a_style_that_cannot_be_trained_does_not_stop_the_others(world, tmp_path, capsys):
    shutil.copytree(tmp_path / "data" / "dots", tmp_path / "data" / "lines")
    settings = yaml.safe_load(world.read_text())
    (tmp_path / "look" / "dots").mkdir(parents=True)
    (tmp_path / "look" / "dots" / "drawn_with.json").write_text('{"base": "another"}')
    assert main(["train", "coarse", "--config", str(world)]) == 2
    said = capsys.readouterr().err
    assert "going on with the next one" in said and "1 trainings failed: dots (coarse)" in said.splitlines()[-1]
    assert not (Path(settings["adapters"]) / "dots" / "dots_text_encoder_lora.safetensors").exists()
    assert (Path(settings["adapters"]) / "lines" / "lines_text_encoder_lora.safetensors").exists()


def test_workers_that_overwrite_train_each_style_once(world, tmp_path, capsys):
    """The file of a worker beside this one is newer than this one's start; that of an earlier training is not."""
    assert main(["train", "coarse", "--config", str(world)]) == 0
    file = tmp_path / "adapters" / "dots" / "dots_text_encoder_lora.safetensors"
    os.utime(file, (time.time() + 60,) * 2)
    before = file.stat().st_mtime
    assert main(["train", "coarse", "--config", str(world), "--share", "--overwrite"]) == 0
    assert file.stat().st_mtime == before and "just been trained by another worker" in capsys.readouterr().err
    os.utime(file, (time.time() - 60,) * 2)
    assert main(["train", "coarse", "--config", str(world), "--share", "--overwrite"]) == 0
    assert file.stat().st_mtime > time.time() - 60
