from __future__ import annotations

import io
import json
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_model
from PIL import Image

from medvl_jobs.contracts.curve import smooth
from medvl_jobs.errors import DataError
from medvl_jobs.settings.run import load_settings
from medvl_jobs.train import artifacts
from medvl_jobs.train.data import TrainingExamples
from medvl_jobs.train.tracking import LogLines, training_lines


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
