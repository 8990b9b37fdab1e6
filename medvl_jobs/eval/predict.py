"""Predictions in parts that a killed eval need not make again, and that several pods can share.

The examples are put in one order, by size, and cut into parts; a part is stored as soon as it is whole. So a part's
content depends on nothing but the settings, and a resumed eval, or one of many pods, ends with the same bytes as one
that was never stopped.
"""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import get_args, get_type_hints

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.live import Progress, untold
from medvl_jobs.contracts.records import Prediction, read_predictions
from medvl_jobs.errors import DataError
from medvl_jobs.eval.engines.base import Answer, Engine
from medvl_jobs.eval.questions import Question
from medvl_jobs.settings.eval import EvalSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.publish import Publication

log = logging.getLogger(__name__)

HOPELESS = 20
"""So many failed answers, and no other, are no matter of single examples."""
FINISHES = get_args(get_type_hints(Prediction)["finish"])

Part = Sequence[Question]


@dataclass(frozen=True)
class Effort:
    """What making a part has cost, beside it in the store: the part's own bytes must not depend on how fast it was."""

    seconds: float
    steps: int
    shard: int


@dataclass(frozen=True)
class Outcome:
    """All predictions of a variant, and what making them took over all attempts and pods."""

    predictions: list[Prediction]
    seconds: float
    """Of generation, in the pod that needed longest."""
    steps: int
    """Batches, or requests to a server."""
    load_seconds: float
    """Reading the weights, in this attempt; 0 when every part was there."""
    preparation_seconds: float
    """Attaching the adapter, likewise."""
    pod_seconds: float = 0.0
    """Of generation, over all pods."""
    own_seconds: float = 0.0
    """Of generation, by this process."""


