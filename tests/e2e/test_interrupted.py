"""Killing a run anywhere and starting it again gives the same result as one run, on S3 as in a directory."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pipeline_runs import SMALL, medvl, results, start

from medvl_jobs.samples.build import build_sample
from medvl_jobs.settings.storage import StorageSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.open import open_storage


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_sample(tmp_path_factory.mktemp("sample"), rows=80)


def in_store(storage: Storage, *parts: str) -> Callable[[], bool]:
    return lambda: any(all(part in key for part in parts) for key in storage.list_keys(""))


def stop_when(condition: Callable[[], bool], words: tuple[str, ...], number: int, log: Path) -> int:
    """Start a run, send it a signal when the store looks so, and return how it ended."""
    with start(*words, log=log) as run:
        deadline = time.monotonic() + 600
        while not condition():
            assert run.poll() is None, f"it ended before:\n{log.read_text()}"
            assert time.monotonic() < deadline, f"it never came so far:\n{log.read_text()}"
            time.sleep(0.02)
        run.send_signal(number)
        return run.wait(timeout=300)


def in_training(settings: tuple[str, ...]) -> dict[str, Any]:
    """What `medvl status` says of the training, found by settings that name neither fingerprint."""
    told = json.loads(medvl("status", "--json", *settings).stdout)
    assert told["exact"]
    (train,) = [each for each in told["stages"] if each["stage"] == "train"]
    return dict(train)


@pytest.mark.timeout(1800)
def test_a_run_that_is_killed_again_and_again(config: Path, s3_settings: StorageSettings, tmp_path: Path) -> None:
    where = (
        f"storage.uri={s3_settings.uri}",
        f"storage.endpoint_url={s3_settings.endpoint_url}",
        "storage.region=us-east-1",
        "storage.path_style=true",
    )
    # Three epochs, whose end a signal precedes on a busy machine, too; what is dropped must be the same after it.
    small = (*SMALL, "train.epochs=3", "train.lora.dropout=0.1")
    words = ("run", "--config", str(config), *small, *where)
    storage, log = open_storage(s3_settings), tmp_path / "log"
    assert stop_when(in_store(storage, "prepared/", ".parquet"), words, signal.SIGKILL, log) == -signal.SIGKILL
    assert stop_when(in_store(storage, "/checkpoints/", "/manifest.json"), words, signal.SIGTERM, log) == 143
    assert "start the same command again: it resumes from there" in log.read_text()
    train = in_training(words[1:])
    assert (train["state"], train["status"]["attempt"]) == ("stopped", 1)
    assert 3 <= train["status"]["done"] < train["status"]["total"]
    assert train["status"]["error"]["exit_code"] == 143
    assert (
        stop_when(in_store(storage, "predictions/", "part-00000.jsonl"), words, signal.SIGKILL, log) == -signal.SIGKILL
    )
    medvl(*words)
    assert "resuming from the checkpoint of step" in log.read_text()
    train = in_training(words[1:])
    assert (train["state"], train["status"]["attempt"]) == ("done", 2)
    assert train["status"]["done"] == train["status"]["total"]
    told = medvl("logs", *words[1:], "train").stdout
    assert "stopped by SIGTERM at step" in told
    assert told.index("stopped by SIGTERM at step") < told.index("resuming from the checkpoint of step")

    uninterrupted = open_storage(StorageSettings(uri=str(tmp_path / "store")))
    medvl("run", "--config", str(config), *small, f"storage.uri={uninterrupted.uri}")
    once, often = results(uninterrupted), results(storage)
    assert sorted(often) == sorted(once)
    assert [key for key in once if once[key] != often[key]] == []
