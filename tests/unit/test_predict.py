from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from medvl_jobs.contracts.records import Prediction, read_predictions
from medvl_jobs.errors import DataError, SettingsError
from medvl_jobs.eval import job
from medvl_jobs.eval import predict as module
from medvl_jobs.eval.engines.base import Answer
from medvl_jobs.eval.predict import Outcome, Predictor
from medvl_jobs.eval.questions import BLANK, GREY, asked_question, grey_picture, other_rows, questions
from medvl_jobs.settings.eval import EvalSettings, Variant
from medvl_jobs.settings.keys import stage_keys
from medvl_jobs.settings.model import PromptSettings
from medvl_jobs.settings.run import load_settings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.local import LocalStorage
from medvl_jobs.storage.publish import Publication

SETTINGS = EvalSettings(flush_every=4)
ROWS = [
    {"example_id": f"e{n}", "caption": f"caption {n}", "group": f"g{n % 4}", "width": 100 + n % 3, "height": 10}
    for n in range(11)
]


class Echo:
    """An engine that answers with what it was shown, the last of three first, and dies or fails when it is told to."""

    load_seconds = preparation_seconds = 0.0

    def __init__(self, dies_after: int | None = None, refuses: Callable[[str], bool] = lambda image: False) -> None:
        self.steps = self.closed = 0
        self.dies_after, self.refuses = dies_after, refuses

    def answers(self, images: Iterable[bytes]) -> Iterator[tuple[int, Answer]]:
        under_way: list[tuple[int, bytes]] = []
        for number, image in enumerate(images):
            under_way.append((number, image))
            if len(under_way) == 3:
                yield self.answer(*under_way.pop())
        for number, image in reversed(under_way):
            yield self.answer(number, image)

    def answer(self, number: int, image: bytes) -> tuple[int, Answer]:
        if self.dies_after is not None and self.steps >= self.dies_after:
            raise RuntimeError("the machine is gone")
        self.steps += 1
        if self.refuses(image.decode()):
            return number, Answer("half an answ", 3, "failed", "it is no image")
        return number, Answer(f"I see {image.decode()}\n\u2028 — 左", 3, "stop")

    def close(self) -> None:
        self.closed += 1


def predict(
    storage: Storage,
    engine: Echo,
    variant: Variant = Variant.BASE,
    settings: EvalSettings = SETTINGS,
    shard: int | None = None,
) -> Outcome | None:
    asked = questions(ROWS, settings, variant)
    predictor = Predictor(storage, "predictions/x", Publication(storage, "predictions/x"), settings, shard)
    return predictor.run(asked, lambda question: f"image {question.image_row}".encode(), lambda: engine)


def predicted(
    storage: Storage, engine: Echo, variant: Variant = Variant.BASE, settings: EvalSettings = SETTINGS
) -> list[Prediction]:
    outcome = predict(storage, engine, variant, settings)
    assert outcome is not None
    return outcome.predictions


def parts(storage: Storage) -> dict[str, bytes]:
    return {key: storage.read_bytes(key) for key in storage.list_keys("predictions/x/") if key.endswith(".jsonl")}


def test_every_example_is_answered_once_about_its_own_image(storage: Storage) -> None:
    engine = Echo()
    predictions = predicted(storage, engine)
    assert engine.closed == 1
    assert sorted(p.example_id for p in predictions) == sorted(str(row["example_id"]) for row in ROWS)
    assert all(p.predict.startswith(f"I see image {p.example_id[1:]}\n") for p in predictions)
    assert all(p.label == f"caption {p.example_id[1:]}" and p.image_id == p.example_id for p in predictions)
    assert [p for data in parts(storage).values() for p in read_predictions(data.decode())] == predictions


def test_a_killed_eval_keeps_its_parts_and_ends_with_the_same_bytes(storage: Storage) -> None:
    dying = Echo(dies_after=6)
    with pytest.raises(RuntimeError):
        predict(storage, dying)
    assert dying.closed == 1
    first = parts(storage)
    assert len(first) == 1
    again = Echo()
    outcome = predict(storage, again)
    assert again.steps == len(ROWS) - 4
    assert outcome is not None
    assert outcome.steps == 6 + len(ROWS) - 4  # two of the dead one's were in vain, and have cost time too
    assert outcome.seconds == outcome.pod_seconds > outcome.own_seconds
    resumed = parts(storage)
    for key in resumed:
        storage.delete(key)
    predict(storage, Echo())
    assert parts(storage) == resumed


def torn(data: bytes) -> bytes:
    return data[:-20]


def repeated(data: bytes) -> bytes:
    first = data.splitlines(keepends=True)[0]
    return first + b"".join(data.splitlines(keepends=True)[:-1])


