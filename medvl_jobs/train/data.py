"""The train split as examples, and the loader that prepares their micro-batches while the GPU computes."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from medvl_jobs.errors import DataError
from medvl_jobs.model.collate import Batch, packed_batch, training_batch
from medvl_jobs.model.prompts import Encoded, PromptRenderer, decode_image
from medvl_jobs.processes import processors
from medvl_jobs.settings.train import TrainSettings
from medvl_jobs.train.batches import Lengths, MicroBatch, Schedule

log = logging.getLogger(__name__)

MOST_WORKERS = 4
"""Of each GPU. One prepares some 30 images of 768 × 768 pixels a second, and a GPU takes fewer than 100."""
PREFETCHED = 2
"""Micro-batches that each worker prepares ahead. They lie in shared memory: 0.2 GB each, where they are large."""


class TrainingExamples(Dataset[Encoded]):
    """Rows that fit into ``max_tokens``, encoded when they are asked for.

    A longer row is left out and counted rather than cut: cutting image tokens breaks the model, and cutting the answer
    teaches it to stop in mid-sentence. Raises `DataError` when no row fits.
    """

    def __init__(self, rows: datasets.Dataset, renderer: PromptRenderer, max_tokens: int) -> None:
        """Count the tokens of every row; no image is decoded for it."""
        self.renderer = renderer
        lengths = count_lengths(rows, renderer)
        kept = np.flatnonzero(lengths.tokens <= max_tokens)
        if not len(kept):
            raise DataError(
                f"none of {len(lengths)} examples fits into {max_tokens} tokens; the shortest has "
                f"{lengths.tokens.min()}",
                where="train.max_tokens",
                remedy="raise train.max_tokens or lower model.max_pixels",
            )
        self.left_out = len(lengths) - len(kept)
        if self.left_out:
            log.warning(
                "%d of %d examples are longer than %d tokens and left out", self.left_out, len(lengths), max_tokens
            )
        self.rows = rows.select(kept)
        self.lengths = Lengths(lengths.tokens[kept], lengths.labels[kept], lengths.images[kept])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Encoded:
        row = self.rows[index]
        return self.renderer.encode(decode_image(row["image"]["bytes"]), row["caption"])

    def ids(self, examples: MicroBatch) -> list[str]:
        """What the dataset calls these examples."""
        return [str(self.rows[index]["example_id"]) for index in examples]


def count_lengths(rows: datasets.Dataset, renderer: PromptRenderer) -> Lengths:
    """Tokens of every row, from image size and caption."""
    sizes = rows.remove_columns([name for name in rows.column_names if name not in {"width", "height", "caption"}])
    counted = np.array(
        [
            (
                renderer.count_tokens(row["width"], row["height"], row["caption"]),
                len(renderer.answer_ids(row["caption"])),
                renderer.count_image_tokens(row["width"], row["height"]),
            )
            for row in sizes
        ],
        dtype=np.int64,
    ).reshape(-1, 3)
    return Lengths(*counted.T)


class MicroBatches(Dataset[Batch]):
    """Batches by their examples' numbers: what a worker process makes."""

    def __init__(self, examples: TrainingExamples, *, packing: bool, dtype: torch.dtype) -> None:
        """``dtype``: of the pixels. The vision tower casts them first thing, so it may as well be done here."""
        self.examples, self.packing, self.dtype = examples, packing, dtype

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, examples: MicroBatch) -> Batch:
        encoded = [self.examples[index] for index in examples]
        renderer = self.examples.renderer
        batch = (
            packed_batch(encoded, renderer.merge_size)
            if self.packing
            else training_batch(encoded, renderer.tokenizer.pad_token_id)
        )
        return batch | {"pixel_values": batch["pixel_values"].to(self.dtype)}


class StepLoader:
    """The micro-batches of one process, step by step; the Trainer takes it for a loader whose batches are whole steps.

    It begins where ``first_step`` says when it is iterated, so a resumed training decodes no image that it skips.
    """

    def __init__(self, batches: MicroBatches, schedule: Schedule, process: int, workers: int) -> None:
        """``workers``: processes that decode images; with none it happens between forward passes."""
        self.dataset, self.schedule, self.process, self.workers = batches.examples, schedule, process, workers
        self.batches = batches
        self.first_step = 0
        self.waited_seconds = 0.0
        """How long the training has waited for data."""

    def __len__(self) -> int:
        return len(self.schedule)

    def __iter__(self) -> Iterator[StepOfProcess]:
        batches = self._batches()
        for number in range(self.first_step, len(self.schedule)):
            yield StepOfProcess(number, self.schedule[number].micro_batches[self.process], batches)

    def _batches(self) -> Iterator[Batch]:
        loader: Any = DataLoader(
            self.batches,
            sampler=self.schedule.of_process(self.process, self.first_step),
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=PREFETCHED if self.workers else None,
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_init_worker,
            # Of its own: the loader would draw from the generator that dropout draws from, and a resumed training,
            # which makes a loader more, would drop other values.
            generator=torch.Generator(),
        )
        iterator = iter(loader)
        while True:
            started = time.perf_counter()
            batch = next(iterator, None)
            self.waited_seconds += time.perf_counter() - started
            if batch is None:
                return
            yield batch


class StepOfProcess:
    """What one process computes in one step. The micro-batches come one by one, while the next are being made."""

    def __init__(self, number: int, examples: tuple[MicroBatch, ...], batches: Iterator[Batch]) -> None:
        """``number`` of the step, from 0; ``batches`` yields those of ``examples`` next."""
        self.number, self.examples = number, examples
        self._batches = batches

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[tuple[MicroBatch, Batch]]:
        for examples in self.examples:
            yield examples, next(self._batches)


def worker_count(train: TrainSettings, processes: int) -> int:
    """``train.workers``, or the cores that the training processes of this machine leave for each of them."""
    if train.workers is not None:
        return train.workers
    return max(min(processors() // processes - 1, MOST_WORKERS), 0)


def _as_it_is(batch: Any) -> Any:
    return batch


def _init_worker(worker: int) -> None:
    torch.set_num_threads(1)
    # Blocked and waited for, not ignored: multiprocessing ends its children by SIGTERM, and would wait for ever.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """A SIGTERM to the whole group is for the training to answer; only its own process ends a worker."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid not in {0, parent}:
        pass
    os._exit(0)
