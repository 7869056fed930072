"""`align`: a set in one look, its folder, its records, what is kept, what is refused."""
import numpy as np
import pytest
import yaml
from PIL import Image

from styleblend.cli import main
from styleblend.cli.reference_pictures import references
from styleblend.settings.style_aligned import STRENGTHS
from styleblend.errors import StyleBlendError
from styleblend.jobs.aligned_sets import set_in
from styleblend.methods.style_aligned import StyleAligned
from styleblend.record import read_record
from styleblend.settings import KINDS, read_settings


@pytest.fixture(autouse=True)
def kept_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def pixels(path):
    return np.asarray(Image.open(path))


def run(world, tmp_path, *options, prompts="A cat,An owl,A dog"):
    return main(["align", "--config", str(world), "--prompts", prompts, "--output", str(tmp_path / "set"), *options])


def test_a_set_its_sheet_and_its_records(world, tmp_path, capsys):
    assert run(world, tmp_path, "--look", "in ink", "--seed", "7", "--compare") == 0
    assert "6 new pictures" in capsys.readouterr().out
    folder = tmp_path / "set"
    assert {path.name for path in folder.glob("*.png")} == {"A cat.png", "An owl.png", "A dog.png", "sheet.png"}
    record = read_record(folder / "An owl.png")
    assert (record.method, record.prompt, record.seed, record.settings.look) == ("style_aligned", "An owl", 8, "in ink")
    assert (record.settings.reference_prompt, record.settings.reference_seed) == ("A cat", 7)

    again = tmp_path / "again.png"
    assert main(["draw", "--config", str(world), "--from", str(folder / "An owl.png"), "--output", str(again)]) == 0
    assert np.abs(pixels(again).astype(int) - pixels(folder / "An owl.png")).max() <= 1  # it was drawn in a batch

    # beside it: the same prompt, seed and words, drawn as any plain picture
    alone = tmp_path / "alone.png"
    assert main(["draw", "--config", str(world), "--prompt", "An owl, in ink", "--seed", "8",
                 "--output", str(alone)]) == 0
    plain = pixels(folder / "plain" / "An owl.png").astype(int)
    assert np.abs(plain - pixels(alone)).max() <= 1
    assert np.abs(plain - pixels(folder / "An owl.png")).max() > 3
    # the first of the set is its own reference: a plain picture
    assert np.abs(pixels(folder / "plain" / "A cat.png").astype(int) - pixels(folder / "A cat.png")).max() <= 1


def test_a_reference_of_its_own_words_is_drawn_beside_the_set(world, tmp_path):
    """It is the plain picture of its words, and none of the set."""
    folder, alone = tmp_path / "set", tmp_path / "alone.png"
    assert run(world, tmp_path, "--reference-prompt", "A lamp", "--look", "in ink", "--seed", "3", prompts="A cat") == 0
    assert sorted(path.name for path in folder.glob("*.png")) == ["A cat.png", "reference.png", "sheet.png"]
    config = read_settings(world)
    assert main(["draw", "--config", str(world), "--prompt", "A lamp, in ink", "--seed", str(config.sampling.seed),
                 "--output", str(alone)]) == 0
    assert np.abs(pixels(folder / "reference.png").astype(int) - pixels(alone)).max() <= 1
    assert list(set_in(folder).phrases) == [folder / "A cat.png"]


def test_what_is_whole_is_kept(world, tmp_path, capsys):
    assert run(world, tmp_path, "--look", "in ink") == 0
    first = {path.name: path.read_bytes() for path in (tmp_path / "set").glob("*.png")}
    (tmp_path / "set" / "A dog.png").unlink()
    (tmp_path / "set" / "An owl.png").write_bytes(first["An owl.png"][:200])
    capsys.readouterr()
    assert run(world, tmp_path, "--look", "in ink") == 0
    assert "2 new pictures" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in (tmp_path / "set").glob("*.png")} == first
    assert run(world, tmp_path, "--look", "in chalk") == 0
    said = capsys.readouterr()
    assert "0 new pictures" in said.out and "kept, although drawn with other align settings than now" in said.err
    assert run(world, tmp_path, "--look", "in chalk", "--overwrite") == 0
    assert read_record(tmp_path / "set" / "A cat.png").settings.look == "in chalk"


