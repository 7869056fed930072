"""The ComfyUI nodes against a page that runs: its pictures, its refusals, and to whom the password is sent.

The nodes need PyTorch, which cannot be in Jittor's process: STYLEBLEND_TORCH_PYTHON names a Python that has it. In
ComfyUI itself they run where STYLEBLEND_COMFYUI names its folder, and STYLEBLEND_COMFYUI_PYTHON its Python.
"""
import contextlib
import http.server
import importlib.util
import json
import os
import socket
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running_page import ROOT, few_steps, run_in, running_page

pytest.importorskip("gradio")
NODES = ROOT / "integrations" / "comfyui"
PASSWORD = "korrekt ä und lang"
PICTURE = ROOT / "data" / "mini" / "fxemoji" / "images"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return few_steps(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def page(project):
    """The address of a page that wants a password."""
    with running_page(project, "--password", PASSWORD) as address:
        yield address


@pytest.fixture
def run_node(tmp_path):
    """Runs a node: `run_node(node, inputs, references)`; its images and its answer."""
    python = os.environ.get("STYLEBLEND_TORCH_PYTHON")
    if not python:
        pytest.skip("STYLEBLEND_TORCH_PYTHON does not name a Python with PyTorch, which the nodes need")

    def run(node=None, inputs=None, references=(), server="http://127.0.0.1:9", password=PASSWORD):
        asked = {"node": node, "inputs": inputs, "references": list(map(str, references))} if node else {}
        (tmp_path / "asked.json").write_text(json.dumps(asked))
        clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "STYLEBLEND_PASSWORD")}
        env = {**clean, "STYLEBLEND_SERVER": server, **({"STYLEBLEND_PASSWORD": password} if password else {})}
        subprocess.run([python, Path(__file__).with_name("run_node.py"), tmp_path / "asked.json", tmp_path], check=True,
                       env=env)
        images = np.load(tmp_path / "images.npy") if (tmp_path / "images.npy").exists() else None
        return images, json.loads((tmp_path / "answer.json").read_text())
    return run


def assert_shows(image, file):
    """A picture of an IMAGE is that of the file, to the bit."""
    np.testing.assert_array_equal(np.rint(image * 255).astype(np.uint8), np.asarray(Image.open(file)))


def test_a_node_draws_what_the_command_line_draws(run_node, page, project):
    images, answer = run_node("StyleBlendDraw", {
        "prompts": "A rabbit\n\nAn anchor\n", "style": "fxemoji", "seed": 7, "count": 1, "strength": 0.8,
        "sampling": '{"guidance": 4}'}, server=page)
    assert images.shape == (2, 128, 128, 3) and images.dtype == np.float32 and 0 <= images.min() <= images.max() <= 1
    for image, record, prompt in zip(images, map(json.loads, answer["records"]), ("A rabbit", "An anchor")):
        run_in(project, "draw", "--config", "few", "--style", "fxemoji", "--prompt", prompt, "--seed", "7",
               "--guidance", "4", "--strength", "0.8", "--output", f"{prompt}.png")
        assert_shows(image, project / f"{prompt}.png")
        assert (record["prompt"], record["seed"], record["sampling"]["guidance"]) == (prompt, 7, 4)


def test_a_batch_is_aligned_by_the_pictures_of_an_image(run_node, page, project, tmp_path):
    """Two of them, each with what it shows; empty lines are nothing here, too."""
    files = []
    for number, file in enumerate(sorted(PICTURE.glob("*.png"))[:2]):
        Image.open(file).convert("RGB").resize((96, 96)).save(tmp_path / f"{number}.png")
        files.append(tmp_path / f"{number}.png")
    images, _ = run_node("StyleBlendAlign", {
        "prompts": "A cat\nA house", "look": "in ink", "seed": 11, "reference_prompts": "A lake\n\nA tree\n"}, files,
        server=page)
    run_in(project, "align", "--config", "few", "--prompts", "A cat,A house", "--seed", "11", "--look", "in ink",
           "--reference", str(files[0]), "--reference-prompt", "A lake", "--reference", str(files[1]),
           "--reference-prompt", "A tree", "--output", "aligned")
    for image, name in zip(images, ("A cat", "A house")):
        assert_shows(image, project / "aligned" / f"{name}.png")


