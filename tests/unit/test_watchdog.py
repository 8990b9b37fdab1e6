from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from medvl_jobs.errors import MedvlError
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
    assert barked.wait(30)
    assert heard[0].exit_code == 75
    assert "no step has ended for 0.002 minutes" in str(heard[0])
    assert "after step 7" in str(heard[0])


def test_it_is_silent_while_there_are_signs_of_life_and_afterwards(tmp_path: Path) -> None:
    heard = list[MedvlError]()
    watchdog = Watchdog(0.02, tmp_path / "words", heard.append)
    watchdog.on_train_begin(NOTHING, STATE, NOTHING)
    thread = next(each for each in threading.enumerate() if each.name == "watchdog")
    for _ in range(30):  # three limits long
        thread.join(0.12)
        watchdog.beat()
    watchdog.on_train_end(NOTHING, STATE, NOTHING)
    thread.join(30)
    assert not thread.is_alive()
    assert heard == []


def test_collectives_wait_longer_than_the_watchdog_which_says_why() -> None:
    assert collective_seconds(30) > 30 * 60
    assert collective_seconds(0.01) >= 1
