"""One question to a server that behaves, and to servers that do not."""

from __future__ import annotations

import logging
import re
import socket
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx2
import openai_server
import pytest
from openai_server import Server, answer, error, reply
from pydantic import SecretStr

from medvl_jobs.errors import AccessDeniedError, MissingInputError, SettingsError, TryAgainError
from medvl_jobs.eval.server import client as module
from medvl_jobs.eval.server.client import ChatClient, RefusedError, _wish
from medvl_jobs.settings.server import ServerSettings

QUESTION = {
    "model": "tuned",
    "messages": [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}]}
    ],
}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.01)


def ask(server: Server, body: dict[str, Any] = QUESTION, **settings: Any) -> dict[str, Any]:
    client = ChatClient(server.url, ServerSettings(**{"retries": 3, "timeout_seconds": 60.0, **settings}))
    try:
        return client.ask(body)
    finally:
        client.close()


def said(reply: dict[str, Any]) -> str:
    return str(reply["choices"][0]["message"]["content"])


HALF = reply(200, json_half := b'{"choices": [{"index": 0, "message": {"role": "assi', Content_Length="4000")
PASSING = {
    "429": error(429, "slow down"),
    "500": error(500, "CUDA error"),
    "502": reply(502, b"<html>Bad Gateway</html>"),
    "503": error(503, "loading"),
    "half an answer": HALF,
    "half of the JSON": reply(200, json_half),
    "no JSON": reply(200, b"<html>Please log in</html>"),
    "JSON of another kind": reply(200, ["a", "list"]),
    "no choices": reply(200, {"choices": []}),
    "no message": reply(200, {"choices": [{"finish_reason": "stop"}]}),
    "choice of another kind": reply(200, {"choices": ["a"]}),
    "broken off": reply(200, answer("The ima", "abort")),
    "no end": reply(200, answer("The ima", None)),
    "end of another kind": reply(200, {"choices": [{"message": {"content": "The ima"}, "finish_reason": ["stop"]}]}),
    "no text": reply(200, {"choices": [{"message": {"content": ["The"]}, "finish_reason": "stop"}]}),
    "JSON without a bottom": reply(200, b"[" * 100_000),
    "empty body": reply(200, b""),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_what_may_go_better_is_asked_again(fault: openai_server.Reply) -> None:
    with openai_server.running(faults=[lambda: fault, lambda: fault]) as server:
        assert said(ask(server)) == "tuned sees 3 bytes"
    assert len(server.asked) == 3
    assert server.asked[0] == server.asked[2] == QUESTION


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_what_never_gets_better_is_an_error_with_the_servers_words(fault: openai_server.Reply) -> None:
    with openai_server.running(broken=lambda image: fault) as server:
        with pytest.raises(TryAgainError, match="the server does not answer: ") as caught:
            ask(server)
        assert caught.value.where == server.url
        assert "eval.server.retries" in caught.value.remedy or ".retries" in caught.value.remedy
    assert len(server.asked) == 4


def test_the_servers_own_words_are_in_the_error() -> None:
    with (
        openai_server.running(broken=lambda image: error(500, "CUDA error: device-side assert")) as server,
        pytest.raises(TryAgainError, match="500: CUDA error: device-side assert"),
    ):
        ask(server)


@pytest.mark.parametrize("code", [400, 413, 415, 422])
def test_a_question_that_is_refused_is_not_asked_again(code: int) -> None:
    with openai_server.running(broken=lambda image: error(code, "4097 tokens are too many")) as server:
        with pytest.raises(RefusedError, match=f"{code}: 4097 tokens are too many"):
            ask(server)
        assert len(server.asked) == 1


def test_a_filtered_answer_is_a_refusal() -> None:
    with openai_server.running(broken=lambda image: reply(200, answer("", "content_filter"))) as server:
        with pytest.raises(RefusedError, match="filter"):
            ask(server)
        assert len(server.asked) == 1


@pytest.mark.parametrize("fault", [error(500, "illegal image"), reply(200, {"choices": []})], ids=["500", "nonsense"])
def test_one_poisoned_question_among_sound_ones_is_refused(fault: openai_server.Reply) -> None:
    """It would stop every later attempt at the whole evaluation."""
    with openai_server.running(broken=lambda image: fault if image == b"ABC" else None) as server:
        client = ChatClient(server.url, ServerSettings(retries=2))
        sound = {**QUESTION, "messages": [{"role": "user", "content": [_png(b"other")]}]}
        faults = [lambda: (client.ask(sound), fault)[1]]  # a sound one is answered in the meantime
        server.faults.extend(faults)
        with pytest.raises(RefusedError, match="3 times, while another was answered"):
            client.ask(QUESTION)
        client.close()


@pytest.mark.parametrize("well", [True, False])
def test_a_poisoned_question_that_is_asked_alone_is_refused_where_the_server_is_well(well: bool) -> None:
    """With a concurrency of 1, and at the end, nobody else is answered in the meantime."""
    asked_before = threading.Event()

    def broken(image: bytes) -> openai_server.Reply | None:
        return error(500, "illegal image") if image == b"ABC" or (asked_before.is_set() and not well) else None

    with openai_server.running(broken=broken) as server:
        client = ChatClient(server.url, ServerSettings(retries=2))
        client.ask({**QUESTION, "messages": [{"role": "user", "content": [_png(b"other")]}]})
        asked_before.set()
        with pytest.raises(RefusedError if well else TryAgainError, match="illegal image"):
            client.ask(QUESTION)
        client.close()


def _png(data: bytes) -> dict[str, Any]:
    import base64

    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(data).decode()}"}}


