"""Both models on an OpenAI-compatible server, told apart by their names."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx2

from medvl_jobs.chat.models import Ending, Finish, Piece, Question, Side, UnansweredError
from medvl_jobs.errors import AccessDeniedError, MissingInputError, SettingsError, TryAgainError
from medvl_jobs.model.checkpoint import load_processor
from medvl_jobs.model.request import messages
from medvl_jobs.settings.run import RunSettings

CONNECT_SECONDS = 10.0
_SHOWN = 300
"""Characters of a server's own words."""


class ServerPair:
    """Asks ``eval.server.url`` for ``base_name`` and ``tuned_name``, both at the same time."""

    def __init__(self, settings: RunSettings) -> None:
        """See that the server has both.

        Raises `SettingsError`, `TryAgainError`, `AccessDeniedError` or `MissingInputError`.
        """
        server = settings.eval.server
        if server.url is None:
            what = "eval.engine is openai, and there is no server to chat with"
            raise SettingsError(what, where="eval.server.url", remedy="set it, or eval.engine=transformers")
        self._url = server.url.rstrip("/")
        self._names: dict[Side, str] = {"base": server.base_name, "tuned": server.tuned_name}
        self._system = settings.prompt.system
        self._image_processor = load_processor(settings.model).image_processor
        self._http = httpx2.Client(
            headers={"Authorization": f"Bearer {server.api_key.get_secret_value()}"} if server.api_key else None,
            timeout=httpx2.Timeout(server.timeout_seconds, connect=CONNECT_SECONDS),
        )
        self.at_once = max(2, server.concurrency // 2)
        self.where = f"on a server, as {server.base_name} and {server.tuned_name}"
        try:
            self._check_names()
        except BaseException:
            self.close()
            raise

    def _check_names(self) -> None:
        try:
            response = self._http.get(f"{self._url}/models")
            listed = [str(each["id"]) for each in response.json()["data"]] if response.is_success else None
        except (httpx2.HTTPError, OSError) as error:
            raise TryAgainError(f"the server does not answer: {error}", where=self._url) from error
        except (ValueError, KeyError, TypeError):
            listed = None
        if response.status_code in {401, 403}:
            remedy = "set MEDVL_EVAL__SERVER__API_KEY, from a Secret on a cluster"
            raise AccessDeniedError("the server refuses us, or our key", where=self._url, remedy=remedy)
        if response.status_code >= 500:
            raise TryAgainError(f"the server answers {response.status_code}", where=self._url)
        lacking = [name for name in self._names.values() if listed is not None and name not in listed]
        if lacking:
            raise MissingInputError(
                f"the server has no model '{lacking[0]}', it has {', '.join(listed or []) or 'none'}",
                where=self._url,
                remedy="set eval.server.base_name and eval.server.tuned_name to what the server calls them",
            )

    def answer(self, side: Side, question: Question, say: Callable[[Piece], None], stop: threading.Event) -> Ending:
        """Greedy or sampled by the server, from the same image and prompt as in eval. Raises `UnansweredError`."""
        body = {
            "model": self._names[side],
            "messages": messages(question.image, question.text, self._system, self._image_processor),
            "temperature": question.temperature,
            "max_tokens": question.max_new_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        try:
            with self._http.stream("POST", f"{self._url}/chat/completions", json=body) as response:
                if not response.is_success:
                    response.read()
                    raise UnansweredError(f"The server answers {response.status_code}: {_words(response)}")
                return _told(_chunks(response.iter_lines()), say, stop)
        except httpx2.TimeoutException as error:
            raise UnansweredError("The server did not answer in time. Ask again later, or for less.") from error
        except (httpx2.HTTPError, RuntimeError, OSError) as error:  # RuntimeError: the client is closed
            raise UnansweredError(
                "The server that holds the models is not there, or has gone. Ask again later."
            ) from error

    def close(self) -> None:
        """End the requests under way."""
        self._http.close()


def _told(chunks: Iterator[dict[str, Any]], say: Callable[[Piece], None], stop: threading.Event) -> Ending:
    text, tokens = "", 0
    finish: Finish | None = None
    for chunk in chunks:
        if stop.is_set():
            return Ending(text.strip(), tokens, "stopped")
        if isinstance(chunk.get("usage"), dict):
            tokens = int(chunk["usage"].get("completion_tokens") or 0)
        for choice in chunk.get("choices") or []:
            if piece := (choice.get("delta") or {}).get("content"):
                text += str(piece)
                say(Piece(str(piece) if text.strip() else "", 0))
            if choice.get("finish_reason"):
                finish = "length" if choice["finish_reason"] == "length" else "stop"
    if finish is None:
        raise UnansweredError("The server's answer broke off. Ask again.")
    # A server counts the end of turn, the in-process engine does not.
    return Ending(text.strip(), max(0, tokens - (finish == "stop")), finish)


def _chunks(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Of a stream of server-sent events, up to ``[DONE]``. Raises `UnansweredError` for what is none, or an error."""
    for line in lines:
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or not data:
            continue
        if data == "[DONE]":
            return
        try:
            chunk = json.loads(data)
        except ValueError as error:
            raise UnansweredError(f"The server's answer is none: {data[:80]!r}.") from error
        if not isinstance(chunk, dict) or chunk.get("error"):
            raise UnansweredError(f"The server gave up: {' '.join(data.split())[:_SHOWN]}")
        yield chunk


def _words(response: httpx2.Response) -> str:
    try:
        error = response.json()["error"]
        text = str(error["message"]) if isinstance(error, dict) else str(error)
    except (ValueError, KeyError, TypeError):
        text = response.text
    return " ".join(text.split())[:_SHOWN]
