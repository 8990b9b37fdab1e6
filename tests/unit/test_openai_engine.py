"""The engine that asks a server: what it sends, how it counts, and what becomes of an evaluation when it misbehaves."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import openai_server
import pytest
import tiny_model
from openai_server import answer, error, reply

from medvl_jobs.contracts.records import Prediction, read_predictions
from medvl_jobs.errors import AccessDeniedError, DataError, MissingInputError, TryAgainError
from medvl_jobs.eval.engines.base import Answer
from medvl_jobs.eval.engines.open import open_engine
from medvl_jobs.eval.engines.openai import OpenAIEngine, _taken
from medvl_jobs.eval.predict import Outcome, Predictor
from medvl_jobs.eval.questions import questions
from medvl_jobs.eval.server import client as client_module
from medvl_jobs.settings.eval import EvalSettings, Variant
from medvl_jobs.settings.model import PromptSettings
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.settings.server import ServerSettings
from medvl_jobs.storage.local import LocalStorage
from medvl_jobs.storage.publish import Publication

PICTURES = [tiny_model.png(tiny_model.picture(number)) for number in range(12)]
ADAPTER = Path("some/adapter")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_PAUSE_SECONDS", 0.01)


def run_settings(url: str, *, system: str | None = None, **server: Any) -> RunSettings:
    asked = {"url": url, "canary": 0, "retries": 2, "timeout_seconds": 60.0, "concurrency": 4, **server}
    evaluation = EvalSettings(engine="openai", max_new_tokens=99, flush_every=4, server=ServerSettings(**asked))
    return RunSettings(model=tiny_model.MODEL, prompt=PromptSettings(system=system), eval=evaluation)


def answers(settings: RunSettings, images: Iterable[bytes] = PICTURES, adapter: Path | None = None) -> list[Answer]:
    engine = open_engine(settings, adapter, "What is it?")
    assert isinstance(engine, OpenAIEngine)
    try:
        found = dict(engine.answers(images))
    finally:
        engine.close()
    assert engine.steps == len(found)
    return [found[number] for number in range(len(found))]


def numbered(model: str, image: bytes) -> str:
    return f"{model} {PICTURES.index(image)}"


def test_what_is_asked_is_what_the_in_process_engine_renders() -> None:
    with openai_server.running() as server:
        answers(run_settings(server.url, system="You are a radiologist."), PICTURES[:1])
        answers(run_settings(server.url), PICTURES[:1])
    first, second = server.asked
    uri = second["messages"][0]["content"][0]["image_url"]["url"]
    user = {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": "What is it?"}],
    }
    assert second == {"model": "base", "messages": [user], "temperature": 0, "max_tokens": 99}
    assert first == {**second, "messages": [{"role": "system", "content": "You are a radiologist."}, user]}
    assert server.images() == [PICTURES[0]] * 2


def test_base_and_tuned_have_names_of_their_own() -> None:
    with openai_server.running(models=["qwen", "qwen-lora"], say=numbered) as server:
        settings = run_settings(server.url, base_name="qwen", tuned_name="qwen-lora")
        assert [each.text for each in answers(settings)] == [f"qwen {n}" for n in range(12)]
        assert [each.text for each in answers(settings, adapter=ADAPTER)] == [f"qwen-lora {n}" for n in range(12)]


@pytest.mark.parametrize(("adapter", "setting"), [(None, "base_name"), (ADAPTER, "tuned_name")])
def test_a_server_without_the_model_is_asked_nothing(adapter: Path | None, setting: str) -> None:
    with openai_server.running(models=["gpt", "x"]) as server:
        with pytest.raises(MissingInputError, match=r"the server has no model '(base|tuned)', it has gpt, x") as caught:
            answers(run_settings(server.url), adapter=adapter)
        assert setting in caught.value.remedy
        assert server.asked == []


def test_texts_tokens_and_ends_are_read_as_in_process() -> None:
    replies = [answer(" Two\nlines. \n", "stop", 5), answer("Cut o", "length", 99), answer("", "stop", 1)]
    replies.append({"choices": [{"message": {"content": None}, "finish_reason": "stop"}]})
    with openai_server.running(faults=[lambda each=each: reply(200, each) for each in replies]) as server:
        found = answers(run_settings(server.url, concurrency=1), PICTURES[:4])
    assert found == [
        Answer("Two\nlines.", 4, "stop"), Answer("Cut o", 99, "length"), Answer("", 0, "stop"), Answer("", 0, "stop"),
    ]  # fmt: skip


def test_half_a_character_and_an_odd_count_end_no_evaluation(tmp_path: Path) -> None:
    """JSON takes "\\ud83d" alone, as a server may leave it of an emoji that is cut off; UTF-8 does not."""
    half = answer("left \ud83d", "length")
    replies = [half, {**half, "usage": [7]}, {**half, "usage": {"completion_tokens": "many"}}]
    with openai_server.running(faults=[lambda each=each: reply(200, each) for each in replies]) as server:
        outcome = predict(run_settings(server.url, concurrency=1), LocalStorage(tmp_path))
    assert outcome is not None
    assert [(p.predict, p.new_tokens) for p in outcome.predictions[:3]] == [("left ?", 4), ("left ?", 0), ("left ?", 0)]


def test_so_many_are_under_way_and_no_more_are_read() -> None:
    read: list[int] = []

    def images() -> Iterator[bytes]:
        for number, picture in enumerate(PICTURES):
            read.append(number)
            yield picture

    together = threading.Barrier(4)

    def say(model: str, image: bytes) -> str:
        together.wait(60)
        return numbered(model, image)

    with openai_server.running(say=say) as server:
        engine = open_engine(run_settings(server.url, concurrency=4), None, "What is it?")
        stream = engine.answers(images())
        next(stream)
        assert len(read) == 5
        assert len(list(stream)) == 11
        engine.close()
    assert server.most_under_way == 4


def test_one_refused_and_one_broken_image_are_counted_as_failed() -> None:
    def refuse(image: bytes) -> openai_server.Reply | None:
        return error(400, "the prompt is too long") if image == PICTURES[2] else None

    with openai_server.running(broken=refuse, say=numbered) as server:
        found = answers(run_settings(server.url), [*PICTURES[:4], b"no image"])
    assert [each.finish for each in found] == ["stop", "stop", "failed", "stop", "failed"]
    assert found[2].why == "the server refuses: 400: the prompt is too long"
    assert "cannot be read" in found[4].why
    assert len(server.asked) == 4


def predict(settings: RunSettings, storage: LocalStorage) -> Outcome | None:
    rows = [
        {"example_id": f"e{n:02d}", "caption": f"caption {n}", "group": "g", "width": 192, "height": 192}
        for n in range(len(PICTURES))
    ]
    asked = questions(rows, settings.eval, Variant.BASE)
    predictor = Predictor(storage, "predictions/x", Publication(storage, "predictions/x"), settings.eval)
    return predictor.run(
        asked, lambda q: PICTURES[int(q.example_id[1:])], lambda: open_engine(settings, None, "What is it?")
    )


def stored(storage: LocalStorage) -> dict[str, list[Prediction]]:
    keys = [key for key in storage.list_keys("predictions/x/") if key.endswith(".jsonl")]
    return {key: read_predictions(storage.read_bytes(key).decode()) for key in keys}


def test_in_whatever_order_they_come_the_parts_are_the_same(tmp_path: Path) -> None:
    def slowly(model: str, image: bytes) -> str:
        time.sleep(0.05 * (PICTURES.index(image) % 3))
        return numbered(model, image)

    results = []
    for name, say, concurrency in (("a", slowly, 12), ("b", numbered, 1)):
        with openai_server.running(say=say) as server:
            storage = LocalStorage(tmp_path / name)
            outcome = predict(run_settings(server.url, concurrency=concurrency), storage)
        assert outcome is not None
        assert outcome.steps == 12
        results.append({key: storage.read_bytes(key) for key in stored(storage)})
    assert results[0] == results[1]
    assert len(results[0]) == 3


def test_a_server_that_dies_in_the_middle_loses_nothing_that_was_whole(tmp_path: Path) -> None:
    """Exit code 75, and the next attempt asks for the rest only."""
    storage = LocalStorage(tmp_path)
    dead = threading.Event()

    def dying(image: bytes) -> openai_server.Reply | None:
        if PICTURES.index(image) == 9:
            dead.set()
        return reply(503, b"") if dead.is_set() else None

    with openai_server.running(broken=dying, say=numbered) as server:
        with pytest.raises(TryAgainError) as caught:
            predict(run_settings(server.url, concurrency=1), storage)
        assert caught.value.exit_code == 75
        assert len(stored(storage)) == 2
    with openai_server.running(say=numbered) as server:
        outcome = predict(run_settings(server.url), storage)
        assert len(server.asked) == 4
    assert outcome is not None
    assert [p.predict for p in outcome.predictions] == [f"base {n}" for n in range(12)]


def test_a_server_that_refuses_everything_is_no_evaluation(tmp_path: Path) -> None:
    with (
        openai_server.running(broken=lambda image: error(400, "images are not supported")) as server,
        pytest.raises(DataError, match="images are not supported"),
    ):
        predict(run_settings(server.url), LocalStorage(tmp_path))
    assert stored(LocalStorage(tmp_path)) == {}


def test_a_wrong_key_ends_it(tmp_path: Path) -> None:
    with openai_server.running(key="right") as server, pytest.raises(AccessDeniedError):
        predict(run_settings(server.url, api_key="wrong"), LocalStorage(tmp_path))


def test_what_is_finished_when_one_fails_is_still_given() -> None:
    done: queue.SimpleQueue[tuple[int, bytes | BaseException]] = queue.SimpleQueue()
    for finished in ((1, TryAgainError("gone")), (2, b"late"), (3, DataError("another")), (0, b"early")):
        done.put(finished)
    stream = _taken(done)
    assert [next(stream), next(stream)] == [(2, b"late"), (0, b"early")]
    with pytest.raises(TryAgainError, match="gone"):
        next(stream)


def test_the_key_is_in_no_settings_that_are_stored(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    settings = run_settings("http://x/v1", api_key="sk-secret")
    assert "sk-secret" not in settings.model_dump_json() + str(settings.model_dump()) + repr(settings)
    assert "api_key" not in settings.eval.server.model_dump()