def renamed(data: bytes) -> bytes:
    return data.replace(b'"e', b'"other', 1)


def without_a_field(data: bytes) -> bytes:
    return data.replace(b'"new_tokens"', b'"old_tokens"', 1)


def no_text(data: bytes) -> bytes:
    lines = [json.loads(line) for line in data.split(b"\n") if line]
    return b"".join(json.dumps({**line, "predict": None}).encode() + b"\n" for line in lines)


@pytest.mark.parametrize(
    "spoil",
    [torn, repeated, renamed, without_a_field, no_text, lambda data: b"", lambda data: b"\xff" + data],
)
def test_a_part_that_is_not_whole_is_made_anew(
    storage: Storage, caplog: pytest.LogCaptureFixture, spoil: Callable[[bytes], bytes]
) -> None:
    predict(storage, Echo())
    whole = parts(storage)
    second = sorted(whole)[1]
    storage.write_bytes(second, spoil(whole[second]))
    engine = Echo()
    predict(storage, engine)
    assert engine.steps == 4
    assert parts(storage) == whole
    assert [record.getMessage() for record in caplog.records if "is made anew: " in record.getMessage()]


def test_parts_that_were_cut_otherwise_are_made_again(storage: Storage) -> None:
    predict(storage, Echo(), settings=EvalSettings(flush_every=3))
    engine = Echo()
    assert len(predicted(storage, engine)) == len(ROWS)
    assert engine.steps > 0


def test_no_model_is_loaded_when_all_is_there(storage: Storage) -> None:
    predict(storage, Echo())
    untouched = Echo(dies_after=0)
    assert len(predicted(storage, untouched)) == len(ROWS)
    assert untouched.closed == 0


@pytest.mark.parametrize("shards", [2, 3, 5])
def test_pods_share_the_parts_and_the_last_has_them_all(storage: Storage, shards: int) -> None:
    predict(storage, Echo())
    alone = parts(storage)
    for key in storage.list_keys("predictions/x/"):
        storage.delete(key)
    settings = EvalSettings(flush_every=4, shards=shards)
    engines = [Echo() for _ in range(shards)]
    order = [*range(1, shards), 0]
    outcomes = [predict(storage, engines[shard], settings=settings, shard=shard) for shard in order]
    assert outcomes[:-1] == [None] * (shards - 1)
    assert outcomes[-1] is not None
    assert len(outcomes[-1].predictions) == len(ROWS) == sum(engine.steps for engine in engines)
    assert engines[0].steps < len(ROWS)
    assert parts(storage) == alone


def test_a_pod_that_dies_resumes_alone(storage: Storage) -> None:
    settings = EvalSettings(flush_every=2, shards=2)
    with pytest.raises(RuntimeError):
        predict(storage, Echo(dies_after=5), settings=settings, shard=0)
    assert predict(storage, Echo(), settings=settings, shard=1) is None
    again = Echo()
    outcome = predict(storage, again, settings=settings, shard=0)
    assert outcome is not None
    assert again.steps == 2  # of its six, four were stored
    assert len(outcome.predictions) == len(ROWS)


def test_the_last_pod_makes_anew_what_another_left_broken(storage: Storage) -> None:
    settings = EvalSettings(flush_every=2, shards=2)
    predict(storage, Echo(), settings=settings, shard=1)
    whole = parts(storage)
    key = min(whole)
    storage.write_bytes(key, torn(whole[key]))
    outcome = predict(storage, Echo(), settings=settings, shard=0)
    assert outcome is not None
    assert parts(storage)[key] == whole[key]


def test_a_part_that_another_has_made_meanwhile_stays_as_it_is(storage: Storage) -> None:
    """In bfloat16 the two may differ, and a manifest may already name the first."""
    predict(storage, Echo())
    first = {key: data.replace(b"I see", b"We see") for key, data in parts(storage).items()}
    efforts = {key: storage.read_bytes(key) for key in storage.list_keys("predictions/x/") if "effort" in key}
    for key in [*first, *efforts]:
        storage.delete(key)

    class Late(Echo):
        def answers(self, images: Iterable[bytes]) -> Iterator[tuple[int, Answer]]:
            for key, data in {**first, **efforts}.items():
                storage.write_bytes(key, data)
            yield from super().answers(images)

    predictions = predicted(storage, Late())
    assert parts(storage) == first
    assert all(p.predict.startswith("We see") for p in predictions)


