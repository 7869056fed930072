"""`styleblend tune`: a search that goes on where it was stopped, and prompts that the result is not judged by.

A style.json only changes for the better.
"""
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from drawing import pictures, request
from styleblend.base.base import load_base
from styleblend.cli import main
from styleblend.errors import StyleBlendError
from styleblend.files.claims import claim
from styleblend.metrics.judge import Judge, JudgeMetric
from styleblend.metrics.weighted import parse_weights
from styleblend.files.pictures import is_whole
from styleblend.pipeline import Pipeline
from styleblend.files.prompts import make_prompt
from styleblend.settings import PRESETS, SamplingSettings, StyleBlendStyle, read_settings, read_style_settings
from styleblend.jobs.events import result_of
from styleblend.jobs.scored_pictures import OutOfTime, ScoredPictures
from styleblend.adapters.style import load_style
from styleblend.jobs import tuning
from styleblend.jobs.trials import Trial, proposal, read_trials, space, starts, with_trial
from styleblend.jobs.tuning import Question, TuneRequest, choose_prompts
from test_files import children_may_be_killed  # noqa: F401 (a fixture that works by being here)

ROOT = Path(__file__).parents[2]
ONE = Question("fxemoji", "1", 3, 1, "both")
QUICK = ["--prompts", "1", "--seeds", "1", "--unseen", "3"]  # the same, as options


def tune(*request, **more):
    return result_of(tuning.tune(TuneRequest(*request, **more)))


@pytest.fixture
def known(trained, tmp_path):
    """The trained style under a name that the judge knows, drawn as large as it reads."""
    call(tmp_path, "dots", "fxemoji")
    data = yaml.safe_load(trained.read_text())
    data["sampling"].update(width=128, height=128, steps=2, batch=4)
    trained.write_text(yaml.safe_dump(data))
    return trained


def call(tmp_path, old, new):
    """Give a style another name."""
    for folder in ("data", "adapters"):
        (tmp_path / folder / old).rename(tmp_path / folder / new)
    for file in (tmp_path / "adapters" / new).glob(f"{old}*"):
        file.rename(file.with_name(file.name.replace(old, new)))


class Likeness:
    """A measure that prefers pictures by their mean colour, of which the presets have different ones."""

    def __init__(self, sign):
        self.name, self.higher_is_better = "colour", {"colour": sign > 0}

    def score(self, pictures, prompts, style_pictures):
        return {"colour": np.array([np.asarray(p)[..., 0].mean() - np.asarray(p)[..., 2].mean() for p in pictures])}


def history(tmp_path):
    return json.loads((tmp_path / "adapters" / "fxemoji" / "tuning" / "tuning.json").read_text())


def test_a_stopped_search_goes_on_as_an_unbroken_one(known, tmp_path):
    settings, folder = read_settings(known), tmp_path / "adapters" / "fxemoji" / "tuning"
    tune(settings, ONE, 4)
    unbroken = history(tmp_path)["trials"]
    tune(settings, ONE, 2, overwrite=True)
    assert history(tmp_path)["trials"] == unbroken[:2]
    lines = tune(settings, ONE, 4)
    assert history(tmp_path)["trials"] == unbroken and len(unbroken) == 4
    assert [t["settings"]["preset"] for t in unbroken[:2]] == list(PRESETS)
    best = max(unbroken, key=lambda t: np.mean([*t["prompts"].values(), *t["second"].values()]))
    second = np.mean(list(best["second"].values()))
    assert f"{best['score']:.3f}, {second:.3f} in the second round" in lines[1] and is_whole(folder / "trail.png")


