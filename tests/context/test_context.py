"""A prompt of several media, from the command line and from Python, to a picture that says where it came from."""
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from sentences import FOLDER
from styleblend import context
from styleblend.cli import main
from styleblend.context.prompt import read_context
from styleblend.errors import StyleBlendError
from styleblend.record import read_record
from styleblend.settings import Source

ROOT = Path(__file__).parents[2]
RAIN = Source(kind="weather", given="light rain", text="light rain", source="typed by hand")


@pytest.fixture
def ask(capsys):
    """Runs a command; its exit code, what it printed, and what it said beside that."""
    def run(*command):
        code = main([str(word) for word in command])
        said = capsys.readouterr()
        return code, said.out, said.err
    return run


@pytest.fixture
def written(tmp_path, ask):
    """A context in a file."""
    path = tmp_path / "context.json"
    path.write_text(ask("context", "--weather", "light rain", "--look", "a castle (old)", "--json")[1])
    return path


def test_castle_by_the_sea_in_the_rain(speech_model, ask, tmp_path):
    """A drawn picture, a voice and the weather become a prompt, the prompt a picture, and the picture says all that."""
    castle, picture = tmp_path / "castle.png", tmp_path / "rainy.png"
    assert ask("draw", "--prompt", "A castle", "--style", "openmoji-black", "--output", castle)[0] == 0
    code, out, err = ask("draw", "--image", castle, "--speech", FOLDER / "castle.ogg", "--weather", "light rain",
                         "--steps", 2, "--output", picture)
    assert code == 0 and out.strip() == str(picture), err
    record = read_record(picture)
    words = record.prompt.lower().replace(".", " ").replace(",", " ").split()
    assert [words.count(word) for word in ("castle", "sea", "rain")] == [1, 1, 1], record.prompt
    assert [one.kind for one in record.sources] == ["image", "speech", "weather"]
    assert record.sources[0].given == str(castle) and "castle" in record.sources[0].text
    assert record.sources[1].text.lower() == "a castle by the sea." and record.sources[2] == RAIN
    assert f"the prompt: {record.prompt}" in err and all(one.text in err for one in record.sources)
    again = tmp_path / "again.png"
    assert ask("draw", "--from", picture, "--output", again)[0] == 0
    assert read_record(again).sources == record.sources
    assert Image.open(again).tobytes() == Image.open(picture).tobytes()
    other = tmp_path / "other.png"
    assert ask("draw", "--from", picture, "--prompt", "A cat", "--output", other)[0] == 0
    assert read_record(other).sources == ()


def test_the_command_prints_the_prompt_alone_and_says_the_sources_beside_it(ask):
    code, out, err = ask("context", "--weather", "light rain", "--look", "watercolor")
    assert (code, out) == (0, "watercolor. The weather is light rain.\n")
    assert "styleblend: weather light rain: 'light rain' (typed by hand)" in err


def test_a_context_in_a_file_is_the_same_one(written):
    made = context.describe(weather="light rain", look="a castle (old)")
    assert read_context(written) == made
    assert made.prompt == r"a castle \(old\). The weather is light rain."  # its brackets are text, not weights
    assert [one.kind for one in made.sources] == ["look", "weather"]


def test_all_that_draws_takes_it(written, trained, ask, tmp_path):
    common = ["--config", trained, "--context", written]
    assert ask("align", *common, "--prompts", "A dog", "--output", tmp_path / "set")[0] == 0
    assert ask("board", *common, "--styles", "dots")[0] == 0
    assert ask("transfer", *common, "--style", "dots", "--content", tmp_path / "data" / "dots" / "images" / "boat.png",
               "--output", tmp_path / "anew")[0] == 0
    folders = tmp_path / "set", tmp_path / "result" / "dots", tmp_path / "anew"
    records = [read_record(path) for folder in folders for path in folder.glob("*.png") if path.name != "sheet.png"]
    made = [record for record in records if record.sources]
    assert len(records) == 4 and [one.prompt for one in records if not one.sources] == ["A dog"]
    assert {record.prompt for record in made} == {r"a castle \(old\). The weather is light rain"}
    assert all(record.sources[-1] == RAIN for record in made) and len(made) == 3


