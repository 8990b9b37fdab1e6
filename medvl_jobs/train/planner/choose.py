"""Which ZeRO stage to train with, and which settings fit when these do not. Pure functions of a `Setup`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from medvl_jobs.errors import SettingsError
from medvl_jobs.settings.train import TrainSettings
from medvl_jobs.train.planner.gpus import GPUS, Gpu
from medvl_jobs.train.planner.memory import Memory, memory
from medvl_jobs.train.planner.setup import Setup, Zero
from medvl_jobs.train.planner.speed import Step, step, steps

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
    """One for each stage that the settings leave open, in their order."""
    return tuple(estimate(setup, gpu, zero, attained) for zero in setup.stages)


def choose(among: Sequence[Estimate]) -> Estimate | None:
    """The fastest that fits, the lowest stage among equals; none when nothing does."""
    fitting = [each for each in among if each.fits]
    return min(fitting, key=lambda each: (each.step.seconds, each.zero), default=None)


def stage_for(setup: Setup, gpu_memory_bytes: int, gpu: Gpu | None, attained: float) -> Zero:
    """The stage that a training runs under: of those that the settings leave open and that fit, the fastest.

    ``gpu`` is none for a type that is not in `GPUS`: how fast it is is not known, so the lowest stage is taken. Raises
    `SettingsError` when nothing fits.
    """
    fitting = [zero for zero in setup.stages if memory(setup, zero).total <= gpu_memory_bytes]
    if not fitting:
        raise refusal(setup, gpu_memory_bytes, "GPU" if gpu is None else gpu.name)
    return min(fitting, key=lambda zero: (0.0 if gpu is None else step(setup, gpu, zero, attained).seconds, zero))


def refusal(setup: Setup, gpu_memory_bytes: int, gpu: str) -> SettingsError:
    """What is said of a training that fits under none of its stages: what it needs at least, and what would fit."""
    least = min(memory(setup, zero).total for zero in setup.stages)
    words = nearest(setup, gpu_memory_bytes)
    return SettingsError(
        f"the training needs {least / 1e9:.1f} GB on each GPU, and this {gpu} has {gpu_memory_bytes / 1e9:.1f}",
        where=f"{setup.largest_batch} tokens in a forward pass, examples of up to {setup.work.longest_tokens}, "
        f"{setup.gpus} × {gpu}",
        remedy=f"the nearest that fits: {' '.join(words)}" if words else "train a smaller model",
    )


def nearest(setup: Setup, gpu_memory_bytes: int) -> tuple[str, ...] | None:
    """The settings to change so that it fits, those first that change the result least; none when nothing helps.

    In this order: recompute activations; smaller micro-batches in as large a global batch; leave long examples out; a
    larger GPU, and the same again there.
    """
    larger = sorted((each for each in GPUS.values() if each.memory_bytes > gpu_memory_bytes), key=_size)
    machines = ((), gpu_memory_bytes), *(((f"plan.gpu={each.name}",), each.memory_bytes) for each in larger)
    for moved, capacity in machines:
        for words, train in _ladder(setup):
            work = replace(setup.work, longest_tokens=min(setup.work.longest_tokens, train.max_tokens))
            if fits(replace(setup, train=train, work=work), capacity):
                return (*moved, *words)
    return None


def fits(setup: Setup, gpu_memory_bytes: int) -> bool:
    """Whether any stage that the settings leave open is within a GPU's memory."""
    return any(memory(setup, zero).total <= gpu_memory_bytes for zero in setup.stages)


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
