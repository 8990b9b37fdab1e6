"""Predictions in parts that a killed eval need not make again.

The examples are put in one order, by length, and cut into parts; a part is stored as soon as it is whole. So a part's
content depends on nothing but the settings, and a resumed eval ends with the same bytes as one that was never stopped.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.records import Prediction, read_predictions
from medvl_jobs.eval.engines.base import Engine
from medvl_jobs.settings.eval import EvalSettings, Variant
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.publish import Publication

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """An example to answer: whose caption is the reference, and whose image is shown."""

    example_id: str
    label: str
    """The caption, behind ``prompt.answer_prefix``."""
    image_id: str
    image_row: int
    """Row of the shown image in the validation split."""
    pixels: int
    """Area of the shown image, for sorting."""


def questions(
    rows: Sequence[dict[str, object]], settings: EvalSettings, variant: Variant, answer_prefix: str = ""
) -> list[Question]:
    """The examples of a variant, largest image first, so that a batch holds like lengths and memory peaks at the start.

    ``rows`` need ``example_id``, ``caption``, ``group``, ``width`` and ``height``.
    """
    rows = rows[: settings.limit]
    shown: Sequence[int] = range(len(rows))
    if variant is Variant.TUNED_SHUFFLED:
        shown = other_rows([str(row["group"]) for row in rows], settings.shuffle_seed)
    made = [
        Question(
            example_id=str(row["example_id"]),
            label=f"{answer_prefix}{row['caption']}",
            image_id=str(rows[image_row]["example_id"]),
            image_row=image_row,
            pixels=int(str(rows[image_row]["width"])) * int(str(rows[image_row]["height"])),
        )
        for row, image_row in zip(rows, shown, strict=True)
    ]
    return sorted(made, key=lambda q: (-q.pixels, q.example_id))


def other_rows(groups: Sequence[str], seed: int) -> list[int]:
    """For every row a row of another group, each used once; nobody meets itself if there are two rows at all.

    A neighbouring slice of the same volume would be nearly the right image. So rows are lined up group by group, in
    random order, and the line is shifted by the size of the largest group. Where one group holds more than half of all
    rows, some of its rows can only get each other's images.
    """
    rng = np.random.default_rng(seed)
    rank = {group: place for place, group in enumerate(rng.permutation(sorted(set(groups))))}
    line = sorted(rng.permutation(len(groups)), key=lambda row: rank[groups[row]])
    largest = max(Counter(groups).values())
    other = np.empty(len(groups), int)
    other[line] = np.roll(line, -(largest if largest < len(groups) else 1))
    return [int(row) for row in other]


@dataclass(frozen=True)
class Outcome:
    """All predictions of a variant, and the seconds that making them took over all attempts."""

    predictions: list[Prediction]
    seconds: float
    steps: int
    """Batches generated over all attempts."""
    load_seconds: float
    """Reading the weights, in this attempt; 0 when every part was there."""
    preparation_seconds: float
    """Attaching the adapter, likewise."""


class Predictor:
    """Makes the parts that are not there yet."""

    def __init__(self, storage: Storage, prefix: str, publication: Publication, settings: EvalSettings) -> None:
        """``prefix`` is the variant's own in the store."""
        self.storage, self.prefix, self.publication, self.settings = storage, prefix, publication, settings

    def run(self, asked: Sequence[Question], image: Callable[[int], bytes], engine: Callable[[], Engine]) -> Outcome:
        """Answer all questions. ``image`` gives a row's encoded image; ``engine`` is called only if it is needed."""
        predictions: list[Prediction] = []
        seconds = 0.0
        ready: Engine | None = None
        for number, part in enumerate(self._parts(asked)):
            done = self._stored(number, part)
            if done is None:
                ready = ready or engine()
                started = time.monotonic()
                done = self._answer(part, image, ready)
                self._store(number, done, time.monotonic() - started)
                log.info("%d of %d predicted", len(predictions) + len(done), len(asked))
            self.publication.adopt(layout.part(number, "jsonl"), rows=len(done))
            seconds += float(self.storage.read_bytes(self._seconds_key(number)))
            predictions += done
        return Outcome(
            predictions,
            seconds,
            sum(-(-len(part) // self.settings.batch_size) for part in self._parts(asked)),
            ready.load_seconds if ready else 0.0,
            ready.preparation_seconds if ready else 0.0,
        )

    def forget_timings(self, asked: Sequence[Question]) -> None:
        """Remove what only a resumed eval needs; call it after the manifest is written."""
        for number, _ in enumerate(self._parts(asked)):
            self.storage.delete(self._seconds_key(number))

    def _parts(self, asked: Sequence[Question]) -> Iterator[Sequence[Question]]:
        for start in range(0, len(asked), self.settings.flush_every):
            yield asked[start : start + self.settings.flush_every]

    def _answer(self, part: Sequence[Question], image: Callable[[int], bytes], engine: Engine) -> list[Prediction]:
        done = []
        for start in range(0, len(part), self.settings.batch_size):
            batch = part[start : start + self.settings.batch_size]
            answers = engine.answer([image(question.image_row) for question in batch])
            done += [
                Prediction(q.example_id, q.image_id, answer.text, q.label, answer.new_tokens, answer.finish)
                for q, answer in zip(batch, answers, strict=True)
            ]
        return done

    def _stored(self, number: int, part: Sequence[Question]) -> list[Prediction] | None:
        """The part from an earlier attempt, unless that one was cut differently (another ``eval.flush_every``)."""
        key = self._key(number)
        if not (self.storage.exists(key) and self.storage.exists(self._seconds_key(number))):
            return None
        stored = read_predictions(self.storage.read_bytes(key).decode())
        return stored if [p.example_id for p in stored] == [q.example_id for q in part] else None

    def _store(self, number: int, done: Sequence[Prediction], seconds: float) -> None:
        self.storage.write_bytes(self._key(number), "".join(p.to_line() for p in done).encode())
        self.storage.write_bytes(self._seconds_key(number), f"{seconds:.6f}".encode())

    def _key(self, number: int) -> str:
        return f"{self.prefix}/{layout.part(number, 'jsonl')}"

    def _seconds_key(self, number: int) -> str:
        # Kept apart from the part, whose bytes must not depend on how fast it was made.
        return f"{self.prefix}/{layout.part(number, 'seconds')}"
