"""The shipped tiny base can see: measured on the demo's own blocks, which taught it nothing."""

from __future__ import annotations

from pathlib import Path

import tiny_model
import torch

from medvl_jobs.contracts.facts import Facts, Region
from medvl_jobs.samples import grounding
from medvl_jobs.samples.build import teaches_base

BARS = {"plane": 0.85, "body_part": 0.9, "region": 0.55, "position": 0.55, "area": 0.35, "finding": 0.85}
"""On these 128 views the commonest word would be right for 0.27, 0.45, 0.18, 0.41, 0.24 and 0.55."""


def test_base_model_is_grounded() -> None:
    taught, held_out = grounding.teaching_blocks()
    assert not {block.group for block in taught} & {block.group for block in held_out}
    assert not any(teaches_base(block) for block in held_out)
    measured = grounding.accuracy(tiny_model.base_model(), tiny_model.renderer(), held_out, count=128)
    assert {name: bar for name, bar in BARS.items() if measured[name] < bar} == {}, measured


def test_base_model_is_small() -> None:
    assert (Path(tiny_model.BASE_MODEL) / "model.safetensors").stat().st_size <= 8 * 2**20


def test_the_script_teaches() -> None:
    """A few steps of the script that made the shipped file: both phases change the model and leave it finite."""
    teacher = grounding.Teacher(seed=1)
    before = float(sum(p.detach().double().abs().sum() for p in teacher.model.parameters()))
    teacher.see(2)
    teacher.speak(2)
    assert float(sum(p.detach().double().abs().sum() for p in teacher.model.parameters())) != before
    assert set(teacher.measure(4)) == set(grounding.ATTRIBUTES)
    assert torch.isfinite(torch.stack([p.detach().sum() for p in teacher.model.parameters()])).all()


def test_the_two_voices() -> None:
    facts = Facts(
        "CT", "sagittal", "chest", ("left lung", "heart"), Region("left lung", "upper-left", 12.0), "no nodule"
    )
    assert grounding.short_words(facts) == (
        "lateral CT; chest; left lung, heart; largest left lung; top left; 10 percent; no nodule"
    )
    assert grounding.short_words(facts, plain=False).startswith("sagittal CT; chest; left lung, heart; largest")
    assert grounding.terse_words(facts) == "A lateral CT of the chest."
    right = grounding.attributes_right("lateral CT; brain; heart, left lung", grounding.short_words(facts))
    assert [name for name, correct in right.items() if correct] == ["plane", "structures"]
