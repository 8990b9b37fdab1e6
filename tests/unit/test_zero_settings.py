"""DeepSpeed's configuration follows from the settings, and so does the stage."""

from __future__ import annotations

from importlib import resources
from typing import Any

import numpy as np
import pytest

from medvl_jobs.errors import SchemaMismatchError
from medvl_jobs.model.layouts import refuse_square_experts
from medvl_jobs.settings.model import ModelSettings
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.settings.train import TrainSettings
from medvl_jobs.train.batches import Lengths
from medvl_jobs.train.zero import LEAF, deepspeed_config, resolve_zero

LENGTHS = Lengths(np.array([90, 120]), np.array([30, 60]), np.array([36, 36]))
MODEL = ModelSettings(path=str(resources.files("medvl_jobs.samples") / "base-model"))


def config(**train: Any) -> dict[str, Any]:
    found = deepspeed_config(TrainSettings(**train), MODEL)
    assert found is not None
    return found


def test_zero_0_is_no_deepspeed() -> None:
    assert deepspeed_config(TrainSettings(zero=0), MODEL) is None


def test_settings_become_the_configuration() -> None:
    two, three = config(zero=2, max_grad_norm=0.5), config(zero=3)
    assert two["gradient_clipping"] == 0.5
    assert two["bf16"] == {"enabled": True}
    assert two["gradient_accumulation_steps"] == 1
    assert two["zero_optimization"]["stage"] == 2
    assert "leaf_module" not in two["zero_optimization"]
    assert three["zero_optimization"]["leaf_module"] == {"classes": [LEAF]}
    assert "optimizer" not in three  # DeepSpeed's own would be compiled
    found = deepspeed_config(TrainSettings(zero=3), MODEL.model_copy(update={"dtype": "float32"}))
    assert found is not None
    assert found["bf16"] == {"enabled": False}


@pytest.mark.parametrize(
    ("offload", "parts"),
    [("none", set()), ("optimizer", {"offload_optimizer"}), ("parameters", {"offload_optimizer", "offload_param"})],
)
def test_offload(offload: str, parts: set[str]) -> None:
    found = config(zero=3, offload=offload)["zero_optimization"]
    assert {name for name in found if name.startswith("offload")} == parts
    assert all(found[name]["device"] == "cpu" for name in parts)


def test_the_leaf_is_a_class_that_exists() -> None:
    from importlib import import_module

    module, _, name = LEAF.rpartition(".")
    assert hasattr(import_module(module), name)


@pytest.mark.parametrize(
    ("train", "world", "stage"),
    [
        ({}, 1, 0),
        ({}, 2, 0),
        ({"offload": "optimizer"}, 1, 2),
        ({"offload": "parameters"}, 2, 3),
        ({"zero": 3}, 1, 3),
        ({"zero": "2"}, 2, 2),
    ],
)
def test_auto_on_a_cpu_is_the_lowest_that_does_what_is_asked(train: dict[str, Any], world: int, stage: int) -> None:
    settings = RunSettings.model_construct(model=MODEL, train=TrainSettings(**train), plan=RunSettings().plan)
    assert resolve_zero(settings, LENGTHS, world) == stage


@pytest.mark.parametrize(("hidden", "width", "square"), [(128, 128, True), (128, 64, True), (2048, 768, False)])
def test_experts_whose_layout_cannot_be_told_are_refused(hidden: int, width: int, square: bool) -> None:
    values = {"text_config": {"hidden_size": hidden, "moe_intermediate_size": width}}
    if not square:
        refuse_square_experts(values, "here")
        return
    with pytest.raises(SchemaMismatchError, match="cannot be told"):
        refuse_square_experts(values, "here")
