"""`styleblend compare`: one folder a method, the report, what goes on after a stop, what is left out and refused."""
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drawing import save_style
from reference import seeded
from styleblend.adapters import learned_from
from styleblend.adapters.stage_tokens import stage_token
from styleblend.adapters.style import Style
from styleblend.cli import main
from styleblend.errors import StyleBlendError
from styleblend.jobs.compare import CompareRequest, compare_methods, cost, missing_pieces, planned_study
from styleblend.jobs.draw_items import Drawer
from styleblend.jobs.events import Progress, result_of
from styleblend.metrics.comparison import paired_difference
from styleblend.metrics.judge import Judge
from styleblend.metrics.looks import JudgedLeak
from styleblend.models import decoder_strips
from styleblend.pipeline import Pipeline
from styleblend.record import read_record
from styleblend.settings import KINDS, read_settings
from styleblend.settings.study import METHODS, read_study

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def kept_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def learned(trained, tmp_path):
    """The world of the style dots, which StyleBlend has learned and DreamStyler, too, under a usual name."""
    rows = {stage_token(k): seeded.values(f"dream/{k}", (32,)) for k in range(6)}
    style = Style("dots-one-picture", {"stage_embeds": rows}, KINDS["dreamstyler"]())
    save_style(tmp_path / "adapters" / style.name, style.name, style)
    return trained


def run(config, tmp_path, *more):
    return main(["compare", "--config", str(config), "--output", str(tmp_path / "out"), *more])


def pictures(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("*/*/*.png")}


def test_a_study_its_pictures_and_its_report(learned, tmp_path, capsys):
    assert run(learned, tmp_path, "--styles", "dots", "--seeds", "1,7") == 0
    said, out = capsys.readouterr(), tmp_path / "out"
    assert "left out: style_encoder cannot draw dots" in said.err  # there is none, and nobody has named it
    methods = [name for name in METHODS if name != "style_encoder"]
    assert set(pictures(out)) == {f"{method}/dots/{name}-{seed}.png" for method in methods for name in ("Cat", "Owl")
                                  for seed in (1, 7)}
    report = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    assert [Path(one["folder"]).name for one in report["runs"]] == methods
    first = report["runs"][0]
    assert set(first["means"]["all"]) >= {"leak", "judge_style"} and "judge_set" in first["of_style"]["dots"]
    assert first["of_board"]["draw_s"] > 0 and first["of_board"]["peak_mib"] > 50
    assert report["runs"][-1]["of_board"]["learn_s"] == 0 and "learn_s" not in first["of_board"]  # nobody has counted
    # the differences are those of the same prompts and seeds
    scores = [{one["prompt"]: one["leak"] for one in run["pictures"]["dots"]} for run in report["runs"]]
    wanted = paired_difference(*([own[prompt] for prompt in scores[0]] for own in scores[:2]))
    [found] = [d for d in report["differences"] if (d["other"], d["style"], d["name"]) == ("fine", "dots", "leak")]
    assert (found["mean"], found["low"], found["pairs"]) == (wanted.mean, wanted.low, 4)
    assert "<html" in (out / "report.html").read_text(encoding="utf-8") and (out / "sheet.png").is_file()


def test_each_method_draws_as_its_own_command(learned, tmp_path, tiny_base):
    """Fine alone is the fine branch, plain has the style's words; records say what drew them."""
    assert run(learned, tmp_path, "--styles", "dots", "--seeds", "7", "--methods", "styleblend,fine,plain") == 0
    out, settings = tmp_path / "out", read_settings(learned)
    pipeline = Pipeline(tiny_base, settings)

    def drawn(method):
        return np.asarray(Image.open(out / method / "dots" / "Cat-7.png"), int)

    from dataclasses import replace
    asked = pipeline.request("A cat", style="dots", seeds=7)
    for method, branches in (("styleblend", None), ("fine", ("fine",))):
        picture = [event for event in pipeline.draw(replace(asked, branches=branches)) if hasattr(event, "pixels")][-1]
        assert np.abs(drawn(method) - picture.pixels).max() <= 1  # it was drawn in a batch
    [plain] = pipeline.pictures("A cat, in the style of dots", seeds=7)
    assert np.abs(drawn("plain") - plain.pixels).max() <= 1
    record = read_record(out / "fine" / "dots" / "Cat-7.png")
    assert set(record.adapters) == {"fine_embeds", "unet_lora"} and record.seed == 7


def test_what_is_whole_is_kept_and_its_time_too(learned, tmp_path):
    options = ("--styles", "dots", "--methods", "plain,dreamstyler")
    assert run(learned, tmp_path, *options) == 0
    out = tmp_path / "out"
    before, times = pictures(out), json.loads((out / "plain" / "drawing.json").read_text(encoding="utf-8"))
    (out / "plain" / "dots" / "Owl-2.png").write_bytes(b"torn")
    assert run(learned, tmp_path, *options) == 0
    assert pictures(out) == before
    after = json.loads((out / "plain" / "drawing.json").read_text(encoding="utf-8"))
    assert set(after) == set(times) and after["dots/Cat-1.png"] == times["dots/Cat-1.png"]


