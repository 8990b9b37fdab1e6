"""The loss of a step: on labelled positions, in chunks, packed or padded, and however the step is split."""

from __future__ import annotations

import math
from itertools import accumulate
from pathlib import Path
from typing import Any

import datasets
import pytest
import tiny_model
import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy
from transformers import TrainingArguments
from transformers import modeling_flash_attention_utils as flash

from medvl_jobs.errors import DataError
from medvl_jobs.model.checkpoint import load_model
from medvl_jobs.model.collate import packed_batch, rope_positions, training_batch
from medvl_jobs.model.prompts import Encoded, PromptRenderer
from medvl_jobs.settings.train import LoraSettings, TrainSettings
from medvl_jobs.train import loss as loss_module
from medvl_jobs.train.batches import MicroBatch, Schedule
from medvl_jobs.train.data import MicroBatches, StepLoader, TrainingExamples
from medvl_jobs.train.lora import add_lora
from medvl_jobs.train.loss import AnswerLossModel, answer_loss
from medvl_jobs.train.ranks import Ranks
from medvl_jobs.train.trainer import AnswerTrainer

SIZES = ((192, 192), (256, 128), (96, 192), (320, 192), (192, 256), (192, 192), (128, 128))


@pytest.fixture(scope="module")
def renderer() -> PromptRenderer:
    return tiny_model.renderer()


@pytest.fixture(scope="module")
def examples(renderer: PromptRenderer) -> list[Encoded]:
    return tiny_model.examples(renderer)


