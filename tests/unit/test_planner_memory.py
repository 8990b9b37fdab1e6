"""The planner's arithmetic against tensors that torch really makes."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import tiny_model
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel, Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

from medvl_jobs.errors import SchemaMismatchError
from medvl_jobs.model.checkpoint import load_model
from medvl_jobs.model.collate import Batch, packed_batch, training_batch
from medvl_jobs.settings.model import ModelSettings
from medvl_jobs.settings.train import LoraSettings, TrainSettings
from medvl_jobs.train.lora import add_lora, trainable_parameters
from medvl_jobs.train.loss import AnswerLossModel, answer_loss
from medvl_jobs.train.planner import memory as planner
from medvl_jobs.train.planner.activations import saved_activations
from medvl_jobs.train.planner.memory import memory
from medvl_jobs.train.planner.setup import FULL, ZEROS, Setup, Workload
from medvl_jobs.train.planner.shape import ModelShape

CONFIG = json.loads((Path(__file__).parents[1] / "fixtures" / "qwen3-vl-30b-a3b.json").read_text())
"""Qwen/Qwen3-VL-30B-A3B-Instruct's, value by value from a public transcription of the hub's file at commit 1fc78ad; it
was not fetched from there. Its parameters are counted against transformers' own classes below."""
LARGE = ModelShape.from_config(CONFIG)
TINY = ModelShape.from_config(json.loads((Path(tiny_model.BASE_MODEL) / "config.json").read_text()))
WORK = Workload(examples=12_931, mean_tokens=480, longest_tokens=900, answer_tokens=180, image_tokens=256)


def setup(shape: ModelShape = LARGE, gpus: int = 4, work: Workload = WORK, **train: Any) -> Setup:
    return Setup(shape, ModelSettings(), TrainSettings(**train), work, gpus)


# ------------------------------------------------------------------------------------------------------- the real 30B


@pytest.fixture(scope="module")
def large_on_meta() -> Qwen3VLMoeForConditionalGeneration:
    with torch.device("meta"):
        return Qwen3VLMoeForConditionalGeneration(Qwen3VLMoeConfig(**CONFIG)).to(torch.bfloat16)


def test_the_30b_has_as_many_parameters_as_planned(large_on_meta: Qwen3VLMoeForConditionalGeneration) -> None:
    assert LARGE.parameters == sum(each.numel() for each in large_on_meta.parameters()) == 31_070_754_032
    vision = large_on_meta.model.visual
    assert LARGE.vision.parameters == sum(each.numel() for each in vision.parameters())
    layer = large_on_meta.model.language_model.layers[0]
    assert LARGE.layer_parameters == sum(each.numel() for each in layer.parameters())
    planned = memory(setup(), 0)
    assert planned.weights == sum(each.nbytes for each in large_on_meta.parameters())


@pytest.mark.parametrize(
    ("rank", "experts", "trained"),
    [(8, "none", 6_684_672), (16, "none", 13_369_344), (8, "all", 314_572_800 + 6_684_672)],
)
def test_the_30bs_adapter_is_as_large_as_planned(rank: int, experts: Any, trained: int) -> None:
    lora = LoraSettings(rank=rank, experts=experts)
    with torch.device("meta"):
        model = add_lora(Qwen3VLMoeForConditionalGeneration(Qwen3VLMoeConfig(**CONFIG)), lora)
    assert LARGE.lora_parameters(lora) == trainable_parameters(model)[0] == trained


def test_another_architecture_is_refused() -> None:
    with pytest.raises(SchemaMismatchError, match="qwen2_vl"):
        ModelShape.from_config({"model_type": "qwen2_vl"})
    with pytest.raises(SchemaMismatchError, match="num_hidden_layers"):
        ModelShape.from_config({"model_type": "qwen3_vl_moe", "text_config": {}, "vision_config": {}})


# ------------------------------------------------------------------------------------- tensors that are really there


class Kept:
    """A saved tensor, in a form whose life can be watched: autograd holds it, and nobody else."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def loss_of(model: PeftModel, batch: Batch, dtype: str) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        loss: torch.Tensor = model(**batch)
        return loss


def saved_bytes(model: PeftModel, batch: Batch, dtype: str) -> tuple[torch.Tensor, int]:
    """The loss, and the bytes of all storages that its backward pass will read, the model's own apart."""
    own = {each.untyped_storage().data_ptr() for each in model.parameters()}
    kept: list[weakref.ref[Kept]] = []

    def pack(tensor: torch.Tensor) -> Kept:
        holder = Kept(tensor)
        kept.append(weakref.ref(holder))
        return holder

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda holder: holder.tensor):
        loss = loss_of(model, batch, dtype)
    storages = [holder.tensor.untyped_storage() for each in kept if (holder := each()) is not None]
    return loss, sum({each.data_ptr(): each.nbytes() for each in storages if each.data_ptr() not in own}.values())


