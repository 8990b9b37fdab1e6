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
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel, Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

from medvl_jobs.errors import SchemaMismatchError
from medvl_jobs.model.checkpoint import load_model
from medvl_jobs.model.collate import Batch, training_batch
from medvl_jobs.settings.model import ModelSettings
from medvl_jobs.settings.train import LoraSettings, TrainSettings
from medvl_jobs.train.lora import add_lora, trainable_parameters
from medvl_jobs.train.planner.memory import LOGIT_COPIES, memory, saved_activations
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


@pytest.mark.parametrize(("rank", "trained"), [(8, 6_684_672), (16, 13_369_344)])
def test_the_30bs_adapter_is_as_large_as_planned(rank: int, trained: int) -> None:
    lora = LoraSettings(rank=rank)
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
        return model(**batch).loss


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


def tiny_batch(examples: int, words: int = 20) -> Batch:
    """Examples of one image size and of answers that differ by a few words, so that there is padding."""
    renderer = tiny_model.renderer()
    answers = ("A nodule. " * (words - 4 * number) for number in range(examples))
    return training_batch([renderer.encode(tiny_model.picture(1), answer) for answer in answers], pad_token_id=0)


def trainable(base: PreTrainedModel, settings: ModelSettings, train: TrainSettings) -> PeftModel:
    """As the train stage sets it up."""
    base.set_experts_implementation(settings.experts)
    model = add_lora(base, train.lora).train()
    if train.activation_checkpointing:
        base.config.text_config.use_cache = False
        base.activation_checkpointing_enable({"use_reentrant": False})
    return model


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("experts", ["grouped_mm", "eager"])
@pytest.mark.parametrize(
    ("examples", "attention", "train"),
    [
        (3, "sdpa", {"activation_checkpointing": True}),
        (3, "sdpa", {"activation_checkpointing": False}),
        (1, "sdpa", {"activation_checkpointing": False}),
        (3, "eager", {"activation_checkpointing": False}),
        (3, "sdpa", {"activation_checkpointing": False, "lora": {"rank": 32, "dropout": 0.1}}),
        (3, "sdpa", {"activation_checkpointing": False, "lora": {"rank": 16, "modules": ("q_proj", "v_proj")}}),
    ],
    ids=["checkpointing", "all saved", "no padding", "eager attention", "dropout", "q and v"],
)  # fmt: skip
def test_saved_activations_are_within_a_tenth(
    dtype: str, experts: str, examples: int, attention: str, train: dict[str, Any]
) -> None:
    settings = tiny_model.MODEL.model_copy(update={"dtype": dtype, "experts": experts, "attention": attention})
    batch = tiny_batch(examples)
    tokens, length = batch["input_ids"].numel(), batch["input_ids"].shape[1]
    work = Workload(1, length, length, 1, 36)
    planned = Setup(TINY, settings, TrainSettings(batch_size=examples, **train), work, 1)
    _loss, saved = saved_bytes(trainable(load_model(settings), settings, planned.train), batch, dtype)
    log_softmax = batch["labels"].numel() * TINY.vocabulary * FULL
    expected = saved_activations(planned, tokens)
    if planned.train.lora.dropout:  # on a CPU its mask is a float32, on a GPU a bool
        expected += tokens * TINY.layers * (FULL - 1) * 4 * TINY.hidden
    assert saved - log_softmax == pytest.approx(expected, rel=0.1)


def test_weights_adapter_gradients_and_optimiser_are_exact() -> None:
    model = add_lora(tiny_model.base_model(), LoraSettings(rank=16)).train()
    trained = [each for each in model.parameters() if each.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-3)
    model(**tiny_batch(2)).loss.backward()
    optimiser.step()
    planned = memory(Setup(TINY, tiny_model.MODEL, TrainSettings(lora=LoraSettings(rank=16)), WORK, 1), 0)
    assert planned.weights == sum(each.nbytes for each in model.parameters() if not each.requires_grad)
    assert planned.lora == sum(each.nbytes for each in trained)
    assert planned.gradients == sum(each.grad.nbytes for each in trained if each.grad is not None)
    moments = [value for state in optimiser.state.values() for value in state.values() if value.dim() > 0]
    assert planned.optimiser == sum(each.nbytes for each in moments)
    assert planned.gathered == 0


# --------------------------------------------------------------------------------------------------- the whole step


def peak_bytes(work: Callable[[], object]) -> int:
    """The most that torch's CPU allocator has given out at a time while ``work`` ran."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = [each for each in profiled.profiler.kineto_results.events() if each.name() == "[memory]"]
    return max(accumulate(each.nbytes() for each in sorted(events, key=lambda each: each.start_ns())))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_peaks_at_three_copies_of_its_logits(dtype: torch.dtype) -> None:
    logits = torch.randn(200, 1024, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, 1024, (200,))
    peak = peak_bytes(lambda: cross_entropy(logits.float(), labels).backward())
    assert peak == pytest.approx(LOGIT_COPIES * FULL * logits.numel(), rel=0.01)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("top", [2, 8])
def test_the_peak_of_a_step_is_within_a_tenth(dtype: str, checkpointing: bool, top: int) -> None:
    """Of the tiny model, and of one that routes each token to 8 experts as the 30B does."""
    config = json.loads((Path(tiny_model.BASE_MODEL) / "config.json").read_text())
    config["text_config"] |= {"num_experts_per_tok": top, "num_local_experts": 16}
    base = Qwen3VLMoeForConditionalGeneration(Qwen3VLMoeConfig(**config)).to(getattr(torch, dtype))
    settings = tiny_model.MODEL.model_copy(update={"dtype": dtype, "experts": "grouped_mm"})
    batch = tiny_batch(3, words=60)
    length, answers = batch["input_ids"].shape[1], batch["labels"].numel() / 3
    train = TrainSettings(batch_size=3, activation_checkpointing=checkpointing)
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
    assert here[0] >= here[1] >= here[2]
    for more in (totals(batch=batch + 1), totals(longest=longest + 64), totals(rank=rank + 1)):
        assert all(before < after for before, after in zip(here, more, strict=True))


def test_recomputing_takes_less_memory() -> None:
    assert memory(setup(), 0).total < memory(setup(activation_checkpointing=False), 0).total
