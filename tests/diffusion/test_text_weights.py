"""Emphasis in a prompt, from the text to the text states and the picture."""
from __future__ import annotations

import warnings

import numpy as np
import pytest

from drawing import pictures, request
from styleblend.base.tokens import Tokenizer
from styleblend.diffusion.text_weights import weighted
from styleblend.errors import StyleBlendError
from styleblend.machine.runtime import jt
from styleblend.pipeline import Pipeline
from styleblend.settings import SamplingSettings

SAMPLING = SamplingSettings(steps=2, width=64, height=64, guidance=3.0, saved_size=None, fine_negative="")


@pytest.fixture(scope="module")
def pipeline(tiny_base):
    return Pipeline(tiny_base)


@pytest.fixture(scope="module")
def tokenizer(tiny_folder):
    return Tokenizer(tiny_folder / "tokenizer", ["<C>", "<F>"])


def by_hand(states: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`weighted` as a loop: each token's state times its weight, then the mean of the text as it was."""
    found = np.empty_like(states, dtype=np.float64)
    for n in range(states.shape[0]):
        for token in range(states.shape[1]):
            for i in range(states.shape[2]):
                found[n, token, i] = float(states[n, token, i]) * float(weights[n, token])
        found[n] *= states[n].astype(np.float64).mean() / found[n].mean()
    return found


def test_states_against_a_loop():
    rng = np.random.default_rng(0)
    states = rng.standard_normal((3, 77, 5)).astype(np.float32) + np.float32(0.3)
    weights = np.ones((3, 77), np.float32)
    weights[0, 2:5], weights[2, 1], weights[2, 7:9] = 1.3, 0, -0.5
    found = weighted(jt.array(states), weights).numpy()
    np.testing.assert_allclose(found, by_hand(states, weights), rtol=2e-5, atol=1e-6)
    assert (found[1] == states[1]).all() and weighted(jt.array(states), np.ones_like(weights)).numpy().tobytes() == (
        states.tobytes())


def test_states_in_half_precision():
    states = np.random.default_rng(0).standard_normal((1, 77, 5)).astype(np.float32) + np.float32(0.3)
    weights = np.where(np.arange(77) == 3, 1.4, 1.0)[None].astype(np.float32)
    found = weighted(jt.array(states).float16(), weights)
    assert str(found.dtype) == "float16"
    np.testing.assert_allclose(found.float32().numpy(), by_hand(states, weights), rtol=5e-3, atol=5e-3)


def test_the_words_of_a_fragment_have_its_weight(tokenizer):
    ids, weights = tokenizer.read(["A (red cat:1.3) in [a box] in the style of <F>.", "A red cat"])
    plain = tokenizer.encode(["A red cat in a box in the style of <F>.", "A red cat"])
    assert ids.shape == weights.shape == (2, 1, 77) and (ids[:, 0] == plain).all()
    expected = np.ones((2, 77), np.float32)
    expected[0, 2:4], expected[0, 5:7] = 1.3, np.float32(1 / 1.1)
    assert (weights[:, 0] == expected).all()


def test_a_text_without_signs_is_read_as_ever(tokenizer):
    texts = ["", "A cat", "  two  cats ,  4:3! ", "a <C> b", "猫 🐈‍⬛ café", "x" * 70, "{a} / b\\c <3"]
    ids, weights = tokenizer.read(texts)
    assert (ids[:, 0] == tokenizer.encode(texts)).all() and (weights == 1).all()


def test_break_makes_several_texts_and_the_others_are_repeated(tokenizer):
    """Keys that are there several times weigh what they weigh once, so no picture depends on those beside it."""
    ids, weights = tokenizer.read(["a cat BREAK (a dog:1.2)", "", "one BREAK two BREAK three"])
    assert ids.shape == (3, 6, 77)
    cat, dog, empty, one, two, three = tokenizer.encode(["a cat", "a dog", "", "one", "two", "three"])
    for row, expected in zip(ids, ([cat, dog] * 3, [empty] * 6, [one, two, three] * 2)):
        assert (row == expected).all()
    assert (weights[0, 1::2, 1:3] == np.float32(1.2)).all() and (weights[1:] == 1).all()


@pytest.mark.parametrize("prompt, text", [
    ("(a dog:1.3) and (" + "a cat and " * 60 + ":0.5)", "(a dog:1.3) and (a cat and a cat"),
    ("a cat " * 40 + "BREAK a dog", " BREAK  a dog in the style of <F>.")])
def test_a_long_prompt_keeps_its_signs_and_the_style(pipeline, prompt, text):
    """What is left out is the end of the text that is too long."""
    tokenizer = pipeline.tokenizer("styleblend")
    with pytest.warns(UserWarning, match="this is left out: '"):
        fitted = tokenizer.fitted("{prompt} in the style of <F>.", prompt)
    assert text in fitted and fitted.count(" in the style of <F>.") == 1 + prompt.count("BREAK")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ids, _ = tokenizer.read([fitted])
    assert (ids == tokenizer.vocabulary + 1).sum() == ids.shape[1]


def test_brackets_of_a_caption_are_text(pipeline):
    """A training reads what its pictures' names say."""
    caption = r"A cat (old) [1|2] BREAK \(x\) AND <lora:x:1>"
    assert pipeline.tokenizer("styleblend").fitted_caption("{prompt}, (realistic) {x}.", caption) == (
        f"{caption}, (realistic) {{x}}.")


@pytest.mark.parametrize("phrase", ["<[]C>", "(<F>:1.2)", "a BREAK <c>", "<|endof[]text|>"])
def test_signs_are_no_way_round_to_the_style_tokens(pipeline, phrase):
    with pytest.raises(StyleBlendError, match="which is put in where it belongs: leave it out"):
        pipeline.recipe(request([phrase], [0], SAMPLING))


@pytest.fixture(scope="module")
def drawn(pipeline, tiny_style):
    """What one prompt draws in the style, as a function."""
    return lambda *prompts, **more: pictures(pipeline, request(
        prompts, [3] * len(prompts), SAMPLING.model_copy(update=more), tiny_style))


def test_a_picture_follows_its_signs(drawn):
    """One without draws what it always drew; weights, BREAK and a weighted negative prompt draw others."""
    plain = drawn("A cat on a boat")[0]
    assert (plain == drawn("A cat on a boat")[0]).all() and (plain == drawn("A cat (on a:1) boat")[0]).all()
    others = [drawn(prompt)[0] for prompt in ("A (cat:3) on a boat", "A [[[[cat]]]] on a boat", "A cat BREAK on a boat",
                                              r"A \(cat\) on a boat")]
    others.append(drawn("A cat on a boat", fine_negative="(dog:3)")[0])
    others.append(drawn("A cat on a boat", fine_negative="dog")[0])
    assert len({picture.tobytes() for picture in [plain, *others]}) == 7
    together = drawn("A cat on a boat", "A (cat:3) on a boat", "A cat BREAK on a boat")
    for one, alone in zip(together, (plain, others[0], others[2])):
        assert np.abs(one.astype(int) - alone).max() <= 1


def test_a_prompt_in_another_script_is_remarked_on_once(tiny_base):
    pipeline = Pipeline(tiny_base)
    with pytest.warns(UserWarning, match="'一只兔子' is written in Chinese, .* translate it into English") as said:
        for prompts in (["A cat", "一只兔子"], ["Кролик"]):
            pipeline.recipe(pipeline.request(*prompts, steps=1, width=64, height=64))
    assert len(said) == 1
