"""`styleblend train encoder` and `corpus check`: what comes out of each stage, how it goes on, what is refused."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from processes import ROOT, children_may_be_killed, kill  # noqa: F401 (a fixture works by being here)
from styleblend.adapters.style_encoders import load_style_encoder
from styleblend.cli import main
from styleblend.errors import StyleBlendError
from styleblend.files.claims import claim_files
from styleblend.files.corpus import read_corpus
from styleblend.files.tensor_files import read_metadata, read_safetensors, write_safetensors
from styleblend.jobs.events import Progress, result_of
from styleblend.jobs.train_encoder import EncoderRequest, train_encoder
from styleblend.settings import read_settings
from styleblend.training.corpus_cache import styled
from styleblend.training.style_inversion import TENSOR, token_file

TINY = dict(network=dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                         image_size=32, patch_size=8),
            tokens=dict(steps=3, batch=2, lr=0.05), encoder=dict(steps=4, batch=2, lr=0.01),
            finetune=dict(steps=4, batch=2, lr=0.01, reads="style"), joint=dict(steps=3, batch=2, lr=0.01))


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Three pictures of two styles."""
    folder, rng = tmp_path / "corpus", np.random.default_rng(0)
    entries = []
    for name in ("ink/fox.png", "ink/boat.png", "wax/fox.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(folder / name)
        entries.append({"image_path": name, "caption": "A fox, in the style of sks."})
    (folder / "captions.json").write_text(json.dumps(entries))
    return folder


@pytest.fixture
def config(world, tmp_path) -> Path:
    settings = yaml.safe_load(world.read_text())
    world.write_text(yaml.safe_dump({**settings, "encoder_training": TINY, "encoders": str(tmp_path / "encoders")}))
    return world


def entries_of(corpus) -> list:
    return json.loads((corpus / "captions.json").read_text())


def train(config, corpus, stage, *more) -> int:
    return main(["train", "encoder", "--config", str(config), "--corpus", str(corpus), "--stage", stage,
                 "--name", "mine", *more])


def test_a_corpus_says_what_is_wrong_with_it(config, corpus, capsys):
    (corpus / "ink" / "torn.png").write_bytes((corpus / "ink" / "fox.png").read_bytes()[:300])
    long = "A fox " * 60
    (corpus / "captions.json").write_text(json.dumps([
        *entries_of(corpus), {"image_path": "ink/fox.png", "caption": "again"},
        {"image_path": "no.png", "caption": "A"}, {"image_path": "ink/torn.png", "caption": "torn"}]))
    assert main(["corpus", "check", str(corpus), "--config", str(config)]) == 1
    said = capsys.readouterr().out
    for words in ("3 pictures that can be read, in 2 styles", "ink: 2", "wax: 1", "3 entries are left out",
                  "names ink/fox.png a second time", "no.png does not exist", "torn.png cannot be read", "0 captions"):
        assert words in said, words
    (corpus / "captions.json").write_text(json.dumps([{"image_path": "wax/fox.png", "caption": long, "style": "oil"}]))
    assert main(["corpus", "check", str(corpus), "--config", str(config)]) == 0
    said = capsys.readouterr().out
    assert "oil: 1" in said and "1 captions have more than 77 tokens and are cut; 1 leave too little room" in said


@pytest.mark.parametrize("text, words", [
    ("{", "is no JSON"), ("{}", "should be a list"), ("[]", "it is empty"),
    ('[{"caption": "A"}]', "entry 1 should have"),
    ('[{"image_path": "../a.png", "caption": "A"}]', "paths lead from the corpus's folder into it"),
    *[(json.dumps([{"image_path": "a.png", "caption": "A", "style": style}]), "style that is not taken")
      for style in ("\ud800bad", "ink\x1b[2J", "ink\nwax")],
    *[(json.dumps([{"image_path": "a.png", "caption": caption}]), "entry 1 should have an image_path and a caption")
      for caption in (" ", ".", ", in the style of sks.", "in the style of sks")],
    ('[{"image_path": "a.png", "caption": 3}]', "entry 1 should have"),
    ('[{"image_path": "a.png", "caption": "A"}]', "no entry of")])
def test_what_is_no_corpus(tmp_path, text, words):
    (tmp_path / "captions.json").write_text(text)
    with pytest.raises(StyleBlendError, match=words):
        read_corpus(tmp_path)


def test_a_style_that_is_null_is_not_known(corpus):
    """Then it is that of the folder."""
    (corpus / "captions.json").write_text('[{"image_path": "wax/fox.png", "caption": "A fox", "style": null}]')
    assert [entry.style for entry in read_corpus(corpus).entries] == ["wax"]


def test_a_name_that_is_too_long_for_the_file_of_its_tokens(corpus):
    """A file system takes the picture itself. The longest that is taken can be learned: its tokens can be written."""
    names = [f"ink/{'f' * (length - 4)}.png" for length in (243, 244)] + [f"{'d' * 300}/fox.png", "."]
    for name in names[:2]:
        (corpus / "ink" / "fox.png").with_name(Path(name).name).write_bytes((corpus / "ink" / "fox.png").read_bytes())
    (corpus / "captions.json").write_text(json.dumps([{"image_path": name, "caption": "A fox"} for name in names]))
    read = read_corpus(corpus)
    assert [entry.name for entry in read.entries] == names[:1]
    assert [sentence.split(" bytes")[0].rsplit(" ", 1)[1] for sentence in read.left_out[:2]] == ["244", "300"]
    assert read.left_out[2].endswith("is a folder: name a picture in it")
    write_safetensors(token_file(corpus, read.entries[0]), {TENSOR: np.zeros((8, 32), np.float32)})


def test_a_corpus_from_a_mac(corpus):
    """Its folders and files have names in the decomposed form, and captions.json may have them in the other."""
    folder = corpus / "cafe\u0301"
    (corpus / "ink").rename(folder)
    (folder / "fox.png").rename(folder / "u\u0308ber.png")
    (corpus / "captions.json").write_text(json.dumps([{"image_path": "caf\u00e9/\u00fcber.png", "caption": "A fox"}]))
    read = read_corpus(corpus)
    assert [(entry.name, entry.style) for entry in read.entries] == [("caf\u00e9/\u00fcber.png", "caf\u00e9")]
    assert not read.left_out and read.path(read.entries[0]) == folder / "u\u0308ber.png"


def test_no_captions(tmp_path):
    with pytest.raises(StyleBlendError, match="captions.json is missing"):
        read_corpus(tmp_path)


def test_captions_in_their_template():
    published = "{prompt}, in the style of {}."
    for caption in ("A fox", "A fox.", "A fox, in the style of sks.", "A fox, in the style of sks",
                    "A fox in the style of sks.", "A fox in the style of sks", "A fox. In the style of SKS!"):
        assert styled(caption, published) == "A fox, in the style of sks."
        assert styled(caption, "{prompt} in the style of {}.") == "A fox in the style of sks."
    assert styled("A style of sks. A fox", published) == "A style of sks. A fox, in the style of sks."


def test_a_caption_that_ends_the_text(config, corpus, tmp_path, capsys):
    """It is refused before anything is encoded: the tokens would stand in its middle."""
    (corpus / "captions.json").write_text(json.dumps([
        *entries_of(corpus)[:2], {"image_path": "wax/fox.png", "caption": "A fox <|EndOfText|> (in the snow)"}]))
    assert main(["corpus", "check", str(corpus), "--config", str(config)]) == 2
    assert "holds <|endoftext|>, which is put in where it belongs: leave it out" in capsys.readouterr().err
    assert train(config, corpus, "tokens") == 2
    assert "holds <|endoftext|>" in capsys.readouterr().err
    assert not list((tmp_path / "encoders").rglob("*.safetensors"))


def test_all_stages_one_after_the_other(config, corpus, tmp_path, tiny_base, capsys):
    before = {p: p.read_bytes() for p in tiny_base.folder.rglob("*.safetensors")}
    folder = tmp_path / "encoders" / "mine"
    assert train(config, corpus, "finetune") == 2
    assert "has no encoder to begin with" in capsys.readouterr().err
    assert train(config, corpus, "encoder") == 2
    assert "3 of 3 pictures have no tokens yet" in capsys.readouterr().err
    assert not folder.exists()  # refused before anything is encoded
    assert train(config, corpus, "tokens") == 0
    found = {entry["image_path"]: folder / "tokens" / f"{entry['image_path']}.safetensors"
             for entry in entries_of(corpus)}
    assert all(read_safetensors(path)[TENSOR].shape == (8, 32) for path in found.values())
    for name in found:  # as when the corpus is copied to another machine
        os.utime(corpus / name, (0, 0))
    assert train(config, corpus, "tokens") == 0
    weights = []
    for stage in ("encoder", "finetune", "joint"):
        assert train(config, corpus, stage) == 0
        encoder = load_style_encoder(folder / stage, tiny_base)
        assert encoder.config.base == tiny_base.fingerprint() and encoder.config.tokens == 8
        assert (folder / "training" / f"{stage}-loss.png").is_file()
        weights.append(encoder.proj.weight.numpy())
    assert not np.allclose(weights[0], weights[1]) and not np.allclose(weights[1], weights[2])
    assert before == {p: p.read_bytes() for p in tiny_base.folder.rglob("*.safetensors")}
    capsys.readouterr()
    assert train(config, corpus, "joint") == 0
    assert "is trained already" in capsys.readouterr().err


def test_what_is_saved_is_what_was_learned(config, corpus, tmp_path, tiny_base):
    """The published program saves the numbers that its tokens start from: here they have gone a way, step by step."""
    settings = read_settings(config)
    starts = []
    for steps in (1, 3):
        own = settings.encoder_training.tokens.model_copy(update={"steps": steps})
        training = settings.encoder_training.model_copy(update={"tokens": own})
        changed = settings.model_copy(update={"encoder_training": training, "encoders": str(tmp_path / str(steps))})
        folder = result_of(train_encoder(EncoderRequest(changed, corpus, "tokens", "mine")))
        starts.append(read_safetensors(folder / "wax" / "fox.png.safetensors")[TENSOR])
    # AdamW's first step is as long as the learning rate: what was saved after one step is that far from what follows
    assert np.abs(starts[1] - starts[0]).mean() > own.lr / 2
    assert np.abs(starts[0]).mean() > own.lr / 2 > own.spread


def stopped_at(job, title, step) -> None:
    while True:
        event = next(job)
        if isinstance(event, Progress) and event.title == title and event.done == step:
            job.close()
            return


@pytest.mark.parametrize("stage", ["finetune", "joint"])
def test_a_stopped_run_goes_on_bit_for_bit(stage, config, corpus, tmp_path):
    settings, weights = read_settings(config), []
    for name in ("whole", "stopped"):
        request = EncoderRequest(settings, corpus, stage, name, start="new")
        if name == "stopped":
            stopped_at(train_encoder(request), stage, 2)
            assert not (request.folder() / stage).exists()
            seen = []
            folder = result_of(train_encoder(request), seen.append)
            assert min(e.done for e in seen if isinstance(e, Progress) and e.title == stage) == 2
        else:
            folder = result_of(train_encoder(request))
        weights.append((folder / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_a_group_that_was_written_in_part_is_learned_again(config, corpus, tmp_path):
    """What stands beside a picture changes the rounding, and that grows from step to step."""
    assert train(config, corpus, "tokens") == 0
    files = sorted((tmp_path / "encoders" / "mine" / "tokens").rglob("*.safetensors"))
    whole = [path.read_bytes() for path in files]
    for lost in files:
        lost.unlink()
        assert train(config, corpus, "tokens") == 0
        assert [path.read_bytes() for path in files] == whole


def set_of(config, part, **own) -> None:
    settings = yaml.safe_load(config.read_text())
    settings[part] = {**settings.get(part, {}), **own}
    config.write_text(yaml.safe_dump(settings))


def test_tokens_of_something_else_are_refused(config, corpus, tmp_path, capsys):
    """By the stage that writes them, by the one that learns them, and by one that has begun with others."""
    assert train(config, corpus, "tokens") == 0
    job = train_encoder(EncoderRequest(read_settings(config), corpus, "encoder", "mine"))
    stopped_at(job, "encoder", 2)
    set_of(config, "encoder_training", tokens=dict(steps=2, batch=2, lr=0.05))
    assert train(config, corpus, "tokens") == 2
    assert "were learned with other settings" in capsys.readouterr().err
    assert train(config, corpus, "tokens", "--overwrite") == 0
    assert train(config, corpus, "encoder") == 2
    assert "--overwrite" in capsys.readouterr().err
    entries = entries_of(corpus)
    entries[0]["caption"] = "A boat"
    (corpus / "captions.json").write_text(json.dumps(entries))
    assert train(config, corpus, "encoder", "--overwrite") == 2
    assert "are of other pictures or captions" in capsys.readouterr().err


def test_another_corpus_under_a_name_in_use_replaces_no_cache(config, corpus, tmp_path, capsys):
    assert train(config, corpus, "tokens") == 0
    shard = tmp_path / "encoders" / "mine" / "cache" / "shard-00000.safetensors"
    before = shard.read_bytes()
    (corpus / "captions.json").write_text(json.dumps(entries_of(corpus)[:2]))
    assert train(config, corpus, "tokens") == 2
    assert "were learned with other settings, pictures or captions" in capsys.readouterr().err
    assert shard.read_bytes() == before


def test_tokens_that_others_learn_are_not_overwritten(config, corpus, tmp_path, capsys):
    assert train(config, corpus, "tokens") == 0
    folder = tmp_path / "encoders" / "mine" / "tokens"
    with claim_files(folder, "tokens", ["wax/fox.png"], ""):
        assert train(config, corpus, "tokens", "--overwrite") == 2
    assert "or leave out --overwrite to help it" in capsys.readouterr().err
    assert len(list(folder.rglob("*.safetensors"))) == 3


def test_grids_show_what_the_encoder_reads(config, corpus, tmp_path, capsys):
    """A row for a picture of each style; and a card says how it was trained."""
    set_of(config, "training", sample_every=2, sample_prompts=["Cat", "Owl"], encoder_score="both")
    assert train(config, corpus, "finetune", "--start", "new") == 0
    folder = tmp_path / "encoders" / "mine"
    grids = [Image.open(folder / "training" / f"finetune-0000{step}.png") for step in (2, 4)]
    assert grids[0].size == grids[1].size and grids[0].size[0] > grids[0].size[1]  # two rows of three
    assert not np.array_equal(np.asarray(grids[0]), np.asarray(grids[1]))
    assert "the picture grids get no score" in capsys.readouterr().err  # the judge knows neither ink nor wax
    about = (folder / "finetune" / "README.md").read_text()
    assert "4 steps of 2 pictures" in about and "3 pictures in 2 styles" in about


def test_the_cache_is_written_once_and_follows_the_pictures(config, corpus, tmp_path):
    settings = read_settings(config)
    request = EncoderRequest(settings, corpus, "finetune", "mine", "new")
    result_of(train_encoder(request))
    shard = tmp_path / "encoders" / "mine" / "cache" / "shard-00000.safetensors"
    first, made_of = shard.stat().st_mtime_ns, read_metadata(shard)["made_of"]
    copy = shutil.copytree(corpus, tmp_path / "copy", copy_function=shutil.copyfile)
    result_of(train_encoder(EncoderRequest(settings, copy, "finetune", "mine", "new", overwrite=True)))
    assert shard.stat().st_mtime_ns == first
    at = (corpus / "wax" / "fox.png").stat().st_mtime_ns
    Image.new("RGB", (40, 40), "red").save(corpus / "wax" / "fox.png")
    os.utime(corpus / "wax" / "fox.png", ns=(at, at))
    result_of(train_encoder(EncoderRequest(settings, corpus, "finetune", "mine", "new", overwrite=True)))
    assert read_metadata(shard)["made_of"] != made_of
    assert (read_safetensors(shard)["pictures"][2] == (255, 0, 0)).all()


@pytest.mark.parametrize("more, words", [
    (["--styles", "dots"], "--styles has no effect"), (["--share"], "--share has no effect"),
    (["--start", "new"], "--start has no effect on the stage tokens")])
def test_options_without_effect(more, words, config, corpus, capsys):
    assert train(config, corpus, "tokens", *more) == 2
    assert words in capsys.readouterr().err


def test_a_start_that_is_not_there(config, corpus, capsys):
    assert train(config, corpus, "finetune", "--start", "nowhere") == 2
    assert "--start nowhere: there is no such folder" in capsys.readouterr().err


def test_a_start_with_a_template_that_is_not_trained_with(config, corpus, tmp_path, capsys):
    """Such an encoder draws, but the published assembly would put the tokens in place of another word."""
    assert train(config, corpus, "finetune", "--start", "new") == 0
    about = tmp_path / "encoders" / "mine" / "finetune" / "config.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "template": "{prompt} in the style of {}"}))
    assert train(config, corpus, "joint") == 2
    assert "template" in capsys.readouterr().err


def test_options_of_the_other_kind(config, corpus, capsys):
    assert main(["train", "coarse", "--config", str(config), "--corpus", str(corpus)]) == 2
    assert "--corpus is of train encoder" in capsys.readouterr().err
    assert main(["train", "encoder", "--config", str(config), "--corpus", str(corpus)]) == 2
    assert "train encoder needs --stage, --name" in capsys.readouterr().err


@pytest.mark.parametrize("change, words", [
    (dict(network=dict(image_size=30, patch_size=8)), "must be a multiple of patch_size"),
    (dict(finetune=dict(rank=4)), "unknown key encoder_training.finetune.rank"),
    *[(dict(network=dict(template=one)), "template")
      for one in ("{prompt}", "{prompt}{}.", "{prompt} as {}", "{prompt} as {}..")],
    (dict(tokens=dict(steps=0)), "greater than or equal to 1")])
def test_settings_that_are_refused(change, words, config, corpus, capsys):
    settings = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**settings, "encoder_training": change}))
    assert train(config, corpus, "tokens") == 2
    assert words in capsys.readouterr().err


