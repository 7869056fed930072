"""CLIP's byte pair encoding: the ids that the tokenizer of transformers gives, for every way to write a folder."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from styleblend.base.clip_bpe import ClipBPE
from styleblend.base.tokens import Tokenizer, normalise
from styleblend.errors import StyleBlendError

SHIPPED = Path(__file__).parents[2] / "checkpoints" / "mini" / "base" / "tokenizer"
CONFIG = json.loads((SHIPPED / "tokenizer_config.json").read_text())
SIZE = len(json.loads((SHIPPED / "vocab.json").read_text()))
TEXTS = ["", "A cat!", "hello!!! world!", "in the style of <C>.", "<c> <F><f>", "<|endoftext|> x <|STARTOFTEXT|>",
         "don't we'll I'M", "1234 5.5", "caf\u00e9 cafe\u0301", "\u732b\u72ac", "\U0001F600\U0001F1E9\U0001F1EA",
         "a</w>b", "<cat-toy> <dog> <sks>x", "  a\t\nb  ", "\u0130stanbul \u1e9e stra\u00dfe \ufb01", "_a_b", "[PAD]"]
ADDED = {"content": "<sks>", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False,
         "special": False}
# name -> files of the folder that are other than those of the mini base; None: it has none
FOLDERS = {
    "as shipped": {},
    "no config": {"tokenizer_config.json": None},
    "no special_tokens_map.json": {"special_tokens_map.json": None},
    "neither": {"tokenizer_config.json": None, "special_tokens_map.json": None},
    "Stable Diffusion 2.1's own: the config names another padding":
        {"tokenizer_config.json": {**CONFIG, "pad_token": "<|endoftext|>"}},
    "all added tokens in the config, which then goes first":
        {"tokenizer_config.json": {**CONFIG, "pad_token": "<|endoftext|>", "added_tokens_decoder": {str(SIZE): ADDED}}},
    "no padding": {"tokenizer_config.json": {**CONFIG, "pad_token": None}, "special_tokens_map.json": {}},
    "padding that is no word yet": {"tokenizer_config.json": {**CONFIG, "pad_token": "[PAD]"},
                                    "special_tokens_map.json": {}},
    "learned words": {"added_tokens.json": {"<Dog>": SIZE + 1, "<cat-toy>": SIZE}},
}


@pytest.fixture(params=FOLDERS, ids=str)
def both(request, tmp_path):
    """A folder as we read it, and as transformers does."""
    transformers = pytest.importorskip("transformers", minversion="5")  # before, Python did it, some signs otherwise
    folder = shutil.copytree(SHIPPED, tmp_path / "tokenizer")
    for name, content in FOLDERS[request.param].items():
        (folder / name).unlink(missing_ok=True)
        if content is not None:
            (folder / name).write_text(json.dumps(content))
    return ClipBPE(folder), transformers.CLIPTokenizer.from_pretrained(str(folder))


def assert_equal_on(ours, theirs, text):
    ids = theirs(text, verbose=False)["input_ids"]
    assert ours.ids(text) == ids, text
    assert ours.ids(text, ends=False) == ids[1:-1]
    assert ours.text(ids) == theirs.decode(ids)


def test_ids_are_those_of_transformers(both):
    ours, theirs = both
    assert (ours.start_id, ours.end_id, ours.pad) == (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token)
    for placeholders in ((), ("<C>", "<F>", "sks2")):
        for word in placeholders:
            ours.add(word)
            theirs.add_tokens(word)
        assert len(ours) == len(theirs)
        for text in TEXTS:
            assert_equal_on(ours, theirs, text)
            assert_equal_on(ours, theirs, normalise(text))


@pytest.fixture(scope="module")
def shipped():
    transformers = pytest.importorskip("transformers", minversion="5")
    return ClipBPE(SHIPPED), transformers.CLIPTokenizer.from_pretrained(str(SHIPPED))


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_ids_of_any_text_are_those_of_transformers(shipped, text):
    assert_equal_on(*shipped, text)


@pytest.mark.parametrize("file, content, said", [
    ("vocab.json", "{", "cannot be read"), ("vocab.json", '{"a": "b"}', "cannot be read"),
    ("merges.txt", "#version: 0.2\nno such pair\n", "cannot be read"),
    ("tokenizer_config.json", "[", "tokenizer_config.json"), ("tokenizer_config.json", '{"bos_token": 3}', "cannot be"),
    ("tokenizer_config.json", '{"added_tokens_decoder": {"x": "y"}}', "cannot be read"),
    ("added_tokens.json", '{"<a>": "b"}', "cannot be read")])
def test_a_broken_folder_is_one_sentence(tmp_path, file, content, said):
    folder = shutil.copytree(SHIPPED, tmp_path / "tokenizer")
    (folder / "special_tokens_map.json").unlink()
    (folder / file).write_text(content)
    with pytest.raises(StyleBlendError, match=said) as error:
        Tokenizer(folder)
    assert str(folder) in str(error.value)