def test_a_set_without_a_reference_picture_has_its_own_pictures_alone(run_node, page):
    images, answer = run_node("StyleBlendAlign", {"prompts": "A cat\nA house", "look": "", "seed": 1}, server=page)
    assert [json.loads(one)["prompt"] for one in answer["records"]] == ["A cat", "A house"] and len(images) == 2


@pytest.mark.parametrize("node, inputs, words", [
    ("StyleBlendDraw", {"style": "nothing"}, "there is no style nothing"),
    ("StyleBlendDraw", {"prompts": "\n \n"}, "nothing to draw"),
    ("StyleBlendDraw", {"sampling": "steps: 3"}, "sampling: this is no JSON"),
    ("StyleBlendDraw", {"sampling": "[3]"}, "write settings in braces"),
    ("StyleBlendDraw", {"method": "style_encoder"}, "drop a picture"),
    ("StyleBlendDraw", {"server": "file:///etc/passwd"}, "is no address of a server"),
    ("StyleBlendDraw", {"server": "http://127.0.0.1:9"}, "start it with `styleblend page`"),
    ("StyleBlendAlign", {"reference_prompts": "A lake\nA tree"}, "2 reference prompts for 0 reference pictures"),
    ("StyleBlendAlign", {"reference_strength": "famous"}, "no effect without a reference picture"),
    ("StyleBlendAlign", {"prompts": "A cat\nA cat"}, "stands twice")])
def test_what_is_wrong_is_said_at_the_node(run_node, page, node, inputs, words):
    usual = {"StyleBlendDraw": {"prompts": "A cat", "style": "", "seed": 1, "count": 1},
             "StyleBlendAlign": {"prompts": "A cat", "look": "", "seed": 1}}
    _, answer = run_node(node, {**usual[node], **inputs}, server=page)
    assert words in answer["error"] and answer["error"].startswith("ServiceError")


def test_nodes_take_what_their_functions_take_and_the_workflow_gives(run_node):
    _, answer = run_node()
    assert answer["titles"] == {"StyleBlendDraw": "StyleBlend: draw", "StyleBlendAlign": "StyleBlend: align a batch"}
    for node in answer["nodes"].values():
        named = {name for name, kind in node["parameters"].items() if kind == "POSITIONAL_OR_KEYWORD"}
        rest = {"negative", "sampling", "method_settings", "server"}
        assert set(node["inputs"]) == named | rest and "VAR_KEYWORD" in node["parameters"].values()
    workflow = json.loads((NODES / "workflows" / "draw_and_align.json").read_text())
    for step in workflow.values():
        if step["class_type"] in answer["nodes"]:
            inputs = answer["nodes"][step["class_type"]]["inputs"]
            needed = {name for name, group in inputs.items() if group == "required"}
            assert needed <= set(step["inputs"]) <= set(inputs)


# ---------------------------------------------------------------- the service, without PyTorch

