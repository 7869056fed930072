"""`styleblend load`: adapters of other programs become a style here, whole or in part, with the same numbers."""
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from test_export import folder  # noqa: F401  the made-up style as four files
from test_formats import TEXT_NAMES, UNET_NAMES, renamed
from test_pickles import integer, mapping, storage, tensor, text, zip_file

from drawing import pictures, request
from styleblend.files import tensor_files
from styleblend.cli import main
from styleblend.jobs.train import TRAININGS
from styleblend.adapters.load import parts_of
from styleblend.methods.styleblend import PLAIN, TEMPLATES, templates_of
from styleblend.pipeline import Pipeline
from styleblend.machine.runtime import jt
from styleblend.settings import SamplingSettings
from styleblend.adapters.style import Style, load_style, save_part
from styleblend.adapters.style_files import missing_parts

SMALL = SamplingSettings(steps=2, width=64, height=64, guidance=3.0, saved_size=None)


@pytest.fixture
def load(world, capsys):
    """Runs `styleblend load` with the tiny base; exit code and what it said."""
    def run(*arguments):
        code = main(["load", *map(str, arguments), "--config", str(world)])
        said = capsys.readouterr()
        return code, said.out if code == 0 else said.err.strip()
    return run


@pytest.fixture
def adapters(world):
    return Path(yaml.safe_load(world.read_text())["adapters"])


