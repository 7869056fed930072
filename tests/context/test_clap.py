"""Moods by a CLAP in a folder: how well the words of a list fit a piece of music."""
from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest

from reference import seeded
from reference.make_musicnn_references import RATE, clips
from sound_files import read_sound, write_sound
from styleblend import context
from styleblend.context.clap import Clap, load_clap
from styleblend.context.events import Step
from styleblend.context.mood_list import MOODS, words_in
from styleblend.context.music import FOLDER, SOUNDS_LIKE, find_clap, hear_music, nearest
from styleblend.context.prompt import result_of
from styleblend.errors import StyleBlendError
from styleblend.files.tensor_files import read_safetensors, write_safetensors
from styleblend.settings import ContextSettings, read_settings
from test_clap_parity import REFERENCE, write_clap
from test_pickles import saved_by_torch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_clap(tmp_path_factory.mktemp("clap"), REFERENCE)


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "styleblend" / "clap"


@pytest.fixture
def beat(sound, tmp_path):
    return write_sound(tmp_path / "beat.wav", clips(seconds=12.0)["beat"], RATE)


def test_the_moods_whose_words_are_nearest(beat, folder):
    """In both ways: from the file to three moods, and from the vectors of music and words by hand."""
    reading, steps = hear_music(beat, clap=folder), []
    while True:
        try:
            steps.append(next(reading))
        except StopIteration as end:
            music = end.value
            break
    assert steps == [Step("music", number, 2, "part") for number in range(3)]
    assert music.heard_by == folder.name and not music.silent
    clap, words = load_clap(folder), words_in(MOODS)
    texts = clap.read([f"This is a sound of {one} music." for one in words])
    heard = np.mean(list(clap.heard(read_sound(beat, 48_000), 6)), axis=0)
    cosines = texts @ heard / np.linalg.norm(heard)
    assert [mood.words for mood in music.moods] == [words[place] for place in np.argsort(-cosines)[:3]]
    assert np.allclose([mood.score for mood in music.moods], np.sort(cosines)[::-1][:3], atol=1e-6)


def test_nearest_is_by_angle():
    texts = np.array([[1, 0], [0.6, 0.8], [0, 1], [-1, 0]], np.float32)
    moods = nearest(np.array([0.1, 0.1]), texts, ["a", "b", "c", "d"])
    assert [mood.words for mood in moods] == ["b", "a", "c"] and moods[0].score == pytest.approx(1.4 / 2 ** 0.5)
    assert len(nearest(np.ones(2), texts[:1], ["a"])) == 1


def test_a_prompt_says_who_heard_it(beat, folder):
    made = context.describe(music=beat, settings=read_settings("mini").model_copy(
        update={"context": ContextSettings(music=str(folder))}))
    [source] = made.sources
    words = words_in(MOODS)
    assert source.text in words and made.prompt == f"The atmosphere is {source.text}."
    assert re.fullmatch(rf"{folder.name}: {source.text} -?0\.\d\d(, [a-z ]+ -?0\.\d\d){{2}}", source.source)
    same = context.describe(music=beat, music_model=str(folder))
    assert same == made