@pytest.fixture(scope="module")
def service():
    spec = importlib.util.spec_from_file_location("comfyui_service", NODES / "service.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def other_server(status=200, headers=()):
    """A server that is no page; the headers of what it was asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(dict(self.headers))
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()


def test_the_password_is_the_environments_and_goes_to_its_server_alone(service, page, monkeypatch):
    """A workflow of somebody else may name any server."""
    monkeypatch.setenv("STYLEBLEND_SERVER", page)
    monkeypatch.setenv("STYLEBLEND_PASSWORD", PASSWORD)
    assert service.Service().styles()["styles"] == service.Service(f" {page}/ ").styles()["styles"]
    with other_server() as (address, asked), pytest.raises(service.ServiceError, match="is no page of StyleBlend"):
        service.Service(address).styles()
    assert len(asked) == 1 and "Authorization" not in asked[0]
    monkeypatch.setenv("STYLEBLEND_SERVER", "http://127.0.0.1:9")
    with pytest.raises(service.ServiceError, match="wants its password"):
        service.Service(page).styles()
    monkeypatch.setenv("STYLEBLEND_SERVER", page)
    monkeypatch.setenv("STYLEBLEND_PASSWORD", "wrong")
    with pytest.raises(service.ServiceError, match="set STYLEBLEND_PASSWORD"):
        service.Service().styles()


def test_nobody_is_followed_elsewhere(service, monkeypatch):
    """Neither by a redirect nor by an address in an answer."""
    monkeypatch.setenv("STYLEBLEND_PASSWORD", PASSWORD)
    with other_server() as (elsewhere, asked), other_server(302, [("Location", f"{elsewhere}/x")]) as (address, first):
        monkeypatch.setenv("STYLEBLEND_SERVER", address)
        with pytest.raises(service.ServiceError):
            service.Service().styles()
        with pytest.raises(service.ServiceError, match="no page of StyleBlend"):
            service.Service().stop({"url": f"@{elsewhere[7:]}/api/v1/jobs/x"})
    assert "Authorization" in first[0] and asked == []


# ---------------------------------------------------------------- in ComfyUI

@pytest.fixture(scope="module")
def comfyui(page, tmp_path_factory):
    """The address of a ComfyUI that has the nodes, on the CPU; and the folder of its pictures."""
    folder, python = os.environ.get("STYLEBLEND_COMFYUI"), os.environ.get("STYLEBLEND_COMFYUI_PYTHON")
    if not folder or not python:
        pytest.skip("STYLEBLEND_COMFYUI and STYLEBLEND_COMFYUI_PYTHON do not name a ComfyUI and its Python")
    base = tmp_path_factory.mktemp("comfyui")
    (base / "custom_nodes").mkdir()
    (base / "custom_nodes" / "styleblend").symlink_to(NODES)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env = {**clean, "STYLEBLEND_SERVER": page, "STYLEBLEND_PASSWORD": PASSWORD}
    with open(base / "log", "w") as log:
        server = subprocess.Popen([python, "main.py", "--cpu", "--port", str(port), "--base-directory", str(base)],
                                  cwd=folder, env=env, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):
            assert server.poll() is None, (base / "log").read_text()[-3000:]
            with contextlib.suppress(OSError):
                asked_of(f"{address}/queue")
                break
            time.sleep(0.5)
        yield address, base / "output"
    finally:
        server.terminate()
        server.wait(60)


def asked_of(address, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read() or "null")


def outcome(address, number):
    """What came of a prompt, when it has ended."""
    for _ in range(1200):
        found = asked_of(f"{address}/history/{number}").get(number)
        if found:
            return found
        time.sleep(0.5)
    raise AssertionError("the workflow did not end")


def test_the_workflow_runs_in_comfyui(comfyui, project):
    address, output = comfyui
    workflow = json.loads((NODES / "workflows" / "draw_and_align.json").read_text())
    found = outcome(address, asked_of(f"{address}/prompt", {"prompt": workflow})["prompt_id"])
    assert found["status"]["status_str"] == "success", found["status"]
    names = [[one["filename"] for one in found["outputs"][number]["images"]] for number in ("2", "5")]
    assert list(map(len, names)) == [2, 3]
    run_in(project, "draw", "--config", "few", "--style", "fxemoji", "--prompt", "A rabbit", "--seed", "7", "--steps",
           "20", "--output", "workflow.png")
    assert_shows(np.asarray(Image.open(output / names[0][0])) / 255, project / "workflow.png")


def test_cancel_in_comfyui_ends_the_job_of_the_page(comfyui, page, service, monkeypatch):
    """The next job has its turn at once, where 64 pictures would take a minute."""
    address, _ = comfyui
    workflow = {"1": {"class_type": "StyleBlendDraw", "inputs": {
        "prompts": "A rabbit", "style": "fxemoji", "seed": 1, "count": 64, "sampling": '{"steps": 200}'}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}
    number = asked_of(f"{address}/prompt", {"prompt": workflow})["prompt_id"]
    time.sleep(5)
    asked_of(f"{address}/interrupt", {})
    messages = dict(outcome(address, number)["status"]["messages"])
    assert "execution_interrupted" in messages
    monkeypatch.setenv("STYLEBLEND_SERVER", page)
    monkeypatch.setenv("STYLEBLEND_PASSWORD", PASSWORD)
    own = service.Service()
    started = time.monotonic()
    *_, job = own.follow(own.begin("draw", {"prompts": "A rabbit", "seed": 1}))
    assert job["done"] and time.monotonic() - started < 60
