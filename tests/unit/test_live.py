"""Signs of life: what is written, when, and that the work does not notice."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from medvl_jobs.contracts.live import Status
from medvl_jobs.errors import DataError, MedvlError, PreemptedError, TryAgainError
from medvl_jobs.storage import live
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.live import Course, LiveStatus, declare_ended, read_status
from medvl_jobs.storage.local import LocalStorage
from medvl_jobs.storage.tail import Tail, copied_to

PREFIX = "runs/trial/abc/live/train"
NOON = 1_764_072_000.0
"""2025-11-25 12:00 UTC."""


class Clock:
    now = NOON

    def __call__(self) -> float:
        return self.now


class Moody(LocalStorage):
    """A store that is away, or hangs, when the test says so."""

    away = False
    away_until = 0
    """The number of the first try that goes well."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.tried = 0
        self.hangs = threading.Event()
        self.hangs.set()

    def write_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        self.tried += 1
        self.hangs.wait(300)
        if self.away or self.tried < self.away_until:
            raise TryAgainError("S3 does not answer")
        return super().write_bytes(key, data, if_absent=if_absent)


def status(storage: Storage) -> Status:
    found = read_status(storage, PREFIX)
    assert found is not None
    return found


def log_of(storage: Storage) -> str:
    return storage.read_bytes(f"{PREFIX}/log.txt").decode()


def failing(storage: Storage, error: BaseException) -> None:
    """An attempt that comes to step 3."""
    with LiveStatus(storage, PREFIX, "steps", every_seconds=60) as progress:
        print("the first attempt")
        progress(3, 9)
        raise error


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_rate_counts_from_this_attempts_first() -> None:
    at_start = Course.after(None, 100, 520, None, now=10.0)
    loaded = Course.after(at_start, 100, 520, None, now=60.0)
    assert loaded.rate is None
    later = Course.after(loaded, 110, 520, 1.5, now=65.0)
    assert later.rate == 2.0
    last = Course.after(later, 120, 520, None, now=70.0)
    assert (last.rate, last.loss) == (2.0, 1.5)
    assert Course.after(last, 3, 7, None, now=80.0).rate is None, "other work than before"


def test_what_hangs_is_not_nearly_done() -> None:
    course = None
    for done, now in ((0, 0.0), (10, 5.0), (20, 10.0)):
        course = Course.after(course, done, 100, None, now)
    assert course is not None
    assert [course.left(now) for now in (10.0, 12.0, 15.0, 9000.0)] == [40.0, 38.0, 35.0, 35.0]
    burst = Course.after(course, 21, 100, None, now=10.0)
    left = [burst.left(now) for now in (10.0, 14.0)]
    assert left == pytest.approx([79 / 2.1, 79 / 2.1 - 4]), "answers come in bursts: the longest pause counts"
    again = Course.after(course, 20, 100, 1.5, now=13.0)
    assert (again.rate, again.left(14.0), again.loss) == (2.0, 36.0, 1.5), "a loss is no step"


def test_what_is_counted_to_the_end_has_no_time_left() -> None:
    course = Course.after(Course.after(None, 0, 10, None, 0.0), 10, 10, None, 5.0)
    assert (course.rate, course.left(60.0)) == (2.0, None), "it may score or store for minutes"


def test_the_status_says_how_far_and_until_when(storage: Storage) -> None:
    clock = Clock()
    with LiveStatus(storage, PREFIX, "steps", every_seconds=0.01, processes=4, clock=clock) as progress:
        progress(20, 120)
        until(lambda: read_status(storage, PREFIX) is not None and status(storage).done == 20)
        assert status(storage).rate is None
        clock.now += 10
        progress(40, 120, loss=1.25)
        until(lambda: status(storage).done == 40)
        found = json.loads(status(storage).to_json())
        assert found | {"host": ""} == {
            "stage": "train", "state": "working", "done": 40, "total": 120, "unit": "steps", "loss": 1.25, "rate": 2.0,
            "eta_seconds": 40.0, "eta": "2025-11-25T12:00:50Z", "host": "", "processes": 4, "attempt": 1,
            "started_at": "2025-11-25T12:00:00Z", "updated_at": "2025-11-25T12:00:10Z", "every_seconds": 0.01,
            "error": None,
        }  # fmt: skip
        clock.now += 4
        until(lambda: status(storage).eta_seconds == 36.0)
    assert (status(storage).state, status(storage).eta, status(storage).done) == ("done", None, 40)


