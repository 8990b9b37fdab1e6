"""The rows that both programs train on: prepared by medvl, exported for LLaMA-Factory in the order of the steps."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.shapes import MAX_PIXELS, MIN_PIXELS
from benchmarks.slices import sources
from medvl_jobs.model.checkpoint import load_processor
from medvl_jobs.model.dataset import open_split
from medvl_jobs.model.prompts import PromptRenderer
from medvl_jobs.prep.split import ticket, val_tickets
from medvl_jobs.settings.model import ModelSettings, PromptSettings
from medvl_jobs.settings.prep import PrepSettings
from medvl_jobs.settings.train import TrainSettings
from medvl_jobs.storage.local import LocalStorage
from medvl_jobs.train.batches import Schedule
from medvl_jobs.train.data import TrainingExamples

BATCH = 4
VAL_ROWS = 2
PREP = ("prep.llamafactory_export=true", "prep.duplicates.exact=keep", "prep.duplicates.near=keep", "prep.workers=2")
"""Rows that look alike stay: the number of rows is part of the measurement."""


@dataclass(frozen=True)
class Rows:
    """Prepared rows in a local store, and what the steps of a training see of them."""

    store: Path
    source: Path
    samples: int
    tokens: int
    """Real ones, of all samples."""
    padded_tokens: int
    """With every step padded to its longest sample."""
    labels: int

    def counts(self) -> dict[str, float]:
        """What is trained on, in numbers."""
        padding = round(1 - self.tokens / self.padded_tokens, 3)
        return {"samples": self.samples, "tokens": self.tokens, "labels": self.labels, "padding_share": padding}

    def settings(self) -> list[str]:
        """What a `medvl` command is told of them."""
        return [f"prep.source={self.source}", f"storage.uri={self.store}", *PREP]

    def conversations(self) -> Path:
        """LLaMA-Factory's ``dataset_dir``: ``mllm_train_data.json`` has the rows in the order of the steps."""
        [prepared] = (self.store / "prepared").glob("*/llamafactory")
        return prepared


def training_rows(steps: int, checkpoint: Path, work: Path) -> Rows:
    """Prepare ``steps`` × `BATCH` rows for training, in a new store."""
    source, store = work / f"training-{steps}.parquet", work / f"store-{steps}"
    _write_source(steps * BATCH, source, work)
    shutil.rmtree(store, ignore_errors=True)
    command = [sys.executable, "-m", "medvl_jobs", "prep", f"prep.source={source}", f"storage.uri={store}", *PREP]
    subprocess.run(command, check=True, capture_output=True)
    model = ModelSettings(path=str(checkpoint), min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
    renderer = PromptRenderer(load_processor(model), PromptSettings())
    [key] = (path.name for path in (store / "prepared").iterdir())
    train = TrainSettings(epochs=1, batch_size=BATCH, batch_tokens=None)
    with tempfile.TemporaryDirectory() as scratch:
        examples = TrainingExamples(
            open_split(LocalStorage(store), key, "train", Path(scratch)), renderer, train.max_tokens
        )
        schedule = Schedule(examples.lengths, train, processes=1)
        order = [
            str(examples.rows[index]["example_id"])
            for step in schedule
            for batch in step.micro_batches[0]
            for index in batch
        ]
    totals = schedule.totals(len(schedule))
    rows = Rows(store, source, totals.examples, totals.tokens, totals.padded_tokens, totals.labels)
    if len(schedule) != steps or totals.examples != steps * BATCH:
        raise RuntimeError(f"{totals.examples} rows in {len(schedule)} steps came out of prep, not {steps * BATCH}")
    _reorder(rows.conversations() / "mllm_train_data.json", order)
    return rows


def _write_source(count: int, path: Path, work: Path) -> None:
    """A parquet file with so many rows for the train side, by their hash, and a few for val."""
    rendered = 2 * count + 40  # the default split puts a fifth into val; near ends of luck included
    table = pq.read_table(sources(work, [rendered])[rendered])
    prep = PrepSettings()
    val = [ticket(each, prep.split_seed) < val_tickets(prep.val_ratio) for each in table["id"].to_pylist()]
    chosen = [at for at, is_val in enumerate(val) if not is_val][:count]
    chosen += [at for at, is_val in enumerate(val) if is_val][:VAL_ROWS]
    pq.write_table(table.take(chosen), path, row_group_size=100)


def _reorder(file: Path, order: list[str]) -> None:
    """Sort the exported conversations as the steps see them; the image's file is named after the row."""
    conversations: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    by_id = {Path(each["images"][0]).stem: each for each in conversations}
    file.write_text(json.dumps([by_id[each] for each in order], ensure_ascii=False), encoding="utf-8")