def tuned(**lora: Any) -> PeftModel:
    """The tiny model with an adapter that does something."""
    torch.manual_seed(0)
    torch.set_num_threads(2)
    model = add_lora(load_model(tiny_model.MODEL, kind=AnswerLossModel), LoraSettings(rank=4, alpha=8, **lora))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model.train()


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_the_loss_in_chunks_is_cross_entropy(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(loss_module, "head_chunk", lambda vocabulary: chunk)
    torch.manual_seed(0)
    hidden, weight = torch.randn(17, 32, requires_grad=True), torch.randn(500, 32)
    labels = torch.randint(500, (17,))
    expected = cross_entropy(hidden @ weight.T, labels, reduction="sum")
    (expected * 3).backward()
    wanted, hidden.grad = hidden.grad, None
    got = answer_loss(hidden, weight, labels)
    (got * 3).backward()
    assert got.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(hidden.grad, wanted, rtol=1e-5, atol=1e-5)  # of gradients that are about 1


def test_half_precision_rounds_where_the_stock_loss_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The product in bfloat16, the loss of it in float32, as transformers computes it."""
    monkeypatch.setattr(loss_module, "head_chunk", lambda vocabulary: 5)
    torch.manual_seed(0)
    hidden = torch.randn(17, 32, dtype=torch.bfloat16, requires_grad=True)
    weight, labels = torch.randn(500, 32, dtype=torch.bfloat16), torch.randint(500, (17,))
    expected = cross_entropy((hidden @ weight.T).float(), labels, reduction="sum")
    expected.backward()
    wanted, hidden.grad = hidden.grad, None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = answer_loss(hidden, weight, labels)
    got.backward()
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(hidden.grad, wanted, rtol=0.02, atol=0.02)


def test_a_head_that_is_trained_is_refused() -> None:
    with pytest.raises(ValueError, match="head is trained"):
        answer_loss(torch.zeros(1, 2), torch.zeros(3, 2, requires_grad=True), torch.zeros(1, dtype=torch.long))


def test_it_is_the_stock_models_loss_over_all_logits(
    monkeypatch: pytest.MonkeyPatch, renderer: PromptRenderer, examples: list[Encoded]
) -> None:
    monkeypatch.setattr(loss_module, "head_chunk", lambda vocabulary: 8)
    batch = training_batch(examples, renderer.tokenizer.pad_token_id)
    ours = tuned()
    got = ours(**batch) / len(batch["labels"])
    got.backward()
    torch.manual_seed(0)
    stock = add_lora(load_model(tiny_model.MODEL), LoraSettings(rank=4, alpha=8)).train()
    stock.load_state_dict(ours.state_dict())
    labels = torch.nn.utils.rnn.pad_sequence([e.labels_L for e in examples], batch_first=True, padding_value=-100)
    plain = {name: value for name, value in batch.items() if name not in {"labels", "shift_labels", "logits_to_keep"}}
    full = stock(**plain, labels=labels, use_cache=False).loss
    full.backward()
    assert got.item() == pytest.approx(full.item(), rel=1e-6)
    torch.testing.assert_close(gradients(ours), gradients(stock), rtol=1e-4, atol=1e-6)


def test_positions_are_the_models_own(renderer: PromptRenderer) -> None:
    model = tiny_model.base_model().model
    for number, size in enumerate(SIZES):
        example = renderer.encode(tiny_model.picture(number, *size), tiny_model.CAPTIONS[number % 3])
        expected, _ = model.get_rope_index(
            example.input_ids_L[None], example.mm_token_type_ids_L[None], image_grid_thw=example.image_grid_thw
        )
        assert torch.equal(rope_positions(example, renderer.merge_size), expected[:, 0])


def test_packed_examples_do_not_see_each_other(renderer: PromptRenderer, examples: list[Encoded]) -> None:
    """The same loss and gradient as with each example in a row of its own, with the checkpoint's use_cache of true."""
    model = tuned()
    assert model.config.text_config.use_cache
    padded = model(**training_batch(examples, renderer.tokenizer.pad_token_id))
    padded.backward()
    wanted = gradients(model)
    model.zero_grad()
    packed = model(**packed_batch(examples, renderer.merge_size))
    packed.backward()
    assert packed.item() == pytest.approx(padded.item(), rel=1e-5)
    torch.testing.assert_close(gradients(model), wanted, rtol=1e-3, atol=1e-4)


def test_flash_attention_finds_where_packed_examples_begin(renderer: PromptRenderer, examples: list[Encoded]) -> None:
    """It needs a GPU; what transformers cuts a row into for it does not."""
    positions = packed_batch(examples, renderer.merge_size)["position_ids"][0]
    assert flash._is_packed_sequence(positions, batch_size=1)
    (starts, _), (longest, _) = flash.prepare_fa_kwargs_from_position_ids(positions)
    assert starts.tolist() == [0, *accumulate(len(each) for each in examples)]
    assert longest == max(len(each) for each in examples)
    alone = packed_batch(examples[:1], renderer.merge_size)["position_ids"][0]
    assert not flash._is_packed_sequence(alone, batch_size=1)


def test_a_packed_batch_that_would_leak_is_refused(renderer: PromptRenderer, examples: list[Encoded]) -> None:
    model, batch = tuned(), packed_batch(examples, renderer.merge_size)
    with pytest.raises(ValueError, match="text positions"):
        model(**batch | {"position_ids": batch["position_ids"][1:]})
    with pytest.raises(ValueError, match="attend to each other"):
        model(**batch | {"attention_mask": torch.ones_like(batch["input_ids"])})


def rows(count: int) -> datasets.Dataset:
    return datasets.Dataset.from_list(
        [
            {
                "example_id": f"example-{n}",
                "image": {"bytes": tiny_model.png(tiny_model.picture(n, *SIZES[n % len(SIZES)]))},
                "width": SIZES[n % len(SIZES)][0],
                "height": SIZES[n % len(SIZES)][1],
                "caption": " ".join(tiny_model.CAPTIONS[n % 3].split() * (1 + n % 2)),
            }
            for n in range(count)
        ]
    )


def trainer_of(renderer: PromptRenderer, folder: Path, bad: list[Any], **train: Any) -> AnswerTrainer:
    wanted = TrainSettings.model_validate({"batch_size": 6, "max_tokens": 200, "batch_tokens": 1200} | train)
    data = TrainingExamples(rows(12), renderer, 200)
    batches = MicroBatches(data, packing=wanted.packing, dtype=torch.float32)

    def note(step: int, micro_batches: list[MicroBatch], loss: float) -> None:
        bad.append((step, [data.ids(each) for each in micro_batches], loss))

    return AnswerTrainer(
        model=tuned(),
        args=TrainingArguments(
            output_dir=str(folder), use_cpu=True, num_train_epochs=1, learning_rate=1e-3, report_to=[],
            save_strategy="no", logging_strategy="no", disable_tqdm=True, remove_unused_columns=False,
        ),
        loader=StepLoader(batches, Schedule(data.lengths, wanted, 1), 0, workers=0),
        ranks=Ranks(),
        bad_steps=3,
        on_bad_step=note,
    )  # fmt: skip


def test_however_a_step_is_split_its_gradient_is_the_same(renderer: PromptRenderer, tmp_path: Path) -> None:
    """Micro-batches of other numbers, sizes and lengths. Across processes: test_zero.py."""

    def step(**train: Any) -> tuple[int, float, dict[str, torch.Tensor]]:
        trainer = trainer_of(renderer, tmp_path, [], **train)
        work = next(iter(trainer.loader))
        loss = trainer.training_step(trainer.model, work)
        return len(work), float(loss), gradients(trainer.model)

    passes, loss, gradient = step()
    assert passes == 1
    for train in (
        {"batch_tokens": 200},
        {"batch_tokens": 400},
        {"batch_tokens": None, "batch_size": 1, "gradient_accumulation": 6},
        {"batch_tokens": None, "batch_size": 2, "gradient_accumulation": 3},
        {"batch_tokens": 300, "packing": True},
    ):
        more, other, others = step(**train)
        assert more > 1
        assert other == pytest.approx(loss, rel=1e-5), train
        torch.testing.assert_close(others, gradient, rtol=1e-3, atol=1e-6, msg=str(train))


def test_the_mean_is_over_tokens_not_over_micro_batches(renderer: PromptRenderer, tmp_path: Path) -> None:
    trainer = trainer_of(renderer, tmp_path, [], batch_tokens=200)
    step = trainer.schedule[0]
    work = next(iter(trainer.loader))
    loss = float(trainer.training_step(trainer.model, work))
    with torch.no_grad():
        each = [float(trainer.model(**trainer.loader.batches[m])) for m in step.micro_batches[0]]
    assert loss == pytest.approx(sum(each) / step.totals.labels, rel=1e-5)
    counts = [int(trainer.schedule.lengths.labels[list(m)].sum()) for m in step.micro_batches[0]]
    mean_of_means = sum(one / count for one, count in zip(each, counts, strict=True)) / len(each)
    assert abs(loss - mean_of_means) > 1e-3


class Spoiled(torch.nn.Module):
    """An adapter whose loss, or whose gradient alone, is not finite at some calls."""

    def __init__(self, model: PeftModel, calls: set[int], what: str) -> None:
        super().__init__()
        self.calls, self.what, self.called = calls, what, 0
        self.forward_before = model.forward
        model.forward = self.spoil

    def spoil(self, **batch: Any) -> torch.Tensor:
        self.called += 1
        loss = self.forward_before(**batch)
        if self.called not in self.calls:
            return loss
        if self.what == "loss":
            return loss * math.nan
        loss.register_hook(lambda gradient: gradient * math.inf)
        return loss


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_without_a_finite_loss_is_left_out(renderer: PromptRenderer, tmp_path: Path, what: str) -> None:
    bad: list[Any] = []
    trainer = trainer_of(renderer, tmp_path, bad, epochs=2)
    Spoiled(trainer.model, {2, 4}, what)
    trainer.train()
    assert trainer.state.global_step == 4
    assert [step for step, _, _ in bad] == [2, 4]
    assert sorted(bad[0][1][0]) == sorted(trainer.loader.dataset.ids(trainer.schedule[1].micro_batches[0][0]))
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_after_too_many_such_steps_the_training_ends(renderer: PromptRenderer, tmp_path: Path) -> None:
    bad: list[Any] = []
    trainer = trainer_of(renderer, tmp_path, bad, epochs=4)
    Spoiled(trainer.model, {2, 4, 5, 6}, "loss")
    with pytest.raises(DataError, match="in 3 steps in a row"):
        trainer.train()
    assert [step for step, _, _ in bad] == [2, 4, 5, 6]
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
