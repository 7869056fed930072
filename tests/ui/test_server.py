"""The page as a server, over HTTP: what it hands out, to whom, and what it takes. It needs the extra [page]."""
import io

import pytest
from PIL import Image

from styleblend.ui.folders import MOST_UPLOADED

pytest.importorskip("gradio")


def test_files_of_the_project_alone_are_handed_out(open_page, tmp_path):
    client = open_page()
    (tmp_path / "result" / "page").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "result" / "page" / "a.png")
    (tmp_path / "secret.txt").write_text("secret")
    assert client.get(f"/gradio_api/file={tmp_path}/result/page/a.png").status_code == 200
    for path in ("/etc/passwd", f"{tmp_path}/secret.txt", f"{tmp_path}/result/../secret.txt", f"{tmp_path}/config.yaml",
                 f"{tmp_path}/result/page/../../secret.txt", "../../../../../../etc/passwd", "README.md"):
        answer = client.get(f"/gradio_api/file={path}")
        assert answer.status_code in (403, 404), path


def test_a_path_that_was_not_uploaded_is_not_taken(open_page, tmp_path, uploads):
    """A browser may say of any file that it was uploaded."""
    client = open_page()
    Image.new("RGB", (8, 8)).save(tmp_path / "mine.png")
    config = client.get("/config").json()
    propose = next(one for one in config["dependencies"] for number, event in one["targets"]
                   if event == "click" and component(config, number).get("elem_id") == "train-propose")
    mine = tmp_path / "mine.png"
    for path in (str(mine), "https://elsewhere.example/a.png", f"{uploads}/../{tmp_path.name}/{mine.name}"):
        data = ["x" * 30, "stolen", [{"path": path, "meta": {"_type": "gradio.FileData"}}]]
        for address in ("/gradio_api/run/predict", "/gradio_api/queue/join"):
            said = client.post(address, json={"data": data, "fn_index": propose["id"], "session_hash": "s"})
            assert said.status_code == 403
    assert not (tmp_path / "data" / "stolen").exists()


def component(config, number):
    return next(one["props"] for one in config["components"] if one["id"] == number)


def test_other_sites_are_refused(open_page):
    client = open_page()
    assert client.get("/").status_code == 200
    for headers in ({"origin": "https://elsewhere.example"}, {"sec-fetch-site": "cross-site"},
                    {"host": "elsewhere.example"}):
        for path in ("/gradio_api/run/predict", "/gradio_api/queue/join", "/gradio_api/upload"):
            assert client.post(path, json={}, headers=headers).status_code == 403


def test_a_wrong_password_opens_nothing(open_page):
    client = open_page("long enough", "0.0.0.0")
    assert client.get("/config").status_code == 401
    assert client.post("/login", data={"username": "me", "password": "wrong"}).status_code == 400
    assert client.get("/config").status_code == 401
    assert client.post("/gradio_api/queue/join", json={}).status_code in (401, 403)
    assert client.post("/login", data={"username": "me", "password": "long enough"}).status_code == 200
    assert client.get("/config").status_code == 200


def test_an_upload_has_its_limit(open_page):
    client = open_page()
    small = io.BytesIO()
    Image.new("RGB", (8, 8)).save(small, "PNG")
    assert client.post("/gradio_api/upload", files={"files": ("../../a.png", small.getvalue())}).status_code == 200
    large = client.post("/gradio_api/upload", files={"files": ("b.png", bytes(MOST_UPLOADED + 1))})
    assert large.status_code == 413


def test_nothing_of_the_page_comes_from_elsewhere(open_page):
    client = open_page()
    text = client.get("/").text
    assert "fonts.googleapis" not in text and "cdnjs" not in text and "huggingface.co" not in client.get(
        "/theme.css").text
