"""Folders of pictures as people have them: flat, kohya's, with sub-folders, elsewhere; and names that say nothing."""
from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from styleblend.errors import StyleBlendError
from styleblend.files.captions import read_pictures, refuse_nameless, style_names, style_pictures
from styleblend.files.layouts import point
from styleblend.files.nameless import says_nothing
from styleblend.files.prompts import style_prompts

FIELD = Path(os.environ.get("STYLEBLEND_GOLDEN", "nowhere")).parent / "field" / "data"


def made(folder: Path, files) -> Path:
    """A folder with these files: pictures, or texts that say their own name."""
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.lower().endswith((".png", ".jpg")):
            Image.new("RGB", (8, 8)).save(folder / name, "PNG")
        else:
            (folder / name).write_text(f"what {Path(name).name} says")
    return folder


LAYOUTS = {  # what is there -> the phrases, what is made of the pictures is called, and the line
    "as documented": (["images/red_apple.png", "images/boat.png"], {"A boat": "boat", "A red apple": "red_apple"},
                      "2 pictures, told by their names"),
    "flat": (["boat.png", "red_apple.PNG", "prompt.json"], {"A boat": "boat", "A red apple": "red_apple"},
             "2 pictures, told by their names"),
    "kohya": (["images/10_ink/boat.png", "images/10_ink/owl.png"], {"A boat": "boat", "An owl": "owl"},
              "2 pictures (2 in 10_ink/), told by their names; kohya's repeats in names of folders do not count"),
    "kohya's project": (["img/10_ink/boat.png", "img/10_ink/boat.caption", "reg/1_art/owl.png", "log/x.log"],
                        {"what boat.caption says": "boat"},
                        "1 picture (1 in img/10_ink/), told by captions; kohya's repeats in names of folders do not "
                        "count; left out: reg/, which is for pictures that are not of the style, log/x.log"),
    "sub-folders": (["images/boat.png", "images/more/x.png", "images/more/b/owl.png"],
                    {"A boat": "boat", "An owl": "owl", "A x": "x"},
                    "3 pictures (1 in more/b/, 1 in more/), told by their names"),
    "one name in two folders": (["a/1.png", "a/1.txt", "b/1.png", "b/1.caption"],
                                {"what 1.txt says": "a-1", "what 1.caption says": "b-1"},
                                "2 pictures (1 in a/, 1 in b/), told by captions"),
    "two kinds of captions": (["images/boat.png", "images/boat.txt", "images/boat.caption", "images/owl.png",
                               "images/owl.CAPTION"], {"what boat.txt says": "boat", "what owl.CAPTION says": "owl"},
                              "2 pictures, told by captions; left out: boat.caption, since there is another caption"),
    "beside images": (["images/boat.png", "owl.png", "notes.md"], {"A boat": "boat"},
                      "1 picture, told by their names; left out: owl.png, which is beside images/"),
    "an empty images folder": (["images/.keep", "owl.png"], {"An owl": "owl"}, "1 picture, told by their names"),
    "what systems leave": (["images/boat.png", "images/.DS_Store", "images/.thumbs/boat.png", "images/Thumbs.db"],
                           {"A boat": "boat"}, "1 picture, told by their names"),
    "many other files": (["boat.png", "a.md", "b.csv", "c.yaml", "d.log"], {"A boat": "boat"},
                         "1 picture, told by their names; left out: a.md, b.csv, c.yaml and 1 more")}


@pytest.mark.parametrize("files, phrases, line", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(tmp_path, files, phrases, line):
    found = read_pictures(made(tmp_path / "ink", files))
    assert {p.phrase: p.name for p in found.pictures} == phrases and found.summary() == line


@pytest.mark.parametrize("files, words", [
    ([], "has no pictures: put 3 to 10 into"), (["images/a.txt"], "has no pictures"),
    (["a/b-c.png", "a-b/c.png", "c.png", "b-c.png"], "differ only in their endings"),
    (["a/x.png", "b/X.png"], "differ only in upper and lower case"),
    (["more/boat.heic"], "boat.heic cannot be read here"),
    (["images/a.png", "images/a.jpg"], "differ only in their endings")])
def test_layouts_that_are_refused(tmp_path, files, words):
    (tmp_path / "ink").mkdir()
    with pytest.raises(StyleBlendError, match=words):
        read_pictures(made(tmp_path / "ink", files))


def test_a_link_to_a_folder_above_ends(tmp_path):
    made(tmp_path / "ink", ["images/more/boat.png"])
    (tmp_path / "ink" / "images" / "more" / "up").symlink_to(tmp_path / "ink" / "images")
    assert [p.file for p in style_pictures(tmp_path / "ink")] == ["more/boat.png"]


@pytest.mark.parametrize("table", [{"boat.png": "a ship"}, {"boat": "a ship"},
                                   {"boat": {"caption": "a ship", "tags": "x"}}])
def test_captions_in_one_object(tmp_path, table):
    made(tmp_path, ["boat.png", "owl.png", "owl.txt"])
    (tmp_path / "captions.json").write_text(json.dumps({**table, "owl.png": "never read"}))
    assert [p.phrase for p in style_pictures(tmp_path)] == ["a ship", "what owl.txt says"]


@pytest.mark.parametrize("text, words", [("[]", "should be like"), ("{", "cannot be read as JSON"),
                                         ('{"ship.png": "a"}', "names 'ship.png', which is no picture"),
                                         ('{"boat.png": 3}', "whose caption is no text"),
                                         ('{"boat.png": " "}', "says nothing")])
def test_an_object_of_captions_that_is_wrong(tmp_path, text, words):
    made(tmp_path, ["boat.png"])
    (tmp_path / "captions.json").write_text(text)
    with pytest.raises(StyleBlendError, match="captions.json.*" + words):
        style_pictures(tmp_path)


def test_a_table_of_a_sub_folder_names_its_own_pictures(tmp_path):
    made(tmp_path, ["a/boat.png", "b/boat.png"])
    (tmp_path / "a" / "metadata.jsonl").write_text('{"file_name": "boat.png", "text": "a ship"}')
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "b/boat.png", "text": "a canoe"}')
    assert [p.phrase for p in style_pictures(tmp_path)] == ["a ship", "a canoe"]