def test_the_second_round(known, tmp_path):
    """The best few draw other prompts again, once, and the best of both rounds is compared.

    A longer search adds to what is known.
    """
    settings, question = read_settings(known), Question("fxemoji", "2", 3, 1, "both", finalists=2)
    tune(settings, question, 4)
    before = history(tmp_path)
    ranked = sorted(before["trials"], key=lambda t: -t["score"])
    assert [bool(t["second"]) for t in ranked] == [True, True, False, False]
    names = set(before["question"]["second round"])
    assert all(set(t["second"]) == names for t in ranked[:2]) and len(names) == 2
    assert not names & set(before["question"]["prompts"])
    assert before["comparison"] is None or not names & set(before["comparison"]["prompts"])
    tune(settings, question, 6)
    after = history(tmp_path)["trials"]
    assert all(t["second"] == old["second"] for t, old in zip(after, before["trials"]) if old["second"])
    assert all(t["second"] for t in sorted(after, key=lambda t: -t["score"])[:2])
    finalists = [t for t in after if t["second"]]
    best = max(finalists, key=lambda t: np.mean([*t["prompts"].values(), *t["second"].values()]))
    now = history(tmp_path)["comparison"]
    assert now is None or now["settings"] == best["settings"]


def test_the_search_may_draw_with_fewer_steps(known, tmp_path, monkeypatch):
    """The search does, the comparison draws as the config says."""
    steps, draw = [], Pipeline.draw

    def noted(self, request, **named):
        steps.append((request.sampling.steps, request.seeds[0] >= 1000))
        return draw(self, request, **named)

    monkeypatch.setattr(Pipeline, "draw", noted)
    tune(read_settings(known), Question("fxemoji", "1", 3, 1, "colour", finalists=0, steps=1), 6, others=[Likeness(1)])
    assert set(steps) <= {(1, False), (2, True)} and (1, False) in steps


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_search_goes_on(known, tmp_path, stop):
    """Whenever it is stopped: its trials are whole, and those of an unbroken search."""
    command = [sys.executable, "-m", "styleblend", "tune", "fxemoji", "--config", str(known), *QUICK, "--trials", "500"]
    path = tmp_path / "adapters" / "fxemoji" / "tuning" / "tuning.json"
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if path.is_file() and len(history(tmp_path)["trials"]) >= 3:
            break
        time.sleep(0.02)
    process.send_signal(stop)
    errors = process.communicate(timeout=60)[1]
    if stop == signal.SIGINT:
        assert process.returncode == 130 and "start the same command again to go on" in errors
    before = history(tmp_path)["trials"]
    tune(read_settings(known), ONE, len(before) + 1)
    after = history(tmp_path)["trials"]
    assert [{**t, "second": {}} for t in after[:-1]] == before and len(before) >= 3
    assert after[-1]["settings"] == proposal([Trial.model_validate(t) for t in before], 3.0).model_dump()
    assert not list(path.parent.glob(".*"))


def test_only_what_is_better_on_other_prompts_is_written(known, tmp_path):
    """Both signs of one measure: what is written is better on unseen prompts by the measure.

    What is not better changes nothing.
    """
    path, settings = tmp_path / "adapters" / "fxemoji" / "style.json", read_settings(known)
    # so strong a style that one of the signs must find something better
    before = StyleBlendStyle(seeds={"Cat": 5}, source="a book", blend={"cross_c2f_sites": [3, 4], "fine_scale": 12})
    written = []
    for sign in (1, -1):
        path.write_text(before.model_dump_json(exclude_defaults=True))
        text = path.read_text()
        question = Question("fxemoji", "1", 24, 1, "colour", unseen_seeds=2, finalists=0)
        lines = tune(settings, question, 6, overwrite=True, others=[Likeness(sign)])
        found = history(tmp_path)
        written.append(path.read_text() != text)
        if written[-1]:
            assert found["comparison"]["low"] > 0 and found["comparison"]["pairs"] == 24
            now = read_style_settings(path)
            best = max(found["trials"], key=lambda t: t["score"])["settings"]
            assert (now.preset, now.guidance) == (best.pop("preset"), best.pop("guidance"))
            assert {key: now.blend[key] for key in best} == best
            assert (now.seeds, now.source, now.blend["cross_c2f_sites"]) == (before.seeds, before.source, [3, 4])
            assert "Written to" in lines[-1]
        else:
            assert lines[-1] == "Nothing is written"
            assert found["comparison"] is None or found["comparison"]["low"] <= 0
    assert any(written)