def assert_same(found: Style, expected: Style) -> None:
    for part in ("coarse_embeds", "fine_embeds"):
        np.testing.assert_array_equal(found.parts[part], expected.parts[part])
    for part in ("text_lora", "unet_lora"):
        ours, theirs = found.parts[part], expected.parts[part]
        assert set(ours) == set(theirs) and all(np.array_equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("kind", ["diffusers", "kohya", "webui", "ldm", "single"])
def test_what_leaves_comes_back_bit_for_bit(
        kind, folder, tmp_path, load, adapters, tiny_base, tiny_style):  # noqa: F811
    assert main(["export", str(folder), "--format", kind, "--output", str(tmp_path / "out")]) == 0
    code, said = load(*sorted((tmp_path / "out").rglob("*.safetensors")), "--name", "back")
    assert code == 0 and "missing" not in said
    style = load_style(adapters / "back", "back", tiny_base)
    assert_same(style, tiny_style)
    assert style.settings.preset == ("strong_layout" if kind == "single" else None) and style.settings.parts is None
    assert templates_of(style) == {name: TEMPLATES[name] for name in ("coarse", "fine")}


def torch_file(tensors: dict) -> bytes:
    """What torch.save writes for a flat dict, or one level of nesting, of float32 arrays."""
    records, count = {}, iter(range(10_000))

    def one(array):
        key = next(count)
        records[f"_{key}"] = np.ascontiguousarray(array, np.float32).tobytes()
        strides = [int(np.prod(array.shape[i + 1:])) for i in range(array.ndim)]
        return tensor(array.shape, strides, data=storage(array.size, key=text(str(key))))

    def entries(values):
        return b"}(" + b"".join(text(k) + (entries(v) if isinstance(v, dict) else one(v))
                                for k, v in values.items()) + b"u"

    return zip_file(entries(tensors), **records)


@pytest.mark.parametrize("flavour", ["PyTorch", "Jittor"])
def test_the_published_releases_four_files(flavour, tmp_path, load, adapters, tiny_base, tiny_style):
    """The release for PyTorch: zip files, composition and texture, flat names.

    The one for Jittor: jt.save, coarse and fine, the text encoder's LoRA nested.
    """
    from styleblend.machine.runtime import jt
    nested, text_lora = {}, tiny_style.parts["text_lora"]
    for key, value in text_lora.items():
        path, end = key.split(".lora.")
        nested.setdefault(f"{path}.lora_layer", {})[end] = value
    names = ("composition", "texture", "<C>", "<T>") if flavour == "PyTorch" else ("coarse", "fine", "<C>", "<F>")
    parts = {f"{names[0]}_style_embeds": {names[2]: tiny_style.parts["coarse_embeds"]},
             f"{names[1]}_style_embeds": {names[3]: tiny_style.parts["fine_embeds"]},
             "text_encoder_lora": nested if flavour == "Jittor" else renamed(text_lora, *TEXT_NAMES["diffusers"]),
             "unet_lora": renamed(tiny_style.parts["unet_lora"], *UNET_NAMES["diffusers"])}
    files = [tmp_path / f"03_{part}.bin" for part in parts]
    for file, tensors in zip(files, parts.values()):
        if flavour == "PyTorch":
            file.write_bytes(torch_file(tensors))
        else:
            jt.save(tensors, str(file.with_suffix(".pkl")))  # the ending makes Jittor choose its own format
            file.with_suffix(".pkl").rename(file)
    assert load(*files, "--name", "ink")[0] == 0
    assert_same(load_style(adapters / "ink", "ink", tiny_base), tiny_style)


@pytest.mark.parametrize("unet", ["PEFT", "attention processors", "kohya"])
def test_a_unet_lora_and_an_a1111_embedding_are_a_fine_style(unet, tmp_path, load, adapters, tiny_base,
                                                             tiny_style, world):
    """The most common find: no coarse part. One branch draws, and what is missing is said."""
    tensor_files.write_safetensors(tmp_path / "lora.safetensors",
                                   renamed(tiny_style.parts["unet_lora"], *UNET_NAMES[unet]))
    vector = np.ascontiguousarray(tiny_style.parts["fine_embeds"])
    (tmp_path / "ink.pt").write_bytes(zip_file(mapping(
        string_to_token=mapping(**{"*": integer(265)}), name=text("ink"), step=integer(500),
        string_to_param=mapping(**{"*": tensor((1, vector.size), (vector.size, 1), data=storage(vector.size))})),
        _0=vector.tobytes()))
    code, said = load(tmp_path / "lora.safetensors", tmp_path / "ink.pt", "--name", "ink")
    assert code == 0 and "missing: coarse embedding, text encoder LoRA; the fine branch alone draws" in said
    style = load_style(adapters / "ink", "ink", tiny_base)
    assert set(style.parts) == {"fine_embeds", "unet_lora"} and np.array_equal(style.parts["fine_embeds"], vector)
    assert templates_of(style) == {"fine": TEMPLATES["fine"]}
    assert missing_parts(adapters / "ink", "ink") == []
    assert main(["generate", "--config", str(world), "--style", "ink", "--prompt", "A cat",
                 "--output", str(tmp_path / "cat.png")]) == 0
    assert main(["generate", "--config", str(world), "--from", str(tmp_path / "cat.png"),
                 "--output", str(tmp_path / "again.png")]) == 0


def kohya_of_all_layers(style) -> dict:
    """As sd-scripts trains a LoRA: feed-forward and projections too."""
    rows, columns = np.zeros((2, 8), np.float32), np.zeros((8, 2), np.float32)
    outside = ["lora_unet_mid_block_attentions_0_" + layer
               for layer in ("proj_in", "proj_out", "transformer_blocks_0_ff_net_0_proj",
                             "transformer_blocks_0_ff_net_2")]
    outside += ([f"lora_te_text_model_encoder_layers_0_mlp_fc{n}" for n in (1, 2)]
                + ["lora_unet_down_blocks_0_resnets_0_conv1"])
    theirs = {f"{layer}.{end}": value for layer in outside
              for end, value in (("lora_down.weight", rows), ("lora_up.weight", columns),
                                 ("alpha", np.array(1.0, np.float32)))}
    return {**renamed(style.parts["unet_lora"], *UNET_NAMES["kohya"]),
            **renamed(style.parts["text_lora"], *TEXT_NAMES["kohya"]), **theirs}


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_layers_outside_attention_are_left_out_only_when_that_is_asked_for(
        kind, tmp_path, load, adapters, tiny_base, tiny_style):
    theirs, path = kohya_of_all_layers(tiny_style), tmp_path / f"ink.{kind}"
    path.write_bytes(torch_file(theirs)) if kind == "bin" else tensor_files.write_safetensors(path, theirs)
    code, said = load(path, "--name", "ink")
    assert code == 2 and not adapters.exists() and len(said.splitlines()) == 1
    assert "7 layers outside attention (conv1, ff_net_0_proj, ff_net_2, mlp_fc1, mlp_fc2, proj_in, proj_out)" in said
    assert "--attention-only leaves them out" in said
    with pytest.warns(UserWarning, match="7 layers outside attention .* are left out"):
        assert set(parts_of(path, attention_only=True)) == {"text_lora", "unet_lora"}
    assert load(path, "--name", "ink", "--attention-only")[0] == 0
    style = load_style(adapters / "ink", "ink", tiny_base)
    for part in ("text_lora", "unet_lora"):
        ours, expected = style.parts[part], tiny_style.parts[part]
        assert set(ours) == set(expected) and all(np.array_equal(ours[key], expected[key]) for key in expected)
    nothing = {key: value for key, value in theirs.items() if "_ff_net_" in key}
    tensor_files.write_safetensors(tmp_path / "nothing.safetensors", nothing)
    code, said = load(tmp_path / "nothing.safetensors", "--name", "none", "--attention-only")
    assert code == 2 and "changes nothing but 2 layers outside attention" in said


def test_the_table_that_peft_saves_with_a_lora_is_left_out_only_when_that_is_asked_for(
        tmp_path, load, adapters, tiny_base, tiny_style):
    """As PEFT does where a token was added to the text encoder."""
    theirs = {**renamed(tiny_style.parts["text_lora"], *TEXT_NAMES["PEFT"]),
              "base_model.model.text_model.embeddings.token_embedding.weight": np.zeros((9, 4), np.float32)}
    tensor_files.write_safetensors(tmp_path / "adapter_model.safetensors", theirs)
    code, said = load(tmp_path / "adapter_model.safetensors", "--name", "ink")
    assert code == 2 and "also changes 1 layer outside attention (token_embedding)" in said
    assert load(tmp_path / "adapter_model.safetensors", "--name", "ink", "--attention-only")[0] == 0
    assert set(load_style(adapters / "ink", "ink", tiny_base).parts["text_lora"]) == set(tiny_style.parts["text_lora"])


def test_a_peft_folder_is_loaded_as_strong_as_it_is(tmp_path, load, adapters, tiny_base, tiny_style):
    tensor_files.write_safetensors(tmp_path / "adapter_model.safetensors",
                                   renamed(tiny_style.parts["unet_lora"], *UNET_NAMES["PEFT"]))
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 4}')
    assert load(tmp_path / "adapter_model.safetensors", "--name", "ink")[0] == 0
    style = load_style(adapters / "ink", "ink", tiny_base)
    assert all(np.array_equal(style.parts["unet_lora"][key], value * (2 if ".up." in key else 1))
               for key, value in tiny_style.parts["unet_lora"].items())


