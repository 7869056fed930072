"""The page for other programs: draw, align and list styles over plain HTTP, with JSON in and pictures out.

Work goes through the page's own queue, checks and guard, and wants its password. `docs/page.md` says how to call it.
"""
from __future__ import annotations

import base64
import binascii
import errno
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any, Dict, Optional

from fastapi import Body, Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as AnyHTTPException

from styleblend.errors import StyleBlendError
from styleblend.files.pictures import FORMATS, kind_of, load_picture
from styleblend.jobs.choices import ready_pictures
from styleblend.settings import RunSettings
from styleblend.ui.folders import MOST_UPLOADED, styles_found
from styleblend.ui.guard import PAUSE, Password
from styleblend.ui.program_requests import asked_by_program
from styleblend.ui.queue import DONE, JobQueue, QueuedJob, QueueFull
from styleblend.ui.requests import methods_by_pictures

PLACE = "/api/v1"  # of all its addresses
LATER = 10  # seconds after which a program that finds the queue full may try again
BASIC = "Basic realm=\"StyleBlend\", charset=\"UTF-8\""


def application_for_programs(settings: RunSettings, queue: JobQueue, uploads: Path,
                             password: Optional[Password]) -> FastAPI:
    """What is mounted at PLACE. `uploads`: the folder of all uploads of the page."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(PasswordWanted(password))])
    answer_errors(app)
    Programs(settings, queue, uploads).connect(app)
    return app


class Programs:
    """The answers."""

    def __init__(self, settings: RunSettings, queue: JobQueue, uploads: Path):
        self.settings, self.queue, self.uploads = settings, queue, uploads

    def connect(self, app: FastAPI) -> None:
        app.get("/styles")(self.styles)
        app.post("/upload")(self.upload)
        app.post("/draw", status_code=202)(self.draw)
        app.post("/align", status_code=202)(self.align)
        app.get("/jobs/{key}")(self.status)
        app.delete("/jobs/{key}")(self.stop)
        app.get("/jobs/{key}/pictures/{number:int}")(self.picture)

    def styles(self) -> Dict[str, Any]:
        """The styles that can be named, and the methods that draw in the style of reference pictures."""
        return {"styles": [{"name": one.name, "method": one.method, "problem": one.problem}
                           for one in styles_found(self.settings)], "methods": methods_by_pictures()}

    def draw(self, request: Request, said: Dict[str, Any] = Body()) -> Dict[str, Any]:
        return self.submit("draw", request, said)

    def align(self, request: Request, said: Dict[str, Any] = Body()) -> Dict[str, Any]:
        return self.submit("align", request, said)

    def submit(self, kind: str, request: Request, said: Dict[str, Any]) -> Dict[str, Any]:
        """Put checked work into the queue. All programs of one machine have as many places as one browser."""
        asked = asked_by_program(kind, said, self.settings, self.uploads)
        owner = f"programs of {request.client.host if request.client else 'this machine'}"
        return self.told(self.queue.submit(owner, asked))

    def job(self, key: str) -> QueuedJob:
        job = self.queue.with_key(key)
        if job is None:
            raise HTTPException(404, "there is no such job, or it ended long ago: its pictures are in the history")
        return job

    def status(self, key: str) -> Dict[str, Any]:
        return self.told(self.job(key))

    def stop(self, key: str) -> Dict[str, Any]:
        job = self.job(key)
        self.queue.stop(job)
        return self.told(job)

    def told(self, job: QueuedJob) -> Dict[str, Any]:
        """How far a job is."""
        url = f"{PLACE}/jobs/{job.key}"
        with self.queue.changed:  # the thread that works changes it
            pictures = [{"url": f"{url}/pictures/{number}", "name": Path(one["path"]).name, "prompt": one["prompt"],
                         "seed": one["seed"]} for number, one in enumerate(job.pictures)]
            return {"url": url, "state": job.state, "ended": job.ended, "done": job.state == DONE,
                    "before": self.queue.place(job), "progress": list(job.progress.values()), "error": job.error,
                    "said": list(job.said), "preview": job.preview, "pictures": pictures}

    def picture(self, key: str, number: int) -> FileResponse:
        """A picture of a job, as it was written: PNG, with its record."""
        pictures = self.job(key).pictures
        if not 0 <= number < len(pictures) or not Path(pictures[number]["path"]).is_file():
            raise HTTPException(404, "there is no such picture")
        path = Path(pictures[number]["path"])
        return FileResponse(path, media_type="image/png", filename=path.name)

    async def upload(self, request: Request) -> Dict[str, str]:
        """Take a picture, which is the body as it is; the path is for `references`. The same one is kept once."""
        handle, name = tempfile.mkstemp(dir=self.uploads)
        try:
            digest = hashlib.sha256()
            with os.fdopen(handle, "wb") as file:
                async for part in request.stream():
                    digest.update(part)
                    file.write(part)
                    if file.tell() > MOST_UPLOADED:
                        raise HTTPException(413, f"a file has {MOST_UPLOADED >> 20} MiB at most: make it smaller")
            return {"path": str(await run_in_threadpool(self.taken, Path(name), digest.hexdigest()[:32]))}
        finally:
            Path(name).unlink(missing_ok=True)

    def taken(self, file: Path, digest: str) -> Path:
        """Where a picture that was uploaded lies now. StyleBlendError where it is none."""
        kind = kind_of(file)
        if kind not in FORMATS:
            raise StyleBlendError("what was uploaded is no picture that can be read: send a PNG or JPEG as it is, as "
                                  "the body of the request")
        ready_pictures(self.settings, str(file))
        try:
            load_picture(file, self.settings.pictures.max_pixels)
        except StyleBlendError:
            raise StyleBlendError("the picture that was uploaded is cut off or damaged: send the whole file") from None
        path = self.uploads / digest / f"picture.{kind.lower()}"
        path.parent.mkdir(exist_ok=True)
        os.replace(file, path)
        return path


class PasswordWanted:
    """Lets in who sends the page's password by HTTP Basic authentication, under any name.

    Wrong ones count as they do where browsers log in.
    """

    def __init__(self, password: Optional[Password]):
        self.password = password

    async def __call__(self, request: Request) -> None:  # one after another, so that wrong ones are counted exactly
        if self.password is None:
            return
        given = password_in(request.headers.get("authorization", ""))
        if given is not None and self.password("", given):
            return
        if self.password.closed:
            raise HTTPException(429, "too many wrong passwords were given: try again in a minute",
                                {"Retry-After": f"{PAUSE:.0f}"})
        raise HTTPException(401, "the password is missing or wrong: send it by HTTP Basic authentication, under any "
                            "name", {"WWW-Authenticate": BASIC})


def password_in(header: str) -> Optional[str]:
    """The password in an Authorization header; None where there is none."""
    scheme, _, said = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name_and_password = base64.b64decode(said.strip(), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return name_and_password.partition(":")[2]


def answer_errors(app: FastAPI) -> None:
    """All that is wrong is told as {"error": SENTENCE}."""
    @app.exception_handler(AnyHTTPException)
    async def http_error(_, error):
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def no_object(_, error):
        return JSONResponse({"error": "the request is no JSON object: send one, with Content-Type: application/json"},
                            400)

    @app.exception_handler(OSError)
    async def not_written(_, error):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        said = f"the page's machine could not do it: {error.strerror or error}"
        return JSONResponse({"error": said}, 507 if full else 500)

    @app.exception_handler(StyleBlendError)
    async def refused(_, error):
        full = isinstance(error, QueueFull)
        return JSONResponse({"error": " ".join(str(error).split())}, 503 if full else 400,
                            {"Retry-After": str(LATER)} if full else None)
