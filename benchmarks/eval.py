"""How fast evaluation answers, beside LLaMA-Factory's predict at several batch sizes; README.md says how to read it."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks import incumbent
from benchmarks.eval_rows import Rows, adapter, endless, validation_rows
from benchmarks.measure import training
from benchmarks.shapes import MAX_PIXELS, MIN_PIXELS
from benchmarks.train import BUSY_CORES, machine

SAMPLES = 64
NEW_TOKENS = 128
DEFAULT_BATCH = 4
"""The tutorial's, of each of its GPUs."""
BATCHES = (DEFAULT_BATCH, 8, 16, 32)
ATTEMPTS = 3
MEDVL = (
    "model.dtype=float32", "model.experts=eager", f"model.min_pixels={MIN_PIXELS}", f"model.max_pixels={MAX_PIXELS}",
    f"eval.max_new_tokens={NEW_TOKENS}", "eval.batch_size=64", "eval.batch_tokens=32768",
)  # fmt: skip


@dataclass
class Measured:
    """All runs of one program with one batch size."""

    speeds: list[float] = field(default_factory=list)
    """Samples per second, as the program itself counts them: reading images, generating and scoring, loading not."""
    walls: list[float] = field(default_factory=list)
    """Seconds of the whole command."""
    others: list[float] = field(default_factory=list)
    peak: float = 0.0
    """MiB, of all processes."""

    @property
    def speed(self) -> float:
        """Median of the runs."""
        return median(self.speeds)


class Bench:
    """Runs the programs, each in a new process, and keeps what was measured."""

    def __init__(self, work: Path, shape: str, samples: int, attempts: int) -> None:
        """Make what is not there yet: model, adapter, rows, LLaMA-Factory."""
        self.work, self.attempts = work, attempts
        self.model = endless(shape, work)
        self.adapter = adapter(self.model)
        self.rows: Rows = validation_rows(samples, work)
        self.llamafactory = incumbent.installed(work / "llamafactory")
        self.medvl = Measured()
        self.theirs: dict[int, Measured] = {}

    def run_incumbent(self, batch: int) -> None:
        """Predict with LLaMA-Factory once more."""
        out = self.work / "out-llamafactory-predict"
        shutil.rmtree(out, ignore_errors=True)
        told = {
            "adapter_name_or_path": str(self.adapter),
            "per_device_eval_batch_size": batch,
            "max_new_tokens": NEW_TOKENS,
        }
        command = incumbent.predict_command(self.llamafactory, self.model, self.rows.conversations(), out, told)

        def speed() -> float:
            results = json.loads((out / "predict_results.json").read_text(encoding="utf-8"))
            lines = (out / "generated_predictions.jsonl").read_text(encoding="utf-8").splitlines()
            if len(lines) != self.rows.samples:
                raise RuntimeError(f"LLaMA-Factory answered {len(lines)} of {self.rows.samples}")
            return self.rows.samples / float(results["predict_runtime"])

        self._measure(f"LLaMA-Factory, batch of {batch}", command, speed, self.theirs.setdefault(batch, Measured()))

    def run_medvl(self) -> None:
        """Evaluate with medvl once more, anew."""
        predictions = self.rows.store / "predictions"
        words = [*MEDVL, f"model.path={self.model}", f"eval.adapter={self.adapter}", *self.rows.settings()]
        command = [sys.executable, "-m", "medvl_jobs", "eval", "--variant", "tuned", *words]

        def speed() -> float:
            [file] = predictions.glob("*/predict_results.json")
            results = json.loads(file.read_text(encoding="utf-8"))
            if results["predict_new_tokens"] != self.rows.samples * NEW_TOKENS:
                raise RuntimeError(f"the answers are of other lengths: {results['predict_new_tokens']} tokens in all")
            return self.rows.samples / float(results["predict_runtime"])

        self._measure("medvl", command, speed, self.medvl, forget=predictions)

    def _measure(
        self, name: str, command: list[str], speed: Callable[[], float], into: Measured, forget: Path | None = None
    ) -> None:
        """A run that nothing disturbed, or the last one that was tried."""
        log = self.work / "out-eval.log"
        for _ in range(self.attempts):
            if forget:
                shutil.rmtree(forget, ignore_errors=True)
            ran = training(command, log, log)
            if ran.others_cores <= BUSY_CORES:
                break
            print(f"WARNING: others used {ran.others_cores:.2f} cores meanwhile", flush=True)
        into.speeds.append(speed())
        into.walls.append(ran.wall_seconds)
        into.others.append(ran.others_cores)
        into.peak = max(into.peak, ran.peak)
        line = f"{into.speeds[-1]:9.3f}{NEW_TOKENS * into.speeds[-1]:9.1f}{ran.peak:8.0f}{ran.wall_seconds:8.1f}"
        print(f"{line}{ran.others_cores:8.2f}  {name}", flush=True)


def main() -> None:
    """Measure, print a line for each run, and end with one line of JSON."""
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(options.work.resolve(), options.shape, options.samples, options.attempts)
    print(f"{machine()}\nLLaMA-Factory's: {incumbent.versions(bench.llamafactory)}")
    print(f"load average {os.getloadavg()[0]:.2f}; {options.samples} samples, {NEW_TOKENS} tokens each")
    print(f"{'samples/s':>9}{'tokens/s':>9}{'MiB':>8}{'wall s':>8}{'others':>8}")
    for _ in range(options.rounds):
        bench.run_medvl()
        for batch in options.batches:
            bench.run_incumbent(batch)
    theirs = {batch: measured.speed for batch, measured in bench.theirs.items()}
    busy = max(max(measured.others) for measured in (bench.medvl, *bench.theirs.values()))
    best = max(theirs, key=lambda batch: theirs[batch])
    ratios = {
        "over_default_batch": round(bench.medvl.speed / theirs[DEFAULT_BATCH], 3) if DEFAULT_BATCH in theirs else None,
        "over_best_batch": round(bench.medvl.speed / theirs[best], 3),
    }
    quiet = busy <= BUSY_CORES or options.force
    summary = {
        "shape": options.shape,
        "samples": options.samples,
        "new_tokens": NEW_TOKENS,
        "rounds": options.rounds,
        "medvl_samples_per_second": round(bench.medvl.speed, 3),
        "llamafactory_samples_per_second": {batch: round(speed, 3) for batch, speed in theirs.items()},
        "best_batch": best,
        "peak_mib": {"medvl": round(bench.medvl.peak), "llamafactory": round(bench.theirs[best].peak)},
        "others_cores": round(busy, 3),
        "contended": busy > BUSY_CORES,
        # Two threads on a busy machine lose a half to five sixths of their speed, not always alike.
        "speed_medvl_over_llamafactory": ratios if quiet else None,
    }
    print(json.dumps(summary))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.eval", description=__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--rounds", type=int, default=1, help="of all programs, in turns")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES), help="LLaMA-Factory's")
    parser.add_argument("--shape", default="vocabulary", help="model, of benchmarks/shapes.py")
    parser.add_argument("--attempts", type=int, default=ATTEMPTS, help="at a run that nothing disturbs")
    parser.add_argument("--force", action="store_true", help="give the ratios although the machine was busy")
    parser.add_argument("--work", type=Path, default=Path(".demo/bench"), help="folder for all that is made and kept")
    return parser.parse_args()


if __name__ == "__main__":
    main()
