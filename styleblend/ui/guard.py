"""Who may speak to the page: requests of other web sites are refused, whatever browser they come by.

A page on this machine is reachable by every site that is open in its browser: through a form that is sent here, or
through a name that leads to this machine. So the Host must be one of ours, and the Origin the page itself. And no
request may name a file that was not uploaded.
"""
from __future__ import annotations

import hmac
import json
import os
import time
from pathlib import Path
from typing import Awaitable, Callable, List, Optional
from urllib.parse import SplitResult, urlsplit

LOCAL = ("localhost", "127.0.0.1", "::1")
SAFE = ("GET", "HEAD", "OPTIONS")
MOST_WRONG, PAUSE = 10, 60.0  # wrong passwords, and the seconds in which they are counted
MOST_SAID = 2 << 20  # bytes of a request that uploads nothing
UPLOADS = "/upload"  # the end of the path to which files are sent
STRANGER = b"refused: this request comes from another web site"
OTHER_FILE = b"refused: this request names a file that was not uploaded"
TOO_MUCH = b"refused: this request says more than anything that is asked here"


def is_local(host: str) -> bool:
    """Whether only this machine can reach a server on this address."""
    return host in LOCAL


class Guard:
    """ASGI middleware. `hosts`: the names by which the page may be called; None: any, which wants a password.

    `uploads`: the folder in which every file must be that a request names. Gradio copies a file into it, or fetches an
    address into it, before the page's own functions see its name.
    """

    def __init__(self, app: Callable[..., Awaitable], hosts: Optional[tuple] = LOCAL, uploads: Path = Path("/")):
        self.app, self.hosts, self.uploads = app, hosts, Path(os.path.realpath(uploads))

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] in ("http", "websocket") and not self.allows(scope):
            await refuse(scope, send, 403, STRANGER)
            return
        if scope["type"] == "http" and scope["method"] not in SAFE and not scope["path"].endswith(UPLOADS):
            try:
                body = await body_of(receive)
            except Gone:
                return
            if body is None:
                await refuse(scope, send, 413, TOO_MUCH)
                return
            if names_other_files(body, self.uploads):
                await refuse(scope, send, 403, OTHER_FILE)
                return
            receive = once(body, receive)
        await self.app(scope, receive, send)

    def allows(self, scope) -> bool:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if self.hosts is not None and name_of(host) not in self.hosts:
            return False
        origin = headers.get("origin")
        if origin is not None and (split(origin) is None or split(origin).netloc != host):
            return False
        away = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        follows_a_link = headers.get("sec-fetch-mode") == "navigate" and scope.get("method") in SAFE
        return not away or follows_a_link


class Gone(Exception):
    """Who asked went away before all was said: what came is no request."""


async def refuse(scope, send, status: int, sentence: bytes) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    await send({"type": "http.response.start", "status": status,
                "headers": [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(sentence))]})
    await send({"type": "http.response.body", "body": sentence})


async def body_of(receive) -> Optional[bytes]:
    """What a request says; None where it is longer than anything that the page asks. Gone where it has no end."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        parts.append(message.get("body", b""))
        size, more = size + len(parts[-1]), message.get("more_body", False)
        if size > MOST_SAID:
            return None
    return b"".join(parts)


def once(body: bytes, receive):
    """`receive` for who has not read the body yet."""
    said = []

    async def again():
        if said:
            return await receive()
        said.append(True)
        return {"type": "http.request", "body": body, "more_body": False}
    return again


def names_other_files(body: bytes, uploads: Path) -> bool:
    """Whether a request's JSON has a file outside of the uploads in it, or an address in its place."""
    try:
        todo = [json.loads(body)] if body else []
    except RecursionError:
        return True
    except ValueError:
        return False  # no JSON: nothing that Gradio takes a file from
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            path = one.get("path")
            if isinstance(path, str) and not lies_in(uploads, path):
                return True
            todo += one.values()
        elif isinstance(one, list):
            todo += one
    return False


def lies_in(folder: Path, path: str) -> bool:
    """Whether a path leads into the folder, wherever links lead."""
    try:
        return folder in Path(os.path.realpath(path)).parents
    except (OSError, ValueError):  # no path: a zero in it, or half of a character
        return False


def name_of(host: str) -> str:
    """The name in a Host header, without its port; "" where that is none."""
    found = split(f"//{host}")
    return found and found.hostname or ""


def split(address: str) -> Optional[SplitResult]:
    """The parts of an address; None where it is none."""
    try:
        return urlsplit(address)
    except ValueError:
        return None


class Password:
    """Lets in whoever knows it, under any name. After some wrong ones nobody is let in for a while."""

    def __init__(self, password: str):
        self.password = password
        self.wrong: List[float] = []  # when a wrong one was given

    @property
    def closed(self) -> bool:
        """Whether so many wrong ones were given that now nobody is let in."""
        now = time.monotonic()
        self.wrong = [then for then in self.wrong if now - then < PAUSE]
        return len(self.wrong) >= MOST_WRONG

    def __call__(self, name: str, given: str) -> bool:
        if self.closed:
            return False
        right = hmac.compare_digest(given.encode("utf-8", "replace"), self.password.encode("utf-8"))
        if not right:
            self.wrong.append(time.monotonic())
        return right
