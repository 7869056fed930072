"""Files of DreamStyler's tokens: upstream's become a style here, and a style leaves for other programs."""
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file
from test_load import torch_file

from reference import seeded
from styleblend.adapters.export import prompt_editing
from styleblend.adapters.inspect import inspect
from styleblend.adapters.stage_tokens import stage_token
from styleblend.adapters.style import load_style
from styleblend.adapters.style_files import settings_in
from styleblend.cli import main

ROWS = {f"<sks1>-T{k}": seeded.values(f"dream/{k}", (32,)) for k in range(6)}


@pytest.fixture
def upstream(tmp_path):
    """A file as upstream saves it: a pickle of a dict from token to vector."""
    path = tmp_path / "final.bin"
    path.write_bytes(torch_file(ROWS))
    return path


@pytest.fixture
def adapters(world):
    return Path(yaml.safe_load(world.read_text())["adapters"])


@pytest.fixture
def ink(world, upstream, adapters, capsys):
    """The folder of the style ink, loaded from upstream's file."""
    assert main(["load", str(upstream), "--name", "ink", "--config", str(world)]) == 0
    assert "embedding of each stage (width 32, 6 stages)" in capsys.readouterr().out
    return adapters / "ink"


def test_upstreams_file_becomes_a_style(ink, world, tmp_path, tiny_base):
    assert settings_in(ink, "ink").method == "dreamstyler" and settings_in(ink, "ink").parts is None
    saved = load_file(ink / "ink_stage_style_embeds.safetensors")
    assert {name: row.tobytes() for name, row in saved.items()} == {
        f"<ink>-T{k}": ROWS[f"<sks1>-T{k}"].tobytes() for k in range(6)}
    style = load_style(ink, "ink", tiny_base)
    assert list(style.parts["stage_embeds"]) == [stage_token(k) for k in range(6)]
    assert main(["draw", "--config", str(world), "--style", "ink", "--prompt", "A cat",
                 "--output", str(tmp_path / "cat.png")]) == 0


def test_a_file_as_it_is_in_the_place_of_a_part(world, upstream, adapters, tiny_base):
    """Upstream's file under the name of the part is read where it lies."""
    (adapters / "wax").mkdir(parents=True)
    (adapters / "wax" / "wax_stage_style_embeds.bin").write_bytes(upstream.read_bytes())
    (adapters / "wax" / "style.json").write_text('{"method": "dreamstyler"}')
    found = load_style(adapters / "wax", "wax", tiny_base).parts["stage_embeds"]
    assert all(np.array_equal(found[stage_token(k)], ROWS[f"<sks1>-T{k}"]) for k in range(6))


def test_inspect_knows_them(ink, upstream, capsys):
    for path in (upstream, ink / "ink_stage_style_embeds.safetensors"):
        facts = inspect(path)
        assert (facts["kind"], facts["stages"], facts["width"]) == ("embedding of each stage (DreamStyler)", "6", "32")
        assert facts["tokens"].endswith("-T5")
    assert main(["inspect", str(upstream)]) == 0 and "<sks1>-T0" in capsys.readouterr().out


@pytest.mark.parametrize("kind, first", [("webui", "embeddings/ink-T0"), ("kohya", "ink-T0"), ("ldm", "ink-T0"),
                                         ("diffusers", "T0_learned_embeds")])
def test_it_leaves_as_an_embedding_a_stage(ink, tmp_path, kind, first, capsys):
    out = tmp_path / "out"
    assert main(["export", str(ink), "--format", kind, "--output", str(out)]) == 0
    said = capsys.readouterr().err
    assert "[ink-T5:ink-T4:0.167]:ink-T3:0.333]" in said and "LoRA" not in said
    for k in range(6):
        [(token, vector)] = load_file(out / f"{first.replace('T0', f'T{k}')}.safetensors").items()
        assert token == (f"<ink-t{k}>" if kind == "diffusers" else "emb_params")
        assert np.array_equal(vector, ROWS[f"<sks1>-T{k}"][None])
    assert len(list(out.rglob("*.safetensors"))) == 6


def test_in_one_file_it_comes_back(ink, world, adapters, tmp_path, tiny_base):
    assert main(["export", str(ink), "--format", "single", "--output", str(tmp_path / "out")]) == 0
    assert main(["load", str(tmp_path / "out" / "ink.safetensors"), "--name", "back", "--config", str(world)]) == 0
    found = load_style(adapters / "back", "back", tiny_base).parts["stage_embeds"]
    assert all(np.array_equal(found[stage_token(k)], ROWS[f"<sks1>-T{k}"]) for k in range(6))


def test_prompt_editing_goes_through_the_stages_from_the_last_one():
    assert prompt_editing("ink", 1) == "ink-T0"
    assert prompt_editing("ink", 2) == "[ink-T1:ink-T0:0.5]"
    assert prompt_editing("ink", 4) == "[[[ink-T3:ink-T2:0.25]:ink-T1:0.5]:ink-T0:0.75]"


def refused(capsys, *command):
    assert main(list(map(str, command))) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_what_is_refused(ink, world, trained, upstream, tmp_path, adapters, capsys):
    load = ["load", upstream, "--config", world, "--name"]
    assert "holds a style already" in refused(capsys, *load, "ink")
    assert "holds a style of styleblend already" in refused(capsys, *load, "dots")
    lora = adapters / "dots" / "dots_unet_lora.safetensors"
    assert "are of two methods" in refused(capsys, *load[:2], lora, *load[2:], "both")
    assert "--fine-strength has no effect on ink" in refused(
        capsys, "export", ink, "--fine-strength", "0.5", "--output", tmp_path / "no")
    wide = tmp_path / "wide.safetensors"
    save_file({f"<a>-T{k}": np.ones(1024, np.float32) for k in range(2)}, wide)
    assert "the base needs 32" in refused(capsys, "load", wide, "--config", world, "--name", "wide")
    gap = tmp_path / "gap.safetensors"
    save_file({f"<a>-T{k}": np.ones(32, np.float32) for k in (0, 2)}, gap)
    assert "has no token of stage 1" in refused(capsys, "load", gap, "--config", world, "--name", "gap")
    assert not (adapters / "wide").exists() and not (adapters / "gap").exists()
