from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from medvl_jobs import cli
from medvl_jobs.contracts import layout
from medvl_jobs.errors import MissingInputError, SettingsError, TryAgainError
from medvl_jobs.settings.model import ModelSettings
from medvl_jobs.settings.run import load_settings
from medvl_jobs.settings.storage import StorageSettings
from medvl_jobs.settings.train import TrainSettings
from medvl_jobs.storage.local import LocalStorage
from medvl_jobs.storage.open import open_storage
from medvl_jobs.train.planner import job, speed
from medvl_jobs.train.planner.choose import choose, estimates, nearest
from medvl_jobs.train.planner.gpus import GPUS
from medvl_jobs.train.planner.memory import memory
from medvl_jobs.train.planner.setup import Setup, Workload
from medvl_jobs.train.planner.shape import ModelShape

CONFIG = Path(__file__).parents[1] / "fixtures" / "qwen3-vl-30b-a3b.json"
LARGE = ModelShape.from_config(json.loads(CONFIG.read_text()))
WORK = Workload(examples=12_931, mean_tokens=430, longest_tokens=900, answer_tokens=150, image_tokens=256)
TUTORIAL = {"batch_size": 32, "gradient_accumulation": 8}


def setup(gpus: int = 4, **train: Any) -> Setup:
    return Setup(LARGE, ModelSettings(), TrainSettings(**train), WORK, gpus)


def test_the_tutorial_makes_39_steps() -> None:
    assert speed.steps(setup(**TUTORIAL)) == 39
    assert speed.steps(setup(epochs=0.5, batch_size=32)) == 51


def test_arithmetic_by_hand() -> None:
    """One micro-batch of 8 × 430 tokens: 3 passes over 2.7 B active parameters of the layers, and little else."""
    part = speed.text(setup(), 0)
    active = 48 * (2 * 2048 * (4096 + 512) + 128 * 2048 + 8 * 3 * 2048 * 768)
    assert LARGE.layers * LARGE.active_layer_parameters == active
    assert part.flops == pytest.approx(3 * 2 * active * 8 * 430, rel=0.05)
    assert part.link_bytes == 0
    weights = 48 * LARGE.layer_parameters * 2
    assert speed.text(setup(), 3).link_bytes == pytest.approx(3 * weights * 3 / 4)
    assert speed.text(setup(gpus=1), 3).link_bytes == 0
    # 46 GB of the others' shares, three times, at 200 GB/s: NVLink decides, and an H100 has more of it.
    h800, h100 = (speed.text(setup(), 3).seconds(GPUS[name], 989e12) for name in ("H800", "H100"))
    assert h800 == pytest.approx(3 * weights * 0.75 / 200e9)
    assert h100 < h800


def test_more_examples_take_longer_and_a_better_gpu_does_not() -> None:
    def seconds(gpu: str = "H800", **train: Any) -> float:
        return speed.step(setup(**train), GPUS[gpu], 0, 0.25).seconds

    assert seconds() < seconds(batch_size=16) < seconds(batch_size=16, gradient_accumulation=2)
    assert seconds("A100") > seconds("H800") >= seconds("H100") >= seconds("H200")
    assert seconds(activation_checkpointing=False) < seconds()


def test_the_fastest_that_fits_is_chosen() -> None:
    among = estimates(setup(), GPUS["H800"], 0.25)
    assert [each.fits for each in among] == [True, True, True]
    assert choose(among) is among[0]
    full = estimates(setup(**TUTORIAL), GPUS["H800"], 0.25)
    assert [each.fits for each in full] == [False, False, True]
    assert choose(full) is full[2]


@pytest.mark.parametrize(
    ("train", "longest", "gpu", "words"),
    [
        (TUTORIAL, 900, "H800", ("train.batch_size=8", "train.gradient_accumulation=32")),
        ({"batch_size": 4, "activation_checkpointing": False}, 900, "H800", ("train.activation_checkpointing=true",)),
        (
            {"activation_checkpointing": False, "batch_size": 32}, 900, "H800",
            ("train.activation_checkpointing=true", "train.batch_size=8", "train.gradient_accumulation=4"),
        ),
        ({"batch_size": 1, "max_tokens": 32768}, 32768, "H800", ("train.max_tokens=8192",)),
        ({"batch_size": 32, "max_tokens": 32768}, 32768, "H800",
         ("train.batch_size=1", "train.gradient_accumulation=32", "train.max_tokens=8192")),
    ],
)  # fmt: skip
def test_the_nearest_that_fits(train: dict[str, Any], longest: int, gpu: str, words: tuple[str, ...]) -> None:
    refused = replace(setup(**train), work=replace(WORK, longest_tokens=longest))
    assert memory(refused, 0).total > GPUS[gpu].memory_bytes
    assert nearest(refused, GPUS[gpu].memory_bytes) == words


