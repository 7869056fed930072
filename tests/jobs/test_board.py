"""`styleblend board`: what it says while it draws, the contact sheets, and styles that are named twice."""
import shutil

import numpy as np
import pytest
from PIL import Image

from styleblend.cli import main
from styleblend.files.captions import pictures_if_any
from styleblend.files.names import entry
from styleblend.jobs.board import BoardRequest, draw_board, pictures_there
from styleblend.jobs.events import Drawn, Progress, Written, result_of
from styleblend.record import read_record
from styleblend.settings import read_settings


def board(config, *more):
    assert main(["board", "--config", str(config), *more]) == 0


def test_the_events_of_a_board(trained, tmp_path):
    events, settings = [], read_settings(trained)
    files = result_of(draw_board(BoardRequest(settings)), events.append)
    drawn = [event for event in events if isinstance(event, Drawn)]
    assert files == [tmp_path / "result" / "dots" / f"{name}.png" for name in ("Cat", "Owl")]
    assert [event.path for event in drawn] == files
    assert all(event.record == read_record(event.path) for event in drawn)
    assert [event.path.name for event in events if isinstance(event, Written)] == ["dots.png", "index.html"]
    done = [event.done for event in events if isinstance(event, Progress) and event.title == "pictures"]
    assert done[0] == 0 and done[-1] == 2 and done == sorted(done)
    events.clear()
    assert result_of(draw_board(BoardRequest(settings)), events.append) == []
    assert not [event for event in events if isinstance(event, (Drawn, Progress))]


def test_a_board_that_is_closed_keeps_whole_files_and_lets_others_go_on(trained, tmp_path):
    settings, path = read_settings(trained), tmp_path / "result" / "dots" / "Cat.png"
    settings = settings.model_copy(update={"sampling": settings.sampling.model_copy(update={"batch": 1})})
    job = draw_board(BoardRequest(settings))
    for event in job:
        if isinstance(event, Drawn):
            break
    job.close()
    before = path.read_bytes()
    assert sorted(p.name for p in path.parent.iterdir()) == ["Cat.png"]
    assert np.asarray(Image.open(path)).shape == (64, 64, 3)
    assert [p.name for p in result_of(draw_board(BoardRequest(settings)))] == ["Owl.png"]
    assert path.read_bytes() == before


def test_the_contact_sheet_shows_all_pictures_of_the_style_that_are_there(trained, tmp_path):
    """Also after a run that drew one of them: those of prompt.json in their order, then the others."""
    sheet, settings = tmp_path / "result" / "dots.png", read_settings(trained)
    board(trained)
    before = Image.open(sheet)
    board(trained, "--prompts", "Cat")
    assert np.array_equal(np.asarray(Image.open(sheet)), np.asarray(before))
    board(trained, "--prompts", "Apple,Owl")
    assert [name for name, _ in pictures_there(settings, "dots")] == ["Cat", "Owl", "Apple"]
    assert Image.open(sheet).size == (max(before.width, 8 + 3 * 168), before.height)
    (tmp_path / "result" / "dots" / "Owl.png").write_bytes(b"torn")
    assert [name for name, _ in pictures_there(settings, "dots")] == ["Cat", "Apple"]
    (tmp_path / "data" / "dots" / "prompt.json").unlink()
    board(trained, "--prompts", "Boat")
    assert [name for name, _ in pictures_there(settings, "dots")] == ["Apple", "Boat", "Cat"]


def test_a_style_that_is_named_twice_is_drawn_once(trained, tmp_path, capsys):
    board(trained, "--styles", "dots, dots", "--prompts", "Cat")
    assert capsys.readouterr().out.startswith("1 new pictures")


@pytest.mark.parametrize("part", ["coarse", "styleblend"])
def test_a_style_that_is_named_twice_is_trained_once(world, tmp_path, capsys, part):
    assert main(["train", part, "--config", str(world), "--styles", "dots,dots"]) == 0
    said = capsys.readouterr().err
    assert said.count("learning the coarse style") == 1 and "trained already" not in said
    assert said.count("learning the fine style") == (part == "styleblend")


def test_a_choice_of_nothing_is_refused_by_training_too(world, capsys):
    assert main(["train", "coarse", "--config", str(world), "--styles", " , "]) == 2
    assert "names nothing" in capsys.readouterr().err


def test_a_style_of_another_unicode_form_is_the_same(trained, tmp_path):
    """"é" in two ways: one style, drawn once."""
    composed, apart = "caf\u00e9", "cafe\u0301"
    for folder in ("data", "adapters"):
        shutil.move(tmp_path / folder / "dots", tmp_path / folder / composed)
    for path in (tmp_path / "adapters" / composed).glob("dots*"):
        path.rename(path.with_name(path.name.replace("dots", composed)))
    board(trained, "--styles", f"{composed},{apart}", "--prompts", "Cat")
    assert entry(tmp_path / "result", composed).is_dir() and len(list((tmp_path / "result").glob("caf*"))) == 2


