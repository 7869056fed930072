"""Who may speak to the page: requests of other web sites are refused, whatever browser they come by.

A page on this machine is reachable by every site that is open in its browser: through a form that is sent here, or
through a name that leads to this machine. So the Host must be one of ours, and the Origin the page itself.
"""
from __future__ import annotations

import hmac
import time
from typing import Awaitable, Callable, List, Optional
from urllib.parse import urlsplit

LOCAL = ("localhost", "127.0.0.1", "::1")
SAFE = ("GET", "HEAD", "OPTIONS")
MOST_WRONG, PAUSE = 10, 60.0  # wrong passwords, and the seconds in which they are counted
REFUSED = b"refused: this request comes from another web site"


def is_local(host: str) -> bool:
    """Whether only this machine can reach a server on this address."""
    return host in LOCAL


class Guard:
    """ASGI middleware. `hosts`: the names by which the page may be called; None: any, which wants a password."""

    def __init__(self, app: Callable[..., Awaitable], hosts: Optional[tuple] = LOCAL):
        self.app, self.hosts = app, hosts

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] in ("http", "websocket") and not self.allows(scope):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await send({"type": "http.response.start", "status": 403,
                        "headers": [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(REFUSED))]})
            await send({"type": "http.response.body", "body": REFUSED})
            return
        await self.app(scope, receive, send)

    def allows(self, scope) -> bool:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if self.hosts is not None and name_of(host) not in self.hosts:
            return False
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return False
        away = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        follows_a_link = headers.get("sec-fetch-mode") == "navigate" and scope.get("method") in SAFE
        return not away or follows_a_link


def name_of(host: str) -> str:
    """The name in a Host header, without its port."""
    return urlsplit(f"//{host}").hostname or ""


class Password:
    """Lets in whoever knows it, under any name. After some wrong ones nobody is let in for a while."""

    def __init__(self, password: str):
        self.password = password
        self.wrong: List[float] = []  # when a wrong one was given

    def __call__(self, name: str, given: str) -> bool:
        now = time.monotonic()
        self.wrong = [then for then in self.wrong if now - then < PAUSE]
        if len(self.wrong) >= MOST_WRONG:
            return False
        right = hmac.compare_digest(given.encode("utf-8", "replace"), self.password.encode("utf-8"))
        if not right:
            self.wrong.append(now)
        return right
