"""Two models on a server: both are asked as eval asks, and what the server does wrong is told in words."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import openai_server
import pytest
import tiny_model
from openai_server import Server, answer, error, reply

from medvl_jobs.chat.models import Ending, Piece, Question, Side, UnansweredError
from medvl_jobs.chat.server import ServerPair
from medvl_jobs.errors import AccessDeniedError, MissingInputError, SettingsError, TryAgainError
from medvl_jobs.settings.run import RunSettings

IMAGE = tiny_model.png(tiny_model.picture(0))
PAIRS: list[ServerPair] = []
QUESTION = Question(IMAGE, "What is it?", 10, 0.7)


def pair_of(server: Server, **changed: Any) -> ServerPair:
    values = {"eval": {"engine": "openai", "server": {"url": server.url, **changed}}, "prompt": {"system": "Be brief."}}
    pair = ServerPair(RunSettings.model_validate(values).model_copy(update={"model": tiny_model.MODEL}))
    PAIRS.append(pair)
    return pair


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while PAIRS:
        PAIRS.pop().close()


def ask(pair: ServerPair, side: Side = "tuned", stop: threading.Event | None = None) -> tuple[Ending, list[str]]:
    pieces: list[Piece] = []
    ending = pair.answer(side, QUESTION, pieces.append, stop or threading.Event())
    return ending, [piece.text for piece in pieces]


def test_each_side_is_asked_by_its_name_and_told_word_by_word() -> None:
    with openai_server.running() as server:
        pair = pair_of(server)
        for side in ("base", "tuned"):
            ending, pieces = ask(pair, side)  # type: ignore[arg-type]
            assert ending == Ending(f"{side} sees {len(IMAGE)} bytes", 3, "stop")
            assert "".join(pieces) == ending.text
            assert len(pieces) == 4
        body = server.asked[0]
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("base", 0.7, 10)
        assert body["messages"][0] == {"role": "system", "content": "Be brief."}
        assert [part["type"] for part in body["messages"][1]["content"]] == ["image_url", "text"]
        assert server.images() == [IMAGE] * 2


def test_a_cut_answer_says_so() -> None:
    with openai_server.running(complete=lambda body: answer("too lo", "length", 10)) as server:
        assert ask(pair_of(server))[0] == Ending("too lo", 10, "length")


def test_it_stops_when_it_is_called_off() -> None:
    stop = threading.Event()
    stop.set()
    with openai_server.running() as server:
        assert ask(pair_of(server), stop=stop)[0] == Ending("", 0, "stopped")


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        (error(429, "too many"), "The server answers 429: too many"),
        (error(500, "boom"), "The server answers 500: boom"),
        (reply(200, b"data: {torn"), "The server's answer is none"),
        (reply(200, b'data: {"choices": [{"delta": {"content": "half"}}]}\n\n'), "broke off"),
        (reply(200, b'data: {"error": {"message": "out of memory"}}\n\n'), "gave up: .*out of memory"),
        (reply(200, b"<html>"), "broke off"),
        (reply(200, b"data: {}\n", Content_Length="99"), "is not there, or has gone"),
    ],
)
def test_what_a_server_does_wrong_is_told(spoilt: openai_server.Reply, said: str) -> None:
    with openai_server.running(faults=[lambda: spoilt]) as server:
        pair = pair_of(server)
        with pytest.raises(UnansweredError, match=said):
            ask(pair)
        assert ask(pair)[0].finish == "stop", "the next question goes well"


def test_the_server_is_looked_at_first() -> None:
    with openai_server.running(key="right") as server:
        with pytest.raises(AccessDeniedError, match="our key"):
            pair_of(server, api_key="wrong")
        assert ask(pair_of(server, api_key="right"))[0].finish == "stop"
        with pytest.raises(MissingInputError, match="no model 'other', it has base, tuned"):
            pair_of(server, api_key="right", tuned_name="other")
    with openai_server.running(models=None) as server:
        assert ask(pair_of(server))[0].finish == "stop", "not every server lists its models"
    with pytest.raises(TryAgainError, match="does not answer"):
        pair_of(server)
    with pytest.raises(SettingsError, match="no server to chat with"):
        ServerPair(RunSettings.model_validate({"eval": {"engine": "openai"}}))
