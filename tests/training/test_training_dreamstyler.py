"""`styleblend train dreamstyler`: what comes out, how it goes on, what it says of its prompts, what is refused."""
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from styleblend.adapters.style_files import settings_in
from styleblend.cli import main
from styleblend.errors import StyleBlendError
from styleblend.files.tensor_files import read_metadata, read_safetensors
from styleblend.jobs.events import Progress, result_of
from styleblend.jobs.memory import Beside, Sizes, training
from styleblend.jobs.train import TrainRequest, train_styles
from styleblend.record import read_record
from styleblend.settings import KINDS, read_settings
from styleblend.settings.training import StagesSettings


def changed(world, **training):
    """The world's config with other settings of training."""
    settings = yaml.safe_load(world.read_text())
    settings["training"].update(training)
    world.write_text(yaml.safe_dump(settings))
    return world


@pytest.fixture
def staged(world):
    return changed(world, dreamstyler=dict(steps=4, batch=3, lr=0.05, stages=4))


def learned(tmp_path, name="dots"):
    return read_safetensors(tmp_path / "adapters" / name / f"{name}_stage_style_embeds.safetensors")


def test_a_style_comes_out_and_nothing_else_changes(staged, tmp_path, tiny_base, capsys):
    before = {p: p.read_bytes() for p in tiny_base.folder.rglob("*.safetensors")}
    assert main(["train", "dreamstyler", "--config", str(staged), "--styles", "dots"]) == 0
    assert before == {p: p.read_bytes() for p in tiny_base.folder.rglob("*.safetensors")}
    said = capsys.readouterr().err
    assert "dots: boat.png is learned under 'A painting of A boat, in the style of {}'" in said
    assert "write it into boat.txt beside it" in said and "styleblend captions dots writes" in said
    rows = learned(tmp_path)
    assert list(rows) == [f"<dots>-T{k}" for k in range(4)] and {row.shape for row in rows.values()} == {(32,)}
    start = tiny_base.text_encoder.text_model.embeddings.token_embedding.weight[
        tiny_base.tokenizer().id_of("painting")].numpy().reshape(-1)
    assert all(np.abs(row - start).max() > 1e-3 for row in rows.values())
    folder = tmp_path / "adapters" / "dots"
    assert read_metadata(folder / "dots_stage_style_embeds.safetensors")["base"] == tiny_base.fingerprint()
    assert settings_in(folder, "dots") == KINDS["dreamstyler"]()
    assert (folder / "training" / "dreamstyler-loss.png").is_file()

    assert main(["board", "--config", str(staged)]) == 0  # a style as any other
    assert read_record(tmp_path / "result" / "dots" / "Cat.png").method == "dreamstyler"
    assert main(["styles", "--config", str(staged)]) == 0
    assert "dreamstyler" in capsys.readouterr().out
    assert main(["train", "dreamstyler", "--config", str(staged), "--styles", "dots"]) == 0
    assert "is trained already" in capsys.readouterr().err


