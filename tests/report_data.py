"""A finished run that never ran: made-up images, answers and scores, enough for every part of the report."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.facts import Facts, Region
from medvl_jobs.contracts.manifest import FileEntry, Manifest
from medvl_jobs.contracts.records import CLAIMS, LEDGER, PREPARED, SCORES, SPLIT, Prediction
from medvl_jobs.report.answers import Answers, Claim
from medvl_jobs.report.assemble import assemble
from medvl_jobs.report.frame import frame_of_run
from medvl_jobs.report.inputs import Evidence, Example, Input, TrainingRun
from medvl_jobs.report.shape import Report
from medvl_jobs.settings.eval import Variant
from medvl_jobs.settings.keys import StageKeys, variants
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.local import LocalStorage

MADE_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LEVELS = {
    Variant.BASE: 24.0, Variant.TUNED: 83.0, Variant.TUNED_SHUFFLED: 46.0, Variant.TUNED_BLANK: 38.0,
    Variant.TEMPLATE: 41.0, Variant.BASE_FORMATTED: 31.0,
}  # fmt: skip
"""About what each variant scores in the facts."""
WALL_SECONDS = {"prep": 4.2, "train": 141.7, "eval": 32.5}


def settings(**changes: Any) -> RunSettings:
    """A pinned run; ``changes`` replace whole sections."""
    sections = {
        "name": "made-up",
        "model": {"path": "/models/Tiny-VL-MoE", "fingerprint": "0123456789abcdef"},
        "prep": {"source": "/data/sample.parquet", "source_fingerprint": "fedcba9876543210"},
        "report": {"gallery": 8, "thumbnail_pixels": 128, "resamples": 1000},
    }
    return RunSettings(**{**sections, **changes})


KEYS = StageKeys("1" * 16, "2" * 16, {variant: f"{3 + n}" * 16 for n, variant in enumerate(Variant)}, "9" * 16)
"""Where everything lies. Not the settings' own keys: a new default must not change the golden report."""