def test_an_embedding_of_several_vectors_is_so_many_tokens(tmp_path, load, adapters, tiny_base, tiny_style, world):
    """Each vector stands at its own place, in its order.

    A prompt that leaves no room for all gives way, not the style.
    """
    three = np.stack([tiny_style.parts["fine_embeds"], tiny_style.parts["coarse_embeds"],
                      -tiny_style.parts["fine_embeds"]])
    tensor_files.write_safetensors(tmp_path / "ink.safetensors", {"emb_params": three})
    code, said = load(tmp_path / "ink.safetensors", "--name", "ink")
    assert code == 0 and "3 vectors" in said
    style = load_style(adapters / "ink", "ink", tiny_base)
    assert np.array_equal(style.parts["fine_embeds"], three)
    pipeline, unguided = Pipeline(tiny_base), SMALL.model_copy(update={"guidance": 1})
    asked = request(["A cat " + "and a dog " * 40], [0], unguided, style)
    tokenizer = pipeline.tokenizer("styleblend", pipeline.applied(style))
    first = tokenizer.vocabulary
    assert tokenizer.ids("in ink <F>.")[-5:-2] == [first + 1, first + 2, first + 3]  # <C> has a row before them
    with pytest.warns(UserWarning, match="left out"):
        long = tokenizer.encode(pipeline.recipe(asked).texts[0])[0].tolist()
    assert [i - first for i in long if i >= first] == [1, 2, 3] and len(long) == 77
    # three vectors are what three placeholders of one vector each would be
    several = tokenizer.encode(["ink <F>"])
    alone = np.where(several >= first, several - 1, several)
    short = pipeline.recipe(replace(asked, prompts=("A cat",)))
    [encoded] = pipeline.encode(replace(short, texts=(("ink <F>",),)), "styleblend", pipeline.applied(style))
    assert np.array_equal(encoded.numpy(), tiny_base.text_encoder(alone, jt.array(three)).numpy())
    assert pipeline.tokenizer("styleblend").ids("<F>")[1:-1] == [first + 1]
    assert main(["generate", "--config", str(world), "--style", "ink", "--prompt", "A cat",
                 "--output", str(tmp_path / "cat.png")]) == 0
    assert main(["generate", "--config", str(world), "--from", str(tmp_path / "cat.png"),
                 "--output", str(tmp_path / "again.png")]) == 0


