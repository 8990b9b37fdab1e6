"""What the engine in this process answers, and that neither its batches nor the order of images matter to it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_model
import torch
from peft import LoraConfig, get_peft_model

from medvl_jobs.contracts import layout
from medvl_jobs.errors import SettingsError
from medvl_jobs.eval.engines.base import Answer
from medvl_jobs.eval.engines.in_process import InProcessEngine
from medvl_jobs.eval.questions import grey_picture
from medvl_jobs.model.prompts import Encoded
from medvl_jobs.settings.eval import EvalSettings
from medvl_jobs.settings.run import RunSettings

NEW_TOKENS = 24
SIZES = ((192, 192), (512, 128), (96, 300), (256, 256), (640, 384), (64, 64), (320, 192), (192, 256))
QUESTION = RunSettings().prompt.question


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that says something of its own: random, with the file that names its base left out."""
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(tiny_model.base_model(), config).save_pretrained(folder)
    assert (folder / layout.ADAPTER_WEIGHTS).is_file()
    return folder


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    return [tiny_model.png(tiny_model.picture(seed, *size)) for seed, size in enumerate(SIZES)]


def engine(adapter: Path | None = None, question: str = QUESTION, **settings: int | None) -> InProcessEngine:
    # Up to 768 x 768: images of other sizes are prompts of other lengths.
    model = tiny_model.MODEL.model_copy(update={"min_pixels": 64 * 64, "max_pixels": 768 * 768})
    chosen = EvalSettings(max_new_tokens=NEW_TOKENS, **settings)
    return InProcessEngine(RunSettings(model=model, eval=chosen), adapter, question)


def answers(of: InProcessEngine, images: list[bytes]) -> list[Answer]:
    found = dict(of.answers(images))
    assert sorted(found) == list(range(len(images)))
    return [found[number] for number in range(len(images))]


@pytest.mark.parametrize("tuned", [False, True])
def test_answers_do_not_depend_on_the_batch(adapter: Path, images: list[bytes], tuned: bool) -> None:
    used = adapter if tuned else None
    alone = answers(engine(used, batch_size=1), images)
    assert len({answer.text for answer in alone}) > 1
    together = engine(used, batch_size=len(images), batch_tokens=None)
    assert answers(together, images) == alone
    assert together.steps == 1
    assert answers(together, images[::-1]) == alone[::-1]
    assert answers(engine(used, batch_tokens=900), images) == alone


def test_the_adapter_and_the_question_are_heard(adapter: Path, images: list[bytes]) -> None:
    base, tuned = answers(engine(), images), answers(engine(adapter), images)
    assert base != tuned
    assert answers(engine(question="Answer in one word: CT or MR?"), images) != base


def test_a_batch_keeps_to_the_budget_of_tokens(images: list[bytes]) -> None:
    made = engine(batch_tokens=900)
    seen: list[int] = []
    generate = made._generate

    def watched(examples: list[Encoded]) -> list[Answer]:
        seen.append(len(examples) * (max(map(len, examples)) + NEW_TOKENS))
        return generate(examples)

    made._generate = watched  # type: ignore[method-assign]
    answers(made, images)
    assert max(seen) <= 900
    assert len(seen) == made.steps
    assert math.ceil(sum(seen) / 900) <= len(seen) < len(images)


def test_one_longer_than_the_budget_goes_alone(images: list[bytes]) -> None:
    made = engine(batch_tokens=1)
    assert len(answers(made, images[:3])) == 3
    assert made.steps == 3


@pytest.mark.parametrize(
    "broken", [b"", b"no image", tiny_model.png(tiny_model.picture(0))[:200], grey_picture(4000, 8)]
)
def test_an_image_that_cannot_be_read_fails_alone(images: list[bytes], broken: bytes) -> None:
    found = answers(engine(), [images[0], broken, images[1]])
    assert [answer.finish == "failed" for answer in found] == [False, True, False]
    assert found[1].text == ""
    assert found[1].why.startswith("the image cannot be read: ")
    assert [found[0], found[2]] == answers(engine(), images[:2])


class Small(InProcessEngine):
    """On a GPU whose memory holds two examples, or none."""

    holds = 2

    def _generate(self, examples: list[Encoded]) -> list[Answer]:
        if len(examples) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super()._generate(examples)


def test_too_little_memory_halves_the_batch(images: list[bytes]) -> None:
    settings = RunSettings(model=tiny_model.MODEL, eval=EvalSettings(max_new_tokens=4))
    made = Small(settings, None, QUESTION)
    assert answers(made, images[:5]) == answers(InProcessEngine(settings, None, QUESTION), images[:5])
    made.holds = 0
    with pytest.raises(SettingsError, match="does not hold one example"):
        answers(made, images[:1])


def test_images_are_read_as_they_are_needed(images: list[bytes]) -> None:
    taken: list[int] = []

    def watched() -> Iterator[bytes]:
        for number, image in enumerate(images):
            taken.append(number)
            yield image

    next(engine(batch_size=2).answers(watched()))
    assert len(taken) <= 5  # this batch, the next one, and the image that did not fit
