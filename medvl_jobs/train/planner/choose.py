"""Which ZeRO stage to train with, and which settings fit when these do not. Pure functions of a `Setup`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from medvl_jobs.settings.train import TrainSettings
from medvl_jobs.train.planner.gpus import GPUS, Gpu
from medvl_jobs.train.planner.memory import ZEROS, Memory, Setup, Zero, memory
from medvl_jobs.train.planner.speed import Step, step, steps

IMPLEMENTED: tuple[Zero, ...] = (0,)
"""The stages that the train stage can run. The planner knows them all."""
FEWEST_TOKENS = 256
"""No shorter examples are proposed: they have no room for an image and an answer."""


@dataclass(frozen=True)
class Estimate:
    """A training under one ZeRO stage."""

    zero: Zero
    memory: Memory
    step: Step
    steps: int
    gpus: int
    capacity: int

    @property
    def fits(self) -> bool:
        """Whether the peak is within the GPU's memory."""
        return self.memory.total <= self.capacity

    @property
    def hours(self) -> float:
        """Of all steps; loading the model, checkpoints and a slow store come on top."""
        return self.steps * self.step.seconds / 3600

    @property
    def gpu_hours(self) -> float:
        """What is paid for."""
        return self.hours * self.gpus


def estimate(setup: Setup, gpu: Gpu, zero: Zero, attained: float) -> Estimate:
    """Memory and time under one stage."""
    return Estimate(
        zero, memory(setup, zero), step(setup, gpu, zero, attained), steps(setup), setup.gpus, gpu.memory_bytes
    )


def estimates(setup: Setup, gpu: Gpu, attained: float) -> tuple[Estimate, ...]:
    """One for each stage, in their order."""
    return tuple(estimate(setup, gpu, zero, attained) for zero in ZEROS)


def choose(among: Sequence[Estimate], implemented: Sequence[Zero] = IMPLEMENTED) -> Estimate | None:
    """The fastest that fits, the lowest stage among equals; none when nothing does."""
    fitting = [each for each in among if each.fits and each.zero in implemented]
    return min(fitting, key=lambda each: (each.step.seconds, each.zero), default=None)


def nearest(setup: Setup, gpu: Gpu) -> tuple[str, ...] | None:
    """The settings to change so that it fits, those first that change the result least; none when nothing helps.

    In this order: recompute activations; smaller micro-batches in as large a global batch; leave long examples out; a
    larger GPU, and the same again there.
    """
    larger = sorted((each for each in GPUS.values() if each.memory_bytes > gpu.memory_bytes), key=_size)
    for machine in (gpu, *larger):
        moved = () if machine is gpu else (f"plan.gpu={machine.name}",)
        for words, train in _ladder(setup):
            work = replace(setup.work, longest_tokens=min(setup.work.longest_tokens, train.max_tokens))
            if fits(replace(setup, train=train, work=work), machine):
                return (*moved, *words)
    return None


def fits(setup: Setup, gpu: Gpu) -> bool:
    """Whether any stage that can be run is within the GPU's memory."""
    return any(memory(setup, zero).total <= gpu.memory_bytes for zero in IMPLEMENTED)


def _ladder(setup: Setup) -> Iterator[tuple[tuple[str, ...], TrainSettings]]:
    train, words = setup.train, tuple[str, ...]()
    yield words, train
    if not train.activation_checkpointing:
        words = ("train.activation_checkpointing=true",)
        train = train.model_copy(update={"activation_checkpointing": True})
        yield words, train
    batch, accumulation = train.batch_size, train.gradient_accumulation
    for size in (each for each in range(batch - 1, 0, -1) if batch % each == 0):
        more = accumulation * batch // size
        train = train.model_copy(update={"batch_size": size, "gradient_accumulation": more})
        yield (*words, f"train.batch_size={size}", f"train.gradient_accumulation={more}"), train
    if batch > 1:
        words = (*words, "train.batch_size=1", f"train.gradient_accumulation={accumulation * batch}")
    shortest = max(FEWEST_TOKENS, round(setup.work.mean_tokens))
    tokens = min(train.max_tokens, setup.work.longest_tokens) // 2
    while tokens >= shortest:
        yield (*words, f"train.max_tokens={tokens}"), train.model_copy(update={"max_tokens": tokens})
        tokens //= 2


def _size(gpu: Gpu) -> int:
    return gpu.memory_bytes