class Predictor:
    """Makes the parts that are not there yet."""

    def __init__(
        self,
        storage: Storage,
        prefix: str,
        publication: Publication,
        settings: EvalSettings,
        shard: int | None = None,
        progress: Progress = untold,
    ) -> None:
        """``prefix`` is the variant's own in the store. ``shard``: which of ``eval.shards`` pods; none for the only."""
        self.progress = progress
        self.storage, self.prefix, self.publication, self.settings = storage, prefix, publication, settings
        self.shard, self.shards = (0, 1) if shard is None else (shard, settings.shards)
        self.load_seconds = self.preparation_seconds = self.own_seconds = 0.0

    def run(
        self, asked: Sequence[Question], image: Callable[[Question], bytes], engine: Callable[[], Engine]
    ) -> Outcome | None:
        """Answer all questions; none when other pods have not made their parts yet.

        ``image`` gives the encoded image of a question; ``engine`` is opened only if it is needed. Raises `DataError`
        when nothing but failed answers comes of it.
        """
        parts = self._parts(asked)
        made = self._make({n: part for n, part in parts.items() if n % self.shards == self.shard}, image, engine)
        if self.shards > 1:
            there = set(self.storage.list_keys(f"{self.prefix}/"))
            if any(self._key(n) not in there or self._effort_key(n) not in there for n in parts):
                return None
            # What is there and not whole, its own pod may have left for good.
            made |= self._make({n: part for n, part in parts.items() if n not in made}, image, engine)
        for number, predictions in made.items():
            self.publication.adopt(layout.part(number, "jsonl"), rows=len(predictions))
        efforts = [Effort(**json.loads(self.storage.read_bytes(self._effort_key(number)))) for number in parts]
        seconds: dict[int, float] = defaultdict(float)
        for effort in efforts:
            seconds[effort.shard] += effort.seconds
        return Outcome(
            [prediction for number in parts for prediction in made[number]],
            seconds=max(seconds.values(), default=0.0),
            steps=sum(effort.steps for effort in efforts),
            load_seconds=self.load_seconds,
            preparation_seconds=self.preparation_seconds,
            pod_seconds=sum(seconds.values()),
            own_seconds=self.own_seconds,
        )

    def forget_efforts(self, asked: Sequence[Question]) -> None:
        """Remove what only a resumed eval needs; call it after the manifest is written."""
        for number in self._parts(asked):
            self.storage.delete(self._effort_key(number))

    def _parts(self, asked: Sequence[Question]) -> dict[int, Part]:
        size = self.settings.flush_every
        return {start // size: asked[start : start + size] for start in range(0, len(asked), size)}

    def _make(
        self, parts: dict[int, Part], image: Callable[[Question], bytes], open_engine: Callable[[], Engine]
    ) -> dict[int, list[Prediction]]:
        """The parts as they are stored, those made now that were not."""
        made = {n: stored for n, part in parts.items() if (stored := self._stored(n, part)) is not None}
        missing = {n: part for n, part in parts.items() if n not in made}
        if not missing:
            return made
        done = there = sum(map(len, made.values()))
        total = sum(map(len, parts.values()))
        answered = {p.example_id for part in made.values() for p in part if p.finish != "failed"}
        known = next((q for n in made for q in parts[n] if q.example_id in answered), None)
        with closing(open_engine()) as engine:
            self.progress(there, total)
            started, steps = _clock(engine), engine.steps
            for number, predictions in _whole_parts(
                missing, image, engine, known=known, tell=lambda answers: self.progress(there + answers, total)
            ):
                now = _clock(engine)
                self.own_seconds += now - started
                # Another pod may have made it meanwhile, and its manifest may name it as it is.
                if (stored := self._stored(number, missing[number])) is None:
                    self._store(number, predictions, Effort(now - started, engine.steps - steps, self.shard))
                made[number] = stored or predictions
                started, steps = now, engine.steps
                done += len(predictions)
                log.info("%d of %d predicted", done, total)
            self.load_seconds += engine.load_seconds
            self.preparation_seconds += engine.preparation_seconds
        return made

    def _stored(self, number: int, part: Part) -> list[Prediction] | None:
        """The part from an earlier attempt, or of another pod; none when it is not whole, and must be made anew."""
        key = self._key(number)
        if not (self.storage.exists(key) and self.storage.exists(self._effort_key(number))):
            return None
        try:
            stored = read_predictions(self.storage.read_bytes(key).decode())
            Effort(**json.loads(self.storage.read_bytes(self._effort_key(number))))
            wrong = _what_is_wrong(stored, part)
        except (ValueError, TypeError) as error:  # of decoding, of JSON, of lines with other fields
            wrong = f"it cannot be read: {error}"
        if wrong is None:
            return stored
        log.warning("%s/%s is made anew: %s", self.storage.uri, key, wrong)
        return None

    def _store(self, number: int, predictions: Sequence[Prediction], effort: Effort) -> None:
        self.storage.write_bytes(self._key(number), "".join(p.to_line() for p in predictions).encode())
        self.storage.write_bytes(self._effort_key(number), json.dumps(asdict(effort)).encode())

    def _key(self, number: int) -> str:
        return f"{self.prefix}/{layout.part(number, 'jsonl')}"

    def _effort_key(self, number: int) -> str:
        return f"{self.prefix}/{layout.part(number, 'effort.json')}"


def _whole_parts(
    parts: dict[int, Part],
    image: Callable[[Question], bytes],
    engine: Engine,
    *,
    known: Question | None,
    tell: Callable[[int], None],
) -> Iterator[tuple[int, list[Prediction]]]:
    """Number and predictions of each part, as its last answer comes.

    Parts wait until one example could be answered: stored failures are not tried again. Where nothing but failures
    comes, the engine is asked about ``known``, which an earlier attempt could answer. ``tell`` hears of each answer how
    many there are. Raises `DataError` when nothing can be answered.
    """
    order = [(number, question) for number, part in parts.items() for question in part]
    answered: dict[int, dict[str, Prediction]] = {number: {} for number in parts}
    waiting: list[int] = []
    good, failed = False, 0
    for count, (place, answer) in enumerate(engine.answers(image(question) for _, question in order), start=1):
        tell(count)
        number, question = order[place]
        answered[number][question.example_id] = _prediction(question, answer)
        if answer.finish == "failed":
            failed += 1
            log.warning("%s is counted as failed: %s", question.example_id, answer.why)
        else:
            good = True
        if not good and failed >= min(HOPELESS, len(order)):
            good = known is not None and all(each.finish != "failed" for _, each in engine.answers([image(known)]))
        if not good and failed >= min(HOPELESS, len(order)):
            raise DataError(
                f"none of the first {failed} examples could be answered, the last for this reason: {answer.why}",
                remedy="see the log for the others; where it is the images, run medvl prep --check",
            )
        if len(answered[number]) == len(parts[number]):
            waiting.append(number)
        if good:
            for whole in waiting:
                yield whole, [answered[whole][each.example_id] for each in parts[whole]]
            waiting.clear()


def _clock(engine: Engine) -> float:
    """Seconds that stand still while it gets ready: a server starts, and is checked, when it is asked first."""
    return time.monotonic() - engine.load_seconds - engine.preparation_seconds


def _prediction(question: Question, answer: Answer) -> Prediction:
    failed = answer.finish == "failed"
    text, tokens = ("", 0) if failed else (answer.text, answer.new_tokens)
    return Prediction(question.example_id, question.image_id, text, question.label, tokens, answer.finish)


def _what_is_wrong(stored: Sequence[Prediction], part: Part) -> str | None:
    """Why these are not the predictions of this part; none when they are."""
    ids = [p.example_id for p in stored]
    if len(set(ids)) < len(ids):
        return "it holds an example twice"
    if [(p.example_id, p.image_id, p.label) for p in stored] != [(q.example_id, q.image_id, q.label) for q in part]:
        return "it holds other examples (another eval.flush_every, for one)"
    for p in stored:
        if not (isinstance(p.predict, str) and isinstance(p.new_tokens, int) and p.finish in FINISHES):
            return f"the answer to {p.example_id} is none"
    return None
