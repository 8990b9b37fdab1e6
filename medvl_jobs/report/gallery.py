"""Which images the page shows, and how small. Nobody picks them: the choice follows from the ids."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import chain, zip_longest
from typing import TypeVar

from PIL import Image

from medvl_jobs.contracts.facts import Facts
from medvl_jobs.errors import DataError
from medvl_jobs.page import pictures
from medvl_jobs.report.answers import Answers
from medvl_jobs.report.compare import rounded
from medvl_jobs.report.inputs import Evidence, Example
from medvl_jobs.report.metrics import Naming
from medvl_jobs.report.shape import Answer, GalleryItem, Outcome
from medvl_jobs.settings.eval import Variant
from medvl_jobs.settings.report import ReportSettings

SHOWN = (Variant.BASE, Variant.TUNED)

T = TypeVar("T")


def choose(examples: Sequence[Example], settings: ReportSettings) -> list[Example]:
    """As many examples as wanted, spread over modalities first and groups second.

    Modalities take turns, inside a modality its groups take turns, and inside a group the order is that of a seeded
    hash of the id: the choice knows nothing of the answers, so it cannot prefer good ones.
    """

    def lot(example: Example) -> str:
        return hashlib.sha256(f"{settings.seed}/{example.example_id}".encode()).hexdigest()

    drawn = sorted(examples, key=lot)
    by_modality = sorted(_buckets(drawn, [example.modality for example in drawn]).items())
    turns = [
        _take_turns(_buckets(members, [example.group for example in members]).values()) for _, members in by_modality
    ]
    return _take_turns(turns)[: settings.gallery]


def _buckets(members: Sequence[T], labels: Iterable[Hashable]) -> dict[Hashable, list[T]]:
    buckets: dict[Hashable, list[T]] = {}
    for member, label in zip(members, labels, strict=True):
        buckets.setdefault(label, []).append(member)
    return buckets


def _take_turns(queues: Iterable[Sequence[T]]) -> list[T]:
    """``[[a, b, c], [x]]`` -> ``[a, x, b, c]``."""
    nobody = object()
    rounds = chain.from_iterable(zip_longest(*queues, fillvalue=nobody))
    return [each for each in rounds if each is not nobody]  # type: ignore[misc]  # the filler is gone


def items(
    chosen: Sequence[Example], evidence: Evidence, headline: str, names: Mapping[Variant, Naming]
) -> list[GalleryItem]:
    """The chosen examples with what was said about them, and its ``headline`` score."""
    made: list[GalleryItem] = []
    for example in chosen:
        base, tuned = (_answer(variant, evidence, example, headline, names) for variant in SHOWN)
        made.append(
            {
                "example_id": example.example_id,
                "modality": example.modality,
                "group": example.group,
                "alt": alternative_text(example.facts),
                "reference": example.caption,
                "answers": [base, tuned],
                "outcome": _outcome(base["score"], tuned["score"]),
                "errors": _errors(evidence.answers[Variant.TUNED], example.example_id),
            }
        )
    return made


def _answer(
    variant: Variant, evidence: Evidence, example: Example, headline: str, names: Mapping[Variant, Naming]
) -> Answer:
    answers = evidence.answers[variant]
    prediction = answers.predictions.get(example.example_id)
    score = answers.scores.get(headline, {}).get(example.example_id)
    return {
        "variant": variant.value,
        "label": names[variant].label,
        "text": prediction.predict if prediction else "",
        "score": None if score is None else rounded(score),
        "cut_off": prediction is not None and prediction.finish == "length",
        "failed": prediction is not None and prediction.finish == "failed",
        "claims": [asdict(claim) for claim in answers.claims.get(example.example_id, ())],  # type: ignore[misc]
    }


def _outcome(base: float | None, tuned: float | None) -> Outcome:
    """A missing answer scores 0, as everywhere; where neither has a score nothing can be said."""
    if base is None and tuned is None:
        return "unknown"
    change = (tuned or 0.0) - (base or 0.0)
    return "better" if change > 0 else "worse" if change < 0 else "equal"


def _errors(answers: Answers, example_id: str) -> list[str]:
    """What is wrong in one answer: the fields of its wrong claims, and the kinds of mistakes that were counted."""
    fields = {claim.field.replace("_", " ") for claim in answers.claims.get(example_id, ()) if not claim.right}
    counted = {name for name, values in answers.scores.items() if name.endswith("_errors") and values.get(example_id)}
    return sorted(fields | {name.removesuffix("_errors").replace("_", " ") for name in counted})


def alternative_text(facts: Facts | None) -> str:
    """What a listener needs to follow: the kind of picture. The captions beside it say the rest."""
    if facts is None:
        return "Validation image"
    view = f", {facts.plane} view" if facts.plane else ""
    part = f" of the {facts.body_part}" if facts.body_part else ""
    return f"{facts.modality or 'Medical'} image{view}{part}"


def thumbnails(images: Mapping[str, bytes], example_ids: Sequence[str], pixels: int, budget: int) -> dict[str, str]:
    """``data:`` addresses by id, until the budget of bytes is spent."""
    made: dict[str, str] = {}
    left = budget
    for example_id in example_ids:
        address = thumbnail(images[example_id], pixels, where=example_id)
        left -= len(address)
        if left < 0:
            break
        made[example_id] = address
    return made


def thumbnail(encoded: bytes, pixels: int, *, where: str = "") -> str:
    """The image as WebP, its longer side at most ``pixels``, as a ``data:`` address. Raises `DataError`."""
    try:
        return pictures.thumbnail(encoded, pixels)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        remedy = "delete the manifest of the prepared dataset and run `medvl prep` again"
        raise DataError(f"a validation image cannot be decoded: {error}", where=where, remedy=remedy) from error