def tiny_batch(examples: int, words: int = 20, *, packing: bool = False) -> Batch:
    """Examples of one image size, packed alike, padded of answers that differ by a few words."""
    renderer = tiny_model.renderer()
    answers = ("A nodule. " * (words if packing else words - 4 * number) for number in range(examples))
    encoded = [renderer.encode(tiny_model.picture(1), answer) for answer in answers]
    return packed_batch(encoded, merge_size=2) if packing else training_batch(encoded, pad_token_id=0)


def trainable(base: PreTrainedModel, settings: ModelSettings, train: TrainSettings) -> PeftModel:
    """As the train stage sets it up."""
    base.set_experts_implementation(settings.experts)
    model = add_lora(base, train.lora).train()
    if train.activation_checkpointing:
        base.config.text_config.use_cache = False
        base.activation_checkpointing_enable({"use_reentrant": False})
    return model


ADAPTED = {"rank": 8, "experts": "all"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("experts", ["grouped_mm", "eager"])
@pytest.mark.parametrize(
    ("examples", "attention", "train"),
    [
        (3, "sdpa", {"activation_checkpointing": True}),
        (3, "sdpa", {"activation_checkpointing": False}),
        (1, "sdpa", {"activation_checkpointing": False}),
        (3, "eager", {"activation_checkpointing": False}),
        (3, "sdpa", {"activation_checkpointing": False, "packing": True}),
        (3, "eager", {"activation_checkpointing": False, "packing": True}),
        (3, "sdpa", {"activation_checkpointing": True, "packing": True, "lora": ADAPTED}),
        (3, "sdpa", {"activation_checkpointing": False, "lora": ADAPTED}),
        (3, "sdpa", {"activation_checkpointing": False, "lora": {"rank": 32, "dropout": 0.1}}),
        (3, "sdpa", {"activation_checkpointing": False, "lora": {"rank": 16, "modules": ("q_proj", "v_proj")}}),
    ],
    ids=[
        "checkpointing", "all saved", "no padding", "eager attention", "packed", "packed for eager attention",
        "checkpointing adapted experts", "adapted experts", "dropout", "q and v",
    ],
)  # fmt: skip
def test_saved_activations_are_within_a_tenth(
    dtype: str, experts: str, examples: int, attention: str, train: dict[str, Any]
) -> None:
    settings = tiny_model.MODEL.model_copy(update={"dtype": dtype, "experts": experts, "attention": attention})
    batch = tiny_batch(examples, packing=train.get("packing", False))
    tokens = batch["input_ids"].numel()
    length = tokens // examples
    planned = Setup(TINY, settings, TrainSettings(batch_size=examples, **train), Workload(1, length, length, 1, 36), 1)
    assert planned.largest_batch == tokens
    _loss, saved = saved_bytes(
        trainable(load_model(settings, kind=AnswerLossModel), settings, planned.train), batch, dtype
    )
    of_the_loss = batch["labels"].numel() * TINY.hidden * planned.element_bytes
    expected = saved_activations(planned, tokens) + of_the_loss
    if planned.train.lora.dropout:  # on a CPU its mask is a float32, on a GPU a bool
        expected += tokens * TINY.layers * (FULL - 1) * 4 * TINY.hidden
    assert saved == pytest.approx(expected, rel=0.1)


def test_weights_adapter_gradients_and_optimiser_are_exact() -> None:
    model = add_lora(load_model(tiny_model.MODEL, kind=AnswerLossModel), LoraSettings(rank=16)).train()
    trained = [each for each in model.parameters() if each.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-3)
    loss_of(model, tiny_batch(2), "float32").backward()
    optimiser.step()
    planned = memory(Setup(TINY, tiny_model.MODEL, TrainSettings(lora=LoraSettings(rank=16)), WORK, 1), 0)
    assert planned.weights == sum(each.nbytes for each in model.parameters() if not each.requires_grad)
    assert planned.lora == sum(each.nbytes for each in trained)
    assert planned.gradients == sum(each.grad.nbytes for each in trained if each.grad is not None)
    moments = [value for state in optimiser.state.values() for value in state.values() if value.dim() > 0]
    assert planned.optimiser == sum(each.nbytes for each in moments)
    assert planned.gathered == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_inputs_are_pixels_in_the_weights_dtype_and_features(dtype: str) -> None:
    settings = tiny_model.MODEL.model_copy(update={"dtype": dtype})
    batch = tiny_batch(3)
    pixels = batch["pixel_values"].to(getattr(torch, dtype))  # as `train.data` hands them over
    length = batch["input_ids"].shape[1]
    setup = Setup(TINY, settings, TrainSettings(batch_size=3), Workload(1, length, length, 1, 36), 1)
    features = 3 * 36 * TINY.hidden * setup.element_bytes
    assert memory(setup, 0).inputs == pixels.nbytes + (1 + TINY.vision.deepstack) * features


# --------------------------------------------------------------------------------------------------- the whole step


def peak_bytes(work: Callable[[], object]) -> int:
    """The most that torch's CPU allocator has given out at a time while ``work`` ran."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = [each for each in profiled.profiler.kineto_results.events() if each.name() == "[memory]"]
    return max(accumulate(each.nbytes() for each in sorted(events, key=lambda each: each.start_ns())))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_peaks_at_one_chunk_of_logits(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "LOGITS_BYTES", 1024 * FULL * TINY.vocabulary)
    before = torch.randn(4096, TINY.hidden, dtype=dtype, requires_grad=True)
    head, labels = torch.randn(TINY.vocabulary, TINY.hidden, dtype=dtype), torch.randint(0, TINY.vocabulary, (4096,))
    settings = ModelSettings(dtype=str(dtype).removeprefix("torch."))
    work = Workload(1, 4096, 4096, 4096, 0)
    planned = memory(Setup(TINY, settings, TrainSettings(batch_size=1), work, 1), 0)
    peak = peak_bytes(lambda: answer_loss(before * 2, head, labels).backward())
    assert peak == pytest.approx(planned.logits, rel=0.1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize(("top", "experts"), [(2, "none"), (8, "none"), (2, "all"), (8, "all")])
def test_the_peak_of_a_step_is_within_a_tenth(
    dtype: str, checkpointing: bool, packing: bool, top: int, experts: Any
) -> None:
    """Of the tiny model, and of one that routes each token to 8 experts as the 30B does."""
    config = json.loads((Path(tiny_model.BASE_MODEL) / "config.json").read_text())
    config["text_config"] |= {"num_experts_per_tok": top, "num_local_experts": 16}
    base = AnswerLossModel(Qwen3VLMoeConfig(**config)).to(getattr(torch, dtype))
    settings = tiny_model.MODEL.model_copy(update={"dtype": dtype, "experts": "grouped_mm", "attention": "sdpa"})
    base.set_attn_implementation("sdpa")
    batch = tiny_batch(3, words=60, packing=packing)
    length, answers = batch["input_ids"].numel() // 3, batch["labels"].numel() / 3
    train = TrainSettings(
        batch_size=3, activation_checkpointing=checkpointing, packing=packing, lora=LoraSettings(experts=experts)
    )
    planned = memory(
        Setup(ModelShape.from_config(config), settings, train, Workload(1, length, length, answers, 36), 1), 0
    )
    model = trainable(base, settings, train)

    def step() -> None:
        loss_of(model, batch, dtype).backward()

    peak = planned.gradients + planned.activations + max(planned.logits, planned.layer)
    assert peak_bytes(step) == pytest.approx(peak, rel=0.1)


# ------------------------------------------------------------------------------------------------- what must always be


@given(
    batch=st.integers(1, 64), longest=st.integers(480, 8192), rank=st.integers(1, 256), gpus=st.integers(1, 16),
    checkpointing=st.booleans(), attention=st.sampled_from(["sdpa", "eager", "flash_attention_2"]),
)  # fmt: skip
def test_more_of_anything_never_takes_less_memory(
    batch: int, longest: int, rank: int, gpus: int, checkpointing: bool, attention: str
) -> None:
    def totals(batch: int = batch, longest: int = longest, rank: int = rank) -> list[int]:
        train = TrainSettings(batch_size=batch, lora=LoraSettings(rank=rank), activation_checkpointing=checkpointing)
        work = replace(WORK, longest_tokens=longest)
        planned = Setup(LARGE, ModelSettings(attention=attention), train, work, gpus)
        return [memory(planned, zero).total for zero in ZEROS]

    here = totals()
    if gpus > 1:  # alone, DeepSpeed only has its copy of the adapter beside it
        assert here[0] >= here[1] >= here[2]
    for more in (totals(batch=batch + 1), totals(longest=longest + 64)):  # until the token budget is full
        assert all(before <= after for before, after in zip(here, more, strict=True))
    assert all(before < after for before, after in zip(here, totals(rank=rank + 1), strict=True))


def test_recomputing_takes_less_memory() -> None:
    assert memory(setup(), 0).total < memory(setup(activation_checkpointing=False), 0).total
