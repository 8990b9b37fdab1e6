from __future__ import annotations

import io
import json
from typing import Any

import pytest
import tiny_model
from PIL import Image

from medvl_jobs.contracts.curve import smooth
from medvl_jobs.errors import DataError
from medvl_jobs.settings.run import load_settings
from medvl_jobs.settings.train import TrainSettings
from medvl_jobs.train import artifacts, data
from medvl_jobs.train.batches import Totals
from medvl_jobs.train.data import TrainingExamples, worker_count


def line(step: int, loss: float) -> dict[str, Any]:
    return {
        "step": step, "total_steps": 30, "epoch": step / 10, "loss": loss, "lr": 1e-3, "grad_norm": 1.0,
        "tokens_per_second": 100.0, "samples_per_second": 2.0, "eta_seconds": 61.0, "elapsed_seconds": step * 2.0,
        "total_tokens": step * 50, "effective_batch": 4.0, "seen_samples": step * 4, "padding_share": 0.1,
        "total_flops": step * 1e9, "mfu": None, "gpu_allocated_bytes": None, "gpu_reserved_bytes": None,
        "host_memory_bytes": step * 1000, "data_wait_share": step / 100,
    }  # fmt: skip


LINES = [line(10, 3.0), line(20, 2.0), line(25, 1.0)]
TOTALS = Totals(examples=100, tokens=1250, padded_tokens=1500, labels=500, image_tokens=400)


def test_trainer_log_has_the_incumbents_keys() -> None:
    first = json.loads(artifacts.trainer_log(LINES).splitlines()[0])
    assert first["current_steps"] == 10
    assert first["percentage"] == 33.33
    assert first["elapsed_time"] == "0:00:20"
    assert first["remaining_time"] == "0:01:01"
    assert {"total_steps", "loss", "lr", "epoch", "throughput", "total_tokens"} <= set(first)
    assert (first["effective_batch"], first["padding_share"], first["mfu"]) == (4.0, 0.1, None)


def test_totals_count_every_step_once() -> None:
    assert artifacts.mean_loss(LINES) == pytest.approx((3.0 * 10 + 2.0 * 10 + 1.0 * 5) / 25)
    results = artifacts.all_results(LINES, TOTALS)
    assert results["train_runtime"] == 50.0
    assert results["train_samples_per_second"] == 2.0
    assert results["train_steps_per_second"] == 0.5
    assert results["num_input_tokens_seen"] == 1250
    assert results["effective_batch"] == 4.0
    assert results["padding_share"] == pytest.approx(1 / 6, abs=1e-4)
    assert results["peak_host_memory_bytes"] == 25_000
    assert results["mean_data_wait_share"] == pytest.approx((0.1 * 20 + 0.2 * 20 + 0.25 * 10) / 50)
    assert not {"mean_mfu", "peak_gpu_allocated_bytes"} & set(results)  # there was no GPU to know it of
    on_gpu = [each | {"mfu": 0.4, "gpu_allocated_bytes": each["step"]} for each in LINES]
    more = artifacts.all_results(on_gpu, TOTALS)
    assert (more["mean_mfu"], more["peak_gpu_allocated_bytes"]) == (pytest.approx(0.4), 25)


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
    card = artifacts.model_card(settings, artifacts.all_results(LINES, TOTALS), (5, 1000), "prepared/x")
    assert card.startswith("---\nbase_model: /models/base\n")
    assert "# trial: LoRA adapter" in card
    assert "prepared/x" in card
    assert "5 of 1,000 (0.500 %)" in card
    assert "25 steps of 4 examples" in card
    assert "not for diagnosis" in card


def rows(*captions: str) -> Any:
    import datasets

    image = {"bytes": tiny_model.png(tiny_model.picture(0)), "path": None}
    table = [{"image": image, "caption": caption, "width": 192, "height": 192} for caption in captions]
    return datasets.Dataset.from_list(table)


def test_examples_that_are_too_long_are_left_out_and_counted() -> None:
    renderer = tiny_model.renderer()
    short = renderer.count_tokens(192, 192, "A short one.")
    examples = TrainingExamples(rows("A short one.", "A long one, " * 50, "A short one."), renderer, short)
    assert (len(examples), examples.left_out, examples.lengths.tokens.tolist()) == (2, 1, [short, short])
    assert len(examples[1]) == short
    with pytest.raises(DataError, match="none of 1 examples fits"):
        TrainingExamples(rows("A long one, " * 50), renderer, 16)


def test_workers_share_the_processors_that_a_container_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "processors", lambda: 9)  # of the 192 of its machine
    assert [worker_count(TrainSettings(), processes) for processes in (1, 2, 4, 9)] == [4, 3, 1, 0]
    assert worker_count(TrainSettings(workers=7), 4) == 7