def test_a_failed_answer_is_counted_and_not_dropped(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    predictions = predicted(storage, Echo(refuses=lambda image: image == "image 7"))
    by_id = {p.example_id: p for p in predictions}
    assert len(by_id) == len(ROWS)
    assert by_id["e7"] == Prediction("e7", "e7", "", "caption 7", 0, "failed")
    assert sum(p.finish == "failed" for p in predictions) == 1
    assert "e7 is counted as failed: it is no image" in caplog.text


def test_nothing_but_failures_is_an_error_and_not_a_result(storage: Storage) -> None:
    for settings in (SETTINGS, EvalSettings(flush_every=1)):
        with pytest.raises(DataError, match=r"none of the first 11 examples could be answered.*it is no image"):
            predict(storage, Echo(refuses=lambda image: True), settings=settings)
        assert not parts(storage)  # they would not be tried again


def test_twenty_failures_in_a_row_are_enough(storage: Storage) -> None:
    rows = [{**ROWS[0], "example_id": f"e{n:03d}"} for n in range(100)]
    predictor = Predictor(storage, "predictions/x", Publication(storage, "predictions/x"), SETTINGS)
    engine = Echo(refuses=lambda image: True)
    with pytest.raises(DataError, match="none of the first 20 examples"):
        predictor.run(questions(rows, SETTINGS, Variant.BASE), lambda question: b"", lambda: engine)
    assert engine.steps == 20


def interrupted(storage: Storage, monkeypatch: pytest.MonkeyPatch, hopeless: int) -> set[str]:
    """Its first parts are there; the images of what is missing."""
    monkeypatch.setattr(module, "HOPELESS", hopeless)
    with pytest.raises(RuntimeError):
        predict(storage, Echo(dies_after=9))
    done = {p.example_id for data in parts(storage).values() for p in read_predictions(data.decode())}
    return {f"image {n}" for n in range(len(ROWS)) if f"e{n}" not in done}


@pytest.mark.parametrize("hopeless", [2, 20])
def test_failures_are_taken_where_others_can_still_be_answered(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, hopeless: int
) -> None:
    missing = interrupted(storage, monkeypatch, hopeless)
    predictions = predicted(storage, Echo(refuses=lambda image: image in missing))
    assert sum(p.finish == "failed" for p in predictions) == len(missing) > 2
    assert len(predictions) == len(ROWS)


@pytest.mark.parametrize("hopeless", [2, 20])
def test_an_engine_that_has_gone_bad_meanwhile_fails_no_examples(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, hopeless: int
) -> None:
    interrupted(storage, monkeypatch, hopeless)
    whole = parts(storage)
    with pytest.raises(DataError, match="could be answered"):
        predict(storage, Echo(refuses=lambda image: True))
    assert parts(storage) == whole


def test_shuffled_shows_another_image_and_keeps_the_question(storage: Storage) -> None:
    predictions = predicted(storage, Echo(), Variant.TUNED_SHUFFLED)
    assert all(p.image_id != p.example_id for p in predictions)
    assert sorted(p.image_id for p in predictions) == sorted(str(row["example_id"]) for row in ROWS)
    assert all(p.predict.startswith(f"I see image {p.image_id[1:]}\n") for p in predictions)
    assert all(p.label == f"caption {p.example_id[1:]}" for p in predictions)


def test_blank_shows_a_grey_picture_of_the_same_size() -> None:
    asked = questions(ROWS, SETTINGS, Variant.TUNED_BLANK)
    own = questions(ROWS, SETTINGS, Variant.TUNED)
    assert [(q.example_id, q.label, q.width, q.height) for q in asked] == [
        (q.example_id, q.label, q.width, q.height) for q in own
    ]
    assert {(q.image_id, q.image_row) for q in asked} == {(BLANK, None)}
    with Image.open(io.BytesIO(grey_picture(123, 45))) as picture:
        assert picture.size == (123, 45)
        assert picture.getextrema() == (GREY, GREY)


def test_what_each_variant_is_asked() -> None:
    prompt = PromptSettings(question="What is it?")
    asked = {variant: asked_question(prompt, SETTINGS, variant) for variant in Variant}
    assert asked.pop(Variant.TEMPLATE) is None
    assert asked.pop(Variant.BASE_FORMATTED) == SETTINGS.format_question
    assert set(asked.values()) == {"What is it?"}


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


def test_a_variant_that_the_run_does_not_have_is_refused(tmp_path: Path) -> None:
    pinned = ("prep.source_fingerprint=a", "model.fingerprint=b", "eval.controls=[tuned-shuffled]")
    settings = load_settings(None, pinned)
    with pytest.raises(SettingsError, match=r"template is not among .* base, tuned, tuned-shuffled"):
        job.run(settings, LocalStorage(tmp_path), stage_keys(settings), Variant.TEMPLATE)
