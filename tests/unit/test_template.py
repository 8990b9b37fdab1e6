from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from medvl_jobs.eval import template
from medvl_jobs.eval.template import SAMPLE, TemplateEngine, medoid

CAPTIONS = [
    "An axial CT slice of the chest, with a nodule in the left lung.",
    "An axial CT slice of the chest, without a finding.",
    "An axial CT slice of the chest, with a nodule in the right lung.",
    "A coronal MR image of the brain.",
]


def test_the_medoid_is_most_like_the_others() -> None:
    assert medoid(CAPTIONS) == CAPTIONS[0]
    assert medoid(CAPTIONS[::-1]) == CAPTIONS[0]


def test_the_medoid_by_hand() -> None:
    """Dice: ab-abc 4/5, abc-bcd 4/6, ab-bcd 2/5."""
    assert medoid(["a b", "b c d", "a b c"]) == "a b c"


def test_chinese_captions_have_a_medoid_too() -> None:
    assert medoid(["胸部CT轴位图像", "胸部CT冠状位图像", "脑部核磁共振"]) in {"胸部CT轴位图像", "胸部CT冠状位图像"}


@pytest.mark.parametrize("captions", [["one"], ["", "..."], ["same"] * 5])
def test_any_captions_have_one(captions: list[str]) -> None:
    assert medoid(captions) in captions


def test_many_captions_are_sampled_and_always_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    captions = [" ".join(rng.choice(list("abcdefghij"), 4)) for _ in range(SAMPLE + 200)]
    assert medoid(captions) == medoid(captions)
    monkeypatch.setattr(template, "SAMPLE", 3)
    assert medoid(captions) in captions


def test_the_engine_says_it_of_every_image() -> None:
    engine = TemplateEngine("A caption.")
    answers = list(engine.answers([b"1", b"2"]))
    assert [(number, answer.text, answer.finish) for number, answer in answers] == [
        (0, "A caption.", "stop"),
        (1, "A caption.", "stop"),
    ]
    assert engine.steps == 2


def test_it_needs_no_torch() -> None:
    words = "import sys, medvl_jobs.eval.job; sys.exit('torch' in sys.modules or 'datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 0
