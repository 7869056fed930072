"""Moods: the list, what is heard by MusiCNN, and files that are no music."""
from itertools import product

import numpy as np
import pytest

from made_music import CUTOFFS, TEMPI, music
from reference.make_musicnn_references import RATE, clips
from sound_files import write_sound
from styleblend.context.events import Step
from styleblend.context.mood_list import MOODS, moods_in, words_in
from styleblend.context.music import hear_music, moods_of
from styleblend.context.prompt import result_of
from styleblend.errors import StyleBlendError
from styleblend.models.musicnn import MusiCNN

TAGS = MusiCNN().tags


def test_the_list_of_the_program_is_whole_and_can_be_copied_and_changed(tmp_path):
    moods = moods_in(MOODS, TAGS)
    assert len(moods) > 10 and "heavy and thunderous" in moods and words_in(MOODS) == list(moods)
    own = tmp_path / "moods.txt"
    own.write_text("# mine\n\nlike a metal show: Metal .2, hard rock 0.3\n")
    assert moods_in(own, TAGS) == {"like a metal show": [("metal", 0.2), ("hard rock", 0.3)]}


@pytest.mark.parametrize("line,said", [
    ("calm", "line 1 is no mood"), ("calm: ambient", "line 1 is no mood"), (": ambient 0.2", "line 1 is no mood"),
    ("calm: ambient 1.5", "line 1 is no mood"),
    ("so " * 30 + ": ambient 0.2", "line 1 is no mood"),
    ("calm: ambient 0.0", "line 1 is no mood"),
    ("calm: ambiant 0.2", "no tag 'ambiant', did you mean ambient?"), ("# nothing", "holds no moods")])
def test_a_wrong_line_is_named(tmp_path, line, said):
    (tmp_path / "moods.txt").write_text(line)
    with pytest.raises(StyleBlendError, match=said):
        moods_in(tmp_path / "moods.txt", TAGS)


def test_moods_are_told_from_the_strongest_on_three_at_most():
    moods = {"a": [("jazz", 0.2)], "b": [("rock", 0.5), ("pop", 0.1)], "c": [("folk", 0.1)], "d": [("soul", 0.3)],
             "e": [("punk", 0.1)]}
    heard = moods_of({"jazz": 0.3, "rock": 0.1, "pop": 0.4, "folk": 0.05, "soul": 0.9, "punk": 0.12}, moods)
    assert [(mood.words, round(mood.score, 2), mood.why) for mood in heard] == [
        ("b", 4.0, "pop 0.40"), ("d", 3.0, "soul 0.90"), ("a", 1.5, "jazz 0.30")]


@pytest.mark.parametrize("name,words,ending,codec", [("pad", "calm and dreamy", "ogg", "libopus"),
                                                     ("beat", "futuristic", "mp3", "libmp3lame")])
def test_a_file_of_music_has_a_mood(sound, tmp_path, name, words, ending, codec):
    path = write_sound(tmp_path / f"{name}.{ending}", clips()[name], RATE, codec=codec)
    reading, steps = hear_music(path), []
    while True:
        try:
            steps.append(next(reading))
        except StopIteration as end:
            heard = end.value
            break
    assert heard.moods[0].words == words and heard.moods[0].score > 1.5
    assert steps[-1] == Step("music", steps[-1].total, steps[-1].total, "part")


def test_silence_and_a_mood_that_no_list_has(sound, tmp_path):
    quiet = write_sound(tmp_path / "quiet.wav", np.zeros(RATE * 5))
    assert result_of(hear_music(quiet)) == ([], "MusiCNN", True)
    (tmp_path / "moods.txt").write_text("like a metal show: metal 0.9")
    beat = write_sound(tmp_path / "beat.wav", clips()["beat"][:RATE * 4], RATE)
    assert result_of(hear_music(beat, tmp_path / "moods.txt")) == ([], "MusiCNN", False)


# what docs/context.md says of made-up music: the strongest mood and its score, or none
MADE_UP = {"pad": [("calm and dreamy", 5.1), ("calm and dreamy", 1.1), ("calm and dreamy", 4.8), None],
           "strings": [("calm and dreamy", 3.1), ("futuristic", 1.0), ("calm and dreamy", 4.0), ("futuristic", 1.7)],
           "beat": [("futuristic", 1.2), ("futuristic", 1.5), ("futuristic", 1.4), ("futuristic", 1.6)],
           "distortion": [("calm and dreamy", 5.2), ("calm and dreamy", 1.1), ("calm and dreamy", 5.1),
                          ("futuristic", 1.0)]}


@pytest.mark.slow
@pytest.mark.parametrize("instrument", MADE_UP)
def test_made_up_music_has_the_moods_of_the_table(instrument, report):
    network, moods = MusiCNN(), moods_in(MOODS, TAGS)
    found = []
    for tempo, brightness in product(TEMPI, CUTOFFS):
        tags = np.mean(list(network.tagged(music(instrument, tempo, brightness))), axis=0).tolist()
        heard = moods_of(dict(zip(TAGS, tags)), moods)
        found.append((heard[0].words, round(heard[0].score, 1)) if heard else None)
        report(f"{instrument}, {tempo}, {brightness}: {found[-1]}")
    assert found == MADE_UP[instrument]