def test_a_set_of_pictures_meets_a_learned_style(trained, tmp_path):
    for number in range(2):
        Image.fromarray(np.full((64, 80, 3), (200, 60 * number, 90), np.uint8)).save(tmp_path / f"{number}.png")
    options = ["--reference", f"{tmp_path}/0.png:0.3", "--reference", f"{tmp_path}/1.png:0.7:famous", "--blend",
               "attention", "--offset", "1", "--reference-prompt", "red", "--reference-prompt", "pink"]
    assert run(trained, tmp_path, *options, prompts="A cat") == 0
    alone = pixels(tmp_path / "set" / "A cat.png")
    assert run(trained, tmp_path, *options, "--style", "dots", "--overwrite", prompts="A cat") == 0
    record = read_record(tmp_path / "set" / "A cat.png")
    assert (record.style, record.method, record.settings.weights()) == ("dots", "style_aligned", (0.3, 0.7))
    assert [one.prompt for one in record.settings.references] == ["red", "pink"]
    assert np.abs(pixels(tmp_path / "set" / "A cat.png").astype(int) - alone).max() > 3
    again = tmp_path / "again.png"
    assert main(["draw", "--config", str(trained), "--from", str(tmp_path / "set" / "A cat.png"),
                 "--output", str(again)]) == 0
    assert np.array_equal(pixels(again), pixels(tmp_path / "set" / "A cat.png"))


@pytest.mark.parametrize("text, expected", [
    ("a.png", {}), ("a.png:0.3", {"weight": 0.3}), ("a.png:famous", {"strength": "famous"}),
    ("a.png:0.7:famous", {"weight": 0.7, "strength": "famous"}), ("a.png:famous:2", {"weight": 2.0,
                                                                                     "strength": "famous"}),
])
def test_how_a_reference_is_written(text, expected):
    assert references([text], STRENGTHS) == [{"picture": "a.png", **expected}]
    assert references(["C:\\x\\" + text], STRENGTHS, ["it"]) == [
        {"picture": "C:\\x\\a.png", "prompt": "it", **expected}]
    with pytest.raises(StyleBlendError, match="give one for each"):
        references([text], STRENGTHS, ["one", "two"])


@pytest.mark.parametrize("options, prompts, message", [
    ([], " ,", "nothing to draw"), ([], "A cat,A cat", "stands twice"), ([], "A cat,a cat", "upper and lower case"),
    (["--seed", "-5"], "A cat", "no seed"), (["--reference", "none.png"], "A cat", "none.png does not exist"),
    (["--reference", "x.png:0"], "A cat", "add up to 0"), (["--blend", "mean"], "A cat", "unknown blend"),
    (["--only-self-level", "2"], "A cat", "only_self_level"), (["--style", "none"], "A cat", "none"),
    (["--reference-prompt", "a", "--reference-prompt", "b"], "A cat", "one reference"),
    (["--reference", "{folder}/red.pg"], "A cat", "red.pg does not exist: did you mean {folder}/red.png?"),
    (["--reference", "{folder}"], "A cat", "{folder} is a folder: name a picture in it"),
    (["--reference", ":0.3"], "A cat", "':0.3' names no picture"),
    (["--look", "x"], "Sheet", "name of the contact sheet"),
    (["--shared-score-scale", "1e7"], "A cat", "less than or equal to 1000000"),
    (["--reference", "{folder}/red.png:fomous"], "A cat", "a weight or a strength, not 'fomous'"),
    (["--reference", "{folder}/red.png", "--sampler", "euler"], "A cat", "inverted along DDIM's steps"),
    (["--reference", "{folder}/red.png", "--offset", "99"], "A cat", "leaves none of"),
    (["--guidance", "1", "--negative", "blur"], "A cat", "guidance is off"),
])
def test_what_cannot_be_is_one_sentence(world, tmp_path, capsys, options, prompts, message):
    """Before anything is loaded, so that not even the folder of the set is made."""
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    assert run(world, tmp_path, *(one.format(folder=tmp_path) for one in options), prompts=prompts) == 2
    said = capsys.readouterr().err
    assert message.format(folder=tmp_path) in said and "Traceback" not in said
    assert not (tmp_path / "set").exists()


def test_a_reference_that_was_changed_since_is_said(world, tmp_path, capsys):
    """Pictures know what their reference showed: a set says that it is of another one, and --from refuses to draw."""
    reference, drawn = tmp_path / "look.png", tmp_path / "set" / "A cat.png"
    for colour, words in (("red", None), ("blue", "other picture files than now")):
        Image.new("RGB", (64, 64), colour).save(reference)
        assert run(world, tmp_path, "--reference", str(reference), prompts="A cat") == 0
        said = capsys.readouterr().err
        assert words in said if words else "kept" not in said
    again = ["draw", "--config", str(world), "--from", str(drawn), "--output", str(tmp_path / "again.png")]
    assert main(again) == 2 and f"another picture than {reference} is now" in capsys.readouterr().err
    Image.new("RGB", (64, 64), "red").save(reference)
    moved = reference.rename(tmp_path / "moved.png")
    assert run(world, tmp_path, "--reference", str(moved), prompts="A cat") == 0
    assert "kept" not in capsys.readouterr().err  # the file has another name, the picture is the same
    assert main(again) == 2 and f"by the picture {reference}, which is not there" in capsys.readouterr().err
    moved.rename(reference)
    assert main(again) == 0
    assert np.array_equal(pixels(tmp_path / "again.png"), pixels(drawn))


