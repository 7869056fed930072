"""`styleblend page` in a real browser, against a real server that draws and trains with the mini base, without network.

Chromium by playwright (pip install playwright; STYLEBLEND_CHROMIUM names a Chromium, else the system's is taken).
STYLEBLEND_SCREENSHOTS names a folder for pictures of the page.
"""
import os
import re
import shutil
from pathlib import Path

import pytest
from running_page import ROOT, few_steps, running_page

pytest.importorskip("gradio")
pytest.importorskip("playwright")
pytestmark = pytest.mark.browser
LONG = 900_000  # milliseconds: a machine that compiles and has other work


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder to work in."""
    return few_steps(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def address(project):
    """Of the server."""
    with running_page(project) as address:
        yield f"{address}/"


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ.get(
            "STYLEBLEND_CHROMIUM", shutil.which("chromium")))
        yield browser
        browser.close()


class Visitor:
    """A browser of its own on the page. In the end: nothing on its console, and nothing asked of another host."""

    def __init__(self, chromium, address, locale="en-US", width=1280, height=1000):
        self.context = chromium.new_context(locale=locale, viewport={"width": width, "height": height})
        self.context.set_default_timeout(LONG)
        self.page, self.address, self.said, self.asked = self.context.new_page(), address, [], []
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("console", lambda message: self.said.append(message.text) if message.type == "error" else None)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.open()

    def open(self):
        self.page.goto(self.address, wait_until="domcontentloaded", timeout=LONG)
        self.page.wait_for_selector("#draw-status .status", timeout=LONG)

    def field(self, name):
        return self.page.locator(f"#{name} textarea, #{name} input").first

    def choose(self, name, value):
        field = self.page.locator(f"#{name} input").first
        field.click()
        field.fill(value)
        self.page.wait_for_selector(f"[role=option][aria-label='{value}']")
        field.press("Enter")  # the first that fits
        field.blur()  # a list of which several may be chosen stays open

    def tab(self, name):
        self.page.get_by_role("tab", name=name, exact=True).click()

    def state(self, tab, *states):
        """Wait until a tab's job is in one of these states; which."""
        wanted = ", ".join(f"#{tab}-status .status[data-state='{state}']" for state in states)
        self.page.wait_for_selector(wanted, timeout=LONG)
        return self.page.locator(f"#{tab}-status .status").get_attribute("data-state")

    def pictures(self, name):
        return self.page.locator(f"#{name} img")

    def captions(self, name):
        return self.page.locator(f"#{name} .caption-label").all_inner_texts()

    def shot(self, name):
        folder = os.environ.get("STYLEBLEND_SCREENSHOTS")
        if folder:
            self.page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)

    def close(self):
        self.context.close()
        assert self.said == []
        assert {url for url in self.asked if not re.match(r"(http://127\.0\.0\.1:|data:|blob:)", url)} == set()


@pytest.fixture
def visit(chromium, address):
    """Opens browsers, and closes them."""
    visitors = []

    def opened(**how):
        visitors.append(Visitor(chromium, address, **how))
        return visitors[-1]

    yield opened
    for visitor in visitors:
        visitor.close()


def test_a_picture_is_drawn_with_a_preview_that_changes_and_found_after_a_reload(visit):
    me = visit()
    me.field("prompts").fill("A rabbit\nA boat")
    me.choose("style", "fxemoji")
    me.page.locator("#go").click()
    me.page.wait_for_selector("#draw-preview img", timeout=LONG)
    first = me.page.locator("#draw-preview img").get_attribute("src")
    me.page.wait_for_function("before => { const now = document.querySelector('#draw-preview img');"
                              " return now && now.src !== before }", arg=first, timeout=LONG)
    me.shot("drawing")
    me.open()  # a page that is opened again finds its job
    assert me.state("draw", "running", "done") in ("running", "done")
    me.state("draw", "done")
    me.page.wait_for_function("document.querySelectorAll('#draw-gallery img').length >= 2", timeout=LONG)
    assert sorted(caption.split(" · ")[0] for caption in me.captions("draw-gallery")) == ["A boat", "A rabbit"]
    me.shot("drawn")


def test_a_drawing_is_stopped_and_drawn_again(visit):
    me = visit()
    me.field("prompts").fill("A lemon")
    me.field("count").fill("40")
    me.page.locator("#go").click()
    me.page.wait_for_selector("#draw-preview img", timeout=LONG)
    me.page.locator("#stop").click()
    me.state("draw", "stopped")
    me.page.locator("#again").click()
    me.state("draw", "running")
    me.page.locator("#stop").click()
    me.state("draw", "stopped")


