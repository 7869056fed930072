"""A small answer from a server that is not to be trusted: in time, of a size, or one sentence."""
from __future__ import annotations

import http.client
import threading
import time
import urllib.error
import urllib.request
from typing import List, NamedTuple
from urllib.parse import urlencode, urlsplit

from styleblend import __version__

LARGEST = 1 << 18  # bytes of an answer: those of weather services have some hundreds
TIMEOUT = 5.0  # seconds, for all of it


class Answer(NamedTuple):
    """A status such as 200, and what came with it."""

    status: int
    body: bytes


class NoAnswer(Exception):
    """Why there is none, in words that name neither the address nor what was asked: a key may be in it."""


class NotElsewhere(urllib.request.HTTPRedirectHandler):
    """A server's "it is elsewhere now" is an answer, not an order: the key stays with whom it is for."""

    def redirect_request(self, *_):
        return None


def get(address: str, query: dict, timeout: float = TIMEOUT) -> Answer:
    """Ask a server for something. NoAnswer: it cannot be reached, is too slow, or does not end.

    A thread asks, since no time-out of a socket holds for all of it: looking up a name has none, and a server may send
    a byte now and then for ever.
    """
    came: List[object] = []
    asking = threading.Thread(target=ask, args=(f"{address}?{urlencode(query)}", time.monotonic() + timeout, timeout,
                                                came), daemon=True)
    asking.start()
    asking.join(timeout)
    if not came:
        raise NoAnswer(f"{urlsplit(address).hostname} did not answer in {timeout:g} s")
    if isinstance(came[0], NoAnswer):
        raise came[0]
    return came[0]


def ask(url: str, until: float, timeout: float, came: List[object]) -> None:
    """Put the answer, or a NoAnswer, into `came`."""
    host = urlsplit(url).hostname
    try:
        request = urllib.request.Request(url, headers={"User-Agent": f"styleblend/{__version__}"})
        try:
            reply = urllib.request.build_opener(NotElsewhere).open(request, timeout=timeout)
        except urllib.error.HTTPError as error:  # a status of 400 or more has an answer, too
            reply = error
        with reply:
            came.append(Answer(reply.status, read_bounded(reply, host, until)))
    except NoAnswer as error:
        came.append(error)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        why = type(reason).__name__ if isinstance(reason, Exception) else "no answer"
        came.append(NoAnswer(f"{host} cannot be reached ({why})"))


def read_bounded(reply, host: str, until: float) -> bytes:
    """All of an answer. NoAnswer where it is too large, or too late."""
    body = b""
    while True:
        piece = reply.read1(1 << 14)
        body += piece
        if not piece:
            return body
        if len(body) > LARGEST:
            raise NoAnswer(f"{host} sent more than {LARGEST >> 10} KiB, which is no weather")
        if time.monotonic() > until:
            raise NoAnswer(f"the answer of {host} did not end in time")
