from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_model
from PIL import Image

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.curve import smooth
from medvl_jobs.errors import DataError
from medvl_jobs.settings.run import load_settings
from medvl_jobs.storage.base import Storage
from medvl_jobs.train import artifacts
from medvl_jobs.train.callbacks import LogLines, StopOnSigterm, training_lines
from medvl_jobs.train.checkpoints import CheckpointStore
from medvl_jobs.train.data import TrainingExamples


def line(step: int, loss: float) -> dict[str, Any]:
    return {
        "step": step, "total_steps": 30, "epoch": step / 10, "loss": loss, "lr": 1e-3, "grad_norm": 1.0,
        "tokens_per_second": 100.0, "samples_per_second": 2.0, "eta_seconds": 61.0, "elapsed_seconds": step * 2.0,
        "total_tokens": step * 50,
    }  # fmt: skip


LINES = [line(10, 3.0), line(20, 2.0), line(25, 1.0)]


def test_trainer_log_has_the_incumbents_keys() -> None:
    first = json.loads(artifacts.trainer_log(LINES).splitlines()[0])
    assert first["current_steps"] == 10
    assert first["percentage"] == 33.33
    assert first["elapsed_time"] == "0:00:20"
    assert first["remaining_time"] == "0:01:01"
    assert {"total_steps", "loss", "lr", "epoch", "throughput", "total_tokens"} <= set(first)


def test_totals_count_every_step_once() -> None:
    assert artifacts.mean_loss(LINES) == pytest.approx((3.0 * 10 + 2.0 * 10 + 1.0 * 5) / 25)
    results = artifacts.all_results(LINES, samples=100)
    assert results["train_runtime"] == 50.0
    assert results["train_samples_per_second"] == 2.0
    assert results["train_steps_per_second"] == 0.5
    assert results["num_input_tokens_seen"] == 1250


def test_smoothing_is_the_incumbents() -> None:
    """LLaMA-Factory's formula, worked by hand for two values: weight 1.8 (sigmoid(0.1) - 0.5) = 0.04496."""
    assert smooth([1.0, 2.0]) == pytest.approx([1.0, 2.0 - 0.0449626], abs=1e-6)
    assert smooth([]) == []


def test_loss_figure_is_a_picture_and_always_the_same() -> None:
    figure = artifacts.loss_figure(LINES)
    assert figure == artifacts.loss_figure(LINES)
    with Image.open(io.BytesIO(figure)) as image:
        assert image.size == (640, 400)


def test_model_card_names_its_origin() -> None:
    settings = load_settings(None, ("model.path=/models/base", "model.fingerprint=abc", "name=trial"))
    card = artifacts.model_card(settings, artifacts.all_results(LINES, 100), (5, 1000), "prepared/x")
    assert card.startswith("---\nbase_model: /models/base\n")
    assert "# trial: LoRA adapter" in card
    assert "prepared/x" in card
    assert "5 of 1,000 (0.500 %)" in card
    assert "not for diagnosis" in card


def write_checkpoint(folder: Path, content: str) -> Path:
    (folder / "sub").mkdir(parents=True, exist_ok=True)
    (folder / "state.json").write_text(content)
    (folder / "sub" / "weights.bin").write_bytes(content.encode() * 10)
    return folder


def test_the_newest_complete_checkpoint_is_restored(storage: Storage, tmp_path: Path) -> None:
    checkpoints = CheckpointStore(storage, "k", keep=2)
    assert checkpoints.restore_latest(tmp_path) is None
    for step in (5, 10, 100):
        checkpoints.save(write_checkpoint(tmp_path / "c", f"step {step}"), step)
    assert checkpoints.steps() == [10, 100]
    assert not list(storage.list_keys(layout.checkpoint("k", 5)))
    # A newer one that was cut off while it was uploaded does not count.
    storage.write_bytes(f"{layout.checkpoint('k', 200)}/state.json", b"half")
    restored = checkpoints.restore_latest(tmp_path / "scratch")
    assert restored == tmp_path / "scratch" / "checkpoint-100"
    assert (restored / "state.json").read_text() == "step 100"
    assert (restored / "sub" / "weights.bin").read_bytes() == b"step 100" * 10


def trainer_state(step: int, **changes: Any) -> Any:
    state = SimpleNamespace(
        global_step=step, max_steps=20, num_input_tokens_seen=step * 10, is_world_process_zero=True, log_history=[]
    )
    vars(state).update(changes)
    return state


def test_a_log_line_says_all_and_goes_on_counting_after_a_resume() -> None:
    out = io.StringIO()
    lines = LogLines(samples_per_step=4, out=out)
    before = [{"loss": 2.0, "elapsed_seconds": 100.0, "step": 5}]
    lines.on_train_begin(None, trainer_state(5, log_history=before), None)  # type: ignore[arg-type]
    log = {"loss": 1.5, "learning_rate": 0.1, "grad_norm": 0.5, "epoch": 1.0}
    state = trainer_state(10, log_history=[*before, log])
    lines.on_log(None, state, None)  # type: ignore[arg-type]
    printed = json.loads(out.getvalue())
    assert printed["step"] == 10
    assert printed["elapsed_seconds"] >= 100.0
    assert printed["total_tokens"] == 100
    assert set(printed) == {
        "step", "total_steps", "epoch", "loss", "lr", "grad_norm", "tokens_per_second", "samples_per_second",
        "eta_seconds", "elapsed_seconds", "total_tokens",
    }  # fmt: skip
    assert training_lines(state) == state.log_history
    state.log_history.append({"train_loss": 1.0})
    lines.on_log(None, state, None)  # type: ignore[arg-type]
    assert len(out.getvalue().splitlines()) == 1


def test_sigterm_asks_for_a_checkpoint_and_the_end() -> None:
    stop = StopOnSigterm()
    stop.on_train_begin(None, trainer_state(0), None)  # type: ignore[arg-type]
    try:
        control = SimpleNamespace(should_save=False, should_training_stop=False)
        stop.on_step_end(None, trainer_state(1), control)  # type: ignore[arg-type]
        assert not control.should_save
        os.kill(os.getpid(), signal.SIGTERM)
        stop.on_step_end(None, trainer_state(2), control)  # type: ignore[arg-type]
        assert control.should_save
        assert control.should_training_stop
        assert stop.stopped
        stop.on_step_end(None, trainer_state(20), control)  # type: ignore[arg-type]
        assert not stop.stopped  # the last step is done anyway
    finally:
        stop.on_train_end(None, trainer_state(20), None)  # type: ignore[arg-type]


def rows(*captions: str) -> Any:
    import datasets

    image = {"bytes": tiny_model.png(tiny_model.picture(0)), "path": None}
    table = [{"image": image, "caption": caption, "width": 192, "height": 192} for caption in captions]
    return datasets.Dataset.from_list(table)


def test_examples_that_are_too_long_are_left_out_and_counted() -> None:
    renderer = tiny_model.renderer()
    short = renderer.count_tokens(192, 192, "A short one.")
    examples = TrainingExamples(rows("A short one.", "A long one, " * 50, "A short one."), renderer, short)
    assert (len(examples), examples.left_out, examples.tokens) == (2, 1, 2 * short)
    assert len(examples[1]) == short
    with pytest.raises(DataError, match="none of 1 examples fits"):
        TrainingExamples(rows("A long one, " * 50), renderer, 16)