def test_what_a_style_has_decides_what_draws(tiny_base, tiny_style):
    unet_only, text_only = (Style(name, {part: tiny_style.parts[part]})
                            for name, part in (("a", "unet_lora"), ("b", "coarse_embeds")))
    assert templates_of(unet_only) == {"fine": PLAIN} and templates_of(text_only) == {"coarse": TEMPLATES["coarse"]}
    assert templates_of(None) == {"plain": PLAIN} == templates_of(Style("c", {"unet_lora": {}}))
    pipeline = Pipeline(tiny_base)
    plain, styled, again = (pictures(pipeline, request(["A cat"], [1], SMALL, style))
                            for style in (None, unet_only, None))
    assert not np.array_equal(styled, plain) and np.array_equal(again, plain)


def test_a_style_is_never_overwritten_unasked(folder, tmp_path, load, adapters, tiny_base, tiny_style):  # noqa: F811
    files = sorted(folder.glob("*.safetensors"))
    assert load(*files, "--name", "ink")[0] == 0
    before = {p.name: p.read_bytes() for p in (adapters / "ink").iterdir()}
    tensor_files.write_safetensors(tmp_path / "other-fine.safetensors",
                                   {"emb_params": tiny_style.parts["fine_embeds"][None] * 2})
    code, said = load(tmp_path / "other-fine.safetensors", "--name", "ink")
    assert code == 2 and "holds a style already" in said and "--overwrite" in said
    assert {p.name: p.read_bytes() for p in (adapters / "ink").iterdir()} == before
    code, said = load(tmp_path / "other-fine.safetensors", "--name", "ink", "--overwrite")
    assert code == 0 and "kept as it was: coarse embedding, text encoder LoRA, UNet LoRA" in said
    assert np.array_equal(load_style(adapters / "ink", "ink", tiny_base).parts["fine_embeds"],
                          tiny_style.parts["fine_embeds"] * 2)


