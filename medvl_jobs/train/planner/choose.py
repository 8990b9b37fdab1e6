"""Which ZeRO stage to train with, and which settings fit when these do not. Pure functions of a `Setup`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medvl_jobs.errors import SettingsError
from medvl_jobs.settings.model import ModelSettings
from medvl_jobs.settings.train import TrainSettings
from medvl_jobs.train.planner.gpus import GPUS, Gpu
from medvl_jobs.train.planner.memory import Memory, memory
from medvl_jobs.train.planner.setup import ZEROS, Setup, Zero
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
        remedy=f"the nearest that fits: {' '.join(words)}" if words else _without_training(setup.model),
    )


def _without_training(model: ModelSettings) -> str:
    """What to change where no setting of the training helps."""
    if model.attention == "eager":
        return "set model.attention=sdpa, which keeps no scores, and plan again"
    if model.dtype == "float32":
        return "set model.dtype=bfloat16, which takes half of it, and plan again"
    return "train a smaller model"


def nearest(setup: Setup, gpu_memory_bytes: int) -> tuple[str, ...] | None:
    """The settings to change so that it fits, those first that change the result least; none when nothing helps.

    In this order: recompute activations; shorter forward passes in as large a global batch; share more, where a stage
    was named; leave long examples out; a larger GPU, and the same again there; offload.
    """
    larger = sorted((each for each in GPUS.values() if each.memory_bytes > gpu_memory_bytes), key=_size)
    machines = ((), gpu_memory_bytes), *(((f"plan.gpu={each.name}",), each.memory_bytes) for each in larger)
    for moved, capacity in machines:
        if (change := _first_that_fits(setup, _ladder(setup), capacity)) is not None:
            return (*moved, *_words(setup.train, change))
    change = _first_that_fits(setup, _offloading(setup), gpu_memory_bytes)
    return None if change is None else _words(setup.train, change)


def fits(setup: Setup, gpu_memory_bytes: int) -> bool:
    """Whether any stage that the settings leave open is within a GPU's memory."""
    return any(memory(setup, zero).total <= gpu_memory_bytes for zero in setup.stages)


Change = dict[str, Any]
"""Settings of training, and the values that are proposed for them."""


def _first_that_fits(setup: Setup, changes: Iterator[Change], gpu_memory_bytes: int) -> Change | None:
    return next((change for change in changes if fits(_changed(setup, change), gpu_memory_bytes)), None)


def _changed(setup: Setup, change: Change) -> Setup:
    train = setup.train.model_copy(update=change)
    longest = min(setup.work.longest_tokens, train.max_tokens)
    return replace(setup, train=train, work=replace(setup.work, longest_tokens=longest))


def _words(before: TrainSettings, change: Change) -> tuple[str, ...]:
    changed = ((name, value) for name, value in change.items() if getattr(before, name) != value)
    return tuple(f"train.{name}={str(value).lower()}" for name, value in changed)


def _ladder(setup: Setup) -> Iterator[Change]:
    """From the least change on. Each stage is tried with all shorter passes before the next one."""
    train = setup.train
    higher = () if train.zero == "auto" else tuple(zero for zero in ZEROS if zero > train.zero)
    for zero in (train.zero, *higher):
        yield {"zero": zero}
        for passes in _shorter_passes(setup):
            yield {"zero": zero, "activation_checkpointing": True, **passes}
    tokens = setup.work.longest_tokens // 2
    while tokens >= max(FEWEST_TOKENS, round(setup.work.mean_tokens)):
        alone = {"batch_tokens": tokens, "max_tokens": tokens}
        yield {"zero": (train.zero, *higher)[-1], "activation_checkpointing": True, **alone}
        tokens //= 2


def _shorter_passes(setup: Setup) -> Iterator[Change]:
    """As they are, half as long, and so on, down to the longest example alone; no settings that would be refused."""
    train, longest = setup.train, setup.work.longest_tokens
    yield {}
    tokens = setup.largest_batch // 2
    while tokens > longest:
        yield {"batch_tokens": tokens, "max_tokens": min(train.max_tokens, tokens)}
        tokens //= 2
    if setup.largest_batch > longest:
        yield {"batch_tokens": longest, "max_tokens": min(train.max_tokens, longest)}


def _offloading(setup: Setup) -> Iterator[Change]:
    """With the longest example alone in a forward pass: nobody offloads who has memory left."""
    *_, shortest = _shorter_passes(setup)
    for offload, zero in (("optimizer", 2), ("optimizer", 3), ("parameters", 3)):
        stage = {"zero": "auto" if setup.train.zero == "auto" else max(setup.train.zero, zero)}
        yield {"activation_checkpointing": True, **shortest, **stage, "offload": offload}


def _size(gpu: Gpu) -> int:
    return gpu.memory_bytes
