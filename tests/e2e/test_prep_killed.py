"""Prep that is killed at any moment, or started twice at once, ends with the bytes of one quiet run."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path

import pytest
from pipeline_runs import medvl, start
from prep_data import record, write_parquet

from medvl_jobs.storage.local import LocalStorage

FILES, ROWS = 4, 100
"""Of 25 rows a part: 16 parts."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    for file in range(FILES):
        rows = [record(file * ROWS + number) for number in range(ROWS)]
        rows[3]["caption"], rows[7]["id"] = "", "the same everywhere"
        write_parquet(folder / f"{file}.parquet", rows, row_group_size=25)
    return folder


def words(source: Path, store: Path) -> tuple[str, ...]:
    more = ("prep.rows_per_part=25", "prep.llamafactory_export=true", "prep.workers=2", "model.fingerprint=none")
    return ("prep", f"prep.source={source}", f"storage.uri={store}", *more)


@pytest.fixture(scope="module")
def clean(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    store = tmp_path_factory.mktemp("clean")
    medvl(*words(source, store))
    return hashes(store)


def hashes(store: Path) -> dict[str, str]:
    storage = LocalStorage(store)
    keys = (key for key in storage.list_keys("") if not key.endswith("manifest.json"))
    return {key: hashlib.sha256(storage.read_bytes(key)).hexdigest() for key in keys}


def parts(store: Path) -> int:
    return len(list(store.glob("prepared/*/parts/*/manifest.json")))


def wait_for(store: Path, count: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    while parts(store) < count:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.002)


def children(process: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def workers(run: int) -> list[int]:
    """They are started by the fork server, not by the run itself."""
    return [worker for child in children(run) for worker in children(child)]


def is_alive(process: int) -> bool:
    """A container may have nobody who buries the dead."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_killed_again_and_again(source: Path, clean: dict[str, str], tmp_path: Path) -> None:
    store, log = tmp_path / "store", tmp_path / "log"
    for count in (1, 2, 5, 9, 14, 16):
        run = start(*words(source, store), log=log)
        wait_for(store, count, log)
        below = workers(run.pid)
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        deadline = time.monotonic() + 30
        while any(map(is_alive, below)):
            assert time.monotonic() < deadline, "a worker outlived its parent"
            time.sleep(0.01)
    medvl(*words(source, store))
    assert hashes(store) == clean


def test_sigterm_stops_at_once_and_keeps_what_is_finished(source: Path, clean: dict[str, str], tmp_path: Path) -> None:
    store, log = tmp_path / "store", tmp_path / "log"
    run = start(*words(source, store), log=log)
    wait_for(store, 2, log)
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=30) == 143
    assert "what is finished is kept" in log.read_text()
    assert parts(store) >= 2
    medvl(*words(source, store))
    assert hashes(store) == clean


def test_a_worker_that_is_killed_is_worth_another_try(source: Path, clean: dict[str, str], tmp_path: Path) -> None:
    store, log = tmp_path / "store", tmp_path / "log"
    run = start(*words(source, store), log=log)
    wait_for(store, 1, log)
    os.kill(workers(run.pid)[0], signal.SIGKILL)
    assert run.wait(timeout=60) == 75, log.read_text()
    assert "a worker was killed" in log.read_text()
    medvl(*words(source, store))
    assert hashes(store) == clean


def test_two_at_once_make_one(source: Path, clean: dict[str, str], tmp_path: Path) -> None:
    store = tmp_path / "store"
    runs = [start(*words(source, store), log=tmp_path / f"log-{number}") for number in range(2)]
    assert [run.wait(timeout=120) for run in runs] == [0, 0]
    assert hashes(store) == clean
    assert len(list(store.glob("prepared/*/manifest.json"))) == 1