def test_a_style_that_cannot_be_drawn_costs_no_picture(trained, tmp_path, capsys):
    """With --overwrite too: every style is asked before a picture goes."""
    assert main(["board", "--config", str(trained)]) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "result" / "dots").glob("*.png")}
    (tmp_path / "adapters" / "dots" / "style.json").write_text('{"blend": {"c2f_sites": [99]}}')
    assert main(["board", "--config", str(trained), "--overwrite"]) == 2
    assert "style dots: c2f_sites has site 99" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "result" / "dots").glob("*.png")} == before
    assert main(["board", "--config", str(trained), "--styles", ""]) == 2
    assert "names nothing" in capsys.readouterr().err


# ---------------------------------------------------------------- styles without pictures, what is left out

def test_a_style_needs_no_pictures_to_be_drawn(trained, tmp_path, capsys):
    """As one has that was loaded: with or without a prompt.json; the sheet says that it has none."""
    with_pictures = tmp_path / "result" / "dots.png"
    board(trained, "--prompts", "Cat")
    before = Image.open(with_pictures).size
    shutil.rmtree(tmp_path / "data" / "dots" / "images")
    board(trained)
    assert Image.open(with_pictures).width <= before[0] and (tmp_path / "result" / "index.html").is_file()
    assert pictures_if_any(tmp_path / "data" / "dots") == []
    shutil.rmtree(tmp_path / "data" / "dots")
    (tmp_path / "data" / "other").mkdir()
    board(trained, "--styles", "dots", "--prompts", "Cat,Dog")
    assert (tmp_path / "result" / "dots" / "Dog.png").is_file()
    assert main(["board", "--config", str(trained), "--styles", "dots"]) == 2
    assert "prompt.json does not exist" in capsys.readouterr().err


def test_what_a_plain_board_leaves_out_is_said(trained, tmp_path, capsys):
    shutil.copytree(tmp_path / "adapters" / "dots", tmp_path / "adapters" / "ink")
    for file in (tmp_path / "adapters" / "ink").glob("dots*"):
        file.rename(file.with_name(file.name.replace("dots", "ink")))
    shutil.copytree(tmp_path / "data" / "dots", tmp_path / "data" / "untrained")
    board(trained)
    said = capsys.readouterr().err
    assert "left out: untrained (not trained)" in said and "data has no prompt.json for it" in said
    assert not (tmp_path / "result" / "ink").exists()
    board(trained, "--prompts", "Cat")  # named prompts need no prompt.json
    assert (tmp_path / "result" / "ink" / "Cat.png").is_file() and "left out: ink" not in capsys.readouterr().err
    (tmp_path / "data" / "ink").mkdir()
    (tmp_path / "data" / "ink" / "prompt.json").write_text('["Boat"]')
    board(trained)
    assert (tmp_path / "result" / "ink" / "Boat.png").is_file()


def test_where_nothing_can_be_drawn_the_reason_is_said(trained, tmp_path, capsys):
    (tmp_path / "data" / "dots" / "prompt.json").unlink()
    assert main(["board", "--config", str(trained)]) == 2
    assert f"no style can be drawn as it is; dots: {tmp_path / 'data'} has no prompt.json" in capsys.readouterr().err
    (tmp_path / "adapters" / "dots" / "dots_unet_lora.safetensors").unlink()
    assert main(["board", "--config", str(trained)]) == 2
    assert "dots: it has no unet lora" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "adapters" / "dots")
    assert main(["board", "--config", str(trained)]) == 2
    assert "python -m styleblend train all" in capsys.readouterr().err


def test_prompts_that_are_not_in_prompt_json_are_drawn_and_named(trained, tmp_path, capsys):
    board(trained, "--prompts", "Cat,Owls,Zeppelin")
    said = capsys.readouterr().err
    assert "Owls is not in the prompt.json of dots: it is drawn all the same; did you mean Owl?" in said
    assert "Zeppelin is not in the prompt.json of dots: it is drawn all the same\n" in said and "Cat is" not in said
    assert (tmp_path / "result" / "dots" / "Zeppelin.png").is_file()
    board(trained, "--prompts", "2")
    assert "prompt.json" not in capsys.readouterr().err


def test_a_training_leaves_out_styles_without_pictures_and_says_so(world, tmp_path, capsys):
    (tmp_path / "data" / "bare").mkdir()
    assert main(["train", "coarse", "--config", str(world)]) == 0
    said = capsys.readouterr().err
    assert "left out, since they have no pictures: bare" in said and "dots: coarse style is in" in said
    assert main(["train", "coarse", "--config", str(world), "--styles", "bare"]) == 2
    assert "style bare has no pictures" in capsys.readouterr().err
