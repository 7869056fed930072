"""A `styleblend page` as another program sees it: JSON over HTTP (docs/page.md). The standard library alone."""
from __future__ import annotations

import base64
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from typing import Any, Dict, Iterator, List, Optional

PLACE = "/api/v1"
AT_HOME = "http://127.0.0.1:7860"  # where `styleblend page` is unless it is told otherwise
SERVER, PASSWORD = "STYLEBLEND_SERVER", "STYLEBLEND_PASSWORD"  # environment variables
POLL, PATIENCE = 0.5, 30.0  # seconds between two looks at a job; seconds in which an answer comes
LATER = (429, 503)  # answers that say: ask again


class ServiceError(Exception):
    """What went wrong, in a sentence that a user can act on. `status`: of the answer; 0: there was none."""

    def __init__(self, sentence: str, status: int = 0):
        super().__init__(sentence)
        self.status = status


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """The page sends nobody elsewhere, and a password must not go there."""

    def redirect_request(self, *_):
        return None


class Service:
    """The page at `address`, or at that of the environment where it is empty.

    The password is the environment's: one in a field would be saved with every workflow, and in every picture that
    ComfyUI writes. It goes to the environment's own server alone, since a workflow of somebody else may name any.
    """

    def __init__(self, address: str = ""):
        own = os.environ.get(SERVER, "").strip().rstrip("/") or AT_HOME
        self.address = address.strip().rstrip("/") or own
        if not self.address.startswith(("http://", "https://")):
            raise ServiceError(f"{self.address!r} is no address of a server: write one such as {AT_HOME}")
        self.password: Optional[str] = os.environ.get(PASSWORD) if self.address == own else None
        # straight there: a proxy for the internet knows nothing of this machine
        self.opener = urllib.request.build_opener(NoRedirect, urllib.request.ProxyHandler({}))

    # ---------------------------------------------------------------- what it can be asked

    def styles(self) -> Dict[str, Any]:
        return self.ask("GET", f"{PLACE}/styles")

    def upload(self, picture: bytes) -> str:
        """Send a picture, a PNG or JPEG; the path by which a request may name it."""
        return self.ask("POST", f"{PLACE}/upload", picture, "application/octet-stream")["path"]

    def begin(self, kind: str, said: Dict[str, Any]) -> Dict[str, Any]:
        """Have work ("draw" or "align") put into the queue; the job."""
        return self.ask("POST", f"{PLACE}/{kind}", json.dumps(said).encode(), "application/json")

    def follow(self, job: Dict[str, Any]) -> Iterator[Dict[str, Any]]:
        """The job as it is now, again and again, until it has ended. ServiceError where that was no good end."""
        url = job["url"]
        while not job["ended"]:
            yield job
            time.sleep(POLL)
            try:
                job = self.ask("GET", url)
            except ServiceError as error:
                if error.status not in LATER:
                    raise
        if not job["done"]:
            raise ServiceError(job["error"] or f"the job was {job['state']} on the server")
        yield job

    def stop(self, job: Dict[str, Any]) -> None:
        self.ask("DELETE", job["url"])

    def pictures(self, job: Dict[str, Any]) -> List[bytes]:
        """The files of a job's pictures, which are PNG."""
        return [self.answer("GET", one["url"]) for one in job["pictures"]]

    # ---------------------------------------------------------------- how it is asked

    def ask(self, method: str, url: str, body: Optional[bytes] = None, kind: str = "") -> Dict[str, Any]:
        said = self.answer(method, url, body, kind)
        try:
            return json.loads(said)
        except ValueError:
            raise ServiceError(f"what answers at {self.address} is no page of StyleBlend: check the address") from None

    def answer(self, method: str, url: str, body: Optional[bytes] = None, kind: str = "") -> bytes:
        if not url.startswith(f"{PLACE}/"):  # addresses of jobs and pictures come from the server
            raise ServiceError(f"what answers at {self.address} is no page of StyleBlend: check the address")
        headers = {"Content-Type": kind} if kind else {}
        if self.password is not None:
            said = base64.b64encode(f"comfyui:{self.password}".encode()).decode()
            headers["Authorization"] = f"Basic {said}"
        request = urllib.request.Request(self.address + url, body, headers, method=method)
        try:
            with self.opener.open(request, timeout=PATIENCE) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            with error:
                raise ServiceError(self.refusal(error), error.code) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise ServiceError(f"no StyleBlend answers at {self.address} ({reason}): start it with `styleblend page`, "
                               f"or name its address in the node's field `server` or in {SERVER}") from None

    def refusal(self, error: urllib.error.HTTPError) -> str:
        """Why the page refused, in its own words, with what helps here."""
        text = error.read(4096).decode("utf-8", "replace")
        try:
            sentence = json.loads(text)["error"]
        except (ValueError, KeyError, TypeError):
            sentence = text[:200].strip() or error.reason
        if error.code == 401:
            other = "" if self.password is not None else f" (it is sent to the server that {SERVER} names alone)"
            return (f"StyleBlend at {self.address} wants its password: set {PASSWORD} where ComfyUI is started{other}")
        return f"StyleBlend at {self.address}: {sentence}"