def test_a_stopped_run_goes_on_bit_for_bit(staged, tmp_path):
    settings = read_settings(staged)
    whole, stopped = (settings.model_copy(update={"adapters": str(tmp_path / name)}) for name in ("whole", "stopped"))
    result_of(train_styles(TrainRequest(whole, ("dreamstyler",), "dots")))
    job = train_styles(TrainRequest(stopped, ("dreamstyler",), "dots"))
    while True:
        event = next(job)
        if isinstance(event, Progress) and event.title == "dreamstyler" and event.done == 2:
            break
    job.close()
    file = Path("dots", "dots_stage_style_embeds.safetensors")
    assert not (tmp_path / "stopped" / file).exists()
    seen = []
    result_of(train_styles(TrainRequest(stopped, ("dreamstyler",), "dots")), seen.append)
    assert min(e.done for e in seen if isinstance(e, Progress) and e.title == "dreamstyler") == 2
    assert (tmp_path / "stopped" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_grids_while_it_learns(staged, tmp_path):
    changed(staged, sample_every=2, sample_prompts=["Cat"])
    assert main(["train", "dreamstyler", "--config", str(staged), "--styles", "dots"]) == 0
    grids = sorted(path.name for path in (tmp_path / "adapters" / "dots" / "training").glob("dreamstyler-0*.png"))
    assert grids == ["dreamstyler-00002.png", "dreamstyler-00004.png"]
    first, last = (np.asarray(Image.open(tmp_path / "adapters" / "dots" / "training" / name)) for name in grids)
    assert not np.array_equal(first, last)


def test_the_prompt_it_learns_under_is_that_it_draws_with(staged, tmp_path, capsys):
    template = "{prompt} in the style of {}."
    changed(staged, dreamstyler=dict(steps=1, stages=2, template=template))
    (tmp_path / "data" / "dots" / "images" / "boat.txt").write_text("a sail (white), in the style of {}, at sea")
    assert main(["train", "dreamstyler", "--config", str(staged), "--styles", "dots"]) == 0
    said = capsys.readouterr().err
    assert "boat.png is learned under 'a sail (white), in the style of {}, at sea'" in said
    assert "red_apple.png is learned under 'A red apple in the style of {}.'" in said
    assert "1 of 2 pictures have no caption" in said and "styleblend captions dots writes captions" in said
    style = json.loads((tmp_path / "adapters" / "dots" / "style.json").read_text())
    assert style == {"method": "dreamstyler", "dreamstyler": {"template": template}}
    assert main(["draw", "--config", str(staged), "--style", "dots", "--prompt", "A cat",
                 "--output", str(tmp_path / "cat.png")]) == 0
    assert read_record(tmp_path / "cat.png").settings.template == template


def test_a_prompt_that_is_typed(staged, tmp_path, capsys):
    train = ["train", "dreamstyler", "--config", str(staged), "--styles", "dots"]
    for wrong, words in (([*train, "--context-prompt", "pears on a cloth"], "it needs {} once"),
                         (["train", "fine", *train[2:], "--context-prompt", "{}"], "has no effect on fine")):
        assert main(wrong) == 2
        assert words in capsys.readouterr().err.splitlines()[-1]
    assert main([*train, "--context-prompt", "pears on a cloth, in the style of {}"]) == 0
    assert "red_apple.png is learned under 'pears on a cloth, in the style of {}'" in capsys.readouterr().err
    typed = learned(tmp_path)
    assert main([*train, "--overwrite"]) == 0
    assert any(not np.array_equal(row, typed[token]) for token, row in learned(tmp_path).items())


def test_a_style_of_another_method_is_left_alone(trained, tmp_path, capsys):
    before = {path: path.read_bytes() for path in (tmp_path / "adapters" / "dots").iterdir() if path.is_file()}
    assert main(["train", "dreamstyler", "--config", str(trained), "--styles", "dots"]) == 2
    assert "dots is a style of styleblend already" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in before}
    (tmp_path / "adapters" / "dots" / "style.json").write_text('{"method": "dreamstyler"}')
    assert main(["train", "fine", "--config", str(trained), "--styles", "dots"]) == 2
    assert "dots is a style of dreamstyler already" in capsys.readouterr().err


@pytest.mark.parametrize("training, words", [
    (dict(dreamstyler=dict(template="A painting of {prompt}")), "it needs {} once"),
    (dict(dreamstyler=dict(template="{} and {}")), "it needs {} once"),
    (dict(dreamstyler=dict(stages=0)), "stages: input should be greater than or equal to 1"),
    (dict(dreamstyler=dict(stages=65)), "stages: input should be less than or equal to 64"),
    (dict(dreamstyler=dict(initial="oil painting")), "is 2 tokens"),
])
def test_what_is_refused(world, capsys, training, words):
    assert main(["train", "dreamstyler", "--config", str(changed(world, **training)), "--styles", "dots"]) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]


def test_a_template_without_a_place_for_what_is_shown_teaches_all_of_it():
    assert StagesSettings(template="A painting in the style of {}").template  # to compare with: no context prompt


def test_memory_counts_its_own_batch(world, tiny_folder):
    settings = read_settings(changed(world, dreamstyler=dict(batch=8)))
    sizes, stages = Sizes(tiny_folder, "float32"), Beside(stages=("dreamstyler",))
    assert training(sizes, settings, stages)["training step"] > training(sizes, settings)["training step"]
    assert "look-alikes" not in training(sizes, settings, stages)
    with pytest.raises(StyleBlendError, match="at the least"):
        result_of(train_styles(TrainRequest(settings, ("dreamstyler",), "dots", max_memory="150MB")))
