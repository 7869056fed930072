"""`styleblend eval`: what the judge says of real pictures, comparisons of folders, a page that needs nothing else.

And input that is not as it should be.
"""
import base64
import io
import json
import os
import re
import shutil
import subprocess
import weakref
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from styleblend.cli import main
from styleblend.metrics.comparison import paired_difference
from styleblend.metrics.judge import Judge, JudgeMetric
from styleblend.metrics import BoardMetric
from styleblend.cli.tables import print_tables
from styleblend.jobs.events import result_of
from styleblend.jobs.report import write_report
from styleblend.jobs.scoring import SHOWN
from styleblend.jobs.scoring import score_run as scoring

REFERENCE = Path(__file__).parents[1] / "data" / "judge_reference.npz"


def score_run(*given):
    return result_of(scoring(*given))


@pytest.fixture(scope="module")
def judge():
    return Judge.load()


@pytest.fixture(scope="module")
def real():
    """Real art: (subject, style, picture)."""
    with np.load(REFERENCE) as data:
        return [(str(s).capitalize(), str(k), Image.fromarray(p))
                for s, k, p in zip(data["subjects"], data["styles"], data["pictures"])]


@pytest.fixture
def folders(tmp_path, real):
    """Two styles as test.py would leave them if it drew the real art, the same blurred, and the styles' data."""
    wanted = ("fluent-emoji-flat", "openmoji-black")
    for subject, style, picture in real:
        if style in wanted:
            for folder, image in (("sharp", picture), ("blurred", picture.filter(ImageFilter.GaussianBlur(6)))):
                (tmp_path / folder / style).mkdir(parents=True, exist_ok=True)
                image.save(tmp_path / folder / style / f"{subject}.png")
    for style in wanted:
        images = tmp_path / "data" / style / "images"
        images.mkdir(parents=True)
        real[0][2].save(images / "monkey_face.png")
        prompts = [s for s, k, _ in real if k == style]
        (images.parent / "prompt.json").write_text(json.dumps(dict(enumerate(prompts))))
    return tmp_path


def evaluate(folders, *more, result="sharp"):
    return main(["eval", str(folders / result), "--data", str(folders / "data"),
                 "--output", str(folders / "report"), "--overwrite", *map(str, more)])


def scores(folders):
    return json.loads((folders / "report" / "scores.json").read_text())


def test_the_scores_are_the_probabilities_of_pytorch(judge):
    """Softmax over the reference logits, at the true labels."""
    with np.load(REFERENCE) as data:
        for i, (subject, style) in enumerate(zip(data["subjects"], data["styles"])):
            found = JudgeMetric(judge, str(style)).score([Image.fromarray(data["pictures"][i])], [f"A {subject}"])
            p = {}
            for name, logits, known, label in (
                    ("subject", data["subject_logits"], judge.subjects, subject),
                    ("style", data["style_logits"], judge.styles, judge.look(style))):
                exponents = np.exp(logits[i].astype(np.float64) - logits[i].max())
                p[name] = exponents[known.index(label)] / exponents.sum()
                assert found[name][0] == pytest.approx(p[name], rel=1e-3)
            assert found["both"][0] == pytest.approx((p["subject"] * p["style"]) ** 0.5, rel=1e-3)
            assert found["style_top1"][0] == (data["style_logits"][i].argmax() == judge.styles.index(judge.look(style)))


def test_an_interval_holds_the_true_difference_as_often_as_it_says():
    rng = np.random.default_rng(1)
    held = [d.low <= 0.3 <= d.high for d in (paired_difference(rng.normal(0.3, 1, 30) + shared, shared)
                                             for shared in rng.normal(size=(200, 30)))]
    assert 0.90 <= np.mean(held) <= 0.98  # the percentile bootstrap is a little too narrow for 30 pairs


def test_differences_are_paired_and_repeat():
    first, second = np.array([0.1, 0.5, 0.9, np.nan]), np.array([0.0, 0.4, 0.8, 0.1])
    d = paired_difference(first, second)
    assert (d.mean, d.low, d.high, d.pairs) == (
        pytest.approx(0.1), pytest.approx(0.1), pytest.approx(0.1), 3) and d.better
    rows = np.random.default_rng(0).normal(size=(2, 20))
    assert paired_difference(*rows) == paired_difference(*rows)
    assert paired_difference([np.nan], [1.0]).pairs == 0 and not paired_difference([np.nan], [1.0]).better


