"""`prompt.json` in the shapes that people write, and names that can be files everywhere.

And prompts that would confuse the text encoder.
"""
from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest

from drawing import request, save_style
from styleblend.jobs.choices import chosen_prompts
from styleblend.cli import main
from styleblend.errors import StyleBlendError
from styleblend.files.names import LONGEST, check_name, entry, file_name, is_made
from styleblend.methods.styleblend import TEMPLATES
from styleblend.pipeline import Pipeline
from styleblend.files.prompts import Prompt, listed, make_prompt, phrase_of, style_prompts
from styleblend.settings import LookAlikeSettings, SamplingSettings
from styleblend.base.tokens import Tokenizer


def read(tmp_path, data):
    """The prompts of a prompt.json that holds `data` (bytes: as they are)."""
    (tmp_path / "prompt.json").write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    return style_prompts(tmp_path)


CAT, HOUSE = Prompt("Cat", "Cat"), Prompt("Red house", "Red house")


@pytest.mark.parametrize("data, expected", [
    ({"0": "Cat", "1": "Red house"}, [CAT, HOUSE]),
    ({"1": " Cat ", "0": "Red house", "2": "Cat"}, [CAT, HOUSE]),  # in the order of the file, each once
    (["Cat", "Red house"], [CAT, HOUSE]),
    ([{"prompt": "Cat"}, {"text": "Red house"}], [CAT, HOUSE]),
    (["Cat", {"text": "Red house"}], [CAT, HOUSE]),
    ({"my-cat": "A cat: what else?"}, [Prompt("my-cat", "A cat: what else?", whole=True)]),
    ([{"prompt": "a/b", "name": "ab"}], [Prompt("ab", "a/b", whole=True)]),
    (["A cat on a boat."], [Prompt("A cat on a boat", "A cat on a boat")]),
    ({"wait": "Wait...", "stop": " Stop. "},
     [Prompt("wait", "Wait...", whole=True), Prompt("stop", "Stop", whole=True)]),
    (b'\xef\xbb\xbf["Cat"]', [CAT]),
    ({"0": {"prompt": "Cat"}, "1": {"text": "Red house"}}, [CAT, HOUSE]),
    ([{"prompt": "Cat", "seed": 5}, "Red house"], [Prompt("Cat", "Cat", seed=5), HOUSE]),
    ({"0": {"prompt": "Cat", "seed": 0}}, [Prompt("Cat", "Cat", seed=0)]),
    ({"boat": {"prompt": "A cat on a boat", "seed": 3}},
     [Prompt("boat", "A cat on a boat", whole=True, seed=3)]),
    ({"0": {"prompt": "A cat", "name": "x"}, "y": {"prompt": "A dog", "name": "y"}},
     [Prompt("x", "A cat", whole=True), Prompt("y", "A dog", whole=True)]),
    (["猫", "🐈‍⬛", "cafe\u0301"],
     [Prompt("猫", "猫"), Prompt("🐈‍⬛", "🐈‍⬛"), Prompt("caf\u00e9", "caf\u00e9")]),
], ids=str)
def test_shapes(tmp_path, data, expected):
    assert read(tmp_path, data) == expected


def test_a_whole_prompt_is_drawn_as_it_stands():
    assert [p.phrase() for p in (CAT, make_prompt("Owl"), make_prompt("Two Cats", "two"))] == [
        "A cat", "An owl", "Two Cats"]
    assert CAT.phrase(plain=True) == "Cat"


@pytest.mark.parametrize("typed, phrase", [
    ("Owl", "An owl"), ("Palm Tree", "A palm tree"), ("A Cat on a boat", "A Cat on a boat"), ("the Sea", "the Sea"),
    ("An owl", "An owl"), ("A", "An a"), ("Antler", "An antler"), ("A (rabbit:1.3)", "A (rabbit:1.3)"),
    ("(Owl:1.3)", "An (owl:1.3)"), ("[[Dog]]", "A [[dog]]"), ("(a Dog)", "(a Dog)"),
    ("Rabbit BREAK Castle", "A rabbit BREAK castle"), ("\\(Old\\) Cat", "A \\(old\\) cat")])
def test_the_article(typed, phrase):
    """None in front of another one, and the signs of a prompt are no letters."""
    assert make_prompt(typed).phrase() == phrase


def test_whose_seed_a_picture_has():
    """The prompt's own, else that which the style has for it under its name or its text, else the config's."""
    odd = make_prompt("4:3")
    assert odd.name != odd.text
    assert make_prompt("Cat", seed=5).seed_of({"Cat": 6}, 7) == 5 and make_prompt("Cat", seed=0).seed_of({}, 7) == 0
    assert make_prompt("Cat").seed_of({"Cat": 6}, 7) == 6 and make_prompt("Cat").seed_of({}, 7) == 7
    assert odd.seed_of({odd.text: 6}, 7) == odd.seed_of({odd.name: 6, odd.text: 5}, 7) == 6


