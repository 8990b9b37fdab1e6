"""The operations that the log lines count are those of the model's matrix products, counted by torch."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_model
from torch.utils.flop_counter import FlopCounterMode

from medvl_jobs.model.checkpoint import load_model
from medvl_jobs.model.collate import training_batch
from medvl_jobs.settings.train import LoraSettings
from medvl_jobs.train.lora import add_lora
from medvl_jobs.train.loss import AnswerLossModel
from medvl_jobs.train.planner.shape import ModelShape
from medvl_jobs.train.planner.speed import example_flops


def test_flops_are_those_that_torch_counts() -> None:
    """Within 3 %: of the first layer no input needs a gradient, and biases are counted as if they were products."""
    renderer, lora = tiny_model.renderer(), LoraSettings(rank=4)
    # Eager, for torch counts nothing of CPUs' fused attention.
    base = load_model(tiny_model.MODEL.model_copy(update={"attention": "eager"}), kind=AnswerLossModel)
    model = add_lora(base, lora).train()
    shape = ModelShape.from_config(model.config.to_dict())
    for example in tiny_model.examples(renderer):
        batch = training_batch([example], renderer.tokenizer.pad_token_id)
        with FlopCounterMode(display=False) as counter:
            model(**batch).backward()
        tokens, images = len(example), int(example.mm_token_type_ids_L.sum())
        counts = (np.array([each]) for each in (tokens, len(batch["shift_labels"]), images))
        masked = shape.layers * 2 * tokens**2 * shape.query_width * 3  # eager attention computes what its mask hides
        (found,) = example_flops(shape, lora, *counts)
        assert found + masked == pytest.approx(counter.get_total_flops(), rel=0.03)
        assert found + masked > counter.get_total_flops()


def test_adapted_experts_count_for_the_tokens_that_they_get() -> None:
    shape = ModelShape.from_config(tiny_model.base_model().config.to_dict())
    one = np.array([1])
    plain, adapted = (
        float(example_flops(shape, LoraSettings(rank=4, experts=experts), one, one, one)[0])
        for experts in ("none", "all")
    )
    a_and_b = 2 * shape.hidden + 3 * shape.expert_width  # gate and up share an A
    assert adapted - plain == shape.layers * shape.experts_per_token * 4 * a_and_b * 2 * 3
