"""report.html of a hundred pictures in a real browser: it loads alone, sorts, filters, compares, and fits on a phone.

Chromium by playwright (pip install playwright; STYLEBLEND_CHROMIUM names a Chromium, else playwright's own is taken).
"""
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from styleblend.metrics.judge import Judge
from styleblend.files.prompts import style_prompts
from styleblend.jobs.report import differences, write_report
from styleblend.jobs.events import result_of
from styleblend.jobs.scoring import score_run

pytestmark = pytest.mark.browser
DATA = Path(__file__).parents[2] / "data" / "mini"
STYLES = ["emojione-monotone", "fluent-3d", "fxemoji", "openmoji-black"]
NO_PICTURE = ("fxemoji", "Rose")  # in the second run


class Darkness:
    """Of which less is better; a number for the set beside it."""

    name, higher_is_better, source = "darkness", {"darkness": False, "contrast": True}, ""

    def score(self, pictures, prompts, style_pictures):
        means = np.array([1 - np.asarray(p).mean() / 255 for p in pictures])
        return {"darkness": means, "contrast": float(means.std())}


def draw(folder: Path, size: int) -> None:
    """25 prompts of four styles, twice: the styles' own art, turned and coloured anew; and the same blurred."""
    rng = np.random.default_rng(0)
    for style in STYLES:
        art = sorted((DATA / style / "images").glob("*.png"))
        for run in ("first", "second"):
            (folder / run / style).mkdir(parents=True)
        for i, prompt in enumerate(style_prompts(DATA / style)):
            image = Image.open(art[i % len(art)]).convert("RGB").resize((size, size), Image.LANCZOS)
            image = ImageEnhance.Color(image.rotate(rng.uniform(-40, 40), Image.BICUBIC, fillcolor="white")).enhance(
                rng.uniform(0.4, 1.8))
            image.save(folder / "first" / style / f"{prompt.name}.png")
            if (style, prompt.name) != NO_PICTURE:
                image.filter(ImageFilter.GaussianBlur(size / 40)).save(folder / "second" / style / f"{prompt.name}.png")


@pytest.fixture(scope="module", params=[128, 512])
def report(request, tmp_path_factory):
    """The folder of a report on a hundred pictures against a second run of them."""
    folder = tmp_path_factory.mktemp(f"report{request.param}")
    draw(folder, request.param)
    judge, metrics = Judge.load(), [Darkness()]
    runs = [result_of(score_run(folder / run, DATA, None, judge, metrics)) for run in ("first", "second")]
    write_report(runs, differences(runs), judge, folder, metrics)
    return folder


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ.get("STYLEBLEND_CHROMIUM"))
        yield browser
        browser.close()


@pytest.fixture
def page(browser, report):
    """The page as it is opened from a disk.

    In the end: nothing was said on its console, and nothing asked of a network.
    """
    page, said, asked = browser.new_page(viewport={"width": 1280, "height": 900}), [], []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((report / "report.html").as_uri())
    yield page
    page.close()
    assert said == [] and [url for url in asked if not url.startswith(("file:", "data:"))] == []


def scores_of(report: Path, key: str) -> list:
    """{(style, prompt): score} of each run, by scores.json."""
    runs = json.loads((report / "scores.json").read_text())["runs"]
    return [{(style, p["prompt"]): p[key] for style, pictures in run["pictures"].items() for p in pictures}
            for run in runs]


def shown(page) -> dict:
    """The prompts of each style that is shown, in the order of the page."""
    return {style: page.eval_on_selector_all(f"section[data-style='{style}'] .card",
                                             "cards => cards.map(c => c.dataset.prompt)")
            for style in page.eval_on_selector_all("section:not([hidden])",
                                                   "sections => sections.map(s => s.dataset.style)")}


def test_all_pictures_load_and_the_file_is_small(page, report):
    assert (report / "report.html").stat().st_size < 15e6
    page.evaluate("for (const image of document.images) image.loading = 'eager'")
    page.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    own = sum(len(list((DATA / style / "images").glob("*.png"))) for style in STYLES)
    assert page.evaluate("document.images.length") == 2 * 100 - 1 + own
    assert {style: len(prompts) for style, prompts in shown(page).items()} == dict.fromkeys(STYLES, 25)