def test_an_answer_that_drips_has_an_end() -> None:
    """Each byte comes in time, and the answer never."""
    done = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n")
            while not done.wait(0.05):
                connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=drip, args=(listener,))
        server.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        client = ChatClient(url, ServerSettings(retries=0, timeout_seconds=0.5))
        try:
            with pytest.raises(TryAgainError, match="no answer in time"):
                client.ask(QUESTION)
        finally:
            done.set()
            server.join()
            client.close()


def test_a_key_that_comes_with_a_newline_is_the_key() -> None:
    with openai_server.running(key="sk-right") as server:
        assert said(ask(server, api_key=SecretStr("sk-right\n"))) == "tuned sees 3 bytes"


@pytest.mark.parametrize("key", ["sk-ge\nheim", "sk-gehéim"])
def test_a_key_that_fits_in_no_header_is_not_shown(key: str, caplog: pytest.LogCaptureFixture) -> None:
    with openai_server.running() as server, pytest.raises(SettingsError, match="no header takes") as caught:
        ask(server, api_key=SecretStr(key))
    assert "heim" not in f"{caught.value!r} {caught.value.__context__!r} {caplog.text}"


def test_a_key_in_the_words_where_they_are_cut_is_not_shown() -> None:
    with (
        openai_server.running(broken=lambda image: error(400, 290 * "x" + " sk-right-and-long")) as server,
        pytest.raises(RefusedError) as caught,
    ):
        ask(server, api_key=SecretStr("sk-right-and-long"))
    assert "sk-" not in str(caught.value)


def test_the_key_is_sent_and_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with openai_server.running(key="sk-right") as server:
        assert said(ask(server, api_key=SecretStr("sk-right"))) == "tuned sees 3 bytes"
        with pytest.raises(
            AccessDeniedError, match=r"refuses the key .* Incorrect API key provided: Bearer \*\*\*"
        ) as one:
            ask(server, api_key=SecretStr("sk-wrong"))
        with pytest.raises(AccessDeniedError, match="asks for a key") as other:
            ask(server)
    assert one.value.exit_code == other.value.exit_code == 77
    assert "MEDVL_EVAL__SERVER__API_KEY" in one.value.remedy
    assert len(server.asked) == 3
    assert "sk-" not in caplog.text + str(one.value) + str(one.value.as_dict()) + repr(
        ServerSettings(api_key="sk-wrong")
    )