@pytest.mark.parametrize("command,said", [
    (["context"], "give --image, --speech, --music or --weather"),
    (["context", "--look", "ink"], "give --image, --speech, --music or --weather"),
    (["context", "--weather", "rain", "--language", "en"], "--language has no effect without --speech"),
    (["context", "--weather", "rain", "--moods", "a.txt"], "--moods has no effect without --music"),
    (["context", "--weather", "rain", "--music-model", "musicnn"], "--music-model has no effect without --music"),
    (["context", "--weather", "rain", "--summary"], "--summary has no effect"),
    (["context", "--speech", "missing.wav"], "missing.wav does not exist"),
    (["context", "--music", "missing.ogg"], "missing.ogg does not exist"),
    (["draw", "--prompt", "A cat", "--weather", "rain"], "there are two prompts: leave --prompt out, or --weather"),
    (["board", "--prompts", "Cat", "--context", "a.json"], "there are two prompts: leave --prompts out, or --context"),
    (["draw", "--context", "a.json", "--weather", "rain"], "--weather has no effect beside --context"),
    (["draw", "--context", "missing.json"], "missing.json cannot be read"),
    (["align", "--look", "ink"], 'give --prompts "A toy train'),
])
def test_what_cannot_be_is_one_sentence(sound, ask, command, said):
    code, out, err = ask(*command)
    assert (code, out) == (2, "") and said in err and len(err.splitlines()) <= 2, err


@pytest.mark.parametrize("content", ["[]", "{}", '{"prompt": "", "sources": []}', '{"prompt": "x"}',
                                     '{"prompt": "x", "sources": [{"kind": "a"}]}', "x"])
def test_a_file_that_is_no_context(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(StyleBlendError, match="a.json"):
        read_context(tmp_path / "a.json")


def test_a_long_prompt_is_cut_with_a_sentence(ask):
    code, out, err = ask("context", "--weather", "light rain", "--look", ", ".join(["a castle of old grey stone"] * 15))
    assert code == 0 and out.endswith("stone. The weather is light rain.\n")
    assert "has more than 77 tokens, left out: a castle of old grey stone" in err


WITHOUT = """
import sys
for name in ("av", "faster_whisper", "ctranslate2", "jittor", "jittor_utils"):
    sys.modules[name] = None
import importlib.util
there = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "faster_whisper" else there(name, package)
from styleblend.cli import main
print([main(command.split()) for command in sys.argv[1:]])
"""


def test_without_the_extra_and_without_jittor():
    """Typed weather works; speech and music say what to install."""
    music, speech = f"context --music {FOLDER}/castle.ogg", f"context --speech {FOLDER}/castle.ogg"
    run = subprocess.run([sys.executable, "-c", WITHOUT, "context --weather rain", music, speech], cwd=ROOT,
                         capture_output=True, text=True)
    assert run.stdout.splitlines() == ["The weather is rain.", "[0, 2, 2]"], run.stderr
    assert run.stderr.count('type pip install "styleblend-jittor[context]"') == 2


def test_nothing_of_it_is_imported_otherwise():
    code = ("import sys, styleblend.cli.parser, styleblend.jobs.draw, styleblend.pipeline\n"
            "styleblend.cli.parser.build_parser()\n"
            "print([name for name in sys.modules if name.split('.')[0] in ('av', 'faster_whisper', 'ctranslate2') "
            "or name.startswith('styleblend.context')])")
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_context_file_is_json_that_others_can_read(written):
    said = json.loads(written.read_text())
    assert set(said) == {"prompt", "sources"} and set(said["sources"][0]) == {"kind", "given", "text", "source"}