def test_a_part_that_is_missing_is_added_without_overwriting(folder, tmp_path, load, adapters, tiny_base,  # noqa: F811
                                                             tiny_style):
    """First the UNet's LoRA alone, then the rest; and of a style whose training was not ended."""
    parts = {path.stem[len("dots_"):]: path for path in folder.glob("*.safetensors")}
    code, said = load(parts["unet_lora"], "--name", "ink")
    assert code == 0 and "train ink or load them to add them" in said
    code, said = load(parts["unet_lora"], "--name", "ink")
    assert code == 2 and "holds a style already (UNet LoRA)" in said and "--overwrite" in said
    code, said = load(parts["fine_style_embeds"], parts["text_encoder_lora"], "--name", "ink")
    assert code == 0 and "kept as it was: UNet LoRA" in said
    code, said = load(parts["fine_style_embeds"], parts["coarse_style_embeds"], "--name", "ink")
    assert code == 2 and missing_parts(adapters / "ink", "ink") == []
    assert load(parts["coarse_style_embeds"], "--name", "ink")[0] == 0
    assert_same(load_style(adapters / "ink", "ink", tiny_base), tiny_style)
    (adapters / "ink" / "ink_unet_lora.safetensors").unlink()
    (adapters / "ink" / "style.json").write_text("{}")
    assert missing_parts(adapters / "ink", "ink") == ["unet_lora"]
    assert load(parts["unet_lora"], "--name", "ink")[0] == 0
    assert_same(load_style(adapters / "ink", "ink", tiny_base), tiny_style)


@pytest.mark.parametrize("ending", ["SAFETENSORS", "bin", "pt", ""])
def test_the_files_of_a_style_are_found_whatever_their_ending_is(ending, trained, tmp_path, tiny_base, tiny_style):
    here = tmp_path / "adapters" / "dots"
    for path in list(here.glob("*.safetensors")):
        path.rename(path.with_suffix(f".{ending}" if ending else ""))
    assert missing_parts(here, "dots") == []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is named otherwise
        assert_same(load_style(here, "dots", tiny_base), tiny_style)


def test_a_strength_of_0_is_said(tmp_path, load, tiny_style):
    theirs = renamed(tiny_style.parts["unet_lora"], *UNET_NAMES["kohya"])
    theirs.update({key.replace(".lora_up.weight", ".alpha"): np.array(0.0) for key in theirs if "lora_up" in key})
    tensor_files.write_safetensors(tmp_path / "ink.safetensors", theirs)
    code, said = load(tmp_path / "ink.safetensors", "--name", "ink")
    assert code == 0 and "the UNet LoRA has a strength of 0" in said and "changes nothing" in said


def other_base(path, style):
    tensor_files.write_safetensors(path, {"<F>": style.parts["fine_embeds"]}, {"base": "0123456789abcdef"})


def nan(path, style):
    tensor_files.write_safetensors(path, {"<F>": style.parts["fine_embeds"] * np.float32("nan")})


def too_many(path, style):
    tensor_files.write_safetensors(path, {"<ink>": np.stack([style.parts["fine_embeds"]] * 49)})


def alpha_beyond_float32(path, style):
    theirs = renamed(style.parts["unet_lora"], *UNET_NAMES["kohya"])
    tensor_files.write_safetensors(path, {**theirs,
                                          next(iter(theirs)).replace(".lora_down.weight", ".alpha"): np.array(1e300)})