def test_another_model_or_path_is_an_error_for_all() -> None:
    with openai_server.running(models=["qwen"]) as server:
        with pytest.raises(MissingInputError, match="The model `tuned` does not exist") as caught:
            ask(server)
        assert "eval.server.base_name" in caught.value.remedy
        server.url = server.url.removesuffix("/v1")
        with pytest.raises(MissingInputError, match="no such path"):
            ask(server)


def test_no_server_at_all() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = Server(url=f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        with pytest.raises(TryAgainError, match="ConnectError") as caught:
            ask(server, retries=1)
    assert "start again" in caught.value.remedy


def test_an_answer_that_takes_too_long_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    with (
        openai_server.running(seconds=30.0) as server,
        pytest.raises(TryAgainError, match=r"no answer in time \(ReadTimeout\)"),
    ):
        ask(server, timeout_seconds=0.2, retries=1)
    assert caplog.text.count("no answer in time (ReadTimeout); again in") == 1


def test_a_redirect_is_no_answer() -> None:
    with (
        openai_server.running(broken=lambda image: reply(302, b"", Location="/login")) as server,
        pytest.raises(SettingsError, match="no OpenAI-compatible server, it answers 302"),
    ):
        ask(server)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_waited_for(form: str, caplog: pytest.LogCaptureFixture) -> None:
    value = "1" if form == "seconds" else format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    started = datetime.now(UTC)
    with openai_server.running(faults=[lambda: error(429, "slow down", Retry_After=value)]) as server:
        ask(server)
    assert (datetime.now(UTC) - started).total_seconds() >= 0.9
    (pause,) = re.findall(r"429: slow down; again in ([\d.]+) s", caplog.text)
    assert float(pause) <= 2.2


@pytest.mark.parametrize(("text", "seconds"), [("", None), ("7", 7.0), ("-1", 0.0), ("soon", None), ("0.5", 0.5)])
def test_the_forms_of_retry_after(text: str, seconds: float | None) -> None:
    assert _wish(httpx2.Response(429, headers={"Retry-After": text})) == seconds


def test_pauses_grow_differ_and_end() -> None:
    client = ChatClient("http://127.0.0.1:1/v1", ServerSettings())
    waited: list[float] = []

    class Clock(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waited.append(timeout or 0.0)
            return False

    client._closed = Clock()
    for attempt in range(20):
        client._pause(attempt, module._FailedError("x"))
    assert all(0.005 * 2**n <= pause <= 0.01 * 2**n for n, pause in enumerate(waited[:10]))
    assert max(waited) <= 60.0
    assert len(set(waited)) == 20
    client._pause(0, module._FailedError("x", wish=1e9))
    assert 600 <= waited[-1] <= 660
    client.close()


def test_closing_ends_the_pauses() -> None:
    with openai_server.running(broken=lambda image: error(429, "no", Retry_After="60")) as server:
        client = ChatClient(server.url, ServerSettings())
        threading.Timer(0.3, client.close).start()
        with pytest.raises(TryAgainError, match="called off"):
            client.ask(QUESTION)


def test_a_watched_server_that_is_gone_is_not_waited_for() -> None:
    def watch() -> None:
        raise TryAgainError("the server ended with 1")

    client = ChatClient("http://127.0.0.1:1/v1", ServerSettings(), watch=watch)
    with pytest.raises(TryAgainError, match="the server ended with 1"):
        client.ask(QUESTION)
    client.close()


def test_models() -> None:
    for models, told in ((["a", "b"], ["a", "b"]), ([], []), (None, None)):
        with openai_server.running(models=models) as server:
            client = ChatClient(server.url, ServerSettings(retries=0))
            assert client.models() == told
            client.close()