def test_a_look_that_leaves_no_room_for_the_prompt_is_refused(world, tmp_path, capsys):
    """All prompts would else give one picture."""
    assert run(world, tmp_path, "--look", "long " * 100, prompts="A cat") == 2
    assert "no room for the prompt 'A cat'" in capsys.readouterr().err


def test_of_a_set_in_which_all_look_at_all_nothing_is_drawn_alone(world, tmp_path, capsys):
    options, folder = ["--look", "in ink", "--full-attention-share"], tmp_path / "set"
    assert run(world, tmp_path, *options, prompts="A cat,An owl") == 0
    whole = {path.name: pixels(path) for path in folder.glob("A*.png")}
    (folder / "An owl.png").unlink()
    assert run(world, tmp_path, *options, prompts="A cat,An owl") == 0
    assert all(np.array_equal(pixels(folder / name), one) for name, one in whole.items())
    again = ["draw", "--config", str(world), "--from", str(folder / "A cat.png"), "--output", str(tmp_path / "a.png")]
    assert main(again) == 2 and "align draws the set again" in capsys.readouterr().err


def test_a_damaged_trajectory_is_computed_again(world, tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    drawn = []
    for _ in range(2):
        assert run(world, tmp_path, "--reference", str(tmp_path / "red.png"), "--overwrite", prompts="A cat") == 0
        drawn.append(pixels(tmp_path / "set" / "A cat.png"))
        [kept] = (tmp_path / "cache").rglob("*.safetensors")
        whole = kept.read_bytes()
        kept.write_bytes(whole[:-400] + bytes(400))
    assert np.array_equal(*drawn)


def test_more_references_than_memory_allows_is_said_before_anything_is_loaded(world, tmp_path, capsys):
    for number in range(9):
        Image.fromarray(np.full((64, 64, 3), 20 * number, np.uint8)).save(tmp_path / f"{number}.png")
    many = [option for number in range(9) for option in ("--reference", f"{tmp_path}/{number}.png")]
    assert run(world, tmp_path, *many, "--blend", "attention", "--max-memory", "150MB") == 2
    assert "fewer reference pictures" in capsys.readouterr().err and not (tmp_path / "set").exists()


def test_which_statistics_are_shared(world, tmp_path):
    assert run(world, tmp_path, "--look", "in ink", "--no-adain-keys", "--adain-values", prompts="A cat,An owl") == 0
    settings = read_record(tmp_path / "set" / "An owl.png").settings
    assert (settings.adain_queries, settings.adain_keys, settings.adain_values) == (True, False, True)


def test_what_the_config_says_counts_unless_an_option_or_a_style_says_otherwise(world, tmp_path):
    config = yaml.safe_load(world.read_text())
    world.write_text(yaml.safe_dump({**config, "align": {"adain_keys": False, "adain_values": True}}))
    assert run(world, tmp_path, "--look", "in ink", "--no-adain-values", prompts="A cat") == 0
    settings = read_record(tmp_path / "set" / "A cat.png").settings
    assert (settings.adain_queries, settings.adain_keys, settings.adain_values) == (True, False, False)
    own = StyleAligned().settings(read_settings(world), KINDS["style_aligned"](align={"adain_keys": True}), "ink")
    assert (own.adain_keys, own.adain_values) == (True, True)


def test_weights_that_do_not_add_up_to_1_are_said(world, tmp_path, capsys):
    for number in range(2):
        Image.fromarray(np.full((64, 64, 3), 90 * number, np.uint8)).save(tmp_path / f"{number}.png")
    for weights, words in ((("3", "1"), "add up to 4: they count as 0.75, 0.25"), (("0.3", "0.7"), None),
                           (("1", "1"), None)):
        given = [option for number, weight in enumerate(weights)
                 for option in ("--reference", f"{tmp_path}/{number}.png:{weight}")]
        assert run(world, tmp_path, *given, "--overwrite", "--steps", "4", prompts="A cat") == 0
        said = capsys.readouterr().err
        assert words in said if words else "add up" not in said


def test_a_learned_style_draws_the_reference_only_where_it_is_asked_to(trained, tmp_path, capsys):
    options = ["--style", "dots", "--look", "in ink", "--steps", "4", "--overwrite"]
    assert run(trained, tmp_path, *options, prompts="A cat,An owl") == 0
    alone = pixels(tmp_path / "set" / "An owl.png")
    assert run(trained, tmp_path, *options, "--style-on-reference", prompts="A cat,An owl") == 0
    assert read_record(tmp_path / "set" / "An owl.png").settings.style_on_reference
    assert np.abs(pixels(tmp_path / "set" / "An owl.png").astype(int) - alone).max() > 1
    assert run(trained, tmp_path, "--look", "in ink", "--style-on-reference") == 2
    assert "no effect without a learned style" in capsys.readouterr().err
