"""Which examples an optimiser step sees, and how they are dealt to processes and forward passes. Arithmetic only.

What a step sees is decided first, and by the seed alone: the next ``batch_size × gradient_accumulation × processes``
examples of a shuffled epoch. How they go through the GPUs comes second and changes no gradient, because the loss is
summed over all labelled tokens of the step and divided once (``train.trainer``). So lengths are grouped inside a step:
batches grouped over the whole epoch would show the model its short examples together, which is another training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from medvl_jobs.errors import DataError
from medvl_jobs.settings.train import TrainSettings

MicroBatch = tuple[int, ...]
"""Examples of one forward pass, by number."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of every example: arrays of one number each."""

    tokens: np.ndarray
    labels: np.ndarray
    """The labelled ones of them: the answer's."""
    images: np.ndarray
    """The visual ones of them."""

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Totals:
    """What went through all GPUs together."""

    examples: int = 0
    tokens: int = 0
    """Without padding."""
    padded_tokens: int = 0
    labels: int = 0
    image_tokens: int = 0

    def __add__(self, other: Totals) -> Totals:
        return Totals(*(mine + theirs for mine, theirs in zip(self._values(), other._values(), strict=True)))

    def __sub__(self, other: Totals) -> Totals:
        return Totals(*(mine - theirs for mine, theirs in zip(self._values(), other._values(), strict=True)))

    def _values(self) -> tuple[int, ...]:
        return (self.examples, self.tokens, self.padded_tokens, self.labels, self.image_tokens)

    @property
    def padding_share(self) -> float:
        """Share of what went through that was padding."""
        return 1 - self.tokens / self.padded_tokens if self.padded_tokens else 0.0


@dataclass(frozen=True)
class Step:
    """One optimiser step."""

    epoch: float
    """Epochs finished after it."""
    micro_batches: tuple[tuple[MicroBatch, ...], ...]
    """``[process][number]``: equally many for every process, none of them empty. A process without work, or without an
    image, in one forward pass would leave the others waiting for its part of the weights under ZeRO-3."""
    totals: Totals


class Schedule(Sequence[Step]):
    """All steps of a training, a pure function of its arguments. A step is worked out when it is asked for."""

    def __init__(self, lengths: Lengths, train: TrainSettings, processes: int) -> None:
        """Raises `DataError` when there are fewer examples than processes."""
        if len(lengths) < processes:
            raise DataError(
                f"{len(lengths)} examples are too few for {processes} processes: each needs one at every step",
                where="the train split",
                remedy=f"train with at most {len(lengths)} GPUs, or with more data",
            )
        self.lengths, self.train, self.processes = lengths, train, processes
        self.examples_per_step = train.batch_size * train.gradient_accumulation * processes
        # What is left over when every process has equally many sits out this epoch: other examples each time.
        self.examples_per_epoch = len(lengths) - len(lengths) % processes
        self.steps_per_epoch = -(-self.examples_per_epoch // self.examples_per_step)
        self._epoch = lru_cache(maxsize=2)(self._shuffled)
        self._step = lru_cache(maxsize=64)(self._made)
        self._sums = [Totals()]

    def __len__(self) -> int:
        return max(int(np.ceil(self.train.epochs * self.steps_per_epoch)), 1)

    def __getitem__(self, number: int) -> Step:  # type: ignore[override]
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self._step(number)

    def _made(self, number: int) -> Step:
        epoch, within = divmod(number, self.steps_per_epoch)
        start = within * self.examples_per_step
        end = min(start + self.examples_per_step, self.examples_per_epoch)
        examples = self._epoch(epoch)[start:end]
        micro_batches = deal(examples.tolist(), self.lengths.tokens, self.train, self.processes)
        return Step(
            epoch=epoch + end / self.examples_per_epoch,
            micro_batches=micro_batches,
            totals=Totals(
                examples=len(examples),
                tokens=int(self.lengths.tokens[examples].sum()),
                padded_tokens=sum(self._padded(each) for share in micro_batches for each in share),
                labels=int(self.lengths.labels[examples].sum()),
                image_tokens=int(self.lengths.images[examples].sum()),
            ),
        )

    def totals(self, steps: int) -> Totals:
        """What has gone through after so many steps."""
        while len(self._sums) <= steps:
            self._sums.append(self._sums[-1] + self[len(self._sums) - 1].totals)
        return self._sums[steps]

    def of_process(self, process: int, first_step: int = 0) -> Iterator[MicroBatch]:
        """What one process puts through its GPU, from a step on to the end."""
        for number in range(first_step, len(self)):
            yield from self[number].micro_batches[process]

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.train.seed, epoch]).permutation(len(self.lengths))

    def _padded(self, micro_batch: MicroBatch) -> int:
        return cost(self.lengths.tokens[list(micro_batch)].tolist(), packing=self.train.packing)


def cost(lengths: Sequence[int], *, packing: bool) -> int:
    """Tokens of a forward pass: rows as long as the longest, or end to end."""
    return sum(lengths) if packing else len(lengths) * max(lengths)


def deal(
    examples: Sequence[int], tokens: np.ndarray, train: TrainSettings, processes: int
) -> tuple[tuple[MicroBatch, ...], ...]:
    """Deal the examples of a step (a multiple of ``processes``) to ``[process][number]``.

    With ``train.batch_tokens`` the longest come first, and the forward passes are about equally full; without, examples
    stay as they were drawn, ``train.batch_size`` a pass. Either way processes work on like lengths at the same time.
    """
    if train.batch_tokens is None:
        batches = [examples[at : at + train.batch_size] for at in range(0, len(examples), train.batch_size)]
    else:
        ordered = sorted(examples, key=lambda example: -int(tokens[example]))
        batches = _filled(ordered, tokens, train.batch_tokens, processes, packing=train.packing)
    while len(batches) % processes:
        _halve_largest(batches)
    return tuple(tuple(tuple(batch) for batch in batches[process::processes]) for process in range(processes))


def _filled(
    ordered: Sequence[int], tokens: np.ndarray, budget: int, processes: int, *, packing: bool
) -> list[Sequence[int]]:
    """The fewest batches that a multiple of the processes allows, under the smallest budget that gives so few."""
    lengths = [int(tokens[example]) for example in ordered]
    most = -(-len(_cut(lengths, budget, packing=packing)) // processes) * processes
    low, high = max(lengths), budget
    while low < high:
        middle = (low + high) // 2
        if len(_cut(lengths, middle, packing=packing)) <= most:
            high = middle
        else:
            low = middle + 1
    ends = _cut(lengths, high, packing=packing)
    return [ordered[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _cut(lengths: Sequence[int], budget: int, *, packing: bool) -> list[int]:
    """Where each batch ends when they are filled one after the other. ``lengths`` fall; none is above the budget."""
    ends, start, used = [], 0, 0
    for at, length in enumerate(lengths):
        used = used + length if packing else (at + 1 - start) * lengths[start]
        if used > budget:
            ends.append(at)
            start, used = at, length
    return [*ends, len(lengths)]


def _halve_largest(batches: list[Sequence[int]]) -> None:
    at = max(range(len(batches)), key=lambda each: len(batches[each]))
    middle = (len(batches[at]) + 1) // 2
    batches[at : at + 1] = [batches[at][:middle], batches[at][middle:]]