def test_the_search_finds_an_optimum():
    """Of a measure that is known: nearer than the presets, and than most of as many random tries."""
    def value(s):
        return (-(s.scale - 0.8) ** 2 - (s.fine_scale - 1.5) ** 2 - (s.c2f_ratio - 0.2) ** 2 - (s.f2c_ratio - 0.9) ** 2
                - 0.2 * (s.preset == "balanced") - np.log(s.guidance / 3) ** 2)

    trials = []
    for _ in range(40):
        tried = proposal(trials, 7.5)
        trials.append(Trial(settings=tried, score=value(tried), prompts={}))
    assert trials[0].settings == starts(7.5)[0] and proposal(trials, 7.5) == proposal(trials, 7.5)
    rng = np.random.default_rng(0)
    chance = [max(-((rng.random(3) - (0.8, 0.2, 0.9)) ** 2).sum() - np.log(rng.uniform(1.5, 10) / 3) ** 2
                  - 0.2 * rng.integers(2) for _ in range(40)) for _ in range(200)]
    assert max(t.score for t in trials) > np.median(chance)


@pytest.mark.parametrize("guidance", [1.0, 1.237, 5.0, 12.5])
def test_guidance_is_searched_where_there_is_some(guidance):
    """Whatever the config says is tried first, and everything that is tried can be told to the sampler again."""
    trials = []
    for _ in range(20):
        trials.append(Trial(settings=proposal(trials, guidance), score=len(trials) % 3, prompts={}))
    tried = [t.settings.guidance for t in trials]
    assert trials[0].settings.guidance == (None if guidance == 1 else guidance)
    if guidance == 1:
        assert set(tried) == {None} and "guidance" not in space(guidance)
        # for configs that have some, the style keeps its own
        assert with_trial(StyleBlendStyle(guidance=4), trials[0].settings).guidance == 4
    else:
        assert len(set(tried)) > 5 and min(tried) >= min(1.5, guidance) and max(tried) <= max(10, guidance)


def test_a_search_of_an_older_version_goes_on(tmp_path):
    """Its file has the names that settings had then; other settings are another search, as ever."""
    path, now = tmp_path / "tuning.json", SamplingSettings(saved_size=96).model_dump()
    old = {"output" if key == "saved_size" else key: value for key, value in now.items()}
    path.write_text(json.dumps({"question": {"seeds": 1, "sampling": old}, "trials": []}))
    assert read_trials(path, {"seeds": 1, "sampling": now}) == []
    with pytest.raises(StyleBlendError, match="another search, with another sampling:"):
        read_trials(path, {"seeds": 1, "sampling": {**now, "saved_size": 97}})


def test_prompts_are_none_of_the_style(known, tmp_path, tiny_base):
    judge, folder = Judge.load(), tmp_path / "data" / "fxemoji"
    (folder / "prompt.json").write_text(json.dumps([s.capitalize() for s in judge.subjects[:400]]))
    chosen, second, unseen = choose_prompts(tiny_base, judge, folder, Question("fxemoji", "100", 200, 1, "both"))
    names = [p.text for p in chosen + second + unseen]
    assert len(names) == len(set(names)) and len(chosen) == len(second) == 100
    assert not {n.lower() for n in names} & ({s.lower() for s in judge.subjects[:400]} | {"red apple", "boat"})
    assert {n.lower() for n in names} <= {s.lower() for s in judge.subjects}
    named, second, rest = choose_prompts(tiny_base, judge, folder, Question("fxemoji", "Zebra,My dog", 5, 1, "both"))
    assert [p.text for p in named] == ["Zebra", "My dog"] and len(rest) == 5
    assert "zebra" not in [p.text.lower() for p in second + rest]
    assert choose_prompts(tiny_base, judge, folder, Question("fxemoji", "100", 300, 1, "both", finalists=0))[1] == []
    # another --unseen leaves both rounds as they are
    fewer = choose_prompts(tiny_base, judge, folder, Question("fxemoji", "100", 50, 1, "both"))
    first = choose_prompts(tiny_base, judge, folder, Question("fxemoji", "100", 200, 1, "both"))
    assert fewer[:2] == first[:2] and fewer[2] == first[2][:50]


