"""Answers from transformers' ``generate`` in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from medvl_jobs.eval.engines.base import Answer
from medvl_jobs.model.adapters import attach_adapter
from medvl_jobs.model.checkpoint import best_device, load_model, load_processor, set_threads
from medvl_jobs.model.collate import prompt_batch
from medvl_jobs.model.prompts import PromptRenderer, decode_image
from medvl_jobs.settings.run import RunSettings


class InProcessEngine:
    """The base model, with an adapter or without.

    The adapter stays unmerged: merging into bfloat16 weights rounds, and moves the logits.
    """

    def __init__(self, settings: RunSettings, adapter: Path | None) -> None:
        """Load the model and, when given, the adapter's folder. Raises `SchemaMismatchError` when they do not fit."""
        set_threads(settings.model)
        self.max_new_tokens = settings.eval.max_new_tokens
        started = time.monotonic()
        self.renderer = PromptRenderer(load_processor(settings.model), settings.prompt)
        model = load_model(settings.model, best_device())
        self.load_seconds = time.monotonic() - started
        self.model = attach_adapter(model, adapter) if adapter else model
        self.preparation_seconds = time.monotonic() - started - self.load_seconds
        self.pad_token_id: int = self.renderer.tokenizer.pad_token_id
        ends = model.generation_config.eos_token_id
        self.end_token_ids = set(ends if isinstance(ends, list) else [ends])

    @torch.inference_mode()
    def answer(self, images: Sequence[bytes]) -> list[Answer]:
        """One padded batch, greedily."""
        encoded = [self.renderer.encode(decode_image(image)) for image in images]
        batch = {name: value.to(self.model.device) for name, value in prompt_batch(encoded, self.pad_token_id).items()}
        # The checkpoint's own generation_config samples; None takes its sampling settings out of the way.
        outputs = self.model.generate(
            **batch,
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=self.pad_token_id,
        )
        return [self._answer(tokens) for tokens in outputs[:, batch["input_ids"].shape[1] :]]

    def _answer(self, tokens: torch.Tensor) -> Answer:
        ends = [position for position, token in enumerate(tokens.tolist()) if token in self.end_token_ids]
        length = ends[0] if ends else len(tokens)
        return Answer(self.renderer.decode(tokens[:length]), length, "stop" if ends else "length")
