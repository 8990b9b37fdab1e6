"""What stands between page and network: a password, a limit on what is sent, headers that forbid the rest."""

from __future__ import annotations

import asyncio
import hmac
import secrets
from urllib.parse import parse_qs, urlsplit

from pydantic import SecretStr
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "medvl_chat"
WRONG_PASSWORD_SECONDS = 1.0
"""How long a wrong password waits for its answer, and all others with it: whoever guesses has one guess a second."""
WAITING_PASSWORDS = 20
"""Beyond so many, a password is not looked at."""
STRANGER_BYTES = 10_000
"""What may be sent without a password: one."""
OPEN = frozenset({"/livez", "/readyz", "/login", "/chat.css"})
"""What is there without a password."""
_HEADERS = {
    # Nothing from anywhere else, and no script but the page's own: answers and captions are data, never markup.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",  # images of patients
}


class TooLargeError(Exception):
    """More was sent than is taken."""


class Guard:
    """Middleware of the whole page."""

    def __init__(self, app: ASGIApp, doorkeeper: Doorkeeper, max_bytes: int) -> None:
        """``max_bytes``: of the body of one request."""
        self._app, self._doorkeeper, self._max_bytes = app, doorkeeper, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer in the page's place where it must not be reached."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        if refusal := self._refusal(scope):
            await refusal(scope, receive, send_with_headers)
            return
        most = self._most(scope)
        try:
            await self._app(scope, _counted(receive, most), send_with_headers)
        except TooLargeError:
            if started:
                raise
            await _too_large(most)(scope, receive, send_with_headers)

    def _most(self, scope: Scope) -> int:
        """Bytes of the body."""
        return self._max_bytes if self._doorkeeper.knows(HTTPConnection(scope)) else STRANGER_BYTES

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if scope["method"] not in {"GET", "HEAD"} and _of_another_site(headers):
            return JSONResponse({"words": "This was sent by another site."}, status_code=403)
        if not self._doorkeeper.knows(HTTPConnection(scope)) and scope["path"] not in OPEN:
            if scope["path"] == "/":
                return RedirectResponse("login", status_code=303)
            return JSONResponse({"words": "Sign in first: load the page again."}, status_code=401)
        length = headers.get("content-length", "")
        most = self._most(scope)
        return _too_large(most) if length.isdecimal() and (len(length) > 15 or int(length) > most) else None


def _of_another_site(headers: Headers) -> bool:
    """Whether a browser says so: over HTTPS and to localhost in ``Sec-Fetch-Site``, else by another ``Origin``."""
    if where := headers.get("sec-fetch-site"):
        return where not in {"same-origin", "none"}
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("host")


def _counted(receive: Receive, most: int) -> Receive:
    left = most

    async def counted() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise TooLargeError
        return message

    return counted


def _too_large(most: int) -> Response:
    words = f"This is more than {megabytes(most)}, which is the most that is taken."
    # The rest of it is not read, so nothing more can come on this connection.
    return JSONResponse({"words": words}, status_code=413, headers={"Connection": "close"})


class Doorkeeper:
    """Knows whoever has given the password, until the server stops."""

    def __init__(self, password: SecretStr | None) -> None:
        """Without a password, everybody is known."""
        self._password = password.get_secret_value().rstrip("\r\n") if password else None
        self._token = secrets.token_urlsafe(32)
        self._one_at_a_time = asyncio.Lock()
        self._waiting = 0

    @property
    def asks(self) -> bool:
        """Whether there is a password."""
        return self._password is not None

    def knows(self, connection: HTTPConnection) -> bool:
        """Whether this comes from somebody who has given it."""
        return self._password is None or _equal(connection.cookies.get(COOKIE, ""), self._token)

    async def let_in(self, request: Request) -> Response | None:
        """The answer to a right password, which sends on to the page; none to a wrong one, after a while.

        Raises `HTTPException` when too many try.
        """
        given = parse_qs((await request.body()).decode("utf-8", "replace")).get("password", [""])[0]
        if self._waiting >= WAITING_PASSWORDS:
            raise HTTPException(429, "Too many try to sign in. Try again in a minute.", {"Retry-After": "30"})
        self._waiting += 1
        try:
            async with self._one_at_a_time:
                if self._password is None or not _equal(given, self._password):
                    await asyncio.sleep(WRONG_PASSWORD_SECONDS)
                    return None
        finally:
            self._waiting -= 1
        response = RedirectResponse(".", status_code=303)
        response.set_cookie(COOKIE, self._token, httponly=True, samesite="strict", secure=request.url.scheme == "https")
        return response


def _equal(one: str, other: str) -> bool:
    """In the same time wherever they differ."""
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))


def megabytes(size: int) -> str:
    """``20 MB``."""
    return f"{size / 1e6:.3g} MB"