@pytest.mark.parametrize("key, lower", [("both", False), ("style", False), ("darkness", True)])
def test_sorting(page, report, key, lower):
    """The worst first, then the best first; where less is better the highest is the worst."""
    of_first, _ = scores_of(report, key)
    before = shown(page)
    page.select_option("#key", key)
    worst = shown(page)
    page.click("#direction")
    assert page.inner_text("#direction") == "best first"
    for style in STYLES:
        wanted = sorted(before[style], key=lambda prompt: of_first[style, prompt], reverse=lower)
        assert worst[style] == wanted and shown(page)[style] == wanted[::-1] and len(set(wanted)) == 25


def test_sorting_by_name(page):
    page.select_option("#key", "prompt")
    assert shown(page) == {style: sorted(p.name for p in style_prompts(DATA / style)) for style in STYLES}
    page.click("#direction")
    assert page.inner_text("#direction") == "Z to A" and shown(page)["fxemoji"][0] == "Tulip"


def test_one_style_alone(page):
    page.select_option("#style", "openmoji-black")
    assert list(shown(page)) == ["openmoji-black"] and page.locator("article:visible").count() == 25
    page.select_option("#style", "")
    assert list(shown(page)) == STYLES and page.locator("article:visible").count() == 100


def test_comparison(page, report):
    """Both runs side by side with their numbers, sorted by what was lost or gained.

    What only one run has comes last.
    """
    first, second = scores_of(report, "both")
    assert page.locator("article >> nth=0").locator("img").count() == 2
    rose = page.locator("section[data-style='fxemoji'] article[data-prompt='Rose']")
    assert rose.locator("img").count() == 1 and "second: no picture" in rose.inner_text()
    bus = page.locator("section[data-style='fluent-3d'] article[data-prompt='Bus'] tr",
                       has=page.locator("th", has_text="both")).locator("td").all_inner_texts()
    assert bus == [f"{run['fluent-3d', 'Bus']:.3f}" for run in (first, second)]

    page.select_option("#of", label="first minus second")
    lost = shown(page)
    assert lost["fxemoji"][-1] == "Rose"
    lost["fxemoji"].remove("Rose")
    for style in STYLES:
        assert lost[style] == sorted(lost[style], key=lambda prompt: first[style, prompt] - second[style, prompt])
    page.select_option("#of", label="second")
    assert shown(page)["fluent-3d"] == sorted(lost["fluent-3d"], key=lambda prompt: second["fluent-3d", prompt])

    row = page.locator(".scroll tr", has_text="95 % interval").locator(
        "xpath=following-sibling::tr[1]").locator("td").all_inner_texts()
    mean = np.mean([first[which] - second[which] for which in second])
    assert row[:2] == ["both all", f"{mean:+.3f}"] and row[3] == "99"


def test_on_a_phone_and_in_the_dark(page):
    """Nothing hangs over the side, the style's pictures scroll away, and two pictures stand side by side."""
    page.set_viewport_size({"width": 360, "height": 740})
    for style in ("", "fluent-3d"):
        page.select_option("#style", style)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    one, other = (page.locator("section:not([hidden]) article >> nth=0").locator("img").nth(i).bounding_box()
                  for i in (0, 1))
    assert one["y"] == other["y"] and other["x"] >= one["x"] + one["width"] > 100 and other["x"] + other["width"] <= 360
    page.locator("section:not([hidden]) article >> nth=9").scroll_into_view_if_needed()
    own = page.locator("section:not([hidden]) .own").bounding_box()
    assert own["y"] + own["height"] < 0
    paper = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        paper[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper["light"] != paper["dark"]


def test_on_a_desk_the_styles_pictures_stay_beside_the_drawn_ones(page):
    last = page.locator("section[data-style='fluent-3d'] article >> nth=24")
    last.scroll_into_view_if_needed()
    own, card = page.locator("section[data-style='fluent-3d'] .own").bounding_box(), last.bounding_box()
    assert own["y"] >= 0 and own["y"] < 900 and own["x"] + own["width"] <= card["x"]
