"""How fast training is, and what memory it takes, beside LLaMA-Factory; README.md says how to read it."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median

from benchmarks import incumbent
from benchmarks.measure import Training, training
from benchmarks.shapes import MAX_PIXELS, MIN_PIXELS, SHAPES, checkpoint, parameters
from benchmarks.training_rows import BATCH, training_rows

WARM_UP = 2
"""Steps of `BATCH` samples that are not timed."""
STEPS = {"vocabulary": 20, "proportions": 8}
"""Of `BATCH` samples each. A step of the second shape takes four times as long."""
ROUNDS = {"vocabulary": 2, "proportions": 1}
BUSY_CORES = 0.15
"""Others that use more than this distort a measurement on two cores."""
ATTEMPTS = 3
SAME_LOSS = 1e-3
"""How far the first step's losses may be apart, in nats."""
MEDVL = (
    "model.dtype=float32", f"model.min_pixels={MIN_PIXELS}", f"model.max_pixels={MAX_PIXELS}", "train.epochs=1",
    "train.learning_rate=5e-5", "train.scheduler=cosine", "train.warmup_ratio=0", "train.log_every_steps=1",
    "train.save_every_steps=1000000", "train.save_every_minutes=null",
)  # fmt: skip
AS_DRAWN = (f"train.batch_size={BATCH}", "train.workers=0", "train.batch_tokens=null")
"""No worker processes, as LLaMA-Factory has none unless it is told to."""
SIDE_BY_SIDE = (
    f"train.batch_size={BATCH}", "train.workers=0", "train.packing=true", "train.max_tokens=640",
    "train.batch_tokens=640",
)  # fmt: skip
OF_TWO = "train.gradient_accumulation=2"
"""Steps of twice the samples, so that there is something to group."""
TWO_PASSES = ("train.max_tokens=1280", "train.batch_tokens=1280")
"""Room for four samples, as without grouping: passes of the same size."""


@dataclass
class Measured:
    """All runs of one program on one shape."""

    samples_per_step: int
    runs: list[Training] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def add(self, run: Training, losses: list[float]) -> Measured:
        """One more run; of the losses, which are the same each time, the newest are kept."""
        self.runs.append(run)
        self.losses = losses
        seconds = run.step_seconds
        print(f"{self._speed(seconds):9.3f}{run.peak:8.0f}{run.wall_seconds:8.1f}{run.others_cores:8.2f}", flush=True)
        return self

    @property
    def samples_per_second(self) -> float:
        """Over the steps after the first `WARM_UP`; median of the runs."""
        return median(self._speed(run.step_seconds) for run in self.runs)

    def _speed(self, seconds: Sequence[float]) -> float:
        skipped = max(WARM_UP * BATCH // self.samples_per_step, 1)
        return self.samples_per_step * (len(seconds) - skipped) / (seconds[-1] - seconds[skipped - 1])

    @property
    def peak(self) -> float:
        """MiB, the most of all runs."""
        return max(run.peak for run in self.runs)

    @property
    def others_cores(self) -> float:
        """The most of all runs."""
        return max(run.others_cores for run in self.runs)


@dataclass(frozen=True)
class Ablation:
    """medvl as it is, over medvl without one thing, on one shape."""

    shape: str
    with_it: tuple[str, ...]
    without: tuple[str, ...]
    program_without: str = "medvl_jobs"


PADDED = (*AS_DRAWN[:2], OF_TWO, *TWO_PASSES)
ABLATIONS = {
    "experts_grouped_mm_over_eager": Ablation("proportions", SIDE_BY_SIDE, (*SIDE_BY_SIDE, "model.experts=eager")),
    "grouped_by_length_over_as_drawn": Ablation("proportions", PADDED, (*AS_DRAWN, OF_TWO)),
    "packed_over_as_drawn": Ablation("proportions", (*PADDED, "train.packing=true"), (*AS_DRAWN, OF_TWO)),
    "labelled_head_over_full_logits": Ablation("vocabulary", AS_DRAWN, AS_DRAWN, "benchmarks.full_logits"),
}


class Bench:
    """Runs the programs, each in a new process, and keeps what was measured."""

    def __init__(self, work: Path, steps: Mapping[str, int]) -> None:
        """Make what is not there yet: models, rows, LLaMA-Factory."""
        self.work = work
        self.models = {name: checkpoint(name, work) for name in SHAPES}
        self.rows = {name: training_rows(count, self.models[name], work) for name, count in steps.items()}
        self.llamafactory = incumbent.installed(work / "llamafactory")
        self.measured: dict[tuple[str, ...], Measured] = {}

    def incumbent(self, shape: str) -> Measured:
        """Train with LLaMA-Factory once more."""
        out = self.work / "out-llamafactory"
        shutil.rmtree(out, ignore_errors=True)
        command = incumbent.command(self.llamafactory, self.models[shape], self.rows[shape].conversations(), out)
        measured = self.measured.setdefault((shape, "llamafactory"), Measured(BATCH))
        run = _quietly(
            f"LLaMA-Factory, {shape}", lambda: training(command, out / "output.log", out / "trainer_log.jsonl")
        )
        return measured.add(run, incumbent.losses(out))

    def medvl(self, shape: str, settings: Sequence[str], program: str = "medvl_jobs") -> Measured:
        """Train with medvl once more, anew."""
        rows = self.rows[shape]
        words = [*MEDVL, *settings, f"model.path={self.models[shape]}", *rows.settings()]
        samples = 2 * BATCH if OF_TWO in settings else BATCH
        measured = self.measured.setdefault((shape, program, *settings), Measured(samples))
        log = self.work / "out-medvl.log"

        def run() -> Training:
            shutil.rmtree(rows.store / "adapters", ignore_errors=True)
            return training([sys.executable, "-m", program, "train", *words], log, log)

        return measured.add(_quietly(f"{program} {' '.join(settings)}, {shape}", run), _losses(log))

    def once(self, shape: str, settings: Sequence[str], program: str = "medvl_jobs") -> Measured:
        """What was measured of medvl, now if it was not yet."""
        return self.measured.get((shape, program, *settings)) or self.medvl(shape, settings, program)


def main() -> None:
    """Measure, print a line for each run, and end with one line of JSON."""
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    steps = dict.fromkeys(SHAPES, options.steps) if options.steps else STEPS
    bench = Bench(options.work.resolve(), steps)
    print(f"{machine()}\nLLaMA-Factory's: {incumbent.versions(bench.llamafactory)}")
    print(f"{'samples/s':>9}{'MiB':>8}{'wall s':>8}{'others':>8}")
    shapes = {}
    for shape in SHAPES:
        for _ in range(options.rounds or ROUNDS[shape]):
            theirs, ours = bench.incumbent(shape), bench.medvl(shape, SIDE_BY_SIDE)
        shapes[shape] = {
            **parameters(bench.models[shape]),
            **bench.rows[shape].counts(),
            **_side_by_side(theirs, ours),
        }
    ablations = {} if options.no_ablations else {name: _ablated(bench, each) for name, each in ABLATIONS.items()}
    busy = max(measured.others_cores for measured in bench.measured.values())
    quiet = busy <= BUSY_CORES or options.force
    summary = {
        "cores": os.cpu_count(),
        "others_cores": round(busy, 3),
        "contended": busy > BUSY_CORES,
        # Two threads on a busy machine lose a half to five sixths of their speed, not always alike.
        "shapes": shapes if quiet else None,
        "ablations": ablations if quiet else None,
    }
    print(json.dumps(summary))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__)
    parser.add_argument("--steps", type=int, help=f"of {BATCH} samples each, on both shapes; by default {STEPS}")
    parser.add_argument("--rounds", type=int, help=f"of both programs on each shape, in turns; by default {ROUNDS}")
    parser.add_argument("--no-ablations", action="store_true", help="only beside LLaMA-Factory")
    parser.add_argument("--force", action="store_true", help="give the ratios although the machine was busy")
    parser.add_argument("--work", type=Path, default=Path(".demo/bench"), help="folder for all that is made and kept")
    return parser.parse_args()