@pytest.mark.parametrize("data, words", [
    ({}, "holds no prompts"), ([], "holds no prompts"), ("Cat", "holds no prompts"), (3, "holds no prompts"),
    (None, "holds no prompts"),
    ({"prompts": ["Cat", "House"]}, r"has \"\['Cat', 'House'\]\" in the place of a prompt"),
    ([["Cat"]], "in the place of a prompt"),
    ([1], "has '1' in the place"), (["Cat", ""], "has '' in the place"), (["Cat", None], "has 'None' in the place"),
    ([{"prompt": "Cat", "seed": -1}], "'-1' is no seed: give a number from 0"),
    ([{"prompt": "Cat", "seed": True}], "no seed"), ([{"prompt": "Cat", "seed": 1.5}], "no seed"),
    ([{"prompt": "Cat", "seed": 1 << 63}], "no seed"), ([{"prompt": "Cat", "seed": "3"}], "no seed"),
    ([{"prompt": "Cat", "seed": 3}, {"prompt": "Cat", "seed": 4}], "'Cat' is the name of two prompts"),
    ({"x": {"prompt": "Cat", "name": "y"}}, "should be like"), ([{"prompt": "Cat", "sed": 3}], "should be like"),
    ([{"prompt": "a", "text": "b"}], "should be like"),
    ([{"name": "a"}], "should be like"), ([{"prompt": "a", "name": 3}], "should be like"),
    ([{"prompt": "a", "name": "x"}, {"prompt": "b", "name": "x"}], "'x' is the name of two prompts"),
    ([{"prompt": "a\u0007", "name": "x"}], r"U\+0007"),
    (b"[", "cannot be read as JSON"), (b"[" * 99_999, "nested too deep"),
    (b'{"0": "Cat", "0": "Dog"}', "'0' is there twice"),
    ('["Cat"]'.encode("utf-16"), "UTF-16 text: save it as UTF-8"),
    (b'["caf\xe9"]', "is not UTF-8 text"), (b" " * ((1 << 20) + 1), "larger than 1 MiB"),
], ids=lambda x: str(x)[:40])
def test_other_shapes_are_refused(tmp_path, data, words):
    with pytest.raises(StyleBlendError, match=words) as error:
        read(tmp_path, data)
    assert "prompt.json" in str(error.value) and "\n" not in str(error.value)


