"""One question to an OpenAI-compatible server, asked until it is answered, refused, or hopeless.

    429, 5xx, no connection, no answer in time, an answer that is none     asked again: `ServerSettings.retries`
    401, 403                                                               `AccessDeniedError`
    404                                                                    `MissingInputError`: another model, or path
    400, 413, 422 and other 4xx                                            `RefusedError`: of this question alone

What still fails after the last attempt is `TryAgainError`; but one question whose attempts all end in a 500 or in
nonsense, while one that was answered before still is, is refused too: it would stop every later attempt of the
evaluation as well.
"""

from __future__ import annotations

import email.utils
import json
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import httpx2
from pydantic import SecretStr

from medvl_jobs.errors import AccessDeniedError, MissingInputError, SettingsError, TryAgainError
from medvl_jobs.settings.server import ServerSettings

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
LONGEST_WISH_SECONDS = 600.0
"""A longer ``Retry-After`` is cut to this."""
CONNECT_SECONDS = 10.0
_COMPLETIONS = "/chat/completions"
_AGAIN = frozenset({408, 409, 425, 429})
_SHOWN = 300
"""Characters of a server's own words in an error."""


class RefusedError(Exception):
    """The server will never answer this question; others it may."""


class _FailedError(Exception):
    """One attempt that may go better the next time."""

    def __init__(self, why: str, *, wish: float | None = None, perhaps_the_question: bool = False) -> None:
        self.wish, self.perhaps_the_question = wish, perhaps_the_question
        super().__init__(why)


