"""Answers from transformers' ``generate`` in this process."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image

from medvl_jobs.errors import SettingsError
from medvl_jobs.eval.engines.base import Answer
from medvl_jobs.model.adapters import attach_adapter
from medvl_jobs.model.checkpoint import best_device, load_model, load_processor, set_threads
from medvl_jobs.model.collate import prompt_batch
from medvl_jobs.model.prompts import Encoded, PromptRenderer, decode_image
from medvl_jobs.settings.run import RunSettings

log = logging.getLogger(__name__)

Item = TypeVar("Item")
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow and the image processor raise for bytes that are no image, or one that is too long and thin."""


@dataclass
class Batch:
    """Examples that are answered together, and those met on the way that cannot be."""

    numbers: list[int] = field(default_factory=list)
    examples: list[Encoded] = field(default_factory=list)
    failed: list[tuple[int, Answer]] = field(default_factory=list)
    longest: int = 0
    """Tokens of the longest prompt."""


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
        model = load_model(settings.model, best_device())
        self.load_seconds = time.monotonic() - started
        self.model = attach_adapter(model, adapter) if adapter else model
        self.preparation_seconds = time.monotonic() - started - self.load_seconds
        self.steps = 0
        self.pad_token_id: int = self.renderer.tokenizer.pad_token_id
        ends = model.generation_config.eos_token_id
        self.end_token_ids = set(ends if isinstance(ends, list) else [ends])

    def answers(self, images: Iterable[bytes]) -> Iterator[tuple[int, Answer]]:
        """See `Engine.answers`; a batch's images are decoded while the one before is answered."""
        for batch in _ahead(self._batches(images)):
            yield from batch.failed
            yield from zip(batch.numbers, self._answer(batch.examples), strict=True)

    def close(self) -> None:
        """Let the weights go."""
        del self.model

    def _batches(self, images: Iterable[bytes]) -> Iterator[Batch]:
        """Neighbours together, up to ``eval.batch_size`` and ``eval.batch_tokens``; one alone may be longer."""
        batch = Batch()
        for number, image in enumerate(images):
            try:
                example = self.renderer.encode(decode_image(image))
            except UNREADABLE as error:
                batch.failed.append((number, Answer("", 0, "failed", f"the image cannot be read: {error}")))
                continue
            if batch.examples and not self._fits(len(batch.examples) + 1, max(batch.longest, len(example))):
                yield batch
                batch = Batch()
            batch.numbers.append(number)
            batch.examples.append(example)
            batch.longest = max(batch.longest, len(example))
        yield batch

    def _fits(self, size: int, longest: int) -> bool:
        limit = self.settings.batch_tokens
        tokens = size * (longest + self.settings.max_new_tokens)
        return size <= self.settings.batch_size and (limit is None or tokens <= limit)

    def _answer(self, examples: list[Encoded]) -> list[Answer]:
        """One padded batch; in halves where the GPU's memory does not hold it."""
        if not examples:
            return []
        self.steps += 1
        try:
            return self._generate(examples)
        except torch.OutOfMemoryError as error:
            if len(examples) == 1:
                what = f"the GPU's memory does not hold one example of {len(examples[0])} tokens: {error}"
                raise SettingsError(what, remedy="lower model.max_pixels or eval.max_new_tokens") from error
            log.warning("the GPU's memory ran out with %d examples; lower eval.batch_tokens", len(examples))
        torch.cuda.empty_cache()
        half = len(examples) // 2
        return self._answer(examples[:half]) + self._answer(examples[half:])

    @torch.inference_mode()
    def _generate(self, examples: list[Encoded]) -> list[Answer]:
        batch = {name: value.to(self.model.device) for name, value in prompt_batch(examples, self.pad_token_id).items()}
        # The checkpoint's own generation_config samples; None takes its sampling settings out of the way.
        outputs = self.model.generate(
            **batch,
            max_new_tokens=self.settings.max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=self.pad_token_id,
        )
        return [self._read(tokens) for tokens in outputs[:, batch["input_ids"].shape[1] :].cpu()]

    def _read(self, tokens: torch.Tensor) -> Answer:
        ends = [position for position, token in enumerate(tokens.tolist()) if token in self.end_token_ids]
        length = ends[0] if ends else len(tokens)
        return Answer(self.renderer.decode(tokens[:length]), length, "stop" if ends else "length")


def _ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Each item, while a thread makes the next one."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item