def test_nothing_is_drawn_twice(known, tiny_base, tiny_style):
    judge, drawn, settings = Judge.load(), [], read_settings(known)
    pipeline = Pipeline(tiny_base)
    wanted = [(make_prompt(name), seed) for name in ("Cat", "Dog") for seed in (1, 2)]
    scored = ScoredPictures(pipeline, tiny_style, settings, [JudgeMetric(judge, "fxemoji")], {"both": 1.0}, [], wanted)
    first = result_of(scored.scores(StyleBlendStyle(), "first"), drawn.append)
    count = len(drawn)
    same = StyleBlendStyle(guidance=settings.sampling.guidance)
    assert result_of(scored.scores(same, "again"), drawn.append) is first
    assert count == len(drawn) and count
    cats = pictures(pipeline, request(["A cat"] * 2, [1, 2], settings.sampling, tiny_style))
    both = JudgeMetric(judge, "fxemoji").score([Image.fromarray(p) for p in cats], ["Cat"] * 2)["both"]
    assert first["Cat"] == pytest.approx(both.mean(), rel=0.02)
    with pytest.raises(OutOfTime):
        result_of(scored.scores(StyleBlendStyle(guidance=2), "too late", end=time.monotonic() - 1))


def test_seeds_are_chosen_for_the_prompts_of_the_style(known, tmp_path):
    """Each prompt's best picture of three; a prompt that the judge does not know keeps its seed."""
    path, settings = tmp_path / "adapters" / "fxemoji" / "style.json", read_settings(known)
    (tmp_path / "data" / "fxemoji" / "prompt.json").write_text('["Cat", "Owl", "Quark"]')
    path.write_text('{"seeds": {"Quark": 3}}')
    tune(settings, ONE, 1, seeds_each=3)
    seeds = json.loads(path.read_text())["seeds"]
    base = load_base(settings.base)
    pipeline, style = Pipeline(base), load_style(path.parent, "fxemoji", base)
    for prompt, phrase in (("Cat", "A cat"), ("Owl", "An owl")):
        wanted = request([phrase] * 3, [2024, 2025, 2026], settings.sampling, style, settings=settings.blend)
        drawn = pictures(pipeline, wanted)
        both = JudgeMetric(Judge.load(), "fxemoji").score([Image.fromarray(p) for p in drawn], [prompt] * 3)["both"]
        assert both[seeds.get(prompt, 2024) - 2024] >= 0.98 * both.max()
    assert seeds["Quark"] == 3


@pytest.mark.parametrize("style, metric, words", [("fxemoji", "beauty", "no score 'beauty'"),
                                                  ("mine", "both", "does not know the style mine")])
def test_what_cannot_be_scored_is_said_before_anything_is_drawn(known, tmp_path, monkeypatch, style, metric, words):
    if style != "fxemoji":
        call(tmp_path, "fxemoji", style)
    monkeypatch.setattr(Pipeline, "draw", lambda *given, **named: pytest.fail("a picture was drawn"))
    with pytest.raises(StyleBlendError, match=words):
        tune(read_settings(known), Question(style, "1", 3, 1, metric), 1)


def test_a_style_that_the_judge_does_not_know_is_tuned_by_its_subjects_and_colours(known, tmp_path, capsys):
    """As every style is that a user has trained; the judge's word on its style cannot be had."""
    call(tmp_path, "fxemoji", "mine")
    command = ["tune", "mine", "--config", str(known), "--trials", "1", "--finalists", "0", "--search-steps", "1",
               *QUICK]
    assert main(command) == 0
    said, out = " ".join(capsys.readouterr().err.split()), tmp_path / "adapters" / "mine" / "tuning" / "tuning.json"
    assert "the judge does not know the style mine" in said and "--metric subject,histogram" in said
    assert json.loads(out.read_text())["question"]["metric"] == {"subject": 1, "histogram": 1}
    shutil.rmtree(tmp_path / "data" / "mine" / "images")
    assert main([*command, "--overwrite"]) == 2
    assert "it has no pictures of its own" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--metric", "subject"]) == 0


