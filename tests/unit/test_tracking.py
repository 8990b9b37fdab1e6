"""What a log line says, and where it goes."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerCallback

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.manifest import Provenance
from medvl_jobs.errors import SettingsError, TryAgainError
from medvl_jobs.settings.run import load_settings
from medvl_jobs.settings.train import TrainSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.local import LocalStorage
from medvl_jobs.storage.publish import Publication
from medvl_jobs.train import tracking
from medvl_jobs.train.artifacts import mean_loss
from medvl_jobs.train.batches import Lengths, Schedule
from medvl_jobs.train.ranks import Ranks
from medvl_jobs.train.reporters import TensorBoard, reporters
from medvl_jobs.train.tracking import LogLines, Work, peak_flops, training_lines

TOKENS = np.array([20, 40, 30, 50, 60, 25, 35, 45, 55, 65])
FIELDS = [
    "step", "total_steps", "epoch", "loss", "left_out_steps", "lr", "grad_norm", "eta_seconds", "elapsed_seconds",
    "tokens_per_second", "samples_per_second", "total_tokens", "effective_batch", "seen_samples", "padding_share",
    "total_flops", "mfu", "gpu_allocated_bytes", "gpu_reserved_bytes", "host_memory_bytes", "data_wait_share",
]  # fmt: skip


class Clock:
    """Seconds that only the test moves, and seconds of them waited for data."""

    now = waited = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(tracking, "time", SimpleNamespace(monotonic=lambda: found.now))
    return found


def work(peak: float | None = None) -> Work:
    """Steps of 4, 4 and 2 examples for 2 epochs; an example costs as many operations as it has tokens."""
    train = TrainSettings(epochs=2, batch_size=4, batch_tokens=130, max_tokens=65)
    return Work(Schedule(Lengths(TOKENS, TOKENS // 5, TOKENS // 2), train, 1), TOKENS * 1.0, peak)


def trainer_state(step: int, history: list[dict[str, Any]] | None = None) -> Any:
    return SimpleNamespace(
        global_step=step, max_steps=6, num_input_tokens_seen=0, epoch=0.0, is_world_process_zero=True,
        log_history=[] if history is None else history,
    )  # fmt: skip


def step_and_log(lines: LogLines, state: Any, step: int, *others: TrainerCallback, save: bool = False) -> Any:
    """What the Trainer does after a step that is logged."""
    state.global_step = step
    control: Any = SimpleNamespace(should_save=save, should_log=False)
    lines.on_step_end(None, state, control)  # type: ignore[arg-type]
    logs = {"loss": 1.5, "learning_rate": 0.1, "grad_norm": float("nan"), "epoch": state.epoch}
    state.log_history.append({**logs, "step": step})
    for callback in (lines, *others):
        callback.on_log(None, state, control, logs=logs)  # type: ignore[arg-type]
    return logs


def test_a_line_says_what_the_schedule_knows_and_the_clock_measured(clock: Clock) -> None:
    out = io.StringIO()
    lines, state = LogLines(work(peak=100.0), Ranks(), lambda: clock.waited, lambda: 0, out), trainer_state(0)
    lines.on_train_begin(None, state, None)  # type: ignore[arg-type]
    clock.now, clock.waited = 10.0, 2.5
    logs = step_and_log(lines, state, 3)
    line = json.loads(out.getvalue())
    assert list(line) == FIELDS
    epoch = int(TOKENS.sum())
    assert (line["total_tokens"], line["seen_samples"], line["epoch"]) == (epoch, 10, 1.0)
    assert (state.num_input_tokens_seen, state.epoch) == (epoch, 1.0)
    assert (line["tokens_per_second"], line["samples_per_second"]) == (epoch / 10, 1.0)
    assert line["effective_batch"] == pytest.approx(10 / 3, abs=0.01)
    padded = work().totals(3).padded_tokens
    assert padded > epoch
    assert line["padding_share"] == pytest.approx(1 - epoch / padded, abs=1e-4)
    assert (line["total_flops"], line["mfu"]) == (epoch, pytest.approx(epoch / 10 / 100))
    assert line["data_wait_share"] == 0.25
    assert (line["elapsed_seconds"], line["eta_seconds"]) == (10.0, 10.0)
    assert line["grad_norm"] is None
    assert line["host_memory_bytes"] > 1e6
    assert training_lines(state) == state.log_history
    # The callbacks that come after get the same numbers and nothing that is none.
    assert logs == {name: value for name, value in line.items() if value is not None}
    assert "grad_norm" not in logs


def test_counts_are_of_the_steps_since_the_line_before(clock: Clock) -> None:
    out = io.StringIO()
    lines, state = LogLines(work(), Ranks(), lambda: clock.waited, lambda: 0, out), trainer_state(0)
    lines.on_train_begin(None, state, None)  # type: ignore[arg-type]
    for step, batch in ((2, 4.0), (3, 2.0), (4, 4.0)):
        clock.now, clock.waited = clock.now + 4.0, clock.waited + 8.0
        step_and_log(lines, state, step)
        line = json.loads(out.getvalue().splitlines()[-1])
        assert line["effective_batch"] == batch
        assert line["data_wait_share"] == 1.0  # no more than all of it, whatever the clocks say
        assert line["mfu"] is None
    assert line["seen_samples"] == 14


def test_a_step_that_was_left_out_is_no_zero_in_the_mean(clock: Clock) -> None:
    """The Trainer adds 0 for it: of 4 steps with a mean of 1.5 one was left out, so the other three have 2 each."""
    out, left_out = io.StringIO(), 0
    lines, state = LogLines(work(), Ranks(), lambda: 0.0, lambda: left_out, out), trainer_state(0)
    lines.on_train_begin(None, state, None)  # type: ignore[arg-type]
    left_out = 1
    step_and_log(lines, state, 4)
    left_out = 2
    step_and_log(lines, state, 5)
    first, second = map(json.loads, out.getvalue().splitlines())
    assert (first["loss"], first["left_out_steps"]) == (2.0, 1)
    assert (second["loss"], second["left_out_steps"]) == (None, 1)
    assert mean_loss(training_lines(state)) == 2.0


def test_a_resumed_training_goes_on_counting(clock: Clock) -> None:
    """What was seen and what it cost is as if there had been one attempt; the clock goes on from the history."""
    straight, resumed = io.StringIO(), io.StringIO()
    lines, state = LogLines(work(), Ranks(), lambda: 0.0, lambda: 0, straight), trainer_state(0)
    lines.on_train_begin(None, state, None)  # type: ignore[arg-type]
    for step in (2, 4):
        clock.now += 5
        step_and_log(lines, state, step)
    again = trainer_state(2, state.log_history[:1])
    clock.now = 1000.0
    lines = LogLines(work(), Ranks(), lambda: 0.0, lambda: 0, resumed)
    lines.on_train_begin(None, again, None)  # type: ignore[arg-type]
    clock.now += 5
    step_and_log(lines, again, 4)
    first, second = json.loads(straight.getvalue().splitlines()[-1]), json.loads(resumed.getvalue())
    for line in (first, second):
        del line["host_memory_bytes"]
    assert first == second


def test_a_checkpoint_and_the_last_step_are_logged(clock: Clock) -> None:
    lines = LogLines(work(), Ranks(), lambda: 0.0, lambda: 0, io.StringIO())
    for step, save, wanted in ((1, False, False), (2, True, True), (6, False, True)):
        control: Any = SimpleNamespace(should_save=save, should_log=False)
        lines.on_step_end(None, trainer_state(step), control)  # type: ignore[arg-type]
        assert control.should_log is wanted


def test_the_trainers_own_totals_are_not_passed_on(clock: Clock) -> None:
    """They count from the last resume on, and its examples are our steps."""
    out = io.StringIO()
    lines = LogLines(work(), Ranks(), lambda: 0.0, lambda: 0, out)
    logs = {"train_runtime": 1.0, "train_samples_per_second": 3.0}
    lines.on_log(None, trainer_state(6, [dict(logs)]), None, logs=logs)  # type: ignore[arg-type]
    assert (logs, out.getvalue()) == ({}, "")


def test_only_the_first_process_prints(clock: Clock) -> None:
    out = io.StringIO()
    lines, state = LogLines(work(), Ranks(), lambda: 0.0, lambda: 0, out), trainer_state(0)
    state.is_world_process_zero = False
    step_and_log(lines, state, 1)
    assert out.getvalue() == ""
    assert training_lines(state)  # its history is its checkpoint's too


@pytest.mark.parametrize(
    ("device", "dtype", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
        ("NVIDIA H800", "bfloat16", 989e12),
        ("NVIDIA H200", "float32", 67e12),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312e12),
        ("NVIDIA H100 PCIe", "bfloat16", None),
        ("NVIDIA H200 NVL", "bfloat16", None),
        ("NVIDIA GeForce RTX 4090", "bfloat16", None),
        ("Tesla V100-SXM2-32GB", "bfloat16", None),
    ],
)
def test_the_peak_is_of_boards_that_are_known(device: str, dtype: str, peak: float | None) -> None:
    assert peak_flops(device, dtype) == peak


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_package_that_is_missing_is_named(name: str) -> None:
    with pytest.raises(SettingsError, match=f"the package '{name}' is not installed") as caught:
        reporters(("tensorboard", name))
    assert f"pip install {name}" in caught.value.remedy


def test_tensorboard_alone_needs_no_callback_of_the_trainers() -> None:
    assert load_settings(None, ("model.path=/x",)).train.report_to == ("tensorboard",)
    assert reporters(("tensorboard",)) == []


def board(storage: Storage, folder: Path, seconds: float = 0.0) -> TensorBoard:
    return TensorBoard(storage, "k", folder, "name: trial\nseed: 1", seconds)


def train(tensorboard: TensorBoard, steps: range) -> None:
    """An attempt at training that logs these steps."""
    lines, state = LogLines(work(), Ranks(), lambda: 0.0, lambda: 0, io.StringIO()), trainer_state(steps.start - 1)
    for callback in (lines, tensorboard):
        callback.on_train_begin(None, state, None)  # type: ignore[arg-type]
    for step in steps:
        step_and_log(lines, state, step, tensorboard)
    tensorboard.on_train_end(None, state, None)  # type: ignore[arg-type]


def stored(storage: Storage) -> list[str]:
    return list(storage.list_keys(f"{layout.tensorboard('k')}/"))


def test_tensorboard_reads_one_curve_from_the_files_of_two_attempts(storage: Storage, tmp_path: Path) -> None:
    first, second = board(storage, tmp_path / "1"), board(storage, tmp_path / "2")
    train(first, range(1, 5))  # killed after step 4; the checkpoint is of step 2
    train(second, range(3, 7))
    publication = Publication(storage, layout.adapter("k"))
    second.publish(publication)
    manifest = publication.finish(Provenance(stage="train", key="k", settings={}, counts={}, wall_seconds=1.0))
    keys = stored(storage)
    assert len(keys) == 2
    assert [f"{layout.adapter('k')}/{entry.path}" for entry in manifest.files] == keys
    folder = tmp_path / "all"
    for key in keys:
        storage.download(key, folder / Path(key).name)
    read = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in read.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert {f"train/{name}" for name in ("seen_samples", "padding_share", "data_wait_share")} <= set(
        read.Tags()["scalars"]
    )
    assert b"name: trial" in read.Tensors("settings/text_summary")[0].tensor_proto.string_val[0]


def test_an_upload_is_due_by_the_minute_and_with_a_checkpoint(tmp_path: Path) -> None:
    writes: list[int] = []

    class Counting(LocalStorage):
        def write_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
            writes.append(len(data))
            return super().write_bytes(key, data, if_absent=if_absent)

    storage = Counting(tmp_path / "store")
    tensorboard = board(storage, tmp_path / "1", seconds=1e9)
    lines, state = LogLines(work(), Ranks(), lambda: 0.0, lambda: 0, io.StringIO()), trainer_state(0)
    for step, save, uploads in ((1, False, 1), (2, False, 1), (3, True, 2)):
        step_and_log(lines, state, step, tensorboard, save=save)
        if tensorboard._upload is not None:
            tensorboard._upload.result()
        assert len(writes) == uploads
    tensorboard.on_train_end(None, state, None)  # type: ignore[arg-type]
    assert writes == sorted(writes)
    assert len(writes) == 3


def test_training_goes_on_while_the_store_is_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Away(LocalStorage):
        away = True

        def write_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
            if self.away:
                raise TryAgainError("the store is away")
            return super().write_bytes(key, data, if_absent=if_absent)

        def upload(self, path: Path, key: str) -> None:
            if self.away:
                raise TryAgainError("the store is away")
            super().upload(path, key)

    storage = Away(tmp_path / "store")
    tensorboard = board(storage, tmp_path / "1")
    with caplog.at_level(logging.WARNING):
        train(tensorboard, range(1, 4))
    assert "training goes on: the store is away" in caplog.text
    publication = Publication(storage, layout.adapter("k"))
    with pytest.raises(TryAgainError):
        tensorboard.publish(publication)
    storage.away = False
    tensorboard.publish(publication)
    assert len(stored(storage)) == 1


def test_what_is_no_failure_of_the_store_is_raised(tmp_path: Path) -> None:
    class Broken(LocalStorage):
        def write_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(board(Broken(tmp_path / "store"), tmp_path / "1"), range(1, 4))


def test_a_training_that_logged_nothing_writes_nothing(tmp_path: Path) -> None:
    """It was started again after its last step, to write its adapter."""
    storage = LocalStorage(tmp_path / "store")
    train(board(storage, tmp_path / "1"), range(1, 7))
    again = board(storage, tmp_path / "2")
    train(again, range(7, 7))
    publication = Publication(storage, layout.adapter("k"))
    again.publish(publication)
    assert len(stored(storage)) == 1
