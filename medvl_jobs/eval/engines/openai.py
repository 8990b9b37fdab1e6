"""Answers from an OpenAI-compatible server: one that runs, or vLLM started for this evaluation."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from medvl_jobs.errors import MissingInputError, SettingsError
from medvl_jobs.eval.engines.base import Answer
from medvl_jobs.eval.engines.in_process import UNREADABLE
from medvl_jobs.eval.server import canary
from medvl_jobs.eval.server.client import ChatClient, RefusedError
from medvl_jobs.eval.server.start import start_vllm
from medvl_jobs.model.checkpoint import load_processor
from medvl_jobs.model.prompts import PromptRenderer, decode_image
from medvl_jobs.model.request import messages
from medvl_jobs.settings.run import RunSettings

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class OpenAIEngine:
    """The model that ``eval.server`` names for the base, or for the adapter.

    The server starts, and is checked, when the first answers are asked for.
    """

    def __init__(self, settings: RunSettings, adapter: Path | None, question: str) -> None:
        """``adapter``: the folder that PEFT saved, or none for the base model. Raises what `load_processor` raises."""
        self.settings, self.server, self.adapter, self.question = settings, settings.eval.server, adapter, question
        self.load_seconds = self.preparation_seconds = 0.0
        self.steps = 0
        self.renderer = PromptRenderer(load_processor(settings.model), settings.prompt, question)
        self.name = self.server.base_name if adapter is None else self.server.tuned_name
        self._resources = ExitStack()
        self._client: ChatClient | None = None

    def answers(self, images: Iterable[bytes]) -> Iterator[tuple[int, Answer]]:
        """See `Engine.answers`; up to ``eval.server.concurrency`` requests are under way."""
        waiting = iter(images)
        first: list[bytes] = []
        if self._client is None:
            readable: list[bytes] = []
            while len(readable) < self.server.canary and (image := next(waiting, None)) is not None:
                first.append(image)
                readable += [image] if _readable(image) else []
            self._client = self._open(readable)
        client = self._client
        ask = partial(self._answer, client)
        for number, answer in in_flight(ask, chain(first, waiting), self.server.concurrency):
            self.steps += 1
            yield number, answer

    @property
    def url(self) -> str | None:
        """Where the server is; none before it is started."""
        return self._client.url if self._client else self.server.url

    def close(self) -> None:
        """End the requests under way and the server, if it is ours."""
        self._resources.close()

    def _open(self, first: list[bytes]) -> ChatClient:
        """The server, started if need be, and known by the ``first`` images to answer with this run's model."""
        started = time.monotonic()
        encoded = [self.renderer.encode(decode_image(image)) for image in first]
        said = canary.say_in_process(self.settings, self.renderer, self.adapter, encoded) if encoded else []
        checked = time.monotonic()
        if self.server.url is None:
            process = start_vllm(self.settings, self.adapter, self.name, self.renderer, self._resources)
            client = ChatClient(f"{process.url}/v1", self.server, watch=process.watch)
        else:
            client = ChatClient(self.server.url, self.server)
        self._resources.callback(client.close)
        self._client = client
        self.load_seconds = time.monotonic() - checked
        self._check_name(client)
        if said:
            wishes = canary.wishes(self.settings)
            try:
                replies = [client.ask(self._body(image, wishes)) for image in first]
            except RefusedError as error:
                what = f"the server refuses what it is checked by: {error}"
                remedy = "where it takes no log-probabilities, eval.server.canary=0: its answers are taken as they are"
                raise SettingsError(what, where=client.url, remedy=remedy) from error
            canary.judge(canary.compare(said, replies, client.url), self.settings, client.url)
        self.preparation_seconds = time.monotonic() - started - self.load_seconds
        return client

    def _check_name(self, client: ChatClient) -> None:
        names = client.models()
        if names is not None and self.name not in names:
            setting = "base_name" if self.adapter is None else "tuned_name"
            raise MissingInputError(
                f"the server has no model '{self.name}', it has {', '.join(names) or 'none'}",
                where=client.url,
                remedy=f"set eval.server.{setting} to what the server calls it",
            )

    def _answer(self, client: ChatClient, image: bytes) -> Answer:
        try:
            body = self._body(image, {"max_tokens": self.settings.eval.max_new_tokens})
        except UNREADABLE as error:
            return Answer("", 0, "failed", f"the image cannot be read: {error}")
        try:
            return _read(client.ask(body))
        except RefusedError as error:
            return Answer("", 0, "failed", f"the server refuses: {error}")

    def _body(self, image: bytes, more: Mapping[str, Any]) -> dict[str, Any]:
        """A chat completion's request."""
        asked = messages(image, self.question, self.settings.prompt.system, self.renderer.processor.image_processor)
        return {"model": self.name, "messages": asked, "temperature": 0, **more}


def _read(reply: Mapping[str, Any]) -> Answer:
    choice = reply["choices"][0]
    finish = choice["finish_reason"]
    usage = reply.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    # Trap: JSON can hold half a character, "\ud83d", which no file takes.
    text = (choice["message"].get("content") or "").encode("utf-8", "replace").decode()
    # A server counts the end of turn, the in-process engine does not.
    return Answer(text.strip(), max(0, tokens - (finish == "stop")) if isinstance(tokens, int) else 0, finish)


def _readable(image: bytes) -> bool:
    try:
        decode_image(image)
    except UNREADABLE:
        return False
    return True


def in_flight(
    ask: Callable[[bytes], Result], images: Iterable[bytes], concurrency: int
) -> Iterator[tuple[int, Result]]:
    """``ask`` of each image in threads, up to ``concurrency`` at a time; number and result as they finish.

    After an error what else is finished is still given, then the error is raised. The threads are daemons: nothing
    waits for a request that hangs while the process ends.
    """
    todo: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Result | BaseException]] = queue.SimpleQueue()

    def work() -> None:
        while (item := todo.get()) is not None:
            number, image = item
            try:
                done.put((number, ask(image)))
            except BaseException as error:  # noqa: BLE001  raised again by who takes it
                done.put((number, error))

    threads = 0
    under_way = 0
    try:
        for item in enumerate(images):
            if under_way == concurrency:
                yield from _taken(done)
                under_way -= 1
            if threads < concurrency and threads == under_way:
                threading.Thread(target=work, name="request", daemon=True).start()
                threads += 1
            todo.put(item)
            under_way += 1
        while under_way:
            yield from _taken(done)
            under_way -= 1
    finally:
        for _ in range(threads):
            todo.put(None)


def _taken(done: queue.SimpleQueue[tuple[int, Result | BaseException]]) -> Iterator[tuple[int, Result]]:
    """The next result, waited for. Raises when it is an error, once all other finished ones are given."""
    number, result = done.get()
    if not isinstance(result, BaseException):
        yield number, result
        return
    while not done.empty():
        number, other = done.get()
        if not isinstance(other, BaseException):
            yield number, other
    raise result