@dataclass
class World:
    """What the stages before the report would have left. Change it, then take `evidence` or `store`."""

    settings: RunSettings
    examples: list[Example]
    predictions: dict[Variant, list[Prediction]]
    scores: dict[Variant, dict[str, dict[str, float]]]
    log: list[dict[str, Any]] | None = field(default_factory=lambda: trainer_log(120))
    git_sha: str | None = "c0ffee" + "0" * 34
    keys: StageKeys = field(default_factory=lambda: KEYS)
    claims: dict[Variant, dict[str, list[Claim]]] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=lambda: dict(CARD))
    gpus: int = 0
    trained_with: RunSettings | None = None
    """Settings of the training, where they are not those of the run."""

    def forget(self, variant: Variant, example_id: str) -> None:
        """Lose one prediction and its scores."""
        self.predictions[variant] = [p for p in self.predictions[variant] if p.example_id != example_id]
        for values in self.scores[variant].values():
            values.pop(example_id, None)

    def answer(self, variant: Variant, example_id: str, /, **changes: Any) -> None:
        """Change one prediction."""
        self.predictions[variant] = [
            replace(p, **changes) if p.example_id == example_id else p for p in self.predictions[variant]
        ]

    def evidence(self) -> Evidence:
        """What `read_evidence` would read."""
        inputs = [Input("prep", layout.prepared(self.keys.prep), self.manifest("prep", self.keys.prep))]
        trainings = {}
        if self.log is not None:
            training = TrainingRun(self.manifest("train", self.keys.adapter), self.log, TOTALS)
            inputs.append(Input("train", layout.adapter(self.keys.adapter), training.manifest))
            trainings[Variant.TUNED] = training
        answers = {}
        for variant, given in self.predictions.items():
            key = self.keys.eval[variant]
            manifest = self.manifest("eval", key, variant=variant)
            claims = {example_id: tuple(each) for example_id, each in self.claims.get(variant, {}).items()}
            answers[variant] = Answers(manifest, by_id(given), self.scores[variant], results(given), claims)
            inputs.append(Input(f"eval-{variant}", layout.predictions(key), manifest))
        asked = tuple(self.examples[: self.settings.eval.limit])
        return Evidence(tuple(inputs), self.card, asked, len(self.examples), answers, trainings)

    def report(self) -> Report:
        """The report of it."""
        return assemble(self.evidence(), frame_of_run(self.settings, self.keys))

    def store(self, root: Path) -> Storage:
        """All of it as files."""
        storage = LocalStorage(root)
        prefix = layout.prepared(self.keys.prep)
        half = len(self.examples) // 2
        parts = {layout.part_name(0, n): e for n, e in enumerate((self.examples[:half], self.examples[half:]))}
        for name, examples in parts.items():
            storage.write_bytes(f"{prefix}/parts/{name}/{layout.EXAMPLES}", prepared_parquet(examples, PREPARED))
            storage.write_bytes(f"{prefix}/parts/{name}/{layout.LEDGER}", prepared_parquet(examples, TOLD))
        val = [
            {"example_id": each.example_id, "part": name, "row": row}
            for name, examples in parts.items()
            for row, each in enumerate(examples)
        ]
        files = {layout.split_file("val"): parquet(val, SPLIT), layout.CARD: dump(self.card)}
        self._publish(storage, prefix, "prep", self.keys.prep, files)
        if self.log is not None:
            log = "".join(json.dumps(line) + "\n" for line in self.log).encode()
            files = {layout.TRAINER_LOG: log, layout.ALL_RESULTS: dump(TOTALS)}
            self._publish(storage, layout.adapter(self.keys.adapter), "train", self.keys.adapter, files)
        for variant, given in self.predictions.items():
            files = {
                layout.part(0, "jsonl"): "".join(p.to_line() for p in given).encode(),
                layout.PREDICT_RESULTS: dump(results(given)),
                layout.SCORES: scores_parquet(self.scores[variant]),
                **({layout.CLAIMS: claims_parquet(self.claims[variant])} if variant in self.claims else {}),
            }
            key = self.keys.eval[variant]
            self._publish(storage, layout.predictions(key), "eval", key, files, variant)
        return storage

    def _publish(
        self,
        storage: Storage,
        prefix: str,
        stage: str,
        key: str,
        files: dict[str, bytes],
        variant: Variant | None = None,
    ) -> None:
        for path, data in files.items():
            storage.write_bytes(f"{prefix}/{path}", data)
        manifest = self.manifest(stage, key, files, variant=variant)
        storage.write_bytes(layout.manifest(prefix), manifest.to_json().encode())

    def manifest(
        self, stage: str, key: str, files: dict[str, bytes] | None = None, *, variant: Variant | None = None
    ) -> Manifest:
        """The same on every machine and day."""
        run = (self.trained_with or self.settings) if stage == "train" else self.settings
        told = {"variant": variant.value, "question": asked_question(run, variant)} if variant else {}
        return Manifest(
            stage=stage,
            key=key,
            settings={**told, **run.model_dump(mode="json", include={"model", "prompt", stage})},
            files=tuple(FileEntry(path=p, bytes=len(d), sha256="0" * 64) for p, d in sorted((files or {}).items())),
            code_version="0.1.0",
            library_versions={"numpy": "2.0.0", "torch": "2.9.0", "transformers": "5.0.0"},
            peak_memory_bytes=1_400_000_000,
            created_at=MADE_AT,
            git_sha=self.git_sha,
            wall_seconds=WALL_SECONDS[stage],
            gpu_seconds=self.gpus * WALL_SECONDS[stage] if stage != "prep" else 0.0,
        )


def asked_question(run: RunSettings, variant: Variant) -> str | None:
    """What eval's manifest says was asked."""
    if variant is Variant.TEMPLATE:
        return None
    return run.eval.format_question if variant is Variant.BASE_FORMATTED else run.prompt.question


def world(*, groups: int = 24, per_group: int = 2, seed: int = 7, **changes: Any) -> World:
    """``groups`` volumes, in turn of the chest and the brain, with ``per_group`` slices each."""
    run = settings(**changes)
    rng = np.random.default_rng(seed)
    examples = [example(group, number) for group in range(groups) for number in range(per_group)]
    predictions, scores = {}, {}
    for variant in variants(run):
        shift = -per_group if variant is Variant.TUNED_SHUFFLED else 0
        shown = examples[shift:] + examples[:shift]
        predictions[variant] = [predict(variant, *both) for both in zip(examples, shown, strict=True)]
        scores[variant] = made_up_scores(variant, examples, rng)
    return World(run, examples, predictions, scores)