def test_a_study_that_is_stopped_goes_on(learned, tmp_path):
    study = {"styles": ["dots"], "methods": ["plain", "fine"], "seeds": [1], "config": str(learned)}
    (tmp_path / "study.json").write_text(json.dumps(study))  # JSON is YAML
    request = CompareRequest(read_settings(learned), read_study(tmp_path / "study.json"), tmp_path / "out")
    job = compare_methods(request)
    for event in job:
        if isinstance(event, Progress) and event.title == "pictures" and event.note.startswith("fine"):
            break
    job.close()
    whole = pictures(tmp_path / "out")
    assert whole and all(name.startswith("plain/") for name in whole)
    assert not (tmp_path / "out" / "report.html").exists()
    found = result_of(compare_methods(request))
    assert {**pictures(tmp_path / "out"), **whole} == pictures(tmp_path / "out")
    assert [run.folder.name for run in found.runs] == ["plain", "fine"]


def test_how_lean_it_is_drawn_is_said_by_who_draws(learned, tmp_path, tiny_base, monkeypatch):
    """--max-memory may have the decoder work in strips: what was planned before it knows nothing of that."""
    settings, strips, whole = read_settings(learned), [], decoder_strips.decode
    monkeypatch.setattr(decoder_strips, "decode",
                        lambda vae, latent, strip: strips.append(strip) or whole(vae, latent, strip))
    (tmp_path / "study.yaml").write_text("methods: [plain, styleblend]\nstyles: [dots]\nseeds: [1]\n")
    request = CompareRequest(settings, read_study(tmp_path / "study.yaml"), tmp_path / "out")
    lean = settings.model_copy(update={"sampling": settings.sampling.model_copy(update={"vae_strip": 16})})
    (_, item), *_ = result_of(missing_pieces(request, planned_study(request)[0], lean))
    assert result_of(item.run(Drawer(tiny_base, lean))).files and set(strips) == {16}


def test_the_time_to_learn_is_that_of_all_trainings(learned, tmp_path):
    settings, folder = read_settings(learned), tmp_path / "adapters" / "dots"
    (tmp_path / "study.yaml").write_text("methods: [styleblend, fine, plain]\nstyles: [dots]\n")
    request = CompareRequest(settings, read_study(tmp_path / "study.yaml"), tmp_path / "out")
    for part, runs in (("coarse", (60, 30)), ("fine", (100,))):
        for seconds in runs:  # stopped once, and gone on with
            learned_from.add_seconds(folder, part, seconds)
    study, _ = planned_study(request)
    assert [cost(study, method, settings)["learn_s"] for method in study.methods()] == [190, 100, 0]


def test_a_training_counts_its_time(world, tmp_path):
    assert main(["train", "fine", "--config", str(world), "--styles", "dots"]) == 0
    first = learned_from.seconds(tmp_path / "adapters" / "dots", "fine")
    assert first > 0
    assert main(["train", "fine", "--config", str(world), "--styles", "dots"]) == 0  # it is trained already
    assert learned_from.seconds(tmp_path / "adapters" / "dots", "fine") == first


@pytest.mark.parametrize("options, words", [
    (("--methods", "style_encoder,plain"), "style_encoder cannot draw dots: no style encoder is known"),
    (("--methods", "plain,magic"), "unknown method"), (("--methods", "plain"), "fewer than two methods"),
    (("--methods", "plain,plain"), "plain is named twice"), (("--styles", "stripes"), "there is no style stripes"),
    (("--seeds", "1,1"), "1 is named twice"), (("--methods", ","), "--methods names nothing"),
    (("--metrics", "beauty"), "there is no metric beauty"), (("--references", "0"), "references")])
def test_what_is_refused(learned, tmp_path, capsys, options, words):
    given = options if options[0] == "--styles" else ("--styles", "dots", *options)
    assert run(learned, tmp_path, *given) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_style_that_was_not_learned_says_how_to_learn_it(world, tmp_path, capsys):
    assert run(world, tmp_path, "--styles", "dots", "--methods", "dreamstyler,plain") == 2
    assert "train dreamstyler --pictures" in capsys.readouterr().err


def test_leak_is_the_nearest_style_picture():
    """A picture of the style itself leaks wholly; less is better."""
    judge = Judge.load()
    with np.load(ROOT / "tests" / "data" / "judge_reference.npz") as data:
        real = [Image.fromarray(p) for p in data["pictures"][:6]]
    found = JudgedLeak(judge).score(real, ["a cat"] * 6, real[:2])["leak"]
    assert found[0] == pytest.approx(1, abs=1e-5) and found[2:].max() < 0.999
    cosines = judge.features(np.stack([np.asarray(one) for one in real]))
    assert found == pytest.approx((cosines @ cosines[:2].T).max(1), abs=1e-5)


@pytest.mark.parametrize("text, words", [
    ("methods: [plain, magic]", "unknown method"), ("prompts: 0", "prompts"), ("speed: 3", "unknown key speed"),
    ("learned: {plain: x}", "unknown method that learns"), ("- 1", "holds no study"), ("a: [", "cannot be read")])
def test_a_study_that_is_wrong_is_named(tmp_path, text, words):
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(StyleBlendError, match=words):
        read_study(tmp_path / "study.yaml")


def test_the_study_of_the_mini_base_can_be_read():
    study = read_study(ROOT / "configs" / "studies" / "mini.yaml")
    assert len(study.styles) == 4 and study.prompts == 12 and study.methods is None
