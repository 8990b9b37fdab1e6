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
from medvl_jobs.settings.train import LoraSettings, TrainSettings
from medvl_jobs.storage.local import LocalStorage
from medvl_jobs.storage.open import open_storage
from medvl_jobs.train.planner import job, speed
from medvl_jobs.train.planner.activations import expert_copies
from medvl_jobs.train.planner.choose import choose, estimates, nearest, refusal, stage_for
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


def test_a_step_is_dealt_under_the_token_budget() -> None:
    whole = setup(**TUTORIAL)  # 256 examples of 430 tokens on each GPU, 280 of them image and question
    assert (whole.largest_batch, whole.passes, whole.most_examples) == (16384, 7, 58)
    drawn = setup(**TUTORIAL, batch_tokens=None)
    assert (drawn.largest_batch, drawn.passes, drawn.most_examples) == (32 * 900, 8, 32)
    few = setup(batch_size=2)
    assert (few.largest_batch, few.passes, few.most_examples) == (2 * 900, 1, 2)
    assert setup(batch_size=1).masked is False
    assert (whole.longest_row, setup(**TUTORIAL, packing=True).longest_row) == (900, 16384)


def test_arithmetic_by_hand() -> None:
    """One micro-batch of 8 × 430 tokens: 3 passes over 2.7 B active parameters of the layers, and little else."""
    part = speed.text(setup(), 0)
    active = 48 * (2 * 2048 * (4096 + 512) + 128 * 2048 + 8 * 3 * 2048 * 768)
    assert LARGE.layers * LARGE.active_layer_parameters == active
    assert part.flops == pytest.approx(3 * 2 * active * 8 * 430, rel=0.05)
    assert part.link_bytes == 0
    weights = 48 * LARGE.layer_parameters * 2
    assert speed.text(setup(), 3).link_bytes == pytest.approx(3 * weights * 3 / 4, rel=0.001)
    assert speed.text(setup(gpus=1), 3).link_bytes == 0
    # 46 GB of the others' shares, three times, at 200 GB/s: NVLink decides, and an H100 has more of it.
    h800, h100 = (speed.text(setup(), 3).seconds(GPUS[name], 989e12) for name in ("H800", "H100"))
    assert h800 == pytest.approx(3 * weights * 0.75 / 200e9, rel=0.001)
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
    full = estimates(replace(setup(), shape=replace(LARGE, layers=68)), GPUS["H800"], 0.25)
    assert [each.fits for each in full] == [False, False, True]
    assert choose(full) is full[2]


def test_the_stage_of_a_training() -> None:
    h800 = GPUS["H800"]
    assert stage_for(setup(), h800.memory_bytes, h800, 0.25) == 0
    assert stage_for(setup(), 40 * 10**9, None, 0.25) == 3
    assert stage_for(setup(), h800.memory_bytes, None, 0.25) == 0
    assert stage_for(setup(zero=2), h800.memory_bytes, h800, 0.25) == 2
    assert stage_for(setup(offload="optimizer"), h800.memory_bytes, h800, 0.25) == 2
    assert stage_for(setup(offload="parameters"), h800.memory_bytes, h800, 0.25) == 3
    with pytest.raises(SettingsError, match="this GPU has 40") as refused:
        stage_for(setup(zero=2), 40 * 10**9, None, 0.25)
    assert refused.value.remedy == "the nearest that fits: train.zero=3"


