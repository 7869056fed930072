"""The page for other programs, over plain HTTP: pictures as of the command line, and what is refused to whom."""
import base64
import hashlib
import io
import json
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image
from running_page import few_steps, run_in, running_page

from styleblend.errors import StyleBlendError
from styleblend.record import read_record
from styleblend.settings import read_settings
from styleblend.ui.drawing_fields import check_own
from styleblend.ui.folders import MOST_UPLOADED
from styleblend.ui.guard import MOST_WRONG
from styleblend.ui.queue import MOST_EACH

pytest.importorskip("gradio")
PASSWORD = "korrekt ä und lang"
SLEEPER = [sys.executable, "-c", "import sys; sys.stdin.read()"]  # a worker that does nothing until the page ends


def picture(kind="PNG", size=(40, 40)):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def signed(password):
    return {"authorization": "Basic " + base64.b64encode(f"anyone:{password}".encode()).decode()}


def said(answer, status):
    assert answer.status_code == status, answer.text
    return answer.json()


# ---------------------------------------------------------------- a server that draws

@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return few_steps(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def ask(project):
    """Asks a page that runs and wants a password: `ask(path, body)`; bytes are sent and come as they are."""
    with running_page(project, "--password", PASSWORD) as address:
        def ask(path, body=None, method=None):
            headers = {**signed(PASSWORD), "Content-Type": "application/json"}
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            with urllib.request.urlopen(urllib.request.Request(address + path, data, headers, method=method)) as answer:
                found = answer.read()
                return json.loads(found) if answer.headers["content-type"] == "application/json" else found
        yield ask


def ended(ask, job):
    """The job when it has ended, and what was seen of it on the way."""
    seen = [job]
    while not job["ended"]:
        time.sleep(0.2)
        job = ask(job["url"])
        seen.append(job)
    return job, seen


def pictures_of(ask, job):
    return [Image.open(io.BytesIO(ask(one["url"]))) for one in job["pictures"]]


def assert_equal_pictures(one, file):
    other = Image.open(file)
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    assert json.loads(one.info["styleblend"]) == json.loads(other.info["styleblend"])


def test_a_style_is_drawn_as_the_command_line_draws_it(ask, project):
    """Both prompts, the settings that were given, the record in the file; empty lines are no prompts."""
    job, seen = ended(ask, ask("/api/v1/draw", {"prompts": "A rabbit\n \n  An anchor ", "style": "fxemoji", "seed": 7,
                                                "sampling": {"guidance": 4}}))
    assert (job["state"], job["error"]) == ("done", "")
    assert [one["prompt"] for one in job["pictures"]] == ["A rabbit", "An anchor"]
    assert any(one["progress"] for one in seen) and any(one["preview"] for one in seen)
    for prompt, drawn in zip(("A rabbit", "An anchor"), pictures_of(ask, job)):
        run_in(project, "draw", "--config", "few", "--style", "fxemoji", "--prompt", prompt, "--seed", "7",
               "--guidance", "4", "--output", f"{prompt}.png")
        assert_equal_pictures(drawn, project / f"{prompt}.png")


def test_a_set_is_aligned_as_the_command_line_aligns_it(ask, project):
    """By a picture that was uploaded; the record names the page's own copy of it."""
    (project / "look.png").write_bytes(picture())
    path = ask("/api/v1/upload", (project / "look.png").read_bytes())["path"]
    job, _ = ended(ask, ask("/api/v1/align", {
        "prompts": ["A cat", "", "A house"], "seed": 11, "look": "in ink",
        "references": [{"path": path, "prompt": "A lake"}], "method_settings": {"adain_keys": True}}))
    assert [one["name"] for one in job["pictures"]] == ["A cat.png", "A house.png"]
    [copy] = (project / "result" / "page" / "references").iterdir()
    run_in(project, "align", "--config", "few", "--prompts", "A cat,A house", "--seed", "11", "--look", "in ink",
           "--reference", str(copy.relative_to(project)), "--reference-prompt", "A lake", "--adain-keys", "--output",
           "aligned")
    for one, drawn in zip(job["pictures"], pictures_of(ask, job)):
        assert_equal_pictures(drawn, project / "aligned" / one["name"])


def test_a_job_is_stopped_and_what_cannot_be_done_is_said(ask):
    job = ask("/api/v1/draw", {"prompts": "A rabbit", "count": 64})
    ask(job["url"], method="DELETE")
    assert ended(ask, job)[0]["state"] == "stopped"
    failed, _ = ended(ask, ask("/api/v1/align", {"prompts": ["A cat", "A cat"]}))
    assert failed["state"] == "failed" and "stands twice" in failed["error"]
    with pytest.raises(urllib.error.HTTPError, match="404"):
        ask(f"{job['url']}/pictures/99")


def test_styles_are_listed(ask):
    listed = ask("/api/v1/styles")
    assert {"name": "fxemoji", "method": "styleblend", "problem": None} in listed["styles"]
    assert set(listed["methods"]) == {"style_aligned", "style_encoder"}


# ---------------------------------------------------------------- who may ask, and what

@pytest.mark.parametrize("method, path", [
    ("GET", "/styles"), ("POST", "/draw"), ("POST", "/align"), ("POST", "/upload"), ("GET", "/jobs/x"),
    ("DELETE", "/jobs/x"), ("GET", "/jobs/x/pictures/0")])
def test_without_the_password_nothing_is_answered(open_page, method, path):
    client = open_page(PASSWORD)
    for headers in ({}, signed("wrong"), {"authorization": "Basic %%%"}, {"authorization": "Bearer x"}):
        answer = client.request(method, f"/api/v1{path}", headers=headers)
        assert "password" in said(answer, 401)["error"] and answer.headers["www-authenticate"].startswith("Basic")


def test_wrong_passwords_of_programs_and_browsers_count_together(open_page):
    client, right = open_page(PASSWORD), signed(PASSWORD)
    assert client.get("/api/v1/styles", headers=right).status_code == 200
    for _ in range(MOST_WRONG - 1):
        assert client.get("/api/v1/styles", headers=signed("wrong")).status_code == 401
    assert client.post("/login", data={"username": "me", "password": "wrong"}).status_code == 400
    answer = client.get("/api/v1/styles", headers=right)
    assert "try again in a minute" in said(answer, 429)["error"] and answer.headers["retry-after"] == "60"
    assert client.post("/login", data={"username": "me", "password": PASSWORD}).status_code == 400


def test_other_sites_are_refused(open_page):
    """Also with the password, which a browser may send by itself."""
    client = open_page(PASSWORD)
    for headers in ({"origin": "https://elsewhere.example"}, {"sec-fetch-site": "cross-site"},
                    {"host": "elsewhere.example"}):
        for path in ("draw", "align", "upload"):
            answer = client.post(f"/api/v1/{path}", json={"prompts": "A cat"}, headers={**signed(PASSWORD), **headers})
            assert answer.status_code == 403


def test_no_file_is_opened_but_what_was_uploaded(open_page, tmp_path, uploads):
    client = open_page()
    (tmp_path / "mine.png").write_bytes(picture())
    (uploads / "link.png").symlink_to(tmp_path / "mine.png")
    for path in (tmp_path / "mine.png", "/etc/passwd", f"{uploads}/../{tmp_path.name}/mine.png", "mine.png",
                 uploads / "link.png", "https://elsewhere.example/a.png"):
        for kind, more in (("draw", {"method": "style_encoder"}), ("align", {})):
            asked = {"prompts": "A cat", "references": [{"path": str(path)}], **more}
            assert client.post(f"/api/v1/{kind}", json=asked).status_code == 403
    for key in ("..", "%2e%2e%2f", "x/../../../etc/passwd"):
        assert client.get(f"/api/v1/jobs/{key}/pictures/0").status_code == 404
    assert not (tmp_path / "result" / "page" / "references").exists()


def test_an_upload_is_a_picture_of_some_size_and_kept_once(open_page, uploads):
    client, before = open_page(), set(uploads.iterdir())
    file = picture("JPEG")
    paths = {said(client.post("/api/v1/upload", content=file), 200)["path"] for _ in range(2)}
    assert paths == {str(uploads / hashlib.sha256(file).hexdigest()[:32] / "picture.jpeg")}
    assert "64 MiB" in said(client.post("/api/v1/upload", content=bytes(MOST_UPLOADED + 1)), 413)["error"]
    for strange in (b"", b"\x80\x04\x95cos\nsystem\n.", b"\x89PNG\r\n\x1a\nhello", b"<svg/>"):
        assert client.post("/api/v1/upload", content=strange).status_code == 400
    bomb = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(bomb, "PNG")
    assert "more than 64,000,000" in said(client.post("/api/v1/upload", content=bomb.getvalue()), 400)["error"]
    assert len(set(uploads.iterdir()) - before) == 1


def test_the_queue_has_the_same_places_for_programs(open_page):
    """Those of one machine have as many as one browser; what was refused may be asked again later."""
    client = open_page(worker=SLEEPER)
    jobs = [said(client.post("/api/v1/draw", json={"prompts": "A cat"}), 202) for _ in range(MOST_EACH)]
    assert [job["before"] for job in jobs] == list(range(MOST_EACH))
    answer = client.post("/api/v1/align", json={"prompts": "A cat"})
    assert "6 jobs of yours" in said(answer, 503)["error"] and answer.headers["retry-after"] == "10"
    assert said(client.delete(jobs[-1]["url"]), 200)["state"] == "stopped"
    assert client.post("/api/v1/align", json={"prompts": "A cat"}).status_code == 202


@pytest.mark.parametrize("kind, asked, words", [
    ("draw", {"prompts": " \n "}, "nothing to draw"), ("align", {"prompts": []}, "nothing to draw"),
    ("draw", {}, "prompts"), ("draw", {"prompts": ["A cat"] * 21}, "20 prompts"),
    ("draw", {"prompts": "A cat", "count": 65}, "count"), ("draw", {"prompts": "A cat", "seed": -2}, "seed"),
    ("draw", {"prompts": "A cat", "output": "/etc/x"}, "unknown key output"),
    ("draw", {"prompts": "A cat", "style": "../../etc"}, "cannot be a style"),
    ("draw", {"prompts": "A cat", "style": "none"}, "there is no style none"),
    ("draw", {"prompts": "A cat", "method": "style_aligned"}, "drop a picture"),
    ("draw", {"prompts": "A cat", "sampling": {"stepz": 3}}, "did you mean steps"),
    ("draw", {"prompts": "A cat", "sampling": {"steps": 0}}, "steps"),
    ("draw", {"prompts": "A cat", "sampling": {"steps": "many"}}, "no whole number"),
    ("draw", {"prompts": "A cat", "method_settings": {"scale": 1}}, "plain picture"),
    ("draw", {"prompts": "A cat", "method": "style_encoder", "method_settings": {"encoder": "/etc"}}, "no setting"),
    ("align", {"prompts": "A cat", "method_settings": {"references": [{"picture": "/etc/passwd"}]}}, "no setting"),
    ("align", {"prompts": "A cat", "method_settings": {"look": "in ink"}}, "no setting 'look'"),
    ("align", {"prompts": "A cat", "method_settings": {"style_on_reference": True}}, "without a learned style"),
    ("align", {"prompts": "A cat", "method_settings": {"offset": 3}}, "only with reference pictures")])
def test_what_cannot_be_drawn_is_said_at_once(open_page, kind, asked, words):
    answer = open_page().post(f"/api/v1/{kind}", json=asked)
    assert words in said(answer, 400)["error"]


@pytest.mark.parametrize("body", [b"", b"prompts=A+cat", b"[1]", b"{"])
def test_what_is_no_json_is_refused(open_page, body):
    answer = open_page().post("/api/v1/draw", content=body, headers={"content-type": "application/json"})
    assert "JSON object" in said(answer, 400)["error"]


def test_a_picture_of_a_job_comes_with_its_record(open_page, tmp_path):
    """As it lies in the output folder, from a worker that draws a tiny base."""
    client = open_page()
    job = said(client.post("/api/v1/draw", json={"prompts": "A cat", "seed": 3}), 202)
    while not job["ended"]:
        time.sleep(0.1)
        job = client.get(job["url"]).json()
    answer = client.get(job["pictures"][0]["url"])
    (tmp_path / "got.png").write_bytes(answer.content)
    record = read_record(tmp_path / "got.png")
    assert (record.prompt, record.seed) == ("A cat", 3) and answer.headers["content-type"] == "image/png"


# ---------------------------------------------------------------- hostile and careless programs

@pytest.mark.parametrize("path, body, sentence", [
    ("/draw", {"prompts": [1] * 300_000}, "prompts"),
    ("/draw", {"prompts": "A cat", **{f"key{n}": 1 for n in range(20_000)}}, "keys"),
    ("/draw", {"prompts": "A cat", "references": [{}] * 50_000}, "references"),
    ("/draw", {"prompts": "A cat", "style": "../styles/fxemoji", "method_settings": {"a": 1}}, "method_settings"),
    ("/draw", {"prompts": "A cat", "style": "/proc/1/fd"}, "cannot be a style"),
    ("/draw", {"prompts": "A cat", "style": "b" * 256}, "cannot be a style"),
    ("/draw", {"prompts": "A cat", "strength": 2}, "no effect without a style"),
    ("/draw", {"prompts": "A cat", "style": "fxemoji", "method_settings": {"c2f_sites": ["x"]}}, "c2f_sites"),
    ("/draw", {"prompts": "A cat", "seed": 2 ** 63 - 1, "count": 2}, "seed"),
    ("/draw", {"prompts": "A cat", "negative": "\ud800"}, "U+D800"),
    ("/draw", {"prompts": "A cat", "negative": "x" * 5000}, "5000 characters"),
    ("/align", {"prompts": "A cat", "look": "\0"}, "U+0000"),
    ("/align", {"prompts": "A cat", "reference_prompt": "\ud800"}, "U+D800")])
def test_hostile_requests_are_refused_within_seconds(open_page, path, body, sentence):
    """In a second or two, however much of it is wrong."""
    client, began = open_page(), time.monotonic()
    answer = client.post(f"/api/v1{path}", content=json.dumps(body), headers={"content-type": "application/json"})
    assert sentence in said(answer, 400)["error"] and time.monotonic() - began < 5


def test_a_damaged_picture_is_refused_as_it_comes(open_page):
    answer = open_page().post("/api/v1/upload", content=picture(size=(300, 300))[:2000])
    assert said(answer, 400)["error"].startswith("the picture that was uploaded is cut off or damaged")


def test_no_number_of_a_picture_is_no_picture(open_page):
    assert open_page().get("/api/v1/jobs/x/pictures/a").status_code == 404


def test_a_dial_is_checked_beside_what_its_style_says(tmp_path):
    """A style that has the dials on takes one alone; a style that has them off refuses it."""
    settings = read_settings("mini").model_copy(update={"adapters": str(tmp_path)})
    for name, dials in (("on", True), ("off", False)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "style.json").write_text(json.dumps(
            {"method": "dreamstyler", "dreamstyler": {"use_sc_guidance": dials}}))
    check_own(settings, "on", "", {"sty_gamma": 2.0})
    with pytest.raises(StyleBlendError, match="sty_gamma has an effect only with"):
        check_own(settings, "off", "", {"sty_gamma": 2.0})
