"""Caption and speech in one sentence, what stands behind it, and what is cut."""
import pytest

from styleblend.context.merge import fitted, head_noun, joined, merged, phrases_of, suffixes, with_look

# caption, transcript (Whisper's begin with a space), and what the published notebook printed for them with T5
PUBLISHED = [
    ("a cat playing with a ball in the grass.", " An Egyptian cat playing with a ball.",
     "an Egyptian cat playing with a ball in the grass."),
    ("a key on a wooden surface.", " A pair of keys lying on the table in the garden.",
     "a pair of keys lying on the table in the garden."),
    ("olive tree in the field.", " An olive tree in an olive grove with some beehives around it.",
     "olive tree in an olive grove with some beehives around it."),
]


@pytest.mark.parametrize("caption,spoken,published", PUBLISHED[:2])
def test_the_rule_gives_the_published_sentence(caption, spoken, published):
    assert joined(merged(caption, spoken), []) == published


def test_the_third_published_sentence_up_to_its_article():
    caption, spoken, published = PUBLISHED[2]
    assert joined(merged(caption, spoken), []) == "an " + published


@pytest.mark.parametrize("caption,spoken,found", [
    ("a dog on a sofa", "A ship at sea.", "a dog on a sofa, a ship at sea"),
    ("a castle", "", "a castle"),
    ("", "  A castle by the sea.", "a castle by the sea"),
    ("a castle on a hill", "A castle by the sea. It is night.", "a castle by the sea on a hill. It is night"),
    ("a photo of a cat next to a box", "My cat.", "my cat next to a box"),
    ("Egyptian art", "", "Egyptian art"),
    ("a man\n\x1b[31m", "", "a man [31m"),
])
def test_merged(caption, spoken, found):
    assert merged(caption, spoken) == found


@pytest.mark.parametrize("phrase,noun", [
    ("a cat playing with a ball", "cat"), ("A pair of keys lying on the table", "key"), ("three flying birds", "bird"),
    ("a picture of two old churches in the snow", "church"), ("glass", "glass"), ("ladies, and gentlemen", "lady"),
    ("A very tall skyscraper.", "skyscraper"), ("in the garden", ""), ("", "")])
def test_head_noun(phrase, noun):
    assert head_noun(phrase) == noun


def test_phrases_begin_with_a_preposition_and_lose_the_verb_of_the_next():
    assert phrases_of("a man on a horse riding in the sand of a desert.") == [
        ("on", "on a horse"), ("in", "in the sand of a desert")]


def test_mood_and_weather_stand_behind_in_sentences():
    assert joined("a castle", suffixes("heavy and thunderous", "partly cloudy")) == \
        "a castle. The atmosphere is heavy and thunderous. The weather is partly cloudy."
    assert joined("", suffixes(None, "clear")) == "The weather is clear."
    assert with_look("a cat", "watercolor.") == "a cat, watercolor"


def count(text):
    return len(text.split()) + 2


def test_a_long_prompt_loses_clauses_from_its_end_and_keeps_the_weather():
    body, behind = ", ".join(f"a tower of stone number {n}" for n in range(30)), suffixes("calm", "foggy")
    cut = fitted(body, behind, count)
    assert count(cut.prompt) <= 77 and cut.prompt.endswith(". The atmosphere is calm. The weather is foggy.")
    assert cut.prompt.startswith("a tower of stone number 0, ") and cut.lost.startswith("a tower of stone number ")
    kept = cut.prompt.split(". The atmosphere")[0]
    assert f"{kept}, {cut.lost}" == body


def test_one_endless_clause_loses_words():
    cut = fitted("a " + "very " * 100 + "tall tower", [], count)
    assert count(cut.prompt) == 77 and cut.lost.endswith("tall tower")


def test_what_fits_is_not_touched():
    assert fitted("a castle, by the sea", [], count) == ("a castle, by the sea.", "")