def test_a_style_that_is_read_from_elsewhere_is_copied_whole(known, tmp_path):
    """A shipped style stays as it is: with other settings it is one of one's own."""
    there, here = tmp_path / "adapters" / "fxemoji", tmp_path / "own" / "fxemoji"
    (here / "tuning").mkdir(parents=True)
    before, own = {path.name: path.read_bytes() for path in there.iterdir()}, StyleBlendStyle(guidance=4.0)
    [sentence] = tuning.write_style(own, "fxemoji", there, here)
    assert "copy" in sentence and read_style_settings(here / "style.json") == own
    copied = {path.name: path.read_bytes() for path in here.glob("*.safetensors")}
    assert len(copied) == 4 and copied.items() <= before.items()
    assert {path.name: path.read_bytes() for path in there.iterdir()} == before
    assert [path.name for path in here.parent.iterdir()] == ["fxemoji"]  # nothing half-written
    assert tuning.write_style(StyleBlendStyle(), "fxemoji", here, here) == []
    assert read_style_settings(here / "style.json") == StyleBlendStyle()


def test_another_search_is_not_gone_on_with(known, tmp_path):
    settings = read_settings(known)
    tune(settings, ONE, 1)
    before = history(tmp_path)["trials"]
    with pytest.raises(StyleBlendError, match="another metric and prompts.*--overwrite"):
        tune(settings, Question("fxemoji", "2", 3, 1, "style"), 1)
    assert history(tmp_path)["trials"] == before
    for text in ('{"question": {}', "[]", '{"question": {}, "trials": [{"settings": {}, "score": "high"}]}'):
        (tmp_path / "adapters" / "fxemoji" / "tuning" / "tuning.json").write_text(text)
        with pytest.raises(StyleBlendError, match="tuning.json.*--overwrite"):
            tune(settings, ONE, 1)


def test_time(known, tmp_path):
    """A search without time says so; one that has trials goes on to the comparison."""
    settings = read_settings(known)
    with pytest.raises(StyleBlendError, match="too short for one trial of 1 pictures"):
        tune(settings, ONE, 5, minutes=0)
    tune(settings, ONE, 1)
    assert len(tune(settings, ONE, 5, minutes=0)) > 1 and len(history(tmp_path)["trials"]) == 1


def test_metrics():
    assert parse_weights("subject=2, style", "--metric") == {"subject": 2, "style": 1}
    for wrong in ("style=much", "style=0", "both,style=nan"):
        with pytest.raises(StyleBlendError, match="a number other than 0"):
            parse_weights(wrong, "--metric")


@pytest.mark.parametrize("arguments, words", [
    (["--metric", "beauty"], "no score 'beauty' of single pictures; there are both, subject"),
    (["--prompts", "Quark"], "the judge does not know Quark"),
    (["--unseen", "0"], "begin at 1"),
    (["--search-steps", "0"], "--search-steps: steps"),
    (["--unseen", "900"], "too few"),
    (["--trials", "0"], "begin at 1"),
    (["--prompts", "a <lora:ink:1>"], "which is not read here"),
    (["--minutes", "soon"], "invalid float"),
])
def test_mistakes(known, tmp_path, capsys, arguments, words):
    try:
        code = main(["tune", "fxemoji", "--config", str(known), "--seeds", "1", *arguments])
    except SystemExit as stop:  # argparse
        code = stop.code
    assert code == 2 and words in capsys.readouterr().err
    assert not list((tmp_path / "adapters" / "fxemoji").glob("**/*.json"))


def test_a_second_tuning_of_a_style_stops(known, tmp_path, capsys):
    with claim(tmp_path / "adapters" / "fxemoji" / "tuning", "tune"):
        assert main(["tune", "fxemoji", "--config", str(known), *QUICK, "--trials", "1"]) == 2
    assert "in use by another job of this program, which holds tune.lock" in capsys.readouterr().err
    assert not (tmp_path / "adapters" / "fxemoji" / "tuning" / "tuning.json").exists()
