"""A training of two processes of which one is killed, or stopped, ends with a reason instead of hanging for ever."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipeline_runs import medvl, start
from ports import free_port

from medvl_jobs.samples.build import build_sample

ENDLESS = (
    "train.epochs=1000", "train.log_every_steps=1", "train.workers=0", "train.report_to=[]", "model.threads=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = build_sample(tmp_path_factory.mktemp("sample"), rows=60)
    medvl("prep", "--config", str(config))
    return config


@pytest.fixture
def training(config: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The launcher of two processes that have begun to train, and its log."""
    log = tmp_path / "log"
    env = {
        "WORLD_SIZE": "2", "RANK": "0", "PET_NPROC_PER_NODE": "2", "PET_NNODES": "1", "PET_NODE_RANK": "0",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1",
        "MEDVL_TERMINATION_LOG": str(tmp_path / "last-words"),
    }  # fmt: skip
    run = start("train", "--config", str(config), *ENDLESS, "train.limits.hang_minutes=0.25", log=log, env=env)
    try:
        deadline = time.monotonic() + 400
        while '"step": 3,' not in log.read_text():
            assert run.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield run, log
    finally:
        run.kill()
        run.wait()


def ranks(launcher: subprocess.Popen[bytes]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()]


def test_a_stopped_process_ends_the_training(training: tuple[subprocess.Popen[bytes], Path], tmp_path: Path) -> None:
    run, log = training
    first, second = ranks(run)
    os.kill(second, signal.SIGSTOP)
    assert run.wait(timeout=300) == 75, log.read_text()
    words = json.loads((tmp_path / "last-words").read_text())
    assert words["error"] == "TryAgainError"
    assert words["reason"] == "no step has ended for 0.25 minutes"
    assert words["where"].endswith("; process 1 of this pod was stopped")
    assert "Thread 0x" in log.read_text()  # where it was waiting
    for pid in (first, second):
        assert not Path(f"/proc/{pid}").exists()


def test_a_killed_process_ends_the_training(training: tuple[subprocess.Popen[bytes], Path], tmp_path: Path) -> None:
    run, log = training
    first, second = ranks(run)
    os.kill(second, signal.SIGKILL)
    assert run.wait(timeout=300) == 137, log.read_text()
    words = json.loads((tmp_path / "last-words").read_text())
    assert words["reason"] == "process 1 of this pod was ended by SIGKILL"
    assert "ending the others" in log.read_text()
    assert not Path(f"/proc/{first}").exists()