def test_memory_is_flat_in_the_size_of_the_corpus(tmp_path):
    """A step of a corpus reads its own rows: so much for 20,000 pictures as for 200."""
    import tracemalloc

    from styleblend.training.corpus_cache import SHARD, CorpusCache
    shard, rng = tmp_path / "shard.safetensors", np.random.default_rng(0)
    write_safetensors(shard, {name: np.zeros((SHARD, 4, 32, 32), np.float32) for name in ("mean", "deviation")})
    most = []
    for shards in (1, 80):
        cache = CorpusCache([shard] * shards, shards * SHARD, 1.0, "")
        tracemalloc.start()
        for _ in range(20):
            cache.sample(rng, rng.integers(0, len(cache), 8))
        most.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert most[1] < 1.2 * most[0] < 8 * (1 << 20)  # a shard has 8 MiB


WORKER = """
import sys
from styleblend.jobs.events import result_of
from styleblend.jobs.train_encoder import EncoderRequest, train_encoder
from styleblend.settings import read_settings
result_of(train_encoder(EncoderRequest(read_settings(sys.argv[1]), sys.argv[2], "tokens", "mine")),
          lambda event: print(event, flush=True))
"""


def test_several_workers_in_one_folder(config, corpus, tmp_path):
    """One is killed in the middle of its pictures; two others do the rest, each picture once."""
    folder = tmp_path / "encoders" / "mine" / "tokens"
    command = [sys.executable, "-c", WORKER, str(config), str(corpus)]
    settings = yaml.safe_load(config.read_text())
    settings["encoder_training"]["tokens"] = dict(steps=10000, batch=1)
    config.write_text(yaml.safe_dump(settings))
    killed = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for line in killed.stdout:
        if "title='inversion', done=1," in line:
            break
    kill(killed)
    assert not list(folder.rglob("*.safetensors"))
    settings["encoder_training"]["tokens"] = dict(steps=30, batch=1)
    config.write_text(yaml.safe_dump(settings))
    workers = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [worker.communicate()[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    learned = [int(line.split("sentence='")[1].split()[0]) for text in said for line in text.splitlines()
               if "pictures learned here" in line]
    assert sum(learned) == 3 and len(list(folder.rglob("*.safetensors"))) == 3
    assert not list(folder.rglob("*.tmp"))