def test_blurred_pictures_score_less(folders, capsys):
    assert evaluate(folders, "--against", folders / "blurred") == 0
    found = scores(folders)
    assert [Path(run["folder"]).name for run in found["runs"]] == ["sharp", "blurred"]
    both = next(d for d in found["differences"] if (d["style"], d["name"]) == ("all", "both"))
    means = [run["means"]["all"]["both"] for run in found["runs"]]
    assert both["pairs"] == 5 and both["low"] > 0 and both["mean"] == pytest.approx(means[0] - means[1])
    out = capsys.readouterr().out
    assert "sharp minus the other" in out and found["judge"]["hash"] in out and f"{means[0]:.3f}" in out


def test_the_worst_comes_first_and_less_may_be_better(folders, judge):
    class Brightness:
        """A measure of another kind: one number a picture, of which less is better, and one a style."""

        name, higher_is_better = "brightness", {"brightness": False, "spread": False}

        def score(self, pictures, prompts, style_pictures):
            means = np.array([np.asarray(p).mean() / 255 for p in pictures])
            return {"brightness": means, "spread": float(means.std())}

    run = score_run(folders / "sharp", folders / "data", None, judge, [Brightness()])
    assert (run.names() == ["both", "subject", "style", "subject_top5", "style_top1", "brightness"]
            and set(run.of_style) == {"fluent-emoji-flat", "openmoji-black"})
    write_report([run], [], judge, folders / "report")
    page = Page((folders / "report" / "report.html").read_text())
    both = [card["both"] for card in page.cards if card["prompt"] in ("Feather", "Tram car", "Sun behind rain cloud")]
    assert len(both) == 3 and both == sorted(both)
    assert page.lower == ["brightness"]


class OfSets(BoardMetric):
    """A measure of sets only: how many pictures a style has; of a board the number of styles."""

    name, higher_is_better, compares = "count", {"count": True}, True

    def measure_part(self, pictures, prompts, style_pictures):
        return len(pictures)

    def combined(self, parts):
        return {"count": sum(parts) + 100 * len(parts)}


def test_a_board_has_numbers_of_its_own(folders, judge):
    run = score_run(folders / "sharp", folders / "data", None, judge, [OfSets()])
    assert (run.of_style == {"fluent-emoji-flat": {"count": 103}, "openmoji-black": {"count": 102}}
            and run.of_board == {"count": 205})
    write_report([run], [], judge, folders / "report", [OfSets()])
    assert (scores(folders)["runs"][0]["of_board"] == {"count": 205}
            and "all styles together" in (folders / "report" / "report.html").read_text())


def test_scores_of_sets_alone_are_a_report(folders, judge, capsys):
    """No picture has a score of its own: the pictures are shown by their names."""
    run = score_run(folders / "sharp", folders / "data", None, None, [OfSets()])
    print_tables([run], [], None, [OfSets()])
    write_report([run], [], None, folders / "report", [OfSets()])
    assert "all styles together: count 205" in capsys.readouterr().out and scores(folders)["judge"] is None
    page = Page((folders / "report" / "report.html").read_text())
    assert ([card["prompt"] for card in page.cards][:3] == ["Feather", "Sun behind rain cloud", "Tram car"]
            and "Judged by" not in (folders / "report" / "report.html").read_text())


def test_what_a_metric_cannot_do_is_named_and_the_others_go_on(folders, judge):
    shutil.rmtree(folders / "data" / "openmoji-black" / "images")
    run = score_run(folders / "sharp", folders / "data", None, judge, [OfSets()])
    assert (set(run.of_style) == {"fluent-emoji-flat"} and run.of_board == {"count": 103}
            and len(run.pictures["openmoji-black"]) == 2)
    assert any("openmoji-black has no count: there are no style pictures" in note for note in run.notes)


def test_without_the_judge(folders, capsys):
    assert evaluate(folders, "--no-judge", "--metrics", "histogram") == 0
    assert "mini judge" not in capsys.readouterr().out and "both" not in scores(folders)["runs"][0]["means"]["all"]
    assert evaluate(folders, "--no-judge") == 2 and "nothing" in capsys.readouterr().err