def test_a_status_tells_nothing_that_is_newer_than_its_time(tmp_path: Path) -> None:
    clock = Clock()
    progress = LiveStatus(LocalStorage(tmp_path), PREFIX, "steps", every_seconds=60, clock=clock)

    def and_work_goes_on() -> float:
        now, progress.clock = clock.now, clock
        clock.now += 10
        progress(60, 120)
        return now

    progress(20, 120)
    clock.now += 10
    progress(40, 120)
    progress.clock = and_work_goes_on
    found = progress.status()
    assert (found.done, found.eta_seconds) == (40, 40.0)


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (DataError("it is bad", remedy="mend it"), "failed", "it is bad"),
        (RuntimeError("nobody foresaw it"), "failed", "RuntimeError: nobody foresaw it"),
        (PreemptedError("stopped by SIGTERM at step 3"), "stopped", "stopped by SIGTERM at step 3"),
        (KeyboardInterrupt(), "stopped", "stopped by a signal"),
    ],
)
def test_the_last_status_and_line_say_how_it_ended(
    error: BaseException, state: str, reason: str, tmp_path: Path
) -> None:
    storage = LocalStorage(tmp_path)
    with pytest.raises(type(error)):
        failing(storage, error)
    found = status(storage)
    assert (found.state, found.done, found.eta) == (state, 3, None)
    assert found.error is not None
    assert found.error["reason"] == reason
    assert reason in log_of(storage)