def test_two_browsers_wait_for_each_other_and_see_their_own_pictures(visit):
    one, other = visit(), visit(width=390, height=844)
    one.field("prompts").fill("A cat")
    one.field("count").fill("3")
    one.page.locator("#go").click()
    one.state("draw", "waiting", "running")
    other.field("prompts").fill("A dog")
    other.page.locator("#go").click()
    assert other.state("draw", "waiting", "running") == "waiting"
    assert "1 before this one" in other.page.locator("#draw-status").inner_text()
    other.shot("phone-waiting")
    one.state("draw", "done")
    other.state("draw", "done")
    for visitor, prompt, count in ((one, "A cat", 3), (other, "A dog", 1)):
        visitor.page.wait_for_function(f"document.querySelectorAll('#draw-gallery img').length >= {count}",
                                       timeout=LONG)
        assert {caption.split(" · ")[0] for caption in visitor.captions("draw-gallery")} == {prompt}
    other.shot("phone-drawn")
    assert other.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_style_is_learned_from_four_dropped_pictures(visit, project):
    me, pictures = visit(), sorted((ROOT / "data/mini/fxemoji/images").glob("*.png"))[:4]
    me.tab("Train")
    me.page.locator("#train-files input[type=file]").set_input_files([str(path) for path in pictures])
    me.page.wait_for_function("document.querySelectorAll('#train-files .file').length >= 4", timeout=LONG)
    me.field("train-name").fill("dropped")
    me.choose("train-method", "dreamstyler")
    me.page.locator("#train-propose").click()
    me.state("captions", "done")
    me.page.wait_for_function("document.querySelector('#train-captions').innerText.includes('A bouquet')", timeout=LONG)
    me.page.locator("#train-settings button").first.click()
    me.field("field-dreamstyler-steps").fill("4")
    me.field("field-sample_every").fill("2")
    me.shot("captions")
    me.page.locator("#train-start").click()
    me.page.wait_for_selector("#train-loss svg", timeout=LONG)
    me.shot("training")
    me.state("train", "done")
    me.page.wait_for_selector("#train-gallery img", timeout=LONG)
    me.shot("trained")
    assert (project / "checkpoints/mini/styles/dropped/dropped_stage_style_embeds.safetensors").is_file()


def test_two_methods_are_compared_and_a_picture_gives_its_settings_back(visit):
    me = visit()
    me.tab("Compare")
    me.field("compare-prompts").fill("A turtle")
    for method in ("plain", "styleblend"):
        me.choose("compare-methods", method)
    me.choose("compare-styles", "fxemoji")
    me.field("compare-seeds").fill("2024")
    me.page.locator("#compare-go").click()
    me.state("compare", "done")
    me.page.wait_for_function("document.querySelectorAll('#compare-gallery img').length >= 2", timeout=LONG)
    assert [caption.split(":")[0] for caption in me.captions("compare-gallery")] == ["plain", "styleblend"]
    rows = me.page.locator("#compare-scores tr").all_inner_texts()
    assert [row.split()[0] for row in rows[1:]] == ["plain", "styleblend"] and "subject_top5" in rows[0]
    assert "".join(me.page.locator("#compare-report").inner_text().split()).count("report.html")
    me.shot("compared")
    me.tab("History")
    me.field("history-words").fill("turtle")
    me.choose("history-style", "fxemoji")
    me.page.locator("#history-look").click()
    me.page.wait_for_function("document.querySelectorAll('#history-gallery img').length === 1", timeout=LONG)
    me.pictures("history-gallery").first.click()
    me.page.wait_for_function("document.querySelector('#history-record textarea').value.includes('A turtle')",
                              timeout=LONG)
    me.shot("history")
    me.page.locator("#history-use").click()
    me.page.wait_for_function("document.querySelector('#prompts textarea').value === 'A turtle'", timeout=LONG)
    assert me.field("seed").input_value() == "2024" and me.field("style").input_value() == "fxemoji"


def test_the_page_speaks_chinese_where_the_browser_does(visit):
    me = visit(locale="zh-CN", width=390, height=844)
    assert me.page.get_by_role("tab", name="绘图").count() and me.page.locator("#go").inner_text() == "开始绘制"
    assert "还没有任务" in me.page.locator("#draw-status").inner_text()
    me.shot("phone-chinese")


def test_the_styles_are_listed_and_one_is_deleted_after_a_question(visit, project):
    mine = project / "checkpoints/mini/styles/mine"
    mine.mkdir(parents=True)
    for file in (ROOT / "checkpoints/mini/styles/fxemoji").glob("*.safetensors"):
        shutil.copy(file, mine / file.name.replace("fxemoji", "mine"))
    me = visit()
    me.tab("Styles")
    me.page.wait_for_function("document.querySelector('#styles-table').innerText.includes('mine')", timeout=LONG)
    me.shot("styles")
    me.choose("styles-name", "mine")
    me.page.locator("#styles-delete").click()
    assert mine.is_dir()
    me.page.locator("#styles-yes").click()
    me.page.wait_for_function("!document.querySelector('#styles-table').innerText.includes('mine')", timeout=LONG)
    assert not mine.exists()