def test_without_a_clap_musicnn_hears_and_can_be_asked_for(beat, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_clap(None) is None
    shutil.copytree(folder, tmp_path / FOLDER)
    assert find_clap(None).resolve() == tmp_path / FOLDER
    assert find_clap("musicnn") is None
    [source] = context.describe(music=beat, music_model="musicnn").sources
    assert source.source.startswith("MusiCNN: futuristic")


# ---------------------------------------------------------------- what was read before

def test_a_list_is_read_once_and_again_when_it_or_the_network_changes(copy, own_cache, monkeypatch):
    """The second time the network that reads is not even loaded; a damaged file is written again."""
    clap = load_clap(copy)
    first = clap.vectors_of(seeded.FELT)
    [file] = own_cache.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(Clap, "read", lambda *_: pytest.fail("it was read again"))
        assert np.array_equal(load_clap(copy).vectors_of(seeded.FELT), first)
    file.write_bytes(file.read_bytes()[:-5])
    assert np.array_equal(clap.vectors_of(seeded.FELT), first)
    assert np.array_equal(np.load(file), first)
    clap.vectors_of(seeded.FELT[:2])
    assert len(list(own_cache.iterdir())) == 2
    tensors = read_safetensors(copy / "model.safetensors")
    tensors["text_projection.linear2.weight"] *= -1
    write_safetensors(copy / "model.safetensors", tensors)
    assert not np.allclose(load_clap(copy).vectors_of(seeded.FELT), first, atol=0.1)
    assert len(list(own_cache.iterdir())) == 3


def test_a_cache_that_cannot_be_written_is_none(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load_clap(folder).vectors_of(seeded.FELT).shape == (3, 24)


# ---------------------------------------------------------------- lists and files that are wrong

def test_a_list_needs_no_tags_for_clap(beat, folder, tmp_path):
    own = tmp_path / "moods.txt"
    own.write_text("# mine\nlike a spring morning\n\ncalm and dreamy: ambient 0.15\n")
    assert words_in(own) == ["like a spring morning", "calm and dreamy"]
    assert {mood.words for mood in result_of(hear_music(beat, own, folder)).moods} == set(words_in(own))
    with pytest.raises(StyleBlendError, match="line 2 is no mood"):
        result_of(hear_music(beat, own))


@pytest.mark.parametrize("content, said", [("", "holds no moods"), (": ambient 0.2", "line 1 is no mood"),
                                        ("so " * 30, "line 1 is no mood")])
def test_a_wrong_list_is_said_before_anything_is_heard(folder, tmp_path, content, said):
    (tmp_path / "moods.txt").write_text(content)
    with pytest.raises(StyleBlendError, match=said):
        result_of(hear_music(tmp_path / "missing.wav", tmp_path / "moods.txt", folder))


def test_silence_and_short_sounds(sound, folder, tmp_path):
    quiet = write_sound(tmp_path / "quiet.wav", np.zeros(RATE))
    assert result_of(hear_music(quiet, clap=folder)) == ([], folder.name, True)
    click = write_sound(tmp_path / "click.wav", np.full(40, 0.5))
    assert len(result_of(hear_music(click, clap=folder)).moods) == 3


def test_weights_in_a_published_bin_file(copy):
    """The same vectors from pytorch_model.bin, of which nothing is executed."""
    wanted = load_clap(copy).read(seeded.FELT)
    tensors = read_safetensors(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(saved_by_torch(tensors))
    assert np.array_equal(load_clap(copy).read(seeded.FELT), wanted)


@pytest.mark.parametrize("section, values, message", [
    (None, {"model_type": "clip"}, "holds no CLAP"), (None, {"audio_config": 1}, "audio_config is missing"),
    (None, {"projection_hidden_act": "gelu"}, "projection_hidden_act is 'gelu'"),
    ("audio_config", {"enable_fusion": True}, "enable_fusion is True"),
    ("audio_config", {"spec_size": 128, "patch_size": 4, "patch_stride": [4, 4]}, "no room for ten seconds"),
    ("audio_config", {"window_size": 5}, "each stage into windows"),
    ("audio_config", {"num_attention_heads": [1, 2, 2, 3]}, "cannot be divided into its num_attention_heads"),
    ("audio_config", {"num_attention_heads": [1, 2]}, "has 2 stages and depths 4"),
    ("audio_config", {"patch_stride": [4, 4]}, "patch_stride is not patch_size"),
    ("audio_config", {"hidden_size": 32}, "not that of the last stage"),
    ("audio_config", {"depths": [1, 2, 3, 2]}, "does not fit its config.json"),
    ("text_config", {"max_position_embeddings": 6}, "leaves no room"),
    ("text_config", {"vocab_size": 50}, "words, and the network beside it 50")])
def test_another_network_is_refused(section, values, message, copy):
    config = json.loads((copy / "config.json").read_text())
    (config[section] if section else config).update(values)
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(StyleBlendError, match=message):
        load_clap(copy)


def test_files_that_are_missing_or_wrong(copy, tmp_path):
    (copy / "preprocessor_config.json").write_text(json.dumps({"truncation": "fusion"}))
    with pytest.raises(StyleBlendError, match="truncation is 'fusion', but only 'rand_trunc'"):
        load_clap(copy)
    (copy / "preprocessor_config.json").unlink()
    (copy / "tokenizer.json").unlink()
    with pytest.raises(StyleBlendError, match="tokenizer.json is missing"):
        load_clap(copy)
    seeded.write_roberta_tokenizer(copy)
    assert load_clap(copy).vectors_of([SOUNDS_LIKE.format("calm")]).shape == (1, 24)
    for name, content in (("merges.txt", "\0\1\2"), ("vocab.json", "{}"), ("vocab.json", "[")):
        kept = (copy / name).read_bytes()
        (copy / name).write_text(content)
        with pytest.raises(StyleBlendError, match="vocab.json|merges.txt"):
            load_clap(copy)
        (copy / name).write_bytes(kept)
    with pytest.raises(StyleBlendError, match="config.json is missing: a CLAP is a folder with"):
        load_clap(tmp_path / "nowhere")


def test_a_long_mood_is_cut(folder):
    clap = load_clap(folder)
    assert len(clap.tokenizer.encode("x" * 500).ids) == 78
    assert np.isfinite(clap.read(["x" * 500])).all()