def test_pictures_are_let_go(tmp_path, judge):
    """Of a folder with many pictures only a few are in memory."""
    (tmp_path / "data" / "noto" / "images").mkdir(parents=True)
    (tmp_path / "result" / "noto").mkdir(parents=True)
    for i in range(3):
        Image.new("RGB", (128, 128), (i, 0, 0)).save(tmp_path / "result" / "noto" / f"Cat {i}.png")
    Image.new("RGB", (128, 128)).save(tmp_path / "data" / "noto" / "images" / "cat.png")

    class Watch(OfSets):
        def measure_part(self, pictures, prompts, style_pictures):
            held = [weakref.ref(pictures[i]) for i in range(len(pictures))]
            assert len(held) == 3 and not any(ref() for ref in held)
            return 1

    assert score_run(tmp_path / "result", tmp_path / "data", None, judge, [Watch()]).of_board


def test_metrics_beside_the_judge(folders, capsys):
    """One that needs no weights is there, one that does is named; an unknown one is an error."""
    assert evaluate(folders, "--metrics", "histogram,lpips", "--weights", folders / "nowhere") == 0
    assert "lpips is left out" in capsys.readouterr().err
    assert {"both", "histogram"} <= set(scores(folders)["runs"][0]["means"]["all"])
    assert evaluate(folders, "--metrics", "nonsense") == 2
    assert "no metric nonsense" in capsys.readouterr().err


class Page(HTMLParser):
    """What is in a report: images, cards, everything that an address could hide in, and the script."""

    def __init__(self, text):
        super().__init__()
        (self.images, self.cards, self.addresses, self.lower, self.script, self.inside,
         self.tags) = [], [], [], [], "", None, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs, self.inside = dict(attrs), tag
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs.items()
                           if name in ("src", "href", "srcset", "action", "data", "poster", "background")]
        if tag == "img":
            self.images.append(attrs["src"])
        if tag == "article":
            # of the first run
            self.cards.append({"prompt": attrs["data-prompt"], **json.loads(attrs["data-scores"])[0]})
        if tag == "option" and "data-lower" in attrs:
            self.lower.append(None)

    def handle_data(self, data):
        if self.inside == "script":
            self.script += data
        if self.lower and self.lower[-1] is None:
            self.lower[-1] = data


def test_the_page_needs_no_other_file(folders):
    assert evaluate(folders, "--against", folders / "blurred") == 0
    text = (folders / "report" / "report.html").read_text()
    page = Page(text)
    assert len(page.cards) == 5 and len(page.images) == 2 * 5 + 2  # both runs, and each style's own picture
    assert page.addresses == page.images and not {"link", "iframe", "object", "base"} & set(page.tags)
    for address in page.images:
        kind, data = address.split(",")
        assert kind == "data:image/webp;base64"
        assert max(Image.open(io.BytesIO(base64.b64decode(data, validate=True))).size) <= SHOWN
    assert "http" not in text.replace("http-equiv", "") and "import" not in page.script and "fetch" not in page.script


def test_a_hundred_large_pictures_stay_under_15_mb(tmp_path, judge):
    """Noise, which no format makes small: four times what drawings take."""
    rng = np.random.default_rng(0)
    (tmp_path / "data" / "noto" / "images").mkdir(parents=True)
    (tmp_path / "result" / "noto").mkdir(parents=True)
    noisy = Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).resize((512, 512), Image.BICUBIC)
    noisy.save(tmp_path / "data" / "noto" / "images" / "cat.png")
    for i in range(4):
        noisy.rotate(90 * i).save(tmp_path / "result" / "noto" / f"Cat {i}.png")
    write_report([score_run(tmp_path / "result", tmp_path / "data", None, judge)], [], judge, tmp_path)
    assert (tmp_path / "report.html").stat().st_size * 100 / 5 < 15e6


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node here")
@pytest.mark.parametrize("key, down, wanted", [("both", False, "bcad"), ("both", True, "acbd"),
                                               ("prompt", False, "abcd"), ("prompt", True, "dcba")])
