"""The page's addresses.

GET  /                    the page; GET, POST /login where there is a password
GET  /state               whether the models are loaded, and the examples
GET  /examples/0/image    of an example, and /examples/0/thumbnail
POST /image               a file; comes back as the models are shown it
POST /ask                 a form: image or example, question, new_tokens, temperature; answered by lines of JSON
GET  /livez  /readyz      200 while the process serves; while it answers questions
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from medvl_jobs.chat import asked
from medvl_jobs.chat.desk import BusyError, Desk
from medvl_jobs.chat.examples import Example, media_type
from medvl_jobs.chat.guard import Doorkeeper, Guard, megabytes
from medvl_jobs.chat.loading import Loading
from medvl_jobs.chat.models import Question
from medvl_jobs.model.images import StoredImage
from medvl_jobs.page.look import environment, theme
from medvl_jobs.settings.run import RunSettings

log = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "::1")
FORM_BYTES = 1_000_000
"""What a form may have beside the image."""
UPLOADS = 8
"""Requests that are read at the same time, each into memory as a whole."""
UPLOAD_SECONDS = 120.0
"""How long one may take to arrive: whoever sends slower keeps a place that others need."""


class Page:
    """The handlers of one page."""

    def __init__(self, settings: RunSettings, loading: Loading) -> None:
        """``loading`` gives the models when they are there."""
        self._settings, self._loading = settings, loading
        self._limits = asked.Limits.of(settings)
        self._doorkeeper = Doorkeeper(settings.chat.password)
        self._templates = environment("medvl_jobs.chat")
        self._style = theme() + _own_file("chat.css")
        self._script = _own_file("chat.js")
        self._desk: Desk | None = None
        self._uploads = 0

    def app(self) -> Starlette:
        """As an ASGI application."""
        routes = [
            Route("/", self.page),
            Route("/login", self.login, methods=["GET", "POST"]),
            Route("/chat.css", lambda _: Response(self._style, media_type="text/css")),
            Route("/chat.js", lambda _: Response(self._script, media_type="text/javascript")),
            Route("/state", self.state),
            Route("/examples/{number}/{form}", self.example),
            Route("/image", self.image, methods=["POST"]),
            Route("/ask", self.ask, methods=["POST"]),
            Route("/livez", lambda _: PlainTextResponse("alive")),
            Route("/readyz", self.ready),
        ]
        guard = Middleware(Guard, self._doorkeeper, self._settings.chat.max_upload_bytes + FORM_BYTES)
        # A site that a browser is made to take for this machine (DNS rebinding) has another name in its requests.
        hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, "[::1]"])
        return Starlette(
            routes=routes,
            middleware=[guard, hosts] if self._settings.chat.host in LOOPBACK else [guard],
            exception_handlers={
                asked.RefusedError: _refused,
                BusyError: _busy,
                HTTPException: _http,
                Exception: _fault,
            },
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self._loading.start()
        yield
        if self._desk:
            await run_in_threadpool(self._desk.close)

    def call_off(self) -> None:
        """End the answers under way, in the event loop."""
        if self._desk:
            self._desk.call_off()

    async def page(self, request: Request) -> Response:
        """The page itself, the same for everybody: what changes is in `state`."""
        chat, prompt = self._settings.chat, self._settings.prompt
        html = self._templates.get_template("page.html.jinja").render(
            name=self._settings.name,
            question=prompt.question,
            system=prompt.system,
            new_tokens=self._settings.eval.max_new_tokens,
            max_new_tokens=self._limits.new_tokens,
            max_temperature=asked.MAX_TEMPERATURE,
            max_upload_bytes=chat.max_upload_bytes,
            max_upload=megabytes(chat.max_upload_bytes),
            max_question_chars=chat.max_question_chars,
        )
        return HTMLResponse(html)

    async def login(self, request: Request) -> Response:
        """The form for the password, and what becomes of it."""
        wrong = False
        if request.method == "POST":
            if (welcome := await self._doorkeeper.let_in(request)) is not None:
                return welcome
            wrong = True
        html = self._templates.get_template("login.html.jinja").render(name=self._settings.name, wrong=wrong)
        return HTMLResponse(html, status_code=401 if wrong else 200)

    async def ready(self, request: Request) -> Response:
        """503 until the models are loaded."""
        if self._loading.pair is None:
            return PlainTextResponse("the models are not loaded yet", status_code=503)
        return PlainTextResponse("ready")

    async def state(self, request: Request) -> Response:
        """What the page shows beside itself."""
        examples = [{"id": each.example_id, "caption": each.caption} for each in self._loading.examples]
        pair = self._loading.pair
        return JSONResponse({"ready": pair is not None, "where": pair.where if pair else "", "examples": examples})

    async def example(self, request: Request) -> Response:
        """The image of an example, or its thumbnail."""
        found, form = self._example(request.path_params["number"]), request.path_params["form"]
        if found is None or form not in {"image", "thumbnail"}:
            raise HTTPException(404, "There is no such example.")
        if form == "image":
            return Response(found.image, media_type=found.media_type)
        return Response(found.thumbnail, media_type="image/png")

    async def image(self, request: Request) -> Response:
        """An upload as the models are shown it: browsers show no TIFF, and 16 bits not as they will be seen."""
        async with self._upload():
            stored = await self._stored(await request.body())
        changes = ", ".join(name.replace("_", " ") for name in stored.conversions)
        headers = {"X-Image-Size": "{} x {}".format(*stored.plain.size)}
        return Response(
            stored.data, media_type=media_type(stored.data), headers={**headers, "X-Image-Changes": changes}
        )

    async def ask(self, request: Request) -> Response:
        """Both answers, as they come."""
        if self._loading.pair is None:
            raise HTTPException(503, "The models are still being loaded. Ask again in a minute.")
        fields = request.form(max_files=1, max_fields=8, max_part_size=10 * FORM_BYTES)
        async with self._upload(), fields as form:
            question = await self._question(form)
        self._desk = self._desk or Desk(self._loading.pair, self._settings.chat.queue)
        events = self._desk.answer(question, request.is_disconnected)
        first = await anext(events, None)  # a full line is told by the status
        return StreamingResponse(
            _lines(first, events), media_type="application/x-ndjson", headers={"X-Accel-Buffering": "no"}
        )

    @asynccontextmanager
    async def _upload(self) -> AsyncIterator[None]:
        """A place to send something. Raises `BusyError` when there is none, `HTTPException` when it takes too long."""
        if self._uploads >= UPLOADS:
            raise BusyError(f"{self._uploads} files are being sent. Try again in a minute.")
        self._uploads += 1
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                yield
        except TimeoutError as error:
            raise HTTPException(408, "The file took too long to arrive. Try again, or take a smaller one.") from error
        finally:
            self._uploads -= 1

    async def _question(self, form: FormData) -> Question:
        words = {name: value for name, value in form.items() if isinstance(value, str)}
        upload = form.get("image")
        if isinstance(upload, UploadFile):
            image = (await self._stored(await upload.read())).data
        elif found := self._example(words.get("example", "")):
            image = found.image
        else:
            raise asked.RefusedError("There is no image. Choose one, or take an example.")
        text, new_tokens, temperature = (words.get(name, "") for name in ("question", "new_tokens", "temperature"))
        return asked.question(image, text, new_tokens, temperature, self._limits)

    def _example(self, word: str) -> Example | None:
        number = asked.number(word)
        return None if number is None else next(iter(self._loading.examples[number : number + 1]), None)

    async def _stored(self, data: bytes) -> StoredImage:
        limit = self._settings.chat.max_upload_bytes
        if len(data) > limit:
            raise HTTPException(413, f"The file has {megabytes(len(data))}, and at most {megabytes(limit)} are taken.")
        return await run_in_threadpool(asked.uploaded, data, self._limits)


async def _lines(first: dict[str, Any] | None, events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    if first is not None:
        yield json.dumps(first) + "\n"
    async for event in events:
        yield json.dumps(event) + "\n"


async def _refused(request: Request, error: Exception) -> Response:
    return JSONResponse({"words": str(error)}, status_code=422)


async def _busy(request: Request, error: Exception) -> Response:
    return JSONResponse({"words": str(error)}, status_code=503, headers={"Retry-After": "30"})


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"words": error.detail}, status_code=error.status_code, headers=error.headers)


async def _fault(request: Request, error: Exception) -> Response:
    """The traceback goes to the log, which uvicorn sees to."""
    words = "This is a fault of medvl. The server's log says more."
    return JSONResponse({"words": words}, status_code=500)


def _own_file(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")
