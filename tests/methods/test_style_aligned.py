"""StyleAligned: what must hold whatever the weights are, reference pictures from the file to the record, bad input."""
from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from drawing import last_latents, request
from reference import seeded
from styleblend.cli import main
from styleblend.diffusion.blends import blended
from styleblend.diffusion.controls import AdaIN, SharedKV
from styleblend.diffusion.recipe import Recipe, classifier_free
from styleblend.errors import StyleBlendError
from styleblend.jobs.events import result_of
from styleblend.kernels import attention
from styleblend.kernels.segments import Segment
from styleblend.machine.runtime import jt
from styleblend.models.attention import Projection, Projections
from styleblend.models.rows import Reference, Rows
from styleblend.pipeline import Pipeline, Picture, Progress
from styleblend.record import read_record
from styleblend.settings import AlignSettings, ReferencePicture, SamplingSettings, validated

SAMPLING = SamplingSettings(steps=3, guidance=5, width=128, height=128, fine_negative="")
PROMPTS, SEEDS = ("A train", "A boat"), (5, 6)
ROWS = Rows({"reference": 1, "target": 2}, ("negative", "full"))


@pytest.fixture(scope="module")
def pipeline(tiny_base):
    return Pipeline(tiny_base)


@pytest.fixture(autouse=True)
def kept_apart(tmp_path, monkeypatch):
    """What is kept of inversions is that of one test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def pictures(tmp_path):
    """Three made-up pictures."""
    y, x = np.mgrid[:128, :128]
    for number, pattern in enumerate((x * 2, y * 2, (x + y) % 32 * 8)):
        pixels = np.stack([pattern, 255 - pattern, np.full_like(x, 80 * number)], -1).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return [str(tmp_path / f"{number}.png") for number in range(3)]


LOOK = dict(reference_prompt="A train", reference_seed=5)  # a reference with the first picture's prompt and seed


def drawn(pipeline, settings=AlignSettings(**LOOK), sampling=SAMPLING, prompts=PROMPTS, seeds=SEEDS, change=None):
    """The last latents of all rows, (reference rows and targets, 4, h, w)."""
    asked = result_of(pipeline.prepared(request(prompts, seeds, sampling, method="style_aligned", settings=settings)))
    recipe = pipeline.recipe(asked)
    return last_latents(pipeline, change(recipe) if change else recipe, sampling, pipeline.applied(None),
                        method="style_aligned")


def plain(pipeline, texts, seeds, sampling=SAMPLING):
    """The last latents of ordinary pictures."""
    guidance = classifier_free(sampling.guidance)
    rows = Rows({"target": len(texts)}, tuple(guidance))
    by_condition = {"negative": [""] * len(texts), "full": texts}
    recipe = Recipe(rows, (tuple(text for name in rows.conditions for text in by_condition[name]),), guidance,
                    {"target": tuple(seeds)}, ("target",))
    return last_latents(pipeline, recipe, sampling, pipeline.applied(None))


def near(ours, theirs, most=1e-4):
    assert np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) <= most


# ---------------------------------------------------------------- a set from prompts

@pytest.mark.parametrize("guidance", [5, 1], ids=["guided", "guidance off"])
def test_the_reference_is_an_ordinary_picture_and_the_others_are_not(pipeline, guidance):
    sampling = SAMPLING.model_copy(update={"guidance": guidance})
    found = drawn(pipeline, AlignSettings(look="flat", reference_prompt="A car", reference_seed=9), sampling)
    texts = ["A car, flat.", "A train, flat.", "A boat, flat."]
    alone = plain(pipeline, texts, (9, *SEEDS), sampling)
    near(found[:1], alone[:1])
    for row in (1, 2):
        assert np.linalg.norm(found[row] - alone[row]) > 1e-2 * np.linalg.norm(alone[row])


def test_a_picture_with_the_references_prompt_and_seed_is_the_reference(pipeline):
    for settings in (AlignSettings(**LOOK),
                     AlignSettings(share_group_norm=True, adain_values=True, shared_score_shift=1, **LOOK)):
        found = drawn(pipeline, settings, prompts=("A train", "A train"), seeds=(5, 5))
        near(found[1:2], found[:1])
        near(found[2:], found[:1])


def test_level_1_and_nothing_shared_are_plain(pipeline):
    alone = plain(pipeline, ["A train.", "A train.", "A boat."], (5, *SEEDS))
    near(drawn(pipeline, AlignSettings(only_self_level=1, **LOOK)), alone)
    near(drawn(pipeline, AlignSettings(share_attention=False, adain_queries=False, adain_keys=False, **LOOK)), alone)


def test_a_picture_does_not_depend_on_its_neighbours(pipeline):
    """The reference is one row: a large set goes through in batches that fit, each with the same reference."""
    settings = AlignSettings(reference_prompt="A car", reference_seed=9, share_group_norm=True)
    together = drawn(pipeline, settings)
    for place in range(2):
        near(drawn(pipeline, settings, prompts=PROMPTS[place:place + 1], seeds=SEEDS[place:place + 1])[1:],
             together[place + 1:place + 2])


def test_full_sharing_changes_the_reference_too(pipeline):
    found = drawn(pipeline, AlignSettings(full_attention_share=True, **LOOK))
    assert np.linalg.norm(found[0] - drawn(pipeline)[0]) > 1e-3 * np.linalg.norm(found[0])


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler"])
def test_every_sampler_draws_a_set(pipeline, sampler):
    sampling = SAMPLING.model_copy(update={"sampler": sampler})
    found = drawn(pipeline, sampling=sampling)
    near(found[:1], plain(pipeline, ["A train."], (5,), sampling))
    assert np.isfinite(found).all()


# ---------------------------------------------------------------- in one attention

def attended(controls, rows=ROWS, seed="aligned"):
    """What rows attend to with these controls, and the q, k and v that they start from."""
    arrays = [seeded.values(f"{seed}/{name}", (rows.count, 12, 16)) for name in "qkv"]
    p = Projections(*(Projection(None, jt.array(one)) for one in arrays))
    for control in controls:
        p = control.apply(p, rows)
    q, k, v, q_rows, segments = p.read()
    return attention(q, k, v, 2, q_rows=q_rows, segments=segments).numpy(), p, arrays


def test_a_very_negative_shift_is_plain_attention_of_the_adapted_q_and_k():
    adain = AdaIN(())
    hidden, p, _ = attended([adain, SharedKV((), shift=(-1e4,))])
    adapted = attention(p.q.made(), p.k.made(), p.v.made(), 2).numpy()
    np.testing.assert_allclose(hidden, adapted, atol=1e-6)


def test_a_shift_of_ln_2_counts_the_reference_twice():
    twice, p, _ = attended([SharedKV((), shift=(math.log(2),))])
    own, reference = p.segments
    by_hand = attention(p.q.made(), p.k.made(), p.v.made(), 2,
                        segments=(own, Segment(reference.rows), Segment(reference.rows))).numpy()
    np.testing.assert_allclose(twice, by_hand, atol=1e-6)


def test_adain_gives_the_mean_and_the_deviation_of_the_reference_under_the_same_condition():
    _, p, (q, k, _) = attended([AdaIN(())])
    for made, given in ((p.q.made().numpy(), q), (p.k.made().numpy(), k)):
        for first in (0, 3):
            np.testing.assert_allclose(made[first], given[first], atol=1e-6)  # the reference itself stays as it is
            for row in (first + 1, first + 2):
                np.testing.assert_allclose(made[row].mean(0), given[first].mean(0), atol=1e-5)
                np.testing.assert_allclose(made[row].std(0, ddof=1), given[first].std(0, ddof=1), rtol=1e-3)


def test_several_references_by_attention_are_weighted_and_their_order_does_not_matter():
    rows = Rows({"reference": 3, "target": 1}, ("full",))
    weights, scale, shift = (0.2, 0.5, 0.3), (1.0, 0.5, 2.0), (0.1, 0.0, -0.2)
    found, _, (q, k, v) = attended([SharedKV((), reference=Reference(weights=weights), scale=scale, shift=shift)], rows)
    scores, values = [], []
    for row, factor, more in ((3, 1, 0), *((n, scale[n], shift[n] + math.log(weights[n])) for n in range(3))):
        scores.append(np.einsum("lhd,shd->hls", *(x.astype(np.float64).reshape(12, 2, 8) for x in (q[3], k[row])))
                      / math.sqrt(8) * factor + more)
        values.append(v[row].astype(np.float64).reshape(12, 2, 8))
    weight = np.exp(np.concatenate(scores, -1))
    weight /= weight.sum(-1, keepdims=True)
    expected = np.einsum("hls,shd->lhd", weight, np.concatenate(values)).reshape(12, 16)
    np.testing.assert_allclose(found[3], expected, atol=1e-5)
    for row in range(3):  # each reference attends to itself alone
        one = attention(*(jt.array(x[row:row + 1]) for x in (q, k, v)), 2).numpy()[0]
        np.testing.assert_allclose(found[row], one, atol=1e-5)


# ---------------------------------------------------------------- reference pictures

def settings_with(pictures, weights=(1.0,), **more) -> AlignSettings:
    references = [ReferencePicture(picture=path, prompt="a pattern", weight=weight)
                  for path, weight in zip(pictures, weights)]
    return AlignSettings(references=references, offset=1, **more)


@pytest.mark.parametrize("blend", ["linear", "slerp", "spherical_mean", "slerp_upstream", "attention"])
def test_weights_1_and_0_are_the_first_picture_alone(pipeline, pictures, blend):
    alone = drawn(pipeline, settings_with(pictures[:1]))
    both = drawn(pipeline, settings_with(pictures[:2], (2.0, 0.0), blend=blend))
    near(both, alone)


@pytest.mark.parametrize("blend", ["linear", "spherical_mean", "attention"])
def test_the_order_of_the_pictures_does_not_matter(pipeline, pictures, blend):
    weights = (0.2, 0.5, 0.3)
    found = drawn(pipeline, settings_with(pictures, weights, blend=blend))
    turned = drawn(pipeline, settings_with(pictures[::-1], weights[::-1], blend=blend))
    near(turned[-2:], found[-2:], 2e-3)


def test_blends():
    """One of them keeps the length of a latent, and does not depend on the order; slerp of two is the same."""
    latents, weights = [seeded.values(f"blend/{n}", (4, 8, 8)) for n in range(3)], (0.2, 0.5, 0.3)
    length = np.dot(weights, [np.linalg.norm(one) for one in latents])
    mean = blended("spherical_mean", latents, weights)
    assert np.linalg.norm(mean) == pytest.approx(length, rel=1e-5)
    assert np.linalg.norm(blended("linear", latents, weights)) < 0.7 * length
    near(blended("spherical_mean", latents[::-1], weights[::-1]), mean, 1e-5)
    assert np.linalg.norm(blended("slerp", latents[::-1], weights[::-1]) - blended("slerp", latents, weights)) > 1e-3
    near(blended("slerp", latents[:2], (0.3, 0.7)), blended("spherical_mean", latents[:2], (0.3, 0.7)), 1e-5)
    for blend in ("linear", "slerp", "spherical_mean"):
        near(blended(blend, [latents[0]] * 3, weights), latents[0], 1e-6)  # the same three times
        assert np.isfinite(blended(blend, [latents[0], -latents[0]], (0.5, 0.5))).all()
        assert np.isfinite(blended(blend, [latents[0], latents[0] * 0], (0.5, 0.5))).all()
    with pytest.raises(StyleBlendError, match="too much alike"):
        blended("slerp_upstream", [latents[0], latents[0]], (0.5, 0.5))


def test_the_reference_follows_its_trajectory_and_is_the_picture_at_the_end(pipeline, pictures):
    for follow in ("inversion", "noise"):
        settings = settings_with(pictures[:1], follow=follow)
        asked = request(PROMPTS, SEEDS, SAMPLING, method="style_aligned", settings=settings)
        asked = result_of(pipeline.prepared(asked))
        assert len(asked.trajectory) == SAMPLING.steps + 1
        np.testing.assert_array_equal(drawn(pipeline, settings)[:1], asked.trajectory[-1].numpy())


def test_a_second_run_does_not_invert_again(tiny_base, pictures, tmp_path):
    asked = request(PROMPTS, SEEDS, SAMPLING, method="style_aligned", settings=settings_with(pictures[:1]))

    def run(asked, pipeline=None):
        events = list((pipeline or Pipeline(tiny_base)).draw(asked))
        inverted = [event for event in events if isinstance(event, Progress) and event.what != "drawing"]
        return len(inverted), np.stack([event.pixels for event in events if isinstance(event, Picture)])

    (first, pixels), (second, again) = run(asked), run(asked)
    assert (first, second) == (SAMPLING.steps, 0)
    np.testing.assert_array_equal(pixels, again)
    assert run(replace(asked, settings=settings_with(pictures[1:2])))[0] == SAMPLING.steps
    [kept, _] = sorted((tmp_path / "cache" / "styleblend" / "trajectories").iterdir())
    kept.write_bytes(kept.read_bytes()[:100])  # a torn file is computed again
    assert sum(run(replace(asked, settings=settings_with([path])))[0] for path in pictures[:2]) == SAMPLING.steps

    # within one pipeline it is not even read again, until the picture is another one
    shutil.rmtree(tmp_path / "cache")
    one = Pipeline(tiny_base)
    assert [run(asked, one)[0] for _ in range(2)] == [SAMPLING.steps, 0]
    shutil.copy(pictures[2], pictures[0])
    assert run(asked, one)[0] == SAMPLING.steps


def test_without_an_inversion_every_sampler_follows_a_picture(pipeline, pictures):
    sampling = SAMPLING.model_copy(update={"sampler": "euler"})
    assert np.isfinite(drawn(pipeline, settings_with(pictures[:1], follow="noise"), sampling)).all()
    with pytest.raises(StyleBlendError, match="take sampler ddim, or follow: noise"):
        drawn(pipeline, settings_with(pictures[:1]), sampling)


@pytest.mark.parametrize("wrong, message", [
    ({"references": [{"picture": "no.png"}], "offset": 1}, "no.png does not exist"),
    ({"references": [{"picture": "{0}"}], "offset": 3}, "offset 3 leaves none of 3 steps"),
    ({"references": [{"picture": "{0}", "weight": 0}]}, "add up to 0"),
    ({"references": [{"picture": "{0}", "strength": "strong"}]}, "unknown strength"),
    ({"references": [{"picture": "{0}", "weight": -1}]}, "greater than or equal to 0"),
    ({}, "there is nothing to align to"), ({"blend": "mean"}, "unknown blend"),
    ({"follow": "euler"}, "unknown way to follow a reference"),
    ({"offset": 2}, "offset has an effect only with reference pictures"),
    ({"references": [{"picture": "{0}"}], "blend": "linear"}, "blend has an effect only with several"),
    ({"references": [{"picture": "{0}"}], "shared_score_scale": 0.5}, "only with a reference that is drawn"),
    ({"references": [{"picture": "{0}"}], "follow": "noise", "inversion_guidance": 3}, "only with follow: inversion"),
    ({"look": "ink", "full_attention_share": True, "shared_score_shift": 1}, "only with full_attention_share: false"),
])
def test_bad_settings_are_one_sentence(pipeline, pictures, wrong, message):
    data = json.loads(json.dumps(wrong).replace("{0}", pictures[0]))
    with pytest.raises(StyleBlendError, match=message):
        drawn(pipeline, validated(AlignSettings, data, "the request"))


def test_a_style_of_a_reference_picture_is_drawn_by_the_commands(world, tmp_path, pictures):
    folder = tmp_path / "adapters" / "dots"
    folder.mkdir(parents=True)
    style = {"method": "style_aligned", "align": {"look": "dots", "offset": 1, "references": [
        {"picture": "here.png", "prompt": "a pattern"}, {"picture": pictures[2], "weight": 3, "strength": "famous"}]}}
    shutil.copy(pictures[0], folder / "here.png")  # a picture beside style.json is found there
    (folder / "style.json").write_text(json.dumps(style))
    one, again = tmp_path / "one.png", tmp_path / "again.png"
    assert main(["draw", "--config", str(world), "--style", "dots", "--prompt", "A cat", "--output", str(one)]) == 0
    record = read_record(one)
    assert (record.method, record.settings.look) == ("style_aligned", "dots")
    assert record.settings.weights() == (0.25, 0.75)
    assert main(["draw", "--config", str(world), "--from", str(one), "--output", str(again)]) == 0
    assert np.array_equal(np.asarray(Image.open(again)), np.asarray(Image.open(one)))
    assert main(["board", "--config", str(world), "--styles", "dots"]) == 0
    assert read_record(tmp_path / "result" / "dots" / "Cat.png").settings == record.settings
