"""What the engine in this process answers, and that neither its batches nor the order of images matter to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import tiny_model
import torch
from peft import LoraConfig, get_peft_model

from medvl_jobs.contracts import layout
from medvl_jobs.errors import SettingsError
from medvl_jobs.eval.engines import cache
from medvl_jobs.eval.engines.base import Answer
from medvl_jobs.eval.engines.decoding import CHUNK, RollingBatch, likeliest
from medvl_jobs.eval.engines.in_process import AHEAD, InProcessEngine
from medvl_jobs.eval.questions import grey_picture
from medvl_jobs.model.collate import prompt_batch
from medvl_jobs.model.prompts import Encoded, decode_image
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
    assert answers(engine(used, batch_tokens=900, batch_size=3), images) == alone


def test_the_adapter_and_the_question_are_heard(adapter: Path, images: list[bytes]) -> None:
    base, tuned = answers(engine(), images), answers(engine(adapter), images)
    assert base != tuned
    assert answers(engine(question="Answer in one word: CT or MR?"), images) != base


def test_a_batch_keeps_to_the_budget_of_tokens(images: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    join = RollingBatch.join

    def watched(batch: RollingBatch, numbers: Sequence[int], examples: Sequence[Encoded]) -> None:
        join(batch, numbers, examples)
        seen.append((len(batch), len(batch) * batch.width()))

    monkeypatch.setattr(RollingBatch, "join", watched)
    made = engine(batch_tokens=900, batch_size=3)
    answers(made, images)
    assert max(tokens for _, tokens in seen) <= 900
    assert max(size for size, _ in seen) == 3
    assert len(seen) == made.steps < len(images)


@pytest.mark.parametrize("room", [2, cache.ROOM])
def test_answers_join_while_others_are_written(images: list[bytes], room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others have nothing of it: neither of the wider cache nor of another place in the batch."""
    monkeypatch.setattr(cache, "ROOM", room)
    made = engine()
    alone = answers(engine(batch_size=1), images)
    encoded = [made.renderer.encode(decode_image(image)) for image in images]
    batch = RollingBatch(
        made.model,
        pad_token_id=made.renderer.tokenizer.pad_token_id,
        end_token_ids=made.end_token_ids,
        merge_size=made.renderer.merge_size,
        limit=NEW_TOKENS,
    )
    finished = []
    for number in (5, 4, 0, 7, 2, 1, 6, 3):  # short before long and long before short
        batch.join([number], [encoded[number]])
        for _ in range(3):
            finished += batch.step()
    assert len(batch) > 1
    while batch:
        finished += batch.step()
    assert sorted(written.number for written in finished) == list(range(len(images)))
    assert [made._read(written) for written in sorted(finished, key=lambda w: w.number)] == alone


def test_it_writes_what_transformers_writes(adapter: Path, images: list[bytes]) -> None:
    made = engine(adapter)
    for image, answer in zip(images, answers(made, images), strict=True):
        batch = prompt_batch([made.renderer.encode(decode_image(image))], made.renderer.tokenizer.pad_token_id)
        ids = made.model.generate(
            **batch, max_new_tokens=NEW_TOKENS, do_sample=False, temperature=None, top_p=None, top_k=None
        )[0, batch["input_ids"].shape[1] :]
        assert made.renderer.decode(ids) == answer.text


def test_the_likeliest_word_is_found_in_pieces() -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 2 * CHUNK + 100, bias=False)
    hidden = torch.randn(5, 16)
    with torch.inference_mode():
        assert torch.equal(likeliest(head, hidden), head(hidden).argmax(-1))
        head.weight.zero_()
        assert not likeliest(head, hidden).any(), "the first of equals"


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


def test_too_little_memory_is_told_in_our_words(images: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*words: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(RollingBatch, "join", full)
    with pytest.raises(SettingsError, match="ran out with 2 examples at a time: CUDA"):
        answers(engine(batch_size=2), images)


def test_images_are_read_as_they_are_needed(images: list[bytes]) -> None:
    taken: list[int] = []

    def watched() -> Iterator[bytes]:
        for number, image in enumerate(10 * images):
            taken.append(number)
            yield image

    next(engine(batch_size=2).answers(watched()))
    assert len(taken) <= 2 + 1 + AHEAD
