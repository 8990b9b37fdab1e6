"""What a plan is made of: a model, settings, data and so many GPUs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from medvl_jobs.settings.model import ModelSettings
from medvl_jobs.settings.train import TrainSettings
from medvl_jobs.train.planner.shape import ModelShape

Zero = Literal[0, 2, 3]
"""What the GPUs share (Rajbhandari et al. 2020, arXiv 1910.02054): nothing; optimiser and gradients; weights too."""
ZEROS: tuple[Zero, ...] = (0, 2, 3)

FULL = 4
"""Bytes of a float32: the adapter, its gradients, its two moments, every norm's input, the logits of the loss."""


@dataclass(frozen=True)
class Workload:
    """What is known of the train split. Tokens of an example are its image's, its question's and its answer's."""

    examples: int
    mean_tokens: float
    longest_tokens: int
    answer_tokens: float
    """Labelled tokens of an average example."""
    image_tokens: float
    """Visual tokens of an average example."""

    @property
    def longest_answer(self) -> float:
        """The longest example is taken to be long by its answer."""
        return self.longest_tokens - (self.mean_tokens - self.answer_tokens)


@dataclass(frozen=True)
class Setup:
    """A training on so many GPUs, as far as memory and time depend on it."""

    shape: ModelShape
    model: ModelSettings
    train: TrainSettings
    work: Workload
    gpus: int

    @property
    def stages(self) -> tuple[Zero, ...]:
        """Those that the settings leave open: all, those that can offload what is to be offloaded, or the one named."""
        if self.train.zero != "auto":
            return (self.train.zero,)
        lowest = {"none": 0, "optimizer": 2, "parameters": 3}[self.train.offload]
        return tuple(zero for zero in ZEROS if zero >= lowest)

    @property
    def element_bytes(self) -> int:
        """Bytes of a number in ``model.dtype``."""
        return 2 if self.model.dtype == "bfloat16" else FULL

    @property
    def lora_parameters(self) -> int:
        """Trainable parameters."""
        return self.shape.lora_parameters(self.train.lora)

    @property
    def step_examples(self) -> int:
        """Examples of an optimiser step on one GPU."""
        return self.train.batch_size * self.train.gradient_accumulation

    @property
    def budget(self) -> int:
        """Tokens that a forward pass holds at most, padding included."""
        if self.train.batch_tokens is None:
            return self.train.batch_size * self.work.longest_tokens
        return max(self.train.batch_tokens, self.work.longest_tokens)

    @property
    def largest_batch(self) -> int:
        """Tokens of the largest forward pass that may come: a step's examples as long as the longest, or the budget."""
        return min(self.step_examples * self.work.longest_tokens, self.budget)

    @property
    def most_examples(self) -> int:
        """Examples of the fullest forward pass: none is shorter than its image and its question."""
        if self.train.batch_tokens is None:
            return self.train.batch_size
        shortest = max(1.0, self.work.mean_tokens - self.work.answer_tokens)
        return min(self.step_examples, max(1, int(self.budget / shortest)))

    @property
    def passes(self) -> int:
        """Forward passes of an optimiser step on one GPU, in the mean and with no padding."""
        if self.train.batch_tokens is None:
            return self.train.gradient_accumulation
        return math.ceil(self.step_examples * self.work.mean_tokens / self.budget)

    @property
    def longest_row(self) -> int:
        """Tokens between which attention is computed: the longest example's, or all of a packed forward pass."""
        return self.largest_batch if self.train.packing else self.work.longest_tokens

    @property
    def masked(self) -> bool:
        """Whether attention gets a mask: for padding, or to keep the examples of a packed row apart."""
        return self.most_examples > 1

    def offloads_optimizer(self, zero: Zero) -> bool:
        """Whether moments, the weights that they are for, and gradients lie in the host's memory."""
        return self.train.offload != "none" and zero >= 2

    def offloads_parameters(self, zero: Zero) -> bool:
        """Whether the weights do as well."""
        return self.train.offload == "parameters" and zero == 3