class ChatClient:
    """Safe to use from several threads. Raises nothing but `MedvlError` and `RefusedError`."""

    def __init__(self, url: str, settings: ServerSettings, *, watch: Callable[[], None] | None = None) -> None:
        """``url`` ends in ``/v1``. ``watch`` is called when a connection fails: it raises when the server is gone."""
        self.url, self.settings = url.rstrip("/"), settings
        self._watch = watch or (lambda: None)
        # A server of our own on this machine is not reached through a company's proxy, nor does it ask for the key.
        own = watch is not None
        self._key = _header_value(settings.api_key) if settings.api_key and not own else None
        self._http = httpx2.Client(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else None,
            timeout=httpx2.Timeout(settings.timeout_seconds, connect=CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=settings.concurrency, max_keepalive_connections=settings.concurrency),
            trust_env=not own,
        )
        self._closed = threading.Event()
        self._sound: Mapping[str, Any] | None = None
        """What it has answered last."""

    def close(self) -> None:
        """Give up: requests under way fail, pauses end."""
        self._closed.set()
        self._http.close()

    def models(self) -> list[str] | None:
        """The names that the server answers to; none when it does not tell."""
        try:
            listed = self._persist("GET", "/models", None)
            return [str(each["id"]) for each in listed["data"]]
        except (RefusedError, MissingInputError, KeyError, TypeError):
            return None

    def ask(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST ``body`` to ``/chat/completions``; returns the JSON object, with a message in its first choice."""
        reply = self._persist("POST", _COMPLETIONS, body)
        self._sound = body
        return reply

    def _persist(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        for attempt in range(self.settings.retries + 1):
            try:
                return self._once(method, path, body)
            except _FailedError as error:
                failed = error
            if attempt < self.settings.retries:
                self._pause(attempt, failed)
        if failed.perhaps_the_question and self._is_well():
            raise RefusedError(f"{failed}, {self.settings.retries + 1} times, while another was answered")
        raise TryAgainError(
            f"the server does not answer: {failed}",
            where=self.url,
            remedy="what is answered is kept: start again once it is well (its log says more); "
            "eval.server.concurrency, .retries and .timeout_seconds say how it is asked",
        )

    def _is_well(self) -> bool:
        """Whether it still answers what it has answered before."""
        try:
            return self._sound is not None and bool(self._once("POST", _COMPLETIONS, self._sound))
        except (_FailedError, RefusedError):
            return False

    def _pause(self, attempt: int, failed: _FailedError) -> None:
        """With jitter: 32 requests that failed together must not come again together."""
        pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**attempt) * random.uniform(0.5, 1.0)
        pause = max(pause, min(failed.wish or 0.0, LONGEST_WISH_SECONDS) * random.uniform(1.0, 1.1))
        log.warning("%s: %s; again in %.1f s", self.url, failed, pause)
        self._watch()
        self._closed.wait(pause)
        self._watch()
        if self._closed.is_set():
            raise TryAgainError("the requests were called off", where=self.url)

    def _once(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        try:
            response = self._whole(method, path, body)
        except httpx2.TimeoutException as error:
            raise _FailedError(f"no answer in time ({type(error).__name__})") from error
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise SettingsError(f"this is no address: {error}", where="eval.server.url") from error
        except (httpx2.HTTPError, RuntimeError, OSError) as error:  # RuntimeError: the client is closed
            raise _FailedError(f"{type(error).__name__}: {error}") from error
        if response.is_success:
            return self._read(response, needs="choices" if body is not None else "data")
        raise self._meaning(response)

    def _whole(self, method: str, path: str, body: Mapping[str, Any] | None) -> httpx2.Response:
        """The response with its body; the library's own limit begins anew with every byte that comes."""
        deadline = time.monotonic() + self.settings.timeout_seconds
        with self._http.stream(method, self.url + path, json=body) as response:
            data = bytearray()
            for piece in response.iter_bytes():
                data += piece
                if time.monotonic() > deadline:
                    raise httpx2.ReadTimeout("its answer does not end")
        # What was read is decoded already: its length and encoding are no longer those of the headers.
        headers = {
            name: value
            for name, value in response.headers.items()
            if name not in {"content-encoding", "content-length"}
        }
        return httpx2.Response(response.status_code, headers=headers, content=bytes(data))

    def _read(self, response: httpx2.Response, needs: str) -> dict[str, Any]:
        try:
            reply = json.loads(response.content)
        except (ValueError, RecursionError) as error:
            what = f"its answer is no JSON: {response.text[:80]!r}"
            raise _FailedError(what, perhaps_the_question=True) from error
        found = reply.get(needs) if isinstance(reply, dict) else None
        if not isinstance(found, list) or not (found or needs == "data"):
            what = f"its answer has no {needs}: {response.text[:80]!r}"
            raise _FailedError(what, perhaps_the_question=True)
        if needs == "choices":
            _require_end(found[0])
        return reply

    def _meaning(self, response: httpx2.Response) -> Exception:
        code, said = response.status_code, self._words(response)
        if code in _AGAIN or code >= 500:
            return _FailedError(f"{code}: {said}", wish=_wish(response), perhaps_the_question=code == 500)
        if code in {401, 403}:
            given = "refuses the key in" if self._key else "asks for a key, and there is none in"
            remedy = "set MEDVL_EVAL__SERVER__API_KEY, from a Secret on a cluster"
            return AccessDeniedError(f"the server {given} eval.server.api_key: {said}", where=self.url, remedy=remedy)
        if code == 404:
            remedy = "set eval.server.base_name and .tuned_name to its names; eval.server.url most often ends in /v1"
            return MissingInputError(f"the server knows no such model, or path: {said}", where=self.url, remedy=remedy)
        if 400 <= code < 500 and code != 405:
            return RefusedError(f"{code}: {said}")
        return SettingsError(f"this is no OpenAI-compatible server, it answers {code}: {said}", where=self.url)

    def _words(self, response: httpx2.Response) -> str:
        """The server's own, without our key in them."""
        text = response.text
        try:
            reply = json.loads(text)
            error = reply.get("error", reply)
            text = str(error.get("message") or text) if isinstance(error, dict) else str(error)
        except (ValueError, AttributeError):
            pass
        text = " ".join(text.split())
        return (text.replace(self._key, "***") if self._key else text)[:_SHOWN]


def _header_value(key: SecretStr) -> str | None:
    """The key without the newline that a Secret made from a file ends in; none for an empty one.

    Raises `SettingsError` for one that fits into no header: the library's own error would show it.
    """
    text = key.get_secret_value().strip()
    if not (text.isascii() and text.isprintable()):
        what = "the key has characters that no header takes"
        remedy = "set MEDVL_EVAL__SERVER__API_KEY to the key alone, in one line"
        raise SettingsError(what, where="eval.server.api_key", remedy=remedy)
    return text or None


def _require_end(choice: Any) -> None:
    """An answer that somebody has broken off is none; vLLM calls it ``abort`` when it is shut down.

    Raises `RefusedError` where a filter has taken it away.
    """
    finish = choice.get("finish_reason") if isinstance(choice, dict) else None
    if finish == "content_filter":
        raise RefusedError("a filter has taken the answer away")
    if finish not in ("stop", "length") or not isinstance(choice.get("message"), dict):
        raise _FailedError(f"its answer has no end (finish_reason {finish!r})", perhaps_the_question=True)
    if not isinstance(choice["message"].get("content"), str | None):
        raise _FailedError("its answer is no text", perhaps_the_question=True)


def _wish(response: httpx2.Response) -> float | None:
    """Seconds of the ``Retry-After`` header: a number, or a date (RFC 9110, section 10.2.3)."""
    text = response.headers.get("Retry-After", "").strip()
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, (email.utils.parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def alive(url: str) -> bool:
    """Whether ``GET url`` is answered by 200; an address on this machine."""
    try:
        return httpx2.get(url, timeout=5.0, trust_env=False).status_code == 200
    except httpx2.HTTPError:
        return False
