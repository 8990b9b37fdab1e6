"""One works at a time, each in its turn; who ends, or fails, is passed over."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from medvl_jobs.chat.turns import Turns


def test_who_ends_leaves_the_turn_to_the_other() -> None:
    turns, done, here = Turns(), list[str](), Barrier(2)

    def work(name: str, steps: int) -> None:
        with turns.taken() as pass_on:
            if name == "a":
                here.wait()
            for _ in range(steps):
                done.append(name)
                pass_on()

    def second() -> None:
        here.wait()
        work("b", 6)

    with ThreadPoolExecutor(2) as threads:
        for each in [threads.submit(work, "a", 3), threads.submit(second)]:
            each.result(timeout=120)
    assert sorted(done) == ["a"] * 3 + ["b"] * 6
    assert done[-3:] == ["b"] * 3


def test_only_one_works() -> None:
    turns = Turns()
    working, most = 0, 0

    def work() -> None:
        nonlocal working, most
        with turns.taken() as pass_on:
            for _ in range(50):
                working += 1
                time.sleep(0.0002)
                most = max(most, working)
                working -= 1
                pass_on()

    with ThreadPoolExecutor(4) as threads:
        for each in [threads.submit(work) for _ in range(4)]:
            each.result(timeout=120)
    assert most == 1


def test_who_fails_leaves_the_turn_to_the_others() -> None:
    turns = Turns()

    def fail() -> None:
        with turns.taken() as pass_on:
            pass_on()
            raise ValueError("memory")

    def work() -> int:
        with turns.taken() as pass_on:
            for _ in range(50):
                pass_on()
            return 50

    with ThreadPoolExecutor(2) as threads:
        failed, worked = threads.submit(fail), threads.submit(work)
        with pytest.raises(ValueError, match="memory"):
            failed.result(timeout=120)
        assert worked.result(timeout=120) == 50