REFUSED = {
    "another width": (
        lambda path, style: tensor_files.write_safetensors(path, {"<ink>": np.zeros((1, 768), np.float32)}),
        "768 (Stable Diffusion 1.x), the base needs"),
    "too many vectors": (too_many, "49 vectors"),
    "another base": (other_base, "was trained on another base (0123456789abcdef"),
    "NaN": (nan, "NaN or infinity"),
    "an alpha beyond all measure": (alpha_beyond_float32, "is not one number"),
    "a pointer of Git LFS": (
        lambda path, style: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        "git lfs pull"),
    "a folder": (lambda path, style: path.mkdir(), "is no file"),
    "Stable Diffusion XL": (
        lambda path, style: tensor_files.write_safetensors(path, {"clip_l": np.zeros((1, 768), np.float32)}),
        "Stable Diffusion XL"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line_and_writes_nothing(kind, tmp_path, load, adapters, tiny_style):
    make, words = REFUSED[kind]
    make(tmp_path / "their.safetensors", tiny_style)
    code, said = load(tmp_path / "their.safetensors", "--name", "ink")
    sentences = [line for line in said.splitlines() if not line.startswith("loading ink:")]  # its progress in a log
    assert code == 2 and len(sentences) == 1 and words in sentences[0]
    assert not adapters.exists()


@pytest.mark.parametrize("count", [48, 49])
def test_inspect_takes_as_many_vectors_as_load_does(count, tmp_path, load, tiny_style, capsys):
    tensor_files.write_safetensors(tmp_path / "ink.safetensors",
                                   {"emb_params": np.stack([tiny_style.parts["fine_embeds"]] * count)})
    assert (main(["inspect", str(tmp_path / "ink.safetensors")])
            == load(tmp_path / "ink.safetensors", "--name", "ink")[0] == (0 if count == 48 else 2))


def test_two_files_with_the_same_part(tmp_path, load, tiny_style):
    for file in ("a", "b"):
        tensor_files.write_safetensors(tmp_path / f"{file}.safetensors",
                                       {"emb_params": tiny_style.parts["fine_embeds"][None]})
    code, said = load(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--name", "ink")
    assert code == 2 and "both hold the fine embedding" in said and "-coarse and -fine" in said


def test_a_half_trained_style_is_still_named_as_such(folder, tmp_path, tiny_base):  # noqa: F811
    """Only `styleblend load` says that a style may lack a part: a forgotten training is an error, as ever."""
    (folder / "dots_unet_lora.safetensors").unlink()
    assert missing_parts(folder, "dots") == ["unet_lora"]
    from styleblend.errors import StyleBlendError
    with pytest.raises(StyleBlendError, match="train fine"):
        load_style(folder, "dots", tiny_base)


@pytest.mark.parametrize("kind", ["bin", "one file", "safetensors beside bin"])
def test_an_overwriting_training_takes_any_file_of_the_part_away(kind, trained, tmp_path, tiny_base,
                                                                 tiny_style, monkeypatch, capsys):
    """What is stopped at once is not trained already when it is started again; the other parts stay as they are."""
    here, name = tmp_path / "adapters" / "dots", "dots_unet_lora"
    if kind == "one file":
        assert main(["export", str(here), "--format", "single", "--output", str(tmp_path / "out")]) == 0
        for path in here.glob("*.safetensors"):
            path.unlink()
        (here / "dots.safetensors").write_bytes((tmp_path / "out" / "dots.safetensors").read_bytes())
    else:
        (here / f"{name}.bin").write_bytes(torch_file(renamed(tiny_style.parts["unet_lora"], *UNET_NAMES["diffusers"])))
        if kind == "bin":
            (here / f"{name}.safetensors").unlink()

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(TRAININGS, "fine", TRAININGS["fine"]._replace(train=stopped))
    arguments = ["train", "fine", "--config", str(trained)]
    assert main([*arguments, "--overwrite"]) == 130 and missing_parts(here, "dots") == ["unet_lora"]
    capsys.readouterr()
    assert main(arguments) == 130 and "trained already" not in capsys.readouterr().err
    save_part(here, "dots", "unet_lora", tiny_style.parts["unet_lora"], {})
    assert_same(load_style(here, "dots", tiny_base), tiny_style)


def test_a_full_disk_leaves_no_half_style(folder, tmp_path, load, adapters):  # noqa: F811
    """The third file does not fit: the style is not there at all."""
    import resource
    import signal
    sizes = sorted(p.stat().st_size for p in folder.glob("*.safetensors"))
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[-1] - 1, before[1]))
    try:
        code, said = load(*sorted(folder.glob("*.safetensors")), "--name", "ink")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert code == 2 and "could not be written" in said
    assert not (adapters / "ink").exists() and list(adapters.iterdir()) == []