def _side_by_side(theirs: Measured, ours: Measured) -> dict[str, object]:
    apart = [abs(a - b) for a, b in zip(theirs.losses, ours.losses, strict=True)]
    return {
        "samples_per_second": {
            "llamafactory": round(theirs.samples_per_second, 3), "medvl": round(ours.samples_per_second, 3)
        },
        "speed_medvl_over_llamafactory": round(ours.samples_per_second / theirs.samples_per_second, 3),
        "peak_mib": {"llamafactory": round(theirs.peak), "medvl": round(ours.peak)},
        "memory_medvl_over_llamafactory": round(ours.peak / theirs.peak, 3),
        "loss_apart": {"first": round(apart[0], 6), "most": round(max(apart), 6)},
        "first_loss_agrees": apart[0] <= SAME_LOSS,
    }  # fmt: skip


def _ablated(bench: Bench, ablation: Ablation) -> dict[str, float]:
    without = bench.once(ablation.shape, ablation.without, ablation.program_without)
    with_it = bench.once(ablation.shape, ablation.with_it)
    return {
        "speed": round(with_it.samples_per_second / without.samples_per_second, 3),
        "memory": round(with_it.peak / without.peak, 3),
        "loss_apart": round(max(abs(a - b) for a, b in zip(with_it.losses, without.losses, strict=True)), 6),
    }


def _quietly(name: str, run: Callable[[], Training]) -> Training:
    """A run that nothing disturbed, or the last one that was tried."""
    print(name, flush=True)
    for _ in range(ATTEMPTS):
        result = run()
        if result.others_cores <= BUSY_CORES:
            break
        print(f"WARNING: others used {result.others_cores:.2f} cores meanwhile", flush=True)
    return result


def _losses(log: Path) -> list[float]:
    lines = log.read_text(encoding="utf-8").splitlines()
    return [float(json.loads(line)["loss"]) for line in lines if line.startswith('{"step"')]


def machine() -> str:
    """Processor and versions, for the first line of what is printed."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    names = [f"{name} {version(name)}" for name in ("medvl", "torch", "transformers", "peft", "accelerate")]
    return f"{model[1] if model else 'unknown processor'}, {os.cpu_count()} cores; {', '.join(names)}"


if __name__ == "__main__":
    main()