def test_the_script_sorts_and_puts_what_has_no_score_last(folders, key, down, wanted):
    assert evaluate(folders) == 0
    script = Page((folders / "report" / "report.html").read_text()).script
    cards = [{"dataset": {"prompt": prompt, "scores": json.dumps([{"both": score}])}}
             for prompt, score in zip("dacb", (None, 0.9, 0.5, 0.1))]
    script += (f"\nconsole.log(order({json.dumps(cards)}, {json.dumps(key)}, {json.dumps(down)})"
               ".map(c => c.dataset.prompt).join(''))")
    assert subprocess.run(["node", "-e", script], stdout=subprocess.PIPE, text=True,
                          check=True).stdout.strip() == wanted


def test_names_are_text_not_markup(folders):
    """A prompt and a caption with quotes and tags' letters; file names can hold both."""
    name, own = "Tom & Jerry's 'x' onerror=alert(1)", folders / "data" / "openmoji-black" / "images"
    os.rename(folders / "sharp" / "openmoji-black" / "Tomato.png", folders / "sharp" / "openmoji-black" / f"{name}.png")
    (own / "monkey_face.txt").write_text("<script>alert(1)</script>")
    assert evaluate(folders) == 0
    page = Page((folders / "report" / "report.html").read_text())
    assert name in [card["prompt"] for card in page.cards] and page.tags.count("script") == 1


@pytest.mark.parametrize("spoil, words", [
    (lambda f: shutil.rmtree(f / "sharp" / "openmoji-black"), "no pictures of openmoji-black"),
    (lambda f: shutil.rmtree(f / "data" / "openmoji-black"), "has no style openmoji-black"),
    (lambda f: (f / "sharp" / "openmoji-black" / "Tomato.png").write_bytes(b"no picture"), "Tomato.png cannot be read"),
    (lambda f: (f / "sharp" / "openmoji-black" / "Tomato.png").unlink(),
     "1 of the 2 prompts in prompt.json have no picture (Tomato)"),
    (lambda f: Image.new("RGB", (100, 128)).save(f / "sharp" / "openmoji-black" / "Tomato.png"),
     "not Tomato (100 x 128)"),
    (lambda f: os.rename(f / "sharp" / "openmoji-black" / "Tomato.png", f / "sharp" / "openmoji-black" / "Quark.png"),
     "the judge does not know Quark"),
    (lambda f: (f / "data" / "openmoji-black" / "prompt.json").write_text("{"),
     "the names of the pictures are taken for their prompts"),
    (lambda f: shutil.rmtree(f / "data" / "openmoji-black" / "images"), "its pictures are compared with none"),
    (lambda f: (f / "data" / "openmoji-black" / "images" / "monkey_face.png").write_bytes(b"no picture"),
     "monkey_face.png cannot be read"),
    (lambda f: [os.rename(f / x / "openmoji-black", f / x / "mine") for x in ("sharp", "data")],
     "the judge does not know the style mine"),
])
def test_what_cannot_be_scored_is_named_and_the_rest_is(folders, capsys, spoil, words):
    spoil(folders)
    assert evaluate(folders) == 0
    assert words in capsys.readouterr().err
    found = scores(folders)["runs"][0]
    assert (words in " ".join(found["notes"])
            and words in re.sub(r"&#39;|&#34;", "", (folders / "report" / "report.html").read_text()))
    assert len(found["pictures"]["fluent-emoji-flat"]) == 3 and found["means"]["fluent-emoji-flat"]["both"] > 0.8


def test_a_score_that_is_missing_is_null(folders):
    os.rename(folders / "sharp" / "openmoji-black" / "Tomato.png", folders / "sharp" / "openmoji-black" / "Quark.png")
    assert evaluate(folders) == 0
    quark = next(p for p in scores(folders)["runs"][0]["pictures"]["openmoji-black"] if p["prompt"] == "Quark")
    assert quark["subject"] is None and quark["both"] is None and quark["style"] > 0.5


@pytest.mark.parametrize("spoil, words", [
    (lambda f: shutil.rmtree(f / "sharp"), "does not exist"),
    (lambda f: [shutil.rmtree(f / "sharp" / style) for style in os.listdir(f / "sharp")], "nothing in"),
    (lambda f: shutil.rmtree(f / "data"), "data folder"),
    (lambda f: [p.write_bytes(b"no") for p in (f / "sharp").glob("*/*.png")], "nothing in"),
])
def test_nothing_to_score_is_an_error(folders, capsys, spoil, words):
    spoil(folders)
    assert evaluate(folders) == 2
    assert words in capsys.readouterr().err and not (folders / "report").exists()