def example(group: int, number: int) -> Example:
    """A slice with true facts and a caption that states them."""
    ct = group % 2 == 0
    plane = ("axial", "coronal", "sagittal")[(group + number) % 3]
    position = ("upper-left", "middle-center", "lower-right")[number % 3]
    area = 4.0 + group % 7
    region = Region("heart" if ct else "left thalamus", position, area)
    facts = Facts(
        modality="CT" if ct else "MR",
        plane=plane,
        body_part="chest" if ct else "brain",
        structures=("left lung", "heart", "aorta") if ct else ("left thalamus", "right thalamus"),
        region=region,
        finding="no nodule" if ct else None,
    )
    scan = "computed tomography (CT)" if ct else "T1-weighted magnetic resonance (MR)"
    caption = (
        f"The image is a {plane} {scan} slice of the {facts.body_part}, showing the {', the '.join(facts.structures)}. "
        f"The region of interest, located in the {position} of the image, is the {region.structure} and occupies "
        f"approximately {area:.0f}% of the image area."
    )
    if ct:
        caption += " No lung nodule is marked by the readers in this image."
    return Example(f"{'ct' if ct else 'mr'}-{group:02d}-{plane}-{number:03d}", caption, f"volume-{group:02d}", facts)


def predict(variant: Variant, asked: Example, shown: Example) -> Prediction:
    """The base is terse, the tuned model sees most of it, and without the right image it describes another."""
    said = {
        Variant.BASE: f"A scan of the {asked.facts.body_part if asked.facts else 'body'}; nothing else can be told.",
        Variant.TUNED: asked.caption.replace("middle-center", "middle-left"),
        Variant.TUNED_SHUFFLED: shown.caption,
        Variant.TUNED_BLANK: "The image is an axial slice.",
        Variant.TEMPLATE: "The image is an axial computed tomography (CT) slice of the chest, showing the heart.",
        Variant.BASE_FORMATTED: "An axial scan, showing the heart in the middle-center.",
    }[variant]
    return Prediction(asked.example_id, shown.example_id, said, asked.caption, len(said) // 4, "stop")


def made_up_scores(
    variant: Variant, examples: Sequence[Example], rng: np.random.Generator
) -> dict[str, dict[str, float]]:
    """Every score that eval writes; ``fact_finding`` only where the truth states a finding."""

    def about(level: float, spread: float = 9.0) -> dict[str, float]:
        return {e.example_id: float(np.clip(rng.normal(level, spread), 0, 100).round(4)) for e in examples}

    level = LEVELS[variant]
    found = {
        "facts_f1": about(level),
        "facts_precision": about(level + 3),
        "facts_recall": about(level - 3),
        **{f"fact_{name}": about(level, 20) for name in ("modality", "plane", "body_part", "structures")},
        **{f"fact_{name}": about(level - 15, 20) for name in ("region", "position", "area", "finding")},
        "bleu-4": about(10 + level / 2),
        **{f"rouge-{n}": about(5 + level / 2) for n in ("1", "2", "l")},
        "laterality_errors": {e.example_id: float(rng.random() > level / 100) for e in examples},
        "length_ratio": {e.example_id: 0.3 + level / 120 for e in examples},
    }
    found["fact_finding"] = {
        e.example_id: found["fact_finding"][e.example_id] for e in examples if e.facts and e.facts.finding
    }
    return found


TOTALS = {"epoch": 8.0, "train_loss": 0.4321, "train_runtime": 139.2, "train_steps": 1200}
CARD: dict[str, Any] = {
    "rows": {"read": 260, "accepted": 257, "refused": 3},
    "refused": {"caption_empty": 2, "broken_image": 1},
    "group_source": {"rows": {"column": 257, "pattern": 0, "id": 0}},
}


def trainer_log(lines: int) -> list[dict[str, Any]]:
    """A loss that falls, with noise."""
    rng = np.random.default_rng(1)
    steps = [10 * (n + 1) for n in range(lines)]
    losses = [0.25 + 2.2 * float(np.exp(-step / 180)) + 0.05 * float(rng.normal()) for step in steps]
    return [
        {"current_steps": step, "total_steps": steps[-1], "loss": round(loss, 4), "lr": 1e-3, "epoch": step / 150}
        for step, loss in zip(steps, losses, strict=True)
    ]


def results(predictions: Sequence[Prediction]) -> dict[str, float | str]:
    """LLaMA-Factory's keys."""
    return {
        "predict_bleu-4": 50.0,
        "predict_rouge-1": 45.0,
        "predict_runtime": 31.4159,
        "predict_samples_per_second": round(len(predictions) / 31.4159, 3),
        "predict_steps_per_second": 0.159,
        "predict_model_preparation_time": 0.0042,
        "predict_sacrebleu": 38.25,
        "predict_sacrebleu_signature": "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.5.1",
        "predict_distinct_1": 12.5,
    }


def by_id(predictions: Sequence[Prediction]) -> dict[str, Prediction]:
    """Predictions by example id."""
    return {prediction.example_id: prediction for prediction in predictions}


def dump(value: object) -> bytes:
    """JSON as the stages write it."""
    return (json.dumps(value, indent=2) + "\n").encode()


def phantom(seed: int, side: int = 192) -> bytes:
    """A grey picture with something like a body in it, as PNG."""
    rng = np.random.default_rng(seed)
    y_HW, x_HW = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    image_HW = np.zeros((side, side))
    for size, grey in ((0.85, 90), (0.72, 40), (0.3, 170), (0.16, 230)):
        dx, dy = rng.uniform(-0.3, 0.3, 2) * (1 - size)
        image_HW[((x_HW - dx) / size) ** 2 + ((y_HW - dy) / size / 0.8) ** 2 < 1] = grey
    image_HW += rng.normal(0, 6, image_HW.shape)
    return png(Image.fromarray(image_HW.clip(0, 255).astype(np.uint8)))


def png(image: Image.Image) -> bytes:
    """The image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


TOLD = pa.schema([LEDGER.field(name) for name in ("example_id", "caption", "group", "facts")])
"""What the report reads of a ledger."""


def prepared_parquet(examples: Sequence[Example], schema: pa.Schema) -> bytes:
    """One part of a prepared dataset, or its ledger."""
    rows = [
        {
            "example_id": each.example_id,
            "image": {"bytes": phantom(number), "path": None},
            "caption": each.caption,
            "group": each.group,
            "width": 192,
            "height": 192,
            "facts": each.facts.to_json() if each.facts else None,
        }
        for number, each in enumerate(examples)
    ]
    return parquet([{name: row[name] for name in schema.names} for row in rows], schema)


def scores_parquet(scores: dict[str, dict[str, float]]) -> bytes:
    """``scores.parquet``."""
    rows = [
        {"example_id": example_id, "metric": metric, "value": value}
        for metric, values in scores.items()
        for example_id, value in values.items()
    ]
    return parquet(rows, SCORES)


def claims_parquet(claims: dict[str, list[Claim]]) -> bytes:
    """``claims.parquet``."""
    return parquet([{"example_id": i, **asdict(each)} for i, listed in claims.items() for each in listed], CLAIMS)


def mark_claims(made: World) -> None:
    """Let the tuned model's words about plane and position be claims, the position wrong where it is."""
    made.claims[Variant.TUNED] = {}
    for prediction in made.predictions[Variant.TUNED]:
        text = prediction.predict
        plane = next(word for word in ("axial", "coronal", "sagittal") if word in text)
        position = next(word for word in ("upper-left", "middle-left", "lower-right") if word in text)
        made.claims[Variant.TUNED][prediction.example_id] = [
            Claim(text.index(plane), text.index(plane) + len(plane), "plane", plane, right=True),
            Claim(
                text.index(position), text.index(position) + len(position), "position", position,
                right=position in prediction.label,
            ),
        ]  # fmt: skip


def parquet(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> bytes:
    """Rows as a parquet file."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), buffer)
    return buffer.getvalue()
