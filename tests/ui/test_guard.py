"""Who may speak to the page: other sites may not, nor whoever does not know the password."""
import asyncio
import json

import pytest

from styleblend.ui.guard import LOCAL, MOST_WRONG, Guard, Password, is_local


def answer(headers, method="POST", hosts=LOCAL, kind="http", body=b"", uploads="/nowhere"):
    """The status of a request with these headers; 200 is the application's."""
    said = []

    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})

    async def send(message):
        said.append(message)

    scope = {"type": kind, "method": method,
             "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}
    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    asyncio.run(Guard(application, hosts, uploads)({"path": "/gradio_api/queue/join", **scope}, receive, send))
    return said[0].get("status", said[0]["type"])


HERE = "127.0.0.1:7860"


@pytest.mark.parametrize("headers", [
    {"host": HERE}, {"host": "localhost:7860", "origin": "http://localhost:7860", "sec-fetch-site": "same-origin"},
    {"host": "[::1]:7860"}, {"host": HERE, "sec-fetch-site": "none"}])
def test_the_page_itself_may(headers):
    assert answer(headers) == 200


@pytest.mark.parametrize("headers", [
    {"host": HERE, "origin": "https://elsewhere.example"}, {"host": HERE, "origin": "null"},
    {"host": HERE, "origin": "http://127.0.0.1:9999"},  # another program on this machine
    {"host": HERE, "sec-fetch-site": "cross-site"}, {"host": HERE, "sec-fetch-site": "same-site"},
    {"host": "elsewhere.example"},  # a name that leads to this machine
    {"host": "127.0.0.1.elsewhere.example"}, {}])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_other_sites_may_not(headers, method):
    assert answer(headers, method) == 403
    assert answer(headers, kind="websocket") == "websocket.close"


def test_a_link_may_lead_here():
    link = {"host": HERE, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert answer(link, "GET") == 200 and answer(link, "POST") == 403


def test_with_a_password_any_name_will_do_but_other_sites_may_not():
    assert answer({"host": "studio.example:7860"}, hosts=None) == 200
    assert answer({"host": "studio.example:7860", "origin": "http://elsewhere.example"}, hosts=None) == 403


@pytest.mark.parametrize("path, status", [
    ("{uploads}/abc/a.png", 200), ("/etc/passwd", 403), ("{uploads}/../a.png", 403), ("{uploads}/abc/link", 403),
    ("https://elsewhere.example/a.png", 403), ("a\0b", 403), ("", 403)])
def test_a_request_names_no_other_file_than_its_uploads(tmp_path, path, status):
    """Wherever it stands in what the request says."""
    (tmp_path / "uploads" / "abc").mkdir(parents=True)
    (tmp_path / "uploads" / "abc" / "link").symlink_to("/etc/passwd")
    said = {"data": ["x", [{"deep": {"path": path.format(uploads=tmp_path / "uploads"), "size": 3}}]]}
    assert answer({"host": HERE}, body=json.dumps(said).encode(), uploads=tmp_path / "uploads") == status


@pytest.mark.parametrize("body, status", [
    (b"", 200), (b"a=b", 200), (b"[" * 400 + b'{"path": "/etc/passwd"}' + b"]" * 400, 403), (bytes(9 << 20), 413),
    (b'{"path": "\\ud800"}', 403), (b'{"path": "a\\u0000"}', 403)])
def test_other_things_that_are_said(body, status):
    assert answer({"host": HERE}, body=body) == status


def test_the_password_counts_and_guessing_ends(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("styleblend.ui.guard.time.monotonic", lambda: now[0])
    lets_in = Password("korrekt ä")
    assert lets_in("anyone", "korrekt ä") and not lets_in("anyone", "wrong") and not lets_in("anyone", "")
    for _ in range(MOST_WRONG):
        lets_in("anyone", "wrong")
    assert not lets_in("anyone", "korrekt ä")
    now[0] = 61.0
    assert lets_in("anyone", "korrekt ä")


def test_which_addresses_are_this_machine_alone():
    assert [is_local(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "::", "192.168.0.4")] == \
        [True] * 3 + [False] * 3


def test_a_request_without_an_end_is_none():
    """Who went away in the middle asked for nothing, whatever the half says."""
    asked = []
    messages = [{"type": "http.request", "body": b'{"a": 1}', "more_body": True}, {"type": "http.disconnect"}]

    async def application(scope, receive, send):
        asked.append(scope)

    async def receive():
        return messages.pop(0)

    async def send(message):
        asked.append(message)

    scope = {"type": "http", "method": "POST", "path": "/api/v1/draw", "headers": [(b"host", HERE.encode())]}
    asyncio.run(Guard(application, LOCAL, "/nowhere")(scope, receive, send))
    assert not asked


@pytest.mark.parametrize("headers", [{"host": "[::1"}, {"host": "[zz]"}, {"host": HERE, "origin": "http://[::1"}])
def test_addresses_that_are_none_are_strangers(headers):
    assert answer(headers) == 403