def test_a_report_is_not_replaced_unasked(folders, capsys, monkeypatch):
    """Before anything is scored; without --output the next one has a folder of its own."""
    command = ["eval", str(folders / "sharp"), "--data", str(folders / "data"),
               "--config", str(Path(__file__).parents[2] / "configs" / "mini.yaml")]
    monkeypatch.chdir(folders)
    assert main(command) == 0 and main(command) == 0
    assert "report-2/report.html" in capsys.readouterr().out
    assert (folders / "report" / "scores.json").read_bytes() == (folders / "report-2" / "scores.json").read_bytes()
    monkeypatch.setattr("styleblend.jobs.evaluate.score_run", lambda *given: pytest.fail("it was scored"))
    (folders / "file").touch()
    for output, words in (("report", "scores.json is there already"), ("file", "Not a directory"), ("", "empty")):
        assert main([*command, "--output", output]) == 2 and words in capsys.readouterr().err


@pytest.fixture
def aligned(world, tmp_path, real):
    """A set with two reference pictures, one square and one not, and the same without sharing."""
    for number, size in enumerate(((128, 128), (160, 128))):
        real[number][2].resize(size).save(tmp_path / f"{number}.png")
    assert main(["align", "--config", str(world), "--prompts", "A cat,An owl,A dog", "--output", str(tmp_path / "set"),
                 "--reference", f"{tmp_path}/0.png:1", "--reference", f"{tmp_path}/1.png:3", "--compare",
                 "--width", "128", "--height", "128"]) == 0
    return tmp_path


def test_a_set_is_scored_as_one(world, aligned, judge, capsys):
    """By its own consistency and by its likeness with the references, each with its weight; beside it without."""
    argv = ["eval", str(aligned / "set"), "--config", str(world), "--against", str(aligned / "set" / "plain"),
            "--output", str(aligned / "report")]
    assert main(argv) == 0
    said = capsys.readouterr()
    assert "set: judge_set" in said.out and "does not know the style" not in said.err
    own, plain = json.loads((aligned / "report" / "scores.json").read_text())["runs"]
    assert [p["prompt"] for p in own["pictures"]["set"]] == [p["prompt"] for p in plain["pictures"]["set"]]
    pictures = np.stack([np.asarray(Image.open(aligned / "set" / f"{name}.png")) for name in ("A cat", "A dog",
                                                                                              "An owl")])
    looks = judge.looks(pictures)
    assert own["of_style"]["set"]["judge_set"] == pytest.approx(
        (looks[0] @ looks[1] + looks[0] @ looks[2] + looks[1] @ looks[2]) / 3, abs=1e-6)
    shown = [np.asarray(Image.open(aligned / f"{n}.png").convert("RGB").crop((16 * n, 0, 128 + 16 * n, 128)))
             for n in (0, 1)]
    expected = looks @ judge.looks(np.stack(shown)).T @ [0.25, 0.75]
    assert [p["judge_style"] for p in own["pictures"]["set"]] == pytest.approx(list(expected), abs=1e-5)
    assert all(0 <= p["judge_style"] <= 1 for p in plain["pictures"]["set"])
    assert main([*argv, "--styles", "dots"]) == 2 and "is a set of align" in capsys.readouterr().err


def test_a_reference_that_is_gone_is_named_and_the_rest_counts(world, aligned, capsys):
    os.remove(aligned / "1.png")
    assert main(["eval", str(aligned / "set"), "--config", str(world), "--output", str(aligned / "report")]) == 0
    assert "1.png" in capsys.readouterr().err
    [own] = json.loads((aligned / "report" / "scores.json").read_text())["runs"]
    assert all(p["judge_style"] is not None for p in own["pictures"]["set"])


def test_a_set_with_a_drawn_reference_has_no_style_pictures(world, tmp_path, capsys):
    assert main(["align", "--config", str(world), "--prompts", "A cat,An owl", "--look", "in ink", "--output",
                 str(tmp_path / "set"), "--width", "128", "--height", "128"]) == 0
    assert main(["eval", str(tmp_path / "set"), "--config", str(world), "--output", str(tmp_path / "report")]) == 0
    [own] = json.loads((tmp_path / "report" / "scores.json").read_text())["runs"]
    assert own["of_style"]["set"]["judge_set"] > 0 and "judge_style" not in own["pictures"]["set"][0]
