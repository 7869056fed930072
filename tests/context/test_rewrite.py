"""Sentences made one by a T5 in a folder; and by the published one, where somebody names it."""
from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest

from small_networks import t5_folder
from styleblend.context.rewrite import TASK, load_rewriter, summarise
from styleblend.errors import StyleBlendError
from styleblend.models.t5 import buckets
from styleblend.settings import ContextSettings, read_settings

# caption and spoken sentence -> what the published T5-small makes of them
PUBLISHED = [
    ("a cat playing with a ball in the grass.", "An Egyptian cat playing with a ball.",
     "an Egyptian cat playing with a ball in the grass."),
    ("a key on a wooden surface.", "A pair of keys lying on the table in the garden.",
     "a pair of keys lying on the table in the garden."),
    ("olive tree in the field.", "An olive tree in an olive grove with some beehives around it.",
     "olive tree in an olive grove with some beehives around it.")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return t5_folder(tmp_path_factory.mktemp("t5"))


def settings_with(folder):
    return read_settings("mini").model_copy(update={"context": ContextSettings(rewriter=str(folder))})


def test_sentences_become_one(folder):
    made = summarise(["word7 word9 .", " word12s"], settings_with(folder))
    assert made == summarise(["word7 word9 .", "word12s"], settings_with(folder))
    assert made.text and made.source == folder.name
    assert "<" not in made.text and "\u2581" not in made.text
    assert made != summarise(["word12s", "word7 word9 ."], settings_with(folder))


def test_without_weights_it_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, source = summarise(["a cat."], read_settings("mini"))
    assert text is None
    assert source.startswith("no T5 is there: put google-t5/t5-small into checkpoints/t5-small")


def test_long_texts_are_cut(folder):
    """T5 was trained on 512 tokens at most; a text without end takes no time without end."""
    rewriter = load_rewriter(folder)
    assert len(rewriter.tokenizer.encode(TASK + "word7 " * 5000).ids) == 512
    assert len(rewriter.tokens("word7 " * 5000)) <= 50


@pytest.mark.parametrize("values, message", [
    ({"model_type": "mt5"}, "holds no T5"), ({"feed_forward_proj": "gated-gelu"}, "feed_forward_proj is 'gated-gelu'"),
    ({"tie_word_embeddings": False}, "tie_word_embeddings is False"), ({"d_ff": 65}, "does not fit its config.json"),
    ({"num_heads": 0}, "which no T5 has")])
def test_another_network_is_refused(values, message, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = {**json.loads((copy / "config.json").read_text()), **values}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(StyleBlendError, match=message):
        summarise(["a cat."], settings_with(copy))


def test_distances_share_what_is_added():
    """Half of the summands are for one distance each, the last one for all that are farther than the farthest."""
    one_way = buckets(-np.arange(200), False, 32, 128)
    assert one_way[:16].tolist() == list(range(16)) and (np.diff(one_way) >= 0).all()
    assert one_way[127] == 31 and (one_way[128:] == 31).all()
    assert (buckets(np.arange(1, 9), False, 32, 128) == 0).all()  # what is to come
    both = buckets(np.array([-300, -1, 0, 1, 300]), True, 32, 128)
    assert both.tolist() == [15, 1, 0, 17, 31]


@pytest.mark.skipif("STYLEBLEND_T5" not in os.environ, reason="STYLEBLEND_T5 names no folder of google-t5/t5-small")
@pytest.mark.parametrize("caption, spoken, wanted", PUBLISHED)
def test_published_summaries(caption, spoken, wanted):
    made = summarise([caption, spoken], settings_with(os.environ["STYLEBLEND_T5"]))
    assert made.text.replace(" .", ".") == wanted
