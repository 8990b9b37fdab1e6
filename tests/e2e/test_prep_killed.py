"""Prep that is killed at any moment, or started twice at once, ends with the bytes of one quiet run."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pipeline_runs import medvl, start
from prep_data import hashes, record, write_parquet

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
    more = ("prep.rows_per_part=25", "prep.llamafactory_export=true", "prep.workers=2")
    return ("prep", f"prep.source={source}", f"storage.uri={store}", *more)


@pytest.fixture(scope="module")
def clean(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    store = tmp_path_factory.mktemp("clean")
    medvl(*words(source, store))
    return hashes(LocalStorage(store))


def parts(store: Path) -> int:
    return len(list(store.glob("prepared/*/parts/*/manifest.json")))


def wait_for(store: Path, count: int, log: Path) -> None:
    deadline = time.monotonic() + 300
    while parts(store) < count:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.002)


def children(process: int) -> list[int]:
    """None of one that has just ended."""
    try:
        return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


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
        deadline = time.monotonic() + 120
        while any(map(is_alive, below)):
            assert time.monotonic() < deadline, "a worker outlived its parent"
            time.sleep(0.01)
    medvl(*words(source, store))
    assert hashes(LocalStorage(store)) == clean


def test_sigterm_stops_at_once_and_keeps_what_is_finished(source: Path, clean: dict[str, str], tmp_path: Path) -> None:
    store, log = tmp_path / "store", tmp_path / "log"
    run = start(*words(source, store), log=log)
    wait_for(store, 2, log)
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=300) == 143
    assert "what is finished is kept" in log.read_text()
    assert parts(store) >= 2
    medvl(*words(source, store))
    assert hashes(LocalStorage(store)) == clean


def test_sigterm_in_the_middle_of_a_row_is_not_taken_for_a_bad_row(source: Path, tmp_path: Path) -> None:
    """With one worker it arrives where images are decoded, and there every error means a broken image."""
    for number in range(6):
        store, log = tmp_path / f"store-{number}", tmp_path / "log"
        run = start(*words(source, store)[:-1], "prep.workers=1", log=log)
        wait_for(store, 1 + number, log)
        run.send_signal(signal.SIGTERM)
        assert run.wait(timeout=300) == 143, log.read_text()
        refused = [row for path in store.glob("prepared/*/parts/*/quarantine.parquet") for row in quarantined(path)]
        assert {row["reason"] for row in refused} <= {"caption_empty", "duplicate_id"}


def quarantined(path: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(path).to_pylist())


def test_a_worker_that_is_killed_is_worth_another_try(source: Path, clean: dict[str, str], tmp_path: Path) -> None:
    store, log = tmp_path / "store", tmp_path / "log"
    run = start(*words(source, store), log=log)
    wait_for(store, 1, log)
    os.kill(workers(run.pid)[0], signal.SIGKILL)
    assert run.wait(timeout=300) == 75, log.read_text()
    assert "a worker was killed" in log.read_text()
    medvl(*words(source, store))
    assert hashes(LocalStorage(store)) == clean


def test_seven_pods_at_once_of_which_one_is_killed(source: Path, clean: dict[str, str], tmp_path: Path) -> None:
    """As an Indexed Job has it: all start at once, one dies, and its index is started again."""
    store, log = tmp_path / "store", tmp_path / "log"
    command = (*words(source, store)[:-1], "prep.workers=1", "prep.indexes=7")

    def pod(index: int) -> subprocess.Popen[bytes]:
        return start(*command, log=log, env={"JOB_COMPLETION_INDEX": str(index)})

    pods = [pod(index) for index in range(7)]
    os.kill(pods[3].pid, signal.SIGKILL)
    assert [each.wait(timeout=300) for each in pods].count(-signal.SIGKILL) == 1, log.read_text()
    assert not list(store.glob("prepared/*/manifest.json")), "one share is missing"
    before = {path: path.read_bytes() for path in store.glob("prepared/*/parts/*/manifest.json")}
    assert pod(3).wait(timeout=300) == 0, log.read_text()
    assert {path: path.read_bytes() for path in before} == before, "the parts of the others are not made again"
    assert len(before) < parts(store) == 16
    assert hashes(LocalStorage(store)) == clean


def test_archives_killed_and_started_twice(tmp_path: Path) -> None:
    rows = [record(number) for number in range(200)]
    (tmp_path / "archives").mkdir()
    for number in range(2):
        with tarfile.open(tmp_path / "archives" / f"{number}.tar", "w") as tar:
            for row in rows[number::2]:
                info = tarfile.TarInfo(f"images/{row['id']}.png")
                info.size = len(row["image"]["bytes"])
                tar.addfile(info, io.BytesIO(row["image"]["bytes"]))
    told = [{"image": f"{row['id']}.png", "id": row["id"], "caption": row["caption"]} for row in rows]
    write_parquet(tmp_path / "captions.parquet", told, image=pa.string())

    def command(store: Path) -> tuple[str, ...]:
        source = (f"prep.source={tmp_path}/captions.parquet", f"prep.archives={tmp_path}/archives")
        more = ("prep.rows_per_part=10", "prep.workers=2", "prep.group_pattern=^(patient[0-9]+)")
        return ("prep", *source, *more, f"storage.uri={store}")

    clean, store, log = tmp_path / "clean", tmp_path / "store", tmp_path / "log"
    medvl(*command(clean))
    for count in (1, 7, 15):
        run = start(*command(store), log=log)
        wait_for(store, count, log)
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    both = [start(*command(store), log=log) for _ in range(2)]
    assert [each.wait(timeout=300) for each in both] == [0, 0], log.read_text()
    assert hashes(LocalStorage(store)) == hashes(LocalStorage(clean))


def test_two_at_once_make_one(source: Path, clean: dict[str, str], tmp_path: Path) -> None:
    store = tmp_path / "store"
    runs = [start(*words(source, store), log=tmp_path / f"log-{number}") for number in range(2)]
    assert [run.wait(timeout=300) for run in runs] == [0, 0]
    assert hashes(LocalStorage(store)) == clean
    assert len(list(store.glob("prepared/*/manifest.json"))) == 1