def test_a_plan_counts_on_no_more_memory_than_a_training_finds() -> None:
    """torch's ``total_memory`` in MiB, as it was printed on such boards; ``nvidia-smi`` shows some hundred more."""
    found = {"A100": 81_049, "H100": 81_082, "H200": 143_156, "H800": 81_082}
    assert {name: gpu.memory_bytes // 2**20 for name, gpu in GPUS.items()} == found


def test_what_is_offloaded_lies_in_the_hosts_memory_and_comes_over_pcie() -> None:
    adapter, weights = LARGE.lora_parameters(LoraSettings()), LARGE.parameters * 2
    near, optimiser = memory(setup(zero=3), 3), memory(setup(zero=3, offload="optimizer"), 3)
    assert optimiser.host == near.gradients + near.optimiser == 16 * adapter / 4
    assert optimiser.total == near.total - optimiser.host
    all_of_it = memory(setup(zero=3, offload="parameters"), 3)
    assert all_of_it.host == 16 * adapter / 4 + (2 * adapter + weights) / 4
    assert (all_of_it.weights, all_of_it.lora, all_of_it.gathered) == (0, 0, near.gathered)
    part = speed.text(setup(zero=3, offload="parameters"), 3)
    assert part.host_bytes == pytest.approx(3 * 48 * LARGE.layer_parameters * 2 / 4, rel=0.01)
    assert speed.Part(host_bytes=64e9).seconds(GPUS["H800"], 1) == 1.0
    assert memory(setup(zero=2, offload="optimizer"), 2).host == 16 * adapter / 4
    alone = memory(setup(gpus=1, zero=3, offload="parameters"), 3)
    assert alone.gathered > 2 * LARGE.layer_parameters * 2


def test_adapters_on_experts_cost_a_copy_of_a_layers_experts() -> None:
    adapted: dict[str, Any] = {"lora": {"experts": "all"}}
    copies = 2 * 128 * 3 * 2048 * 768  # 1.2 GB: W + B A of all experts of one layer, in bfloat16
    assert expert_copies(setup(**adapted)) == pytest.approx(copies, rel=0.02)
    kept = memory(setup(**adapted, activation_checkpointing=False), 0).activations
    assert kept > memory(setup(activation_checkpointing=False), 0).activations + 48 * copies
    assert memory(setup(**adapted), 0).activations == memory(setup(), 0).activations
    more = speed.text(setup(**adapted), 0).flops - speed.text(setup(), 0).flops
    all_experts = 48 * 128 * 3 * 2048 * 768
    assert more == pytest.approx(4 * 2 * 8 * all_experts + 2 * 8 * 430 * all_experts * 8 / 128)


def test_a_packed_row_is_all_scores_unless_attention_knows_its_examples() -> None:
    packed = setup(**TUTORIAL, packing=True)
    varlen = replace(packed, model=ModelSettings(attention="flash_attention_2"))
    assert speed.text(packed, 0).flops > 2 * speed.text(varlen, 0).flops
    assert speed.text(varlen, 0).flops == speed.text(setup(**TUTORIAL), 0).flops
    assert memory(packed, 0).layer > memory(setup(**TUTORIAL), 0).layer > memory(varlen, 0).layer


@pytest.mark.parametrize(
    ("train", "longest", "gpu", "words"),
    [
        (
            {"batch_size": 32, "zero": 0, "activation_checkpointing": False}, 900, "H800",
            ("train.activation_checkpointing=true",),
        ),
        ({"batch_size": 256, "zero": 0, "batch_tokens": None}, 900, "H800", ("train.batch_tokens=28800",)),
        (
            {"batch_size": 32, "zero": 2, "batch_tokens": None, "activation_checkpointing": False, "max_tokens": 32768},
            32768, "H800", ("train.zero=3", "train.activation_checkpointing=true", "train.batch_tokens=65536"),
        ),
        ({"batch_size": 1, "zero": 3, "max_tokens": 262144, "batch_tokens": 262144}, 262144, "H800",
         ("train.batch_tokens=65536", "train.max_tokens=65536")),
    ],
)  # fmt: skip
def test_the_nearest_that_fits(train: dict[str, Any], longest: int, gpu: str, words: tuple[str, ...]) -> None:
    refused = replace(setup(**train), work=replace(WORK, longest_tokens=longest))
    assert not any(memory(refused, zero).total <= GPUS[gpu].memory_bytes for zero in refused.stages)
    assert nearest(refused, GPUS[gpu].memory_bytes) == words
    # What is proposed is a setting that can be set.
    proposed = dict(word.removeprefix("train.").split("=") for word in words)
    assert TrainSettings.model_validate(train | proposed)


def test_a_larger_gpu_then_offload_and_sometimes_there_is_none() -> None:
    h800 = GPUS["H800"].memory_bytes
    assert nearest(replace(setup(), shape=replace(LARGE, layers=300)), h800) == ("plan.gpu=H200",)
    wide = replace(setup(), shape=replace(LARGE, layers=500))
    assert nearest(wide, h800) == ("train.batch_tokens=900", "train.max_tokens=900", "train.offload=parameters")
    wide = replace(setup(), shape=replace(LARGE, layers=50_000))
    assert nearest(wide, h800) is None
    with pytest.raises(SettingsError, match="needs") as refused:
        job.Plan(wide, GPUS["H800"], estimates(wide, GPUS["H800"], 0.25), None).require()
    assert refused.value.remedy == "train a smaller model"
    for model, remedy in (
        (ModelSettings(attention="eager"), "set model.attention=sdpa"),
        (ModelSettings(dtype="float32"), "set model.dtype=bfloat16"),
    ):
        assert refusal(replace(wide, model=model), h800, "H800").remedy.startswith(remedy)


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
    large = ["train.batch_size=256", "train.zero=0", "train.batch_tokens=null"]
    assert cli.main(["plan", *words, *DATA, *large]) == 64
    said = capfd.readouterr()
    assert "train.batch_tokens=28800" in said.err
    assert "Nothing of this fits." in said.out
    assert "zero 3" not in said.out


def test_what_is_offloaded_is_printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", *words, *DATA, "train.offload=optimizer", "train.lora.experts=all"]) == 0
    printed = capsys.readouterr().out
    assert "host, each GPU's" in printed
    assert "The train stage runs zero 2, the fastest of 2 that were compared." in printed


def test_unknown_data_and_unknown_models(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", *words]) == 64
    assert "plan.examples" in capfd.readouterr().err
    assert cli.main(["plan", *words, "prep.source_fingerprint=x"]) == 66
    assert "run medvl prep first" in capfd.readouterr().err
    assert cli.main(["plan", "model.path=/nowhere", *DATA]) == 66
    assert cli.main(["plan", *words, "plan.mean_tokens=100", "plan.answer_tokens=100"]) == 64
    assert cli.main(["plan", *words, "plan.mean_tokens=100", "plan.longest_tokens=90"]) == 64
    assert cli.main(["plan", *words, "plan.gpu=T4"]) == 64


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
