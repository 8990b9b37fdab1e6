"""One question at a time for one model, in the order in which they came; who goes away costs nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from chat_pair import Told

from medvl_jobs.chat.desk import BusyError, Desk, Event
from medvl_jobs.chat.models import Question, UnansweredError

QUESTION = Question(b"image", "What is it?", 10, 0.0)


async def there() -> bool:
    return False


async def all_of(desk: Desk, events: list[Event], gone: Callable[[], Coroutine[Any, Any, bool]] = there) -> list[Event]:
    async for event in desk.answer(QUESTION, gone):
        events.append(event)
    return events


def said(events: list[Event], side: str) -> str:
    return "".join(each["text"] for each in events if each["event"] == "piece" and each["side"] == side)


async def until(what: Callable[[], object]) -> None:
    for _ in range(12_000):
        if what():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen")


async def once_free(desk: Desk) -> list[Event]:
    """The answers to a question that is asked again while the desk is busy: a thread gives its place up as it ends."""
    for _ in range(12_000):
        try:
            return await all_of(desk, [])
        except BusyError:
            await asyncio.sleep(0.01)
    raise AssertionError("the place was never given up")


def test_both_answer_at_the_same_time_word_by_word() -> None:
    async def ask(pair: Told) -> list[Event]:
        task = asyncio.create_task(all_of(Desk(pair, 0), []))
        await until(lambda: pair.under_way == 2)
        pair.go.set()
        return await task

    pair = Told()
    events = asyncio.run(ask(pair))
    for side, words in (("base", 2), ("tuned", 3)):
        assert [each["event"] for each in events if each["side"] == side] == ["start", *["piece"] * words, "end"]
        (end,) = [each for each in events if each["event"] == "end" and each["side"] == side]
        assert said(events, side) == end["text"] == pair.words[side]  # type: ignore[index]
        assert end["finish"] == "stop"
    assert sorted(side for side, _ in pair.asked) == ["base", "tuned"]


def test_questions_wait_in_line_and_are_told_so() -> None:
    async def three(pair: Told) -> list[list[Event]]:
        desk = Desk(pair, 2)
        told: list[list[Event]] = [[], [], []]
        tasks = []
        for events in told:
            tasks.append(asyncio.create_task(all_of(desk, events)))
            await asyncio.sleep(0.05)
        with pytest.raises(BusyError, match="3 questions are being answered or wait"):
            await all_of(desk, [])
        pair.go.set()
        await asyncio.gather(*tasks)
        await all_of(desk, [])  # the line is empty again
        return told

    pair = Told()
    first, second, third = asyncio.run(three(pair))
    assert first[0]["event"] == "start"
    assert second[0] == {"event": "waiting", "ahead": 1}
    assert third[0] == {"event": "waiting", "ahead": 2}
    assert [said(events, "tuned") for events in (first, second, third)] == ["a chest CT"] * 3
    assert pair.most_under_way == 2, "one question's two answers"


def test_a_server_is_asked_several_questions_at_a_time() -> None:
    async def two(pair: Told) -> None:
        desk = Desk(pair, 0)
        tasks = [asyncio.create_task(all_of(desk, [])) for _ in range(2)]
        await until(lambda: pair.under_way == 4)
        pair.go.set()
        for events in await asyncio.gather(*tasks):
            assert said(events, "tuned") == "a chest CT"

    asyncio.run(two(Told(at_once=2)))


@pytest.mark.parametrize("way", ["looks", "cancelled"])
def test_the_models_stop_when_nobody_listens(way: str) -> None:
    async def leave(pair: Told) -> None:
        desk = Desk(pair, 0)
        away = asyncio.Event()

        async def gone() -> bool:
            return away.is_set()

        task = asyncio.create_task(all_of(desk, [], gone))
        await until(lambda: pair.under_way)
        if way == "looks":
            away.set()
            await task
        else:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await until(lambda: pair.stopped == 2)
        pair.go.set()
        assert said(await once_free(desk), "base") == "grey thing", "the place is free again"

    pair = Told()
    asyncio.run(leave(pair))
    assert len(pair.asked) == 4


def test_whoever_goes_as_a_piece_comes_has_gone() -> None:
    async def leave(pair: Told) -> None:
        task = asyncio.create_task(all_of(Desk(pair, 0), []))
        await until(lambda: pair.asked)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    for _ in range(20):
        pair = Told({"base": "word " * 200_000, "tuned": "word " * 200_000})
        pair.go.set()
        asyncio.run(leave(pair))


def test_who_waits_and_goes_leaves_no_gap() -> None:
    async def leave(pair: Told) -> list[Event]:
        desk = Desk(pair, 2)
        first = asyncio.create_task(all_of(desk, []))
        await until(lambda: pair.under_way)
        second = asyncio.create_task(all_of(desk, []))
        third = asyncio.create_task(all_of(desk, []))
        await asyncio.sleep(0.05)
        second.cancel()
        pair.go.set()
        await first
        return await third

    pair = Told()
    assert said(asyncio.run(leave(pair)), "tuned") == "a chest CT"
    assert len(pair.asked) == 4


def test_trouble_of_one_model_is_told_and_the_other_answers(caplog: pytest.LogCaptureFixture) -> None:
    pair = Told(
        errors={"base": RuntimeError("shapes (3,) and (4,)"), "tuned": UnansweredError("Take a smaller image.")}
    )
    events = asyncio.run(all_of(Desk(pair, 0), []))
    assert {each["side"]: each["words"] for each in events if each["event"] == "trouble"} == {
        "base": "The model failed at this question. The server's log says more; other questions may go well.",
        "tuned": "Take a smaller image.",
    }
    assert "shapes (3,) and (4,)" in caplog.text


def test_what_is_called_off_ends_and_what_waits_gets_nothing() -> None:
    async def call_off(pair: Told) -> tuple[list[Event], list[Event]]:
        desk = Desk(pair, 1)
        first = asyncio.create_task(all_of(desk, []))
        await until(lambda: pair.under_way == 2)
        second = asyncio.create_task(all_of(desk, []))
        await asyncio.sleep(0)
        desk.call_off()
        return await first, await second

    pair = Told()
    first, second = asyncio.run(call_off(pair))
    assert [each["finish"] for each in first if each["event"] == "end"] == ["stopped", "stopped"]
    assert [each["event"] for each in second] == ["waiting"]
    assert len(pair.asked) == 2


def test_the_end_of_the_server_ends_the_answers() -> None:
    async def close(pair: Told) -> list[Event]:
        desk = Desk(pair, 0)
        task = asyncio.create_task(all_of(desk, []))
        await until(lambda: pair.under_way)
        await asyncio.to_thread(desk.close)
        return await task

    pair = Told()
    events = asyncio.run(close(pair))
    assert [each["finish"] for each in events if each["event"] == "end"] == ["stopped", "stopped"]
    assert pair.closed