# ---------------------------------------------------------------- a folder elsewhere

def test_pictures_may_be_elsewhere(tmp_path):
    """The style's folder says where; its own prompts count before those that lie with the pictures."""
    style, away = tmp_path / "data" / "ink", made(tmp_path / "away", ["boat.png"])
    (away / "prompt.json").write_text('["Owl"]')
    point(style, away)
    assert [p.path for p in style_pictures(style)] == [away / "boat.png"]
    assert [p.name for p in style_prompts(style)] == ["Owl"]
    (style / "prompt.json").write_text('["Cat"]')
    assert [p.name for p in style_prompts(style)] == ["Cat"]
    away.rename(tmp_path / "gone")
    with pytest.raises(StyleBlendError, match="the pictures of ink were in .*away, which is not there: put it back"):
        style_pictures(style)


def test_a_data_folder_that_is_a_style_is_named_as_one(tmp_path):
    with pytest.raises(StyleBlendError, match="holds no style folders: .*train --pictures .* --name NAME"):
        style_names(made(tmp_path, ["boat.png"]))


# ---------------------------------------------------------------- names

EMPTY = """
IMG_6003 IMG_E1234 _MG_1234 DSC0001 DSC_0001 DSCN0001 DSCF1234 P1010001 100_1234 GOPR0012 DJI_0042 1 001 (1)
12-3 untitled Untitled-1 untitled_design image image1 photo_3 Screenshot Screenshot_20230101-123456 frame_0001
x1 mystyle_01 unnamed d41d8cd98f00b204e9800998ecf8427e 9f86d081884c7d65 550e8400-e29b-41d4-a716-446655440000
a1b2c3d4-e5f6-7890-abcd-ef1234567890 EaXk3JdXYAAb1cD 2023-01-01 20230101_123456 2023-01-01T12-00-00Z
PXL_20230101_123456789 IMG-20230101-WA0001 FB_IMG_1234 00012-3456789 ComfyUI_00001_ download pexels-photo-123456
DSC00042-Edit 图片1 微信图片_20230101 截图 снимок_экрана
""".split()
EMPTY += ["Screenshot 2023-01-01 at 12.00.00", "Screen Shot 2020-01-01 at 1.11.11 PM", "mystyle (1)", "download (1)",
          "WhatsApp Image 2023-01-01 at 12.00.00", "IMG_6003 - Kopie", "Copy of IMG_1"]
SAID = """
beer_mug x a apple_01 office_building snake IMG_6003_cat facade decade deadbeef apollo11 1st_place 24-hour_clock
猫 кот dog2 3d_printer mp3_player file_cabinet frame picture_frame screen scanner test_tube camera bus_stop
mystyle_cat
""".split()


@pytest.mark.parametrize("name, empty", [(name, True) for name in EMPTY] + [(name, False) for name in SAID])
def test_names_that_say_nothing(name, empty):
    assert says_nothing(name, "mystyle") == empty


def test_captions_are_asked_for(tmp_path):
    """In one sentence, until there is one beside each of these pictures."""
    made(tmp_path, [f"IMG_600{n}.JPG" for n in range(4)] + ["owl.png"])
    words = r"4 names .* \(IMG_6000.JPG, .* \.\.\.\): write captions.*IMG_6000.txt,"
    with pytest.raises(StyleBlendError, match=words):
        refuse_nameless(style_pictures(tmp_path), "ink")
    made(tmp_path, [f"IMG_600{n}.txt" for n in range(4)])
    refuse_nameless(style_pictures(tmp_path), "ink")


# ---------------------------------------------------------------- what was found in the field

@pytest.mark.parametrize("name, phrases", [
    ("kohya10", ["A beer mug", "A bouquet", "An office building"]), ("caption", ["a thing"] * 3),
    ("mixsub", ["A beer mug", "A bouquet", "A x", "An office building"])])
def test_folders_of_the_field(name, phrases):
    if not FIELD.is_dir():
        pytest.skip("the field's inputs are not here")
    found = read_pictures(FIELD / name)
    assert [p.phrase for p in found.pictures] == phrases and not found.left_out
    refuse_nameless(found.pictures, name)


def test_a_camera_in_the_field():
    if not FIELD.is_dir():
        pytest.skip("the field's inputs are not here")
    with pytest.raises(StyleBlendError, match="3 names do not say what is in the pictures"):
        refuse_nameless(style_pictures(FIELD / "IMG"), "IMG")
