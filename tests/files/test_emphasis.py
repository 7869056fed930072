"""The signs of A1111's prompts: which words get which weight, where a text ends, and what is refused by name."""
from __future__ import annotations

import pytest
from hypothesis import given, strategies

from styleblend.errors import StyleBlendError
from styleblend.files.emphasis import escaped, parsed, spoken, written
from styleblend.files.prompts import make_prompt, phrase_of


def weights(prompt: str) -> list:
    """[(text, weight)] of a prompt of one chunk."""
    [chunk] = parsed(prompt)
    return [(text, pytest.approx(weight)) for text, weight in chunk]


@pytest.mark.parametrize("prompt, expected", [
    ("a red cat", [("a red cat", 1)]), ("", []),
    ("a (cat)", [("a ", 1), ("cat", 1.1)]), ("((cat))", [("cat", 1.21)]),
    ("(a (cat) b)", [("a ", 1.1), ("cat", 1.21), (" b", 1.1)]),
    ("[cat]", [("cat", 1 / 1.1)]), ("[[cat]]", [("cat", 1 / 1.21)]), ("([cat])", [("cat", 1)]),
    ("a (cat:1.3) b", [("a ", 1), ("cat", 1.3), (" b", 1)]), ("(cat: .5 )", [("cat", 0.5)]), ("(cat:2)", [("cat", 2)]),
    ("(cat:-0.5)", [("cat", -0.5)]), ("(cat:0)", [("cat", 0)]), ("(a (cat:1.5):1.2)", [("a ", 1.2), ("cat", 1.8)]),
    ("((cat:1.3))", [("cat", 1.43)]), ("(cat:1)", [("cat", 1)]), ("a (cat:1) b", [("a cat b", 1)]),
    # what is not closed ends with the prompt, and what was not opened is text
    ("a (cat", [("a ", 1), ("cat", 1.1)]), ("a [cat", [("a ", 1), ("cat", 1 / 1.1)]), ("cat)", [("cat)", 1)]),
    ("cat]", [("cat]", 1)]), ("cat :1.3)", [("cat :1.3)", 1)]), ("(cat]", [("cat]", 1.1)]), (":-)", [(":-)", 1)]),
    # a backslash makes text of a sign
    (r"cat \(drawing\)", [("cat (drawing)", 1)]), (r"(cat \(old\):1.2)", [("cat (old)", 1.2)]),
    (r"\[a\]", [("[a]", 1)]),
    (r"a \\ b", [("a \\ b", 1)]), (r"a \b", [(r"a \b", 1)]), (r"coffee \BREAK", [("coffee BREAK", 1)]),
    (r"salt \AND pepper", [("salt AND pepper", 1)]), (r"\<lora:x:1>", [("<lora:x:1>", 1)]),
    # these are no weights
    ("(4:3)", [("4", 3)]), ("(a:b)", [("a:b", 1.1)]), ("(a: 1,3)", [("a: 1,3", 1.1)]),
    ("ratio 4:3", [("ratio 4:3", 1)]), ("[a: b]", [("a: b", 1 / 1.1)]), ("I <3 cats", [("I <3 cats", 1)]),
    ("x <y", [("x <y", 1)]),
    ("a BREAKFAST", [("a BREAKFAST", 1)]), ("a break", [("a break", 1)]), ("SALT AND PEPPER", [("SALT AND PEPPER", 1)]),
    ("a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",  # the example that A1111's users know
     [("a ", 1), ("house", 1.573), (" ", 1.1), ("on", 1), (" a ", 1.1), ("hill", 0.55), (", sun, ", 1.1),
      ("sky", 1.4641), (".", 1.1)])])
def test_weights(prompt, expected):
    assert weights(prompt) == expected


@pytest.mark.parametrize("prompt, texts", [
    ("a BREAK b", ["a ", " b"]), ("a\nBREAK\nb BREAK c", ["a\n", "\nb ", " c"]),
    ("BREAK a BREAK BREAK b BREAK", [" a ", " b "]),
    ("(a BREAK b:1.3)", ["a ", " b"]), ("BREAK", [""]), ("a, BREAK, b", ["a, ", ", b"])])
def test_break_begins_another_text(prompt, texts):
    chunks = parsed(prompt)
    assert ["".join(fragment.text for fragment in chunk) for chunk in chunks] == texts
    assert "1.3" not in prompt or {fragment.weight for chunk in chunks for fragment in chunk} == {1.3}


REFUSED = [
    ("A rabbit <lora:ink:0.8>", "holds '<lora:ink:0.8>', which is not read here: .*styleblend load.*--style"),
    ("<lyco:x>", "<lyco:x>"), ("<hypernet:x:1>", "<hypernet:x:1>"), ("a <LoRA:my ink (2):1>", "LoRA:my ink"),
    ("a <lora:ink:0.8", "<lora:ink:0.8"), ("a <wildcard:animals>", "<wildcard:animals>"),
    ("a [cat:dog:0.5]", r"holds \[cat:dog:0.5\], and prompts that change"), ("[cat:0.5]", "change from step to step"),
    ("[cat::5]", "change from step to step"), ("[cat|dog] in a box", "change from step to step"),
    ("a cat AND a dog", "holds AND"), ("(a:1000)", "a weight beyond 100"),
    ("a (cat:1e9)", "a weight beyond 100"), ("((a:0):1e999)", "a weight beyond 100"),
    ("(" * 60 + "a", "a weight beyond 100"),
    (" BREAK ".join("abcde"), "BREAK between 5 texts, more than 4")]


@pytest.mark.parametrize("prompt, words", REFUSED, ids=lambda x: x[:20])
def test_what_is_not_read_is_refused_by_name(prompt, words):
    """Wherever it is typed, before anything is loaded; a caption may say it."""
    for ask in (parsed, phrase_of, make_prompt, lambda text: make_prompt(text, "name")):
        with pytest.raises(StyleBlendError, match=words) as error:
            ask(prompt)
        assert len(str(error.value)) < 240
    assert spoken(escaped(prompt)) == spoken(prompt) == prompt


@pytest.mark.parametrize("prompt", ["()", "[[]]", "BREAK", "(:1.2)"])
def test_signs_alone_are_no_prompt(prompt):
    with pytest.raises(StyleBlendError, match="holds signs and no words"):
        phrase_of(prompt)


SIGNS = strategies.lists(strategies.sampled_from(["a", " ", "cat", "(", ")", "[", "]", "\\", ":", "1.3", ":1.2)",
                                                  "<", ">", "lora:", "BREAK", "AND", "|"]), max_size=12).map("".join)


@given(SIGNS)
def test_any_text_can_be_said(text):
    assert spoken(escaped(text)) == text


@given(SIGNS)
def test_a_chunk_can_be_written_down(text):
    """So that a prompt that is too long can lose its end and keep its weights."""
    try:
        chunks = parsed(text)
    except StyleBlendError:
        return
    assert [parsed(written(chunk)) for chunk in chunks if chunk] == [(chunk,) for chunk in chunks if chunk]
