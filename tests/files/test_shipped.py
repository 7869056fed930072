"""What comes with the program is found from every folder, behind one's own; nothing is written to it."""
from __future__ import annotations

from pathlib import Path

import pytest

from styleblend.errors import StyleBlendError, did_you_mean, nearest
from styleblend.files.project import make_project
from styleblend.files.shipped import adapters_of, config_names, data_of, find_config, own_or_shipped, places
from styleblend.files.shipped import shipped_folder, style_folders
from styleblend.settings import read_settings

STYLES, DATA = "checkpoints/mini/styles", "data/mini"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(path: str, text: str = "x") -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


# ---------------------------------------------------------------- paths

def test_one_s_own_comes_before_what_is_shipped(here):
    base = "checkpoints/mini/base"
    assert own_or_shipped(base) == shipped_folder() / base
    Path(base).mkdir(parents=True)
    assert own_or_shipped(base) == Path(base)
    assert own_or_shipped("nowhere/at/all") == Path("nowhere/at/all")


@pytest.mark.parametrize("path", ["/data/mini", "../data/mini", "data/../data/mini"])
def test_only_paths_below_the_current_folder_have_a_shipped_one(here, path):
    assert places(path) == [Path(path)]


def test_where_the_current_folder_is_the_clone_there_is_one_place(monkeypatch):
    monkeypatch.chdir(shipped_folder())
    assert places(DATA) == [Path(DATA)] and adapters_of(STYLES, "fxemoji") == Path(STYLES) / "fxemoji"


def test_styles_of_both_places_are_listed(here):
    make(f"{DATA}/mine/images/cat.png")
    make(f"{DATA}/.hidden/prompt.json")
    assert {"mine", "fxemoji"} <= set(style_folders(DATA)) and ".hidden" not in style_folders(DATA)
    assert data_of(DATA, "mine") == Path(DATA) / "mine"
    assert data_of(DATA, "fxemoji") == shipped_folder() / DATA / "fxemoji"
    assert data_of(DATA, "nothing") == Path(DATA) / "nothing"


@pytest.mark.parametrize("file, own", [("training/lora/step-000002.safetensors", False), ("tuning/tuning.json", False),
                                       (".fxemoji.tmp", False), ("load.lock", False),
                                       ("fxemoji_unet_lora.safetensors", True), ("style.json", True)])
def test_a_style_is_one_s_own_once_there_is_a_file_of_it(here, file, own):
    """States of a training of a shipped style do not hide the style."""
    make(f"{STYLES}/fxemoji/{file}")
    assert adapters_of(STYLES, "fxemoji") == (Path(STYLES) if own else shipped_folder() / STYLES) / "fxemoji"


# ---------------------------------------------------------------- configs

@pytest.mark.parametrize("text", ["mini", "configs/mini.yaml", "mini.yaml"])
def test_a_shipped_config_by_its_name_or_its_path(here, text):
    assert find_config(text) == shipped_folder() / "configs" / "mini.yaml"
    settings = read_settings(text)
    assert Path(settings.base) == shipped_folder() / "checkpoints" / "mini" / "base" and settings.adapters == STYLES


@pytest.mark.parametrize("file", ["configs/mini.yaml", "mini.yaml"])
def test_a_config_of_one_s_own_comes_first(here, file):
    make("mini", "a file that is no config")
    assert find_config("mini") != Path("mini")
    assert find_config(make(file)) == Path(file) and find_config("mini") == Path(file)


def test_a_config_may_have_any_ending(here):
    make("settings.txt")
    make("settings")
    assert find_config("settings.txt") == Path("settings.txt") and find_config("settings") == Path("settings")


@pytest.mark.parametrize("text, words", [("minni", "did you mean mini"), ("sd21.yml", "did you mean sd21"),
                                         ("/nowhere/mini.yaml", "did you mean mini"), ("", "there are mini, sd21"),
                                         ("mine2", "did you mean mine")])
def test_a_config_that_is_not_there(here, text, words):
    make("configs/mine.yaml")
    assert config_names() == ["mine", "mini", "sd21", "sd21-encoder"]
    with pytest.raises(StyleBlendError, match="does not exist") as caught:
        find_config(text)
    assert words in str(caught.value).replace("there are mine, ", "there are ")


# ---------------------------------------------------------------- a project folder

def test_a_project_folder_is_made_once(here):
    config, *folders = make_project(Path("work"), "mini")
    assert config.read_bytes() == (shipped_folder() / config.relative_to("work")).read_bytes()
    assert folders == [Path("work") / DATA, Path("work") / STYLES] and all(path.is_dir() for path in folders)
    config.write_text("changed")
    with pytest.raises(StyleBlendError, match="there already"):
        make_project(Path("work"), "mini")
    assert config.read_text() == "changed"
    assert make_project(Path("work"), "sd21")[1:] == [Path("work/data/B"), Path("work/checkpoints/B")]


def test_a_folder_with_other_things_in_it_keeps_them(here):
    kept = make(f"{DATA}/mine/images/cat.png", "picture")
    make_project(Path("."), "mini")
    assert kept.read_text() == "picture" and Path("configs/mini.yaml").is_file()


@pytest.mark.parametrize("name, words", [("mimi", "did you mean mini"), ("../configs/mini", "there are mini")])
def test_a_project_of_no_shipped_config(here, name, words):
    with pytest.raises(StyleBlendError, match=words):
        make_project(Path("work"), name)
    assert not Path("work").exists()


def test_a_file_in_the_place_of_a_folder(here):
    make("data", "a file")
    with pytest.raises(StyleBlendError, match="data.*could not be written"):
        make_project(Path("."), "mini")
    assert not Path("configs").exists()


# ---------------------------------------------------------------- names near by

@pytest.mark.parametrize("name, known, found", [
    ("fxemojy", ["emojione", "fxemoji"], "fxemoji"), ("FXEMOJI", ["fxemoji"], "fxemoji"),
    ("mono", ["emojione-monotone", "fluent"], "emojione-monotone"), ("xyz", ["fxemoji"], None), ("", ["a"], None),
    ("x", [], None)])
def test_the_nearest_name(name, known, found):
    assert nearest(name, known) == found


def test_a_long_list_is_cut_and_counted():
    said = did_you_mean("style-x", [f"style-{i:03}" for i in range(200)])
    assert len(said) < 190 and said.startswith("did you mean style-") and said.endswith("more")
    assert did_you_mean("cat", []) == "there are none"
    assert did_you_mean("zzz", ["a" * 300]) == f"there are {'a' * 300}"
