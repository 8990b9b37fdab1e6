from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medvl_jobs.errors import MedvlError
from medvl_jobs.train import watchdog as module
from medvl_jobs.train.watchdog import Watchdog, collective_seconds

STATE: Any = SimpleNamespace(global_step=7)
NOTHING: Any = None


def test_it_barks_when_no_step_ends(tmp_path: Path) -> None:
    barked, heard = threading.Event(), list[MedvlError]()

    def end(error: MedvlError) -> None:
        heard.append(error)
        barked.set()

    watchdog = Watchdog(0.002, tmp_path / "words", end)
    watchdog.on_train_begin(NOTHING, STATE, NOTHING)
    assert barked.wait(120)
    assert heard[0].exit_code == 75
    assert "no step has ended for 0.002 minutes" in str(heard[0])
    assert "after step 7" in str(heard[0])


def test_it_is_silent_while_there_are_signs_of_life_and_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, looked, heard = [0.0], threading.Semaphore(0), list[MedvlError]()

    def clock() -> float:
        if threading.current_thread().name == "watchdog":
            looked.release()
        return now[0]

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock))
    watchdog = Watchdog(0.002, tmp_path / "words", heard.append)
    watchdog.on_train_begin(NOTHING, STATE, NOTHING)
    thread = next(each for each in threading.enumerate() if each.name == "watchdog")
    for _ in range(30):  # three limits long
        now[0] += 0.012
        assert looked.acquire(timeout=120)
        watchdog.beat()
    watchdog.on_train_end(NOTHING, STATE, NOTHING)
    thread.join(120)
    assert not thread.is_alive()
    assert heard == []


def test_collectives_wait_longer_than_the_watchdog_which_says_why() -> None:
    assert collective_seconds(30) > 30 * 60
    assert collective_seconds(0.01) >= 1
