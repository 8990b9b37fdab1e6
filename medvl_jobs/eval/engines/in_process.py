"""Answers from transformers' model in this process."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image

from medvl_jobs.errors import SchemaMismatchError, SettingsError
from medvl_jobs.eval.engines.base import Answer
from medvl_jobs.eval.engines.decoding import RollingBatch, Written
from medvl_jobs.model.adapters import attach_adapter
from medvl_jobs.model.checkpoint import best_device, load_model, load_processor, set_threads
from medvl_jobs.model.prompts import Encoded, PromptRenderer, decode_image
from medvl_jobs.settings.run import RunSettings

Item = TypeVar("Item")
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow and the image processor raise for bytes that are no image, or one that is too long and thin."""
AHEAD = 16
"""Images that a thread decodes while the model answers others, and prompts that are read at once."""
REFILL = 4
"""One in so many of a full batch has left before others join: all wait while prompts are read."""


class InProcessEngine:
    """The base model, with an adapter or without.

    The adapter stays unmerged: merging into bfloat16 weights rounds, and moves the logits.
    """

    def __init__(self, settings: RunSettings, adapter: Path | None, question: str) -> None:
        """Load the model and, when given, the adapter's folder. Raises `SchemaMismatchError` when they do not fit."""
        set_threads(settings.model)
        self.settings = settings.eval
        started = time.monotonic()
        self.renderer = PromptRenderer(load_processor(settings.model), settings.prompt, question)
        self.model = load_model(settings.model, best_device())
        self.load_seconds = time.monotonic() - started
        # It is put into the model itself; what PEFT returns wraps that, and does more for adapters of prompts only.
        if adapter and attach_adapter(self.model, adapter).active_peft_config.is_prompt_learning:
            what = "the adapter is of virtual tokens, and no LoRA"
            raise SchemaMismatchError(what, where=str(adapter), remedy="evaluate an adapter of weights")
        self.preparation_seconds = time.monotonic() - started - self.load_seconds
        self.steps = 0
        ends = self.model.generation_config.eos_token_id
        self.end_token_ids = set(ends if isinstance(ends, list) else [ends])

    def answers(self, images: Iterable[bytes]) -> Iterator[tuple[int, Answer]]:
        """See `Engine.answers`. Raises `SettingsError` when the GPU's memory runs out."""
        batch = RollingBatch(
            self.model,
            pad_token_id=self.renderer.tokenizer.pad_token_id,
            end_token_ids=self.end_token_ids,
            merge_size=self.renderer.merge_size,
            limit=self.settings.max_new_tokens,
        )
        coming = _ahead(self._encoded(images))
        waiting, full = next(coming, None), 0
        while batch or waiting:
            joining: dict[int, Encoded] = {}
            if len(batch) * REFILL <= full * (REFILL - 1):
                full = 0
            while waiting and not full and len(joining) < AHEAD:
                number, example = waiting
                if isinstance(example, Answer):
                    yield number, example
                elif self._fits(batch, [*joining.values(), example]):
                    joining[number] = example
                else:
                    full = len(batch) + len(joining)
                    break
                waiting = next(coming, None)
            try:
                if joining:
                    batch.join(list(joining), list(joining.values()))
                    self.steps += 1
                finished = batch.step()
            except torch.OutOfMemoryError as error:
                what = f"the GPU's memory ran out with {len(batch) or len(joining)} examples at a time: {error}"
                raise SettingsError(what, where="eval.batch_tokens", remedy="lower eval.batch_tokens") from error
            yield from ((written.number, self._read(written)) for written in finished)

    def close(self) -> None:
        """Let the weights go."""
        del self.model

    def _encoded(self, images: Iterable[bytes]) -> Iterator[tuple[int, Encoded | Answer]]:
        for number, image in enumerate(images):
            try:
                yield number, self.renderer.encode(decode_image(image))
            except UNREADABLE as error:
                yield number, Answer("", 0, "failed", f"the image cannot be read: {error}")

    def _fits(self, batch: RollingBatch, joining: list[Encoded]) -> bool:
        """Whether ``eval.batch_size`` and ``eval.batch_tokens`` are kept; one that is alone may be longer."""
        size, limit = len(batch) + len(joining), self.settings.batch_tokens
        tokens = size * batch.width(max(map(len, joining)))
        return size == 1 or (size <= self.settings.batch_size and (limit is None or tokens <= limit))

    def _read(self, written: Written) -> Answer:
        text = self.renderer.decode(torch.tensor(written.ids, dtype=torch.long))
        return Answer(text, len(written.ids), "stop" if written.ended else "length")


def _ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, up to `AHEAD` of them made by a thread before they are asked for."""
    with ThreadPoolExecutor(1) as pool:
        coming = deque(pool.submit(next, items, None) for _ in range(AHEAD))
        while (item := coming.popleft().result()) is not None:
            coming.append(pool.submit(next, items, None))
            yield item