NO_FILE_NAMES = ["../cat", "a/b", "a\\b", "..", ".cat", "CON", "nul.x", "com1", "Why?", "4:3", 'a "b"', "<C>", "a|b",
                 "a*", "x" * (LONGEST + 1), "猫" * (LONGEST // 3 + 1), "Etc...", "???", "A (rabbit:1.3)", "a:b", "A:B",
                 "a?b", "a b:"]
NO_TEXTS = ["Cat\nDog", "a\0b", "\u202etac", "\ud800"]


@pytest.mark.parametrize("name", NO_FILE_NAMES + NO_TEXTS, ids=ascii)
def test_names_that_are_no_file_names(tmp_path, name):
    """A name is refused, and so is a prompt that cannot be printed."""
    for data in [[{"text": "Cat", "name": name}], *([[name]] if name in NO_TEXTS else [])]:
        with pytest.raises(StyleBlendError, match="prompt.json: .*(name: it becomes|control character)") as error:
            read(tmp_path, data)
        assert str(error.value).isprintable() and len(str(error.value)) < 500


def test_a_prompt_that_is_no_file_name_gets_one(tmp_path):
    """One that works everywhere, says what it can of the prompt, is always the same, and another for each prompt."""
    prompts = read(tmp_path, NO_FILE_NAMES)
    names = [prompt.name for prompt in prompts]
    assert [prompt.text for prompt in prompts] == [phrase_of(text) for text in NO_FILE_NAMES]
    assert all(check_name(name) == name and file_name(name) == name and is_made(name) for name in names)
    assert len({name.lower() for name in names}) == len(NO_FILE_NAMES)
    assert dict(zip(NO_FILE_NAMES, names))["A (rabbit:1.3)"] == "A (rabbit 1.3)-b15a1610"
    assert chosen_prompts(tmp_path, "Why?, A (rabbit:1.3)") == [prompts[NO_FILE_NAMES.index("Why?")],
                                                              prompts[NO_FILE_NAMES.index("A (rabbit:1.3)")]]


def test_the_same_odd_prompt_twice_is_drawn_once(tmp_path):
    assert [p.text for p in read(tmp_path, ["Why?", "why?", "Why?", "cafe\u0301?", "caf\u00e9?"])] == [
        "Why?", "why?", "caf\u00e9?"]


@pytest.mark.parametrize("choice, found", [
    ("Cat,Dog", ["Cat", "Dog"]), (" Cat ,, Dog,", [" Cat ", " Dog"]), ("", []), (" , ", []),
    ("(a, b:1.2) cat,Dog", ["(a, b:1.2) cat", "Dog"]), ("[a,b],c", ["[a,b]", "c"]), (":),:(", [":)", ":("])])
def test_commas_in_brackets_belong_to_a_prompt(choice, found):
    assert listed(choice) == found


@pytest.mark.parametrize("name", ["", " ", "cat.", "cat ", " ."])
def test_names_of_styles(name):
    with pytest.raises(StyleBlendError, match="cannot be a style or prompt name"):
        check_name(name)


@pytest.mark.parametrize("name", ["Cat", "Ice cream", "é" * (LONGEST // 2), "😀", "contact", "It's 100%",
                                  "null", "a.b", "- 1"])
def test_names_that_are_fine(name):
    assert check_name(name) == name


@pytest.mark.parametrize("pair, words", [
    (["Cat", "cat"], "'Cat' and 'cat' differ only in upper and lower case"),
    (["Ärger", "ärger"], "upper and lower case"),
    (["caf\u00e9", "cafe\u0301"], r"'caf\\xe9' and 'cafe\\u0301' differ only in their Unicode form")], ids=ascii)
def test_names_that_are_one_file_elsewhere(tmp_path, pair, words):
    with pytest.raises(StyleBlendError, match=words + ".*macOS or Windows"):
        read(tmp_path, pair)
    with pytest.raises(StyleBlendError, match="macOS or Windows"):
        read(tmp_path, {pair[0]: "A", pair[1]: "B"})
    assert len(read(tmp_path, ["Masse", "Maße"])) == 2  # two words, and two files everywhere


def test_the_prompts_option_finds_names_and_takes_others(tmp_path):
    (tmp_path / "prompt.json").write_text(json.dumps({"my-cat": "A cat: what else?", "1": "Dog"}))
    assert chosen_prompts(tmp_path, "Owl, my-cat,Owl") == [
        Prompt("Owl", "Owl"), Prompt("my-cat", "A cat: what else?", whole=True)]
    assert [p.name for p in chosen_prompts(tmp_path, "1")] == ["my-cat"]


def test_a_folder_is_found_in_either_unicode_form(tmp_path):
    (tmp_path / "cafe\u0301").mkdir()
    assert entry(tmp_path, "caf\u00e9") == tmp_path / "cafe\u0301" and entry(tmp_path, "new") == tmp_path / "new"
    inner = tmp_path / "cafe\u0301" / "\u212bland\u0301"  # in neither of the two forms
    inner.mkdir()
    assert entry(tmp_path, "caf\u00e9/\u00c5land\u0301/new") == inner / "new"
    assert entry(tmp_path, "n" * 300) == tmp_path / ("n" * 300)


# ---------------------------------------------------------------- what the text encoder is given

@pytest.fixture(scope="module")
def pipeline(tiny_base):
    return Pipeline(tiny_base)


def text_of(pipeline, phrase: str, branch: str) -> str:
    """What the text encoder reads of a phrase in a branch."""
    asked = request([phrase], [0], SamplingSettings(guidance=1), branches=(branch,))
    [[text]] = pipeline.recipe(asked).texts
    return text


@pytest.mark.parametrize("phrase", ["A <C>", "a<F>b", "<c> dog", "<\u200dC>", "<\u0000F>", "cat <|endoftext|>",
                                    "<|startoftext|>"], ids=ascii)
def test_a_prompt_cannot_hold_the_style_token(pipeline, phrase):
    """Neither written out nor by a way round.

    The tokenizer takes <c> for <C>, and characters that do not print are dropped.
    """
    with pytest.raises(StyleBlendError, match="which is put in where it belongs: leave it out"):
        text_of(pipeline, phrase, "fine")
    for negative in (dict(sampling=SamplingSettings(fine_negative=phrase)),
                     dict(sampling=SamplingSettings(), negative=phrase)):
        with pytest.raises(StyleBlendError, match="leave it out"):
            pipeline.recipe(request(["A dog"], [0], branches=("coarse", "fine"), **negative))


@pytest.mark.parametrize("phrase", ["A < C >", "<C", "a {dog}", "{prompt}", "{", "100 %s", "猫 🐈‍⬛"])
def test_other_signs_are_text(pipeline, phrase):
    text, tokenizer = text_of(pipeline, phrase, "coarse"), pipeline.tokenizer("styleblend")
    assert text == f"{phrase} in the style of <C>." == TEMPLATES["coarse"].replace("{prompt}", phrase)
    assert [i for i in tokenizer.ids(text) if i >= tokenizer.vocabulary] == [tokenizer.vocabulary]


def test_braces_of_a_template_are_text(pipeline):
    """But for the first {prompt}: a style may be called anything."""
    filled = pipeline.tokenizer("styleblend").fitted("{prompt} in the style of {x} {prompt} }{.", "A {dog}")
    assert filled == "A {dog} in the style of {x} {prompt} }{."


@pytest.mark.parametrize("phrase", ["a dog and " * 60, "猫" * 200, "x1" * 500], ids=["words", "CJK", "one word"])
def test_a_long_prompt_loses_its_end_and_not_the_style(pipeline, phrase):
    with pytest.warns(UserWarning, match="this is left out: '"):
        text = text_of(pipeline, phrase, "fine")
    assert phrase.startswith(text[:-len(" in the style of <F>.")])
    tokenizer = pipeline.tokenizer("styleblend")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ids = tokenizer.encode([text])[0]
    assert tokenizer.vocabulary + 1 in ids
    used = len(tokenizer.ids(text))
    assert 74 <= used <= 77


@pytest.mark.parametrize("placeholders, words", [
    (["cat"], "already knows the token cat"), (["<|endoftext|>"], "already knows"),
    (["<C>", "<C>"], "already knows the token <C>"), (["<C>", "<c>"], "'<c>' cannot be a placeholder beside"),
    ([""], "'' cannot be a placeholder"), ([" "], "cannot be a placeholder"), (["a b"], "cannot be a placeholder"),
    (["a\u200db"], "cannot be a placeholder"),
], ids=ascii)
def test_placeholders_that_would_not_work(tiny_folder, placeholders, words):
    with pytest.raises(StyleBlendError, match=words):
        Tokenizer(tiny_folder / "tokenizer", placeholders)


@pytest.mark.parametrize("typed, phrase", [
    ("A cat", "A cat"), (" A cat. ", "A cat"), ("A cat .", "A cat"), ("Wait...", "Wait..."), ("Wait..", "Wait.."),
    ("Wait\u2026", "Wait\u2026"), ("cafe\u0301", "caf\u00e9"), ("a/b: {c}?", "a/b: {c}?")], ids=ascii)
def test_the_phrase_that_is_drawn_of_what_was_typed(typed, phrase):
    """The same, whoever asks: a prompt with a name of its own, or the command line. A phrase stays what it is."""
    assert phrase_of(typed) == make_prompt(typed, "name").phrase() == phrase_of(phrase) == phrase


@pytest.mark.parametrize("typed", ["", " ", "\n"])
def test_an_empty_phrase_is_refused(typed):
    with pytest.raises(StyleBlendError, match="the prompt is empty"):
        phrase_of(typed)


def test_a_tokenizer_with_words_of_its_own_is_refused(tiny_base, tmp_path):
    """As a folder has it in which somebody saved a tokenizer with a learned word."""
    from dataclasses import replace
    shutil.copytree(tiny_base.folder / "tokenizer", tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "added_tokens.json").write_text('{"<sks>": 49408}')
    with pytest.raises(StyleBlendError, match="49409 tokens, the text encoder 49408"):
        replace(tiny_base, folder=tmp_path).tokenizer()


def test_a_board_with_a_bad_prompt_draws_nothing(world, tmp_path, tiny_style, monkeypatch, capsys):
    """The sentence comes before the first picture, not after twenty."""
    save_style(tmp_path / "adapters" / "dots", "dots", tiny_style)
    (tmp_path / "data" / "dots" / "prompt.json").write_text(json.dumps({"0": "Cat", "x": "a dog in the style of <F>"}))
    assert main(["test", "--config", str(world)]) == 2
    assert "holds <F>" in capsys.readouterr().err and not list(tmp_path.rglob("result/**/*.png"))


@pytest.mark.parametrize("prompt", ["a cat", "{prompt} {x}", "{promt}", "{prompt}}"])
def test_the_look_alikes_template_has_one_place_for_the_caption(prompt):
    with pytest.raises(ValueError, match="prompt"):
        LookAlikeSettings(prompt=prompt)
    assert np.all([LookAlikeSettings(prompt=p).prompt == p for p in ("{prompt}.", "a photo of {prompt}, realistic")])