def test_a_larger_gpu_is_the_last_resort_and_sometimes_there_is_none() -> None:
    wide = replace(setup(), shape=replace(LARGE, layers=68))
    assert nearest(wide, GPUS["H800"].memory_bytes) == ("plan.gpu=H200",)
    wide = replace(setup(), shape=replace(LARGE, layers=480))
    assert nearest(wide, GPUS["H800"].memory_bytes) is None
    with pytest.raises(SettingsError, match="needs") as refused:
        job.Plan(wide, GPUS["H800"], estimates(wide, GPUS["H800"], 0.25), None).require()
    assert refused.value.remedy == "train a smaller model"


# ------------------------------------------------------------------------------------------------------------ the shell


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_bytes(CONFIG.read_bytes())
    return [f"model.path={tmp_path / 'model'}", f"storage.uri={tmp_path / 'store'}"]


DATA = ["plan.examples=12931", "plan.mean_tokens=430", "plan.answer_tokens=150", "plan.longest_tokens=900"]


def test_a_plan_is_printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", *words, *DATA, "plan.price_per_gpu_hour=2.5", "plan.gpu=H100"]) == 0
    printed = capsys.readouterr().out
    for expected in (
        "31,070,754,032 parameters, and 6,684,672 of the adapter",
        "4 × H100",
        "zero 3",
        "weights",
        "62.14",
        "15.54",
        "GPU-hours",
        "cost",
    ):
        assert expected in printed


def test_what_cannot_fit_is_refused_with_the_table(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", *words, *DATA, "train.batch_size=32", "train.gradient_accumulation=8"]) == 64
    said = capfd.readouterr()
    assert "train.batch_size=8 train.gradient_accumulation=32" in said.err
    assert "fits" in said.out


def test_unknown_data_and_unknown_models(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", *words]) == 64
    assert "plan.examples" in capfd.readouterr().err
    assert cli.main(["plan", *words, "prep.source_fingerprint=x"]) == 66
    assert "run medvl prep first" in capfd.readouterr().err
    assert cli.main(["plan", "model.path=/nowhere", *DATA]) == 66
    assert cli.main(["plan", *words, "plan.mean_tokens=100", "plan.answer_tokens=100"]) == 64
    assert cli.main(["plan", *words, "plan.mean_tokens=100", "plan.longest_tokens=90"]) == 64
    assert cli.main(["plan", *words, "plan.gpu=T4"]) == 64
    assert cli.main(["plan", *words, *DATA, "train.lora.experts=all"]) == 64


def test_the_card_tells_what_the_settings_leave_out(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    settings = load_settings(None, ("prompt.question=What is shown here", "model.min_pixels=65536"))
    with pytest.raises(MissingInputError, match="not prepared"):
        job.read_card(storage, "k")
    side = {"mean": 512.0, "max": 2000}
    card = {
        "split": {"train": {"rows": 100}},
        "images": {"longer_side_pixels": side, "shorter_side_pixels": side},
        "captions": {"words": {"mean": 100.0, "max": 200}},
    }
    storage.write_bytes(f"{layout.prepared('k')}/{layout.CARD}", json.dumps(card).encode())
    read = job.workload(settings, job.read_card(storage, "k"))
    assert read.examples == 100
    assert read.image_tokens == 256
    assert read.answer_tokens == pytest.approx(165)
    assert read.mean_tokens == pytest.approx(256 + 14 + 4 * 1.65 + 165)
    assert read.longest_tokens == round(576 + 14 + 4 * 1.65 + 330)  # 2000 × 2000 pixels are scaled to 768 × 768
    cut = load_settings(None, ("train.max_tokens=512", "plan.examples=7"))
    assert job.workload(cut, card).longest_tokens == 512
    assert job.workload(cut, card).examples == 7


def test_a_configuration_in_a_bucket_is_read_without_its_weights(s3_settings: StorageSettings) -> None:
    model = f"{s3_settings.uri}/model"
    open_storage(s3_settings.model_copy(update={"uri": model})).write_bytes("config.json", CONFIG.read_bytes())
    settings = load_settings(None, (f"model.path={model}",)).model_copy(update={"storage": s3_settings})
    assert ModelShape.from_config(job.read_config(settings)) == LARGE


def test_a_hub_out_of_reach_is_worth_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(TryAgainError) as failed:
        job.read_config(load_settings(None, ("model.path=Qwen/Qwen3-VL-30B-A3B-Instruct",)))
    assert "directory" in failed.value.remedy


def test_a_broken_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(MissingInputError, match="cannot be read"):
        job.read_config(load_settings(None, (f"model.path={tmp_path}",)))
