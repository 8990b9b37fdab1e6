from __future__ import annotations

from collections.abc import Sequence

import pytest

from medvl_jobs.contracts.records import Prediction, read_predictions
from medvl_jobs.eval.engines.base import Answer
from medvl_jobs.eval.predict import Outcome, Predictor, other_rows, questions
from medvl_jobs.settings.eval import EvalSettings, Variant
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.publish import Publication

SETTINGS = EvalSettings(batch_size=2, flush_every=4)
ROWS = [
    {"example_id": f"e{n}", "caption": f"caption {n}", "group": f"g{n % 4}", "width": 100 + n % 3, "height": 10}
    for n in range(11)
]


class Echo:
    """An engine that answers with what it was shown, and dies when it is told to."""

    load_seconds = preparation_seconds = 0.0

    def __init__(self, dies_after: int | None = None) -> None:
        self.asked = 0
        self.dies_after = dies_after

    def answer(self, images: Sequence[bytes]) -> list[Answer]:
        if self.dies_after is not None and self.asked >= self.dies_after:
            raise RuntimeError("the machine is gone")
        self.asked += len(images)
        return [Answer(f"I see {image.decode()}\n\u2028 — 左", 3, "stop") for image in images]


def predict(
    storage: Storage, engine: Echo, variant: Variant = Variant.BASE, settings: EvalSettings = SETTINGS
) -> Outcome:
    asked = questions(ROWS, settings, variant)
    predictor = Predictor(storage, "predictions/x", Publication(storage, "predictions/x"), settings)
    return predictor.run(asked, lambda row: f"image {row}".encode(), lambda: engine)


def parts(storage: Storage) -> dict[str, bytes]:
    return {key: storage.read_bytes(key) for key in storage.list_keys("predictions/x/") if key.endswith(".jsonl")}


def test_every_example_is_answered_once_about_its_own_image(storage: Storage) -> None:
    outcome = predict(storage, Echo())
    assert sorted(p.example_id for p in outcome.predictions) == sorted(row["example_id"] for row in ROWS)
    assert all(p.predict.startswith(f"I see image {p.example_id[1:]}\n") for p in outcome.predictions)
    assert all(p.label == f"caption {p.example_id[1:]}" and p.image_id == p.example_id for p in outcome.predictions)
    stored = [p for data in parts(storage).values() for p in read_predictions(data.decode())]
    assert stored == outcome.predictions


def test_a_killed_eval_keeps_its_parts_and_ends_with_the_same_bytes(storage: Storage) -> None:
    with pytest.raises(RuntimeError):
        predict(storage, Echo(dies_after=6))
    first = parts(storage)
    assert len(first) == 1
    again = Echo()
    predict(storage, again)
    assert again.asked == len(ROWS) - 4
    resumed = parts(storage)
    for key in resumed:
        storage.delete(key)
    predict(storage, Echo())
    assert parts(storage) == resumed


def test_parts_that_were_cut_otherwise_are_made_again(storage: Storage) -> None:
    predict(storage, Echo(), settings=EvalSettings(batch_size=2, flush_every=3))
    engine = Echo()
    assert len(predict(storage, engine).predictions) == len(ROWS)
    assert engine.asked > 0


def test_no_model_is_loaded_when_all_is_there(storage: Storage) -> None:
    predict(storage, Echo())
    outcome = predict(storage, Echo(dies_after=0))
    assert len(outcome.predictions) == len(ROWS)


def test_shuffled_shows_another_image_and_keeps_the_question(storage: Storage) -> None:
    outcome = predict(storage, Echo(), Variant.TUNED_SHUFFLED)
    assert all(p.image_id != p.example_id for p in outcome.predictions)
    assert sorted(p.image_id for p in outcome.predictions) == sorted(row["example_id"] for row in ROWS)
    assert all(p.predict.startswith(f"I see image {p.image_id[1:]}\n") for p in outcome.predictions)
    assert all(p.label == f"caption {p.example_id[1:]}" for p in outcome.predictions)


@pytest.mark.parametrize("sizes", [[1, 1], [3, 3], [5, 1, 4], [1] * 40, [14] * 10, [7, 2, 2, 2]])
def test_shuffled_images_come_from_another_group(sizes: list[int]) -> None:
    groups = [f"g{number}" for number, size in enumerate(sizes) for _ in range(size)]
    other = other_rows(groups, seed=1)
    assert sorted(other) == list(range(len(groups)))
    assert all(row != number for number, row in enumerate(other))
    if 2 * max(sizes) <= len(groups):
        assert all(groups[row] != groups[number] for number, row in enumerate(other))
    assert other == other_rows(groups, seed=1)


def test_shuffling_one_group_still_moves_everybody() -> None:
    assert all(row != number for number, row in enumerate(other_rows(["g"] * 5, seed=1)))


def test_limit_takes_the_first_examples() -> None:
    asked = questions(ROWS, EvalSettings(limit=3), Variant.BASE)
    assert sorted(question.example_id for question in asked) == ["e0", "e1", "e2"]


def test_a_prefix_of_the_answers_is_one_of_the_references() -> None:
    asked = questions(ROWS, EvalSettings(limit=2), Variant.BASE, "<think>\n\n</think>\n\n")
    assert {question.label for question in asked} == {f"<think>\n\n</think>\n\ncaption {n}" for n in range(2)}


def test_large_images_come_first() -> None:
    areas = [question.pixels for question in questions(ROWS, SETTINGS, Variant.BASE)]
    assert areas == sorted(areas, reverse=True)


def test_a_prediction_line_reads_back() -> None:
    prediction = Prediction("a", "b", "two\nlines \u2028 and “quotes”", "左", 3, "length")
    assert read_predictions(prediction.to_line() * 2) == [prediction, prediction]
