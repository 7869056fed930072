"""Mixes of styles by stage: what a text says, what is wrong with it, and whose tokens come out."""
import numpy as np
import pytest

from styleblend.adapters.mixes import is_mix, mixed, names_in, parse_mix, refuse_gaps
from styleblend.adapters.stage_tokens import by_stage, stage_token
from styleblend.errors import StyleBlendError


def rows(number, stages=6):
    return {stage_token(k): np.full(4, 10 * number + k, np.float32) for k in range(stages)}


STYLES = {"ink": rows(1), "wax": rows(2), "oil": rows(3)}


def values(text):
    """Of each stage the first number of each of its vectors, in the order of the prompt."""
    found = mixed(text, {name: STYLES[name] for name in names_in(text)})
    return [[int(found[token][0]) for token in stage] for stage in by_stage(found)]


def test_stages_are_taken_from_their_styles():
    assert values("ink:0-2,wax:3-5") == [[10], [11], [12], [23], [24], [25]]
    assert values("wax:3-5,ink:0-2") == values("ink:0-2,wax:3-5")
    assert values("ink:0,wax:1-4,oil:5") == [[10], [21], [22], [23], [24], [35]]


def test_styles_in_one_prompt_stand_in_the_order_given():
    assert values("wax+ink:0-5") == [[20 + k, 10 + k] for k in range(6)]
    assert values("ink+wax+oil:0-1,ink:2-5") == [[10, 20, 30], [11, 21, 31], [12], [13], [14], [15]]


def test_a_mix_of_one_style_is_that_style():
    for text in ("ink:0-5", "ink", "ink:0-2,ink:3-5"):
        found = mixed(text, {"ink": STYLES["ink"]})
        assert list(found) == list(STYLES["ink"])
        assert all(np.array_equal(found[token], STYLES["ink"][token]) for token in found)


def test_no_name_of_a_style_is_a_mix():
    assert is_mix("ink:0-2,wax:3-5") and not is_mix("ink+wax") and not is_mix("00")


@pytest.mark.parametrize("text, words", [
    ("ink:0-2,wax:4-5", "leaves stage 3 without a style"),
    ("ink:0-3,wax:3-5", "names stage 3 twice, for ink and for wax"),
    ("ink,wax", "names stage 0 twice, for ink and for wax: give it once, or both in one prompt as ink+wax:0"),
    ("ink:0-6", "ink has no stage 6: its stages are 0 to 5"),
    ("ink:2-0,wax:3-5", "the stages 2-0 of ink go backwards: write 0-2"),
    ("ink:a", "is not like ink:0-2,wax:3-5"),
    ("ink:", "is not like"),
    (":0-5", "is not like"),
    ("", "is not like"),
    ("ink:0-2,,wax:3-5", "is not like"),
    ("ink+ink:0-5", "names ink twice for the same stages"),
    ("a/b:0-5", "it holds /"),
])
def test_a_mix_that_cannot_be(text, words):
    with pytest.raises(StyleBlendError) as caught:
        refuse_gaps(parse_mix(text), 6)
    assert words in str(caught.value) and "\n" not in str(caught.value)
