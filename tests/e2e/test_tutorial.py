"""The tutorial's protocol on the tiny model, through the command line; its adapter sits on the experts as well."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from pipeline_runs import SMALL, medvl, start

from medvl_jobs.contracts.records import read_predictions
from medvl_jobs.samples.build import build_sample

PREFIX = "<think>\n\n</think>\n\n"
TINY = (
    "profile=tutorial",
    "model.dtype=float32",
    "model.experts=eager",
    "model.min_pixels=36864",
    "model.max_pixels=36864",
    "prep.split_seed=81",
    *SMALL,
    "train.gradient_accumulation=1",
    "train.learning_rate=0.004",
    "train.lora.experts=all",
)


@pytest.mark.timeout(1800)
def test_the_tutorials_run_with_experts_is_interrupted_and_whole(tmp_path: Path) -> None:
    words = ("--config", str(build_sample(tmp_path / "sample", rows=80)), *TINY)
    once, often = tmp_path / "once", tmp_path / "often"
    medvl("prep", *words, f"storage.uri={once}")
    medvl("train", *words, f"storage.uri={once}")

    with start("run", *words, f"storage.uri={often}", log=tmp_path / "log") as run:
        deadline = time.monotonic() + 600
        while not list(often.glob("adapters/*/checkpoints/*/manifest.json")):
            assert run.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.02)
        run.send_signal(signal.SIGTERM)
        assert run.wait(timeout=300) == 143
    assert "resuming from the checkpoint of step" in medvl("run", *words, f"storage.uri={often}").stderr

    (adapter,) = often.glob("adapters/*")
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert (config["r"], config["target_parameters"]) == (8, ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"])
    assert "every expert" in (adapter / "README.md").read_text()
    weights = (adapter / "adapter_model.safetensors").read_bytes()
    assert weights == (once / "adapters" / adapter.name / "adapter_model.safetensors").read_bytes()

    variants = [
        [answer for part in sorted(folder.glob("part-*.jsonl")) for answer in read_predictions(part.read_text())]
        for folder in often.glob("predictions/*")
    ]
    assert all(answer.label.startswith(PREFIX) for answers in variants for answer in answers)
    assert len({tuple(answer.predict for answer in answers) for answers in variants}) == 3
    assert list(often.glob("runs/*/*/report/index.html"))
    question = "<image>图片中的诊断结果是怎样?"
    for path in often.glob("prepared/*/llamafactory/mllm_*_data.json"):
        assert {row["conversations"][0]["value"] for row in json.loads(path.read_text())} == {question}