def test_the_next_attempt_keeps_the_log_and_the_reason(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    with pytest.raises(TryAgainError):
        failing(storage, TryAgainError("the network was away"))
    with LiveStatus(storage, PREFIX, "steps", every_seconds=0.01):
        print("the second attempt")
        until(lambda: status(storage).attempt == 2)
        assert status(storage).state == "working"
        assert (status(storage).error or {})["reason"] == "the network was away"
    text = log_of(storage)
    assert text.index("the first") < text.index("the network was") < text.index("attempt 2") < text.index("the second")
    assert status(storage).error is None


def test_an_attempt_begins_on_a_line_of_its_own(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    with pytest.raises(TryAgainError):
        failing(storage, TryAgainError("the network was away"))
    storage.write_bytes(f"{PREFIX}/log.txt", b"torn in the mid")
    with LiveStatus(storage, PREFIX, "steps", every_seconds=60):
        print("the second attempt")
    first, second, _ = log_of(storage).splitlines()
    assert first == "torn in the mid"
    assert second.startswith("——— attempt 2, ")


def test_a_store_that_is_away_is_caught_up_with_and_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage = Moody(tmp_path)
    storage.away = True
    with caplog.at_level(logging.INFO), LiveStatus(storage, PREFIX, "steps", every_seconds=0.01) as progress:
        for step in range(10):
            progress(step, 10)
        until(lambda: storage.tried > 5)
        storage.away = False
        until(lambda: read_status(storage, PREFIX) is not None)
        assert status(storage).done == 9, "what was not stored is superseded"
    said = [record.getMessage() for record in caplog.records]
    assert [text for text in said if "S3 does not answer" in text] == [
        "status and log are not refreshed in the store, the work goes on: S3 does not answer"
    ]
    assert said.count("status and log are refreshed in the store again") == 1


def test_the_work_does_not_wait_for_a_store_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(live, "LAST_SECONDS", 0.2)
    storage = Moody(tmp_path)
    storage.hangs.clear()
    began = time.monotonic()
    with LiveStatus(storage, PREFIX, "steps", every_seconds=0.01) as progress:
        for step in range(1000):
            progress(step, 1000)
    assert time.monotonic() - began < 100
    assert "may not say how it ended" in caplog.text
    storage.hangs.set()
    until(lambda: read_status(storage, PREFIX) is not None and status(storage).state == "done")


def test_the_last_status_is_tried_more_than_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(live, "LAST_SECONDS", 120.0)
    storage = Moody(tmp_path)
    with LiveStatus(storage, PREFIX, "steps", every_seconds=600):
        until(lambda: storage.exists(f"{PREFIX}/status.json"))
        tried = storage.tried
        storage.away_until = tried + 4
    assert storage.tried == tried + 4
    assert status(storage).state == "done"


def test_who_was_killed_is_declared_to_have_ended(storage: Storage) -> None:
    killed = MedvlError("the stage train ended with exit code 137")
    declare_ended(storage, PREFIX, killed)
    assert status(storage).state == "failed", "it never gave a sign of life"
    working = status(storage).model_copy(update={"state": "working", "done": 7, "total": 9, "error": None})
    storage.write_bytes(f"{PREFIX}/status.json", working.to_json().encode())
    declare_ended(storage, PREFIX, killed)
    assert (status(storage).state, status(storage).done) == ("failed", 7)
    assert (status(storage).error or {})["reason"] == killed.what
    first_pod = status(storage).model_copy(update={"state": "done", "error": None, "processes": 4})
    storage.write_bytes(f"{PREFIX}/status.json", first_pod.to_json().encode())
    declare_ended(storage, PREFIX, killed)
    assert status(storage).state == "failed", "another pod has"
    before = status(storage)
    declare_ended(storage, PREFIX, TryAgainError("something more general"))
    assert status(storage) == before, "it has said so itself"


def test_a_status_of_another_version_or_no_status_is_none() -> None:
    assert Status.from_json(b'{"state": "wor') is None
    assert Status.from_json(b'{"state": "dancing"}') is None


def test_the_tail_is_bounded_and_starts_with_a_whole_line() -> None:
    tail = Tail(limit_bytes=100)
    for number in range(1000):
        tail.add(f"line {number} ä\n")
    text = tail.text(b"from before\n").decode()
    assert len(text.encode()) <= 100
    assert text.splitlines()[0].startswith("line 99")
    assert text.endswith("line 999 ä\n")
    tail.add("x" * 5000)
    assert tail.text() == b"x" * 100


def test_a_progress_bar_is_shown_as_it_looks_at_last() -> None:
    tail = Tail()
    for text in ("before\n", " 10%", "\r 20%", "\r100%\n", "a line of Windows\r\n", "\r 5%"):
        tail.add(text)
    assert tail.text() == b"before\n100%\na line of Windows\r\n 5%"


def test_a_long_line_takes_no_time() -> None:
    tail = Tail()
    for _ in range(16):
        tail.add("x" * 16_000)
    began = time.process_time()
    tail.text()
    assert time.process_time() - began < 2, "looking for what was drawn over takes the square of a line's length"


def test_what_is_printed_and_logged_is_copied_and_still_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err, tail = io.StringIO(), io.StringIO(), Tail()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    logger = logging.getLogger("medvl_jobs.test_live")
    logger.setLevel(logging.INFO)
    with copied_to(tail):
        print("a line")
        sys.stderr.writelines(["an error\n"])
        logger.info("a record of %d", 3)
        assert not sys.stdout.isatty()
    print("not any more")
    assert (out.getvalue(), err.getvalue()) == ("a line\nnot any more\n", "an error\n")
    lines = tail.text().decode().splitlines()
    assert lines[:2] == ["a line", "an error"]
    assert lines[2].endswith(" a record of 3")
