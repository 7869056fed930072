"""The judge in Jittor against PyTorch's logits for real pictures, and what score() promises.

The logits are in `tests/data/judge_reference.npz`.
"""
from pathlib import Path

import numpy as np
import pytest

from styleblend.metrics.judge import Judge


@pytest.fixture(scope="module")
def judge():
    return Judge.load()


@pytest.fixture(scope="module")
def real():
    with np.load(Path(__file__).parents[1] / "data" / "judge_reference.npz") as data:
        return dict(data)


def test_logits_equal_pytorch(judge, real):
    subject, style = judge.predict(real["pictures"])
    for ours, theirs in ((subject, real["subject_logits"]), (style, real["style_logits"])):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


def test_labels_and_figures_are_there(judge, real):
    assert (len(judge.subjects), len(judge.styles)) == (real["subject_logits"].shape[1], real["style_logits"].shape[1])
    for figure in ("style", "subject_top1", "subject_top5"):
        assert 0 <= judge.heldout[figure] <= 1
    assert set(zip(real["subjects"], real["styles"])) <= judge.heldout_pairs  # none of these was trained on


def test_score_of_the_true_labels_is_what_pytorch_says(judge, real):
    subjects, styles = list(real["subjects"]), list(real["styles"])
    wanted = np.array([judge.subjects.index(s) for s in subjects])
    order = (-real["subject_logits"]).argsort(1)
    scores = judge.score(real["pictures"], subjects, styles)
    assert scores["subject_top1"] == pytest.approx(np.mean(order[:, 0] == wanted))
    assert scores["subject_top5"] == pytest.approx(np.mean((order[:, :5] == wanted[:, None]).any(1)))
    assert scores["style"] == pytest.approx(np.mean([judge.styles[k] == judge.look(s)
                                                     for k, s in zip(real["style_logits"].argmax(1), styles)]))


def test_score_is_perfect_for_its_own_first_guess(judge, real):
    subjects = [judge.subjects[i] for i in real["subject_logits"].argmax(1)]
    styles = [judge.styles[i] for i in real["style_logits"].argmax(1)]
    assert judge.score(real["pictures"], subjects, styles) == {"subject_top1": 1.0, "subject_top5": 1.0, "style": 1.0}
    assert judge.score(real["pictures"], [s.upper() for s in subjects]) == {"subject_top1": 1.0, "subject_top5": 1.0}


def test_score_is_nothing_for_the_last_guess(judge, real):
    subjects = [judge.subjects[i] for i in real["subject_logits"].argmin(1)]
    styles = [judge.styles[i] for i in real["style_logits"].argmin(1)]
    assert judge.score(real["pictures"], subjects, styles) == {"subject_top1": 0.0, "subject_top5": 0.0, "style": 0.0}


def test_candidates_limit_the_choice(judge, real):
    one, truth = real["pictures"][:1], str(real["subjects"][0])
    others = [s for s in judge.subjects if s != truth]
    assert judge.score(one, [truth], candidates=[truth])["subject_top1"] == 1
    assert judge.score(one, [truth], candidates=others[:4] + [truth])["subject_top5"] == 1  # five to choose from
    with pytest.raises(ValueError, match=truth):
        judge.score(one, [truth], candidates=others[:4])


def test_larger_pictures_are_averaged(judge, real):
    few = real["pictures"][:2]
    double = few.repeat(2, 1).repeat(2, 2)
    for small, large in zip(judge.predict(few), judge.predict(double)):
        np.testing.assert_allclose(large, small, rtol=1e-4, atol=1e-4)


def test_a_batch_is_judged_picture_by_picture(judge, real):
    several = judge.predict(real["pictures"][:3])
    for i in range(3):
        for alone, together in zip(judge.predict(real["pictures"][i:i + 1]), several):
            np.testing.assert_allclose(alone[0], together[i], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(128, 128, 3), (2, 128, 128, 4), (2, 128, 64, 3), (2, 96, 96, 3), (2, 3, 128, 128),
                                   (0, 128, 128, 3), (1, 0, 0, 3)])
def test_wrong_shapes_are_refused(judge, shape):
    with pytest.raises(ValueError, match="the judge reads"):
        judge.predict(np.zeros(shape, np.uint8))


def test_wrong_labels_and_types_are_refused(judge, real):
    one = real["pictures"][:1]
    with pytest.raises(ValueError, match="the judge reads uint8"):
        judge.predict(one.astype(np.float32))
    with pytest.raises(ValueError, match="no such label.*'unheard of'"):
        judge.score(one, ["unheard of"])
    with pytest.raises(ValueError, match="no such label"):
        judge.score(one, [judge.subjects[0]], ["no style"])
    with pytest.raises(ValueError, match="1 pictures, but 2 labels"):
        judge.score(one, judge.subjects[:2])
