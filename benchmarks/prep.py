"""How fast prep is, beside the tutorial's script and a bare copy of the parquet; README.md says how to read it."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from benchmarks.measure import Peak, Timing, peak, timing
from benchmarks.slices import smallest, sources
from medvl_jobs.contracts import records
from medvl_jobs.prep.images import checked_image
from medvl_jobs.prep.judge import encoded_image, examine
from medvl_jobs.prep.parquet import read_parquet, row_ranges
from medvl_jobs.prep.pixels import measure, perceptual_hash
from medvl_jobs.prep.rows import Example
from medvl_jobs.prep.split import Grouping
from medvl_jobs.prep.write import RowsFile, ledger_row, prepared_row
from medvl_jobs.settings.prep import PrepSettings
from medvl_jobs.storage.local import LocalStorage

START_UPS = 5
BUSY_CORES = 0.15
"""Others that use more than this distort a measurement on two cores."""
PROFILE_ROWS = 600
"""Their pixels are held in memory; a row group is 64, so that hardly one stays unwritten."""
LIMIT = "import sys, pyarrow.parquet as pq; pq.write_table(pq.read_table(sys.argv[1]), sys.argv[2], compression='none')"
EXPORT = PrepSettings().llamafactory_export

Job = tuple[str, int]
"""What runs, and on how many rows."""
Result = TypeVar("Result", Timing, Peak)


def main() -> None:
    """Measure, print the tables, and end with one line of JSON."""
    options = _options()
    small, large = options.rows
    files = sources(options.work, options.rows)
    print(_machine())
    jobs = [(name, rows) for rows in options.rows for name in _commands("", "", options.workers)]
    # Memory first: these runs are not timed, and leave everything in the page cache.
    peaks = {job: _measured(peak, job, files[job[1]], options) for job in jobs}
    timings: dict[Job, list[Timing]] = {job: [] for job in jobs}
    for job in options.rounds * jobs:
        timings[job].append(_measured(timing, job, files[job[1]], options))
    two_rows = smallest(files[small])
    start_ups = [_measured(timing, ("medvl", 2), two_rows, options) for _ in range(START_UPS)]
    seconds = _seconds(timings, small, large)
    _print_table({**timings, ("medvl", 2): start_ups}, peaks)
    further = [f"{name} {(large - small) / each['marginal']:.0f}" for name, each in seconds.items()]
    print(f"marginal rows/s, start-up left out: {', '.join(further)}")
    profile(files[small], options.work)
    every_run = [run for runs in (*timings.values(), start_ups) for run in runs]
    memory = {name: round(peaks[name, large].tree / peaks[name, small].tree, 3) for name in seconds}
    summary = {
        "rows": options.rows,
        "workers": options.workers,
        "cores": os.cpu_count(),
        **_ratios(seconds),
        "start_up_seconds": round(_median(start_ups), 3),
        "memory_large_over_small": memory,
        "same_work": False,
        "contended_runs": sum(run.others_cores > BUSY_CORES for run in every_run),
        "runs": len(every_run),
    }
    print(json.dumps(summary))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prep", description=__doc__)
    parser.add_argument("--rows", type=_sizes, default=(2000, 8000), metavar="SMALL,LARGE")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each, interleaved")
    parser.add_argument("--workers", type=int, default=2, help="prep.workers")
    parser.add_argument("--work", type=Path, default=Path(".demo/bench"), help="folder for the input and the outputs")
    return parser.parse_args()


def _sizes(text: str) -> tuple[int, int]:
    small, large = sorted(map(int, text.split(",")))
    return small, large


def _commands(source: str, out: str, workers: int) -> dict[str, list[str]]:
    medvl = ["-m", "medvl_jobs", "prep", f"prep.source={source}", f"storage.uri={out}", f"prep.workers={workers}"]
    return {
        "tutorial": [str(Path(__file__).with_name("tutorial_prep.py")), source, out],
        "limit": ["-c", LIMIT, source, f"{out}/copy.parquet"],
        "medvl": medvl,
        f"medvl_export_{'off' if EXPORT else 'on'}": [*medvl, f"prep.llamafactory_export={not EXPORT}"],
    }


def _measured(
    observe: Callable[[Sequence[str]], Result], job: Job, source: Path, options: argparse.Namespace
) -> Result:
    """One measurement that writes into a new folder, which is removed after it."""
    with tempfile.TemporaryDirectory(dir=options.work, prefix="out-") as out:
        result = observe([sys.executable, *_commands(str(source), out, options.workers)[job[0]]])
    if isinstance(result, Timing) and result.others_cores > BUSY_CORES:
        print(f"WARNING: {job[0]}, {job[1]} rows: others used {result.others_cores:.2f} cores meanwhile")
    return result


def _machine() -> str:
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    versions = [f"{name} {version(name)}" for name in ("medvl", "datasets", "pyarrow", "pillow", "numpy")]
    return f"{model[1] if model else 'unknown processor'}, {os.cpu_count()} cores; {', '.join(versions)}"


def _median(runs: Sequence[Timing]) -> float:
    return median(run.wall_seconds for run in runs)


def _seconds(timings: dict[Job, list[Timing]], small: int, large: int) -> dict[str, dict[str, float]]:
    """Of each program, by number of rows, and ``marginal``: what the further rows of the large input take."""
    seconds: dict[str, dict[str, float]] = {}
    for (name, rows), runs in timings.items():
        seconds.setdefault(name, {})[str(rows)] = _median(runs)
    return {name: {**each, "marginal": each[str(large)] - each[str(small)]} for name, each in seconds.items()}


def _ratios(seconds: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Of rows per second: above 1, medvl is faster."""
    return {
        f"{name}_over_{other}": {size: round(seconds[other][size] / own, 3) for size, own in seconds[name].items()}
        for name in seconds
        if name.startswith("medvl")
        for other in ("tutorial", "limit")
    }


def _print_table(timings: dict[Job, list[Timing]], peaks: dict[Job, Peak]) -> None:
    print("Everything lies in the page cache. MiB: peak of all processes together (PSS), and of the largest one (RSS).")
    print(f"\n{'':18}{'rows':>6}{'seconds':>9} {'(range)':17}{'rows/s':>8}{'MiB':>7}{'largest':>9}")
    for (name, rows), runs in timings.items():
        times, memory = [run.wall_seconds for run in runs], peaks.get((name, rows))
        spread = f"({min(times):.2f}–{max(times):.2f})"
        shown = f"{memory.tree:7.0f}{memory.process:9.0f}" if memory else "  (start-up)"
        print(f"{name:18}{rows:6}{median(times):9.2f} {spread:17}{rows / median(times):8.0f}{shown}")


def profile(source: Path, work: Path) -> None:
    """Where the time of a row goes on one core: the stage's own functions, each called here for the same rows."""
    prep, grouping = PrepSettings(), Grouping()

    def milliseconds(function: Callable[[Any], object], values: Iterable[object]) -> float:
        start, count = time.perf_counter(), 0
        for count, value in enumerate(values, start=1):  # noqa: B007
            function(value)
        return 1000 * (time.perf_counter() - start) / count

    [first, *_] = row_ranges(source, source.name, prep.columns, PROFILE_ROWS)
    rows = list(read_parquet(source, source.name, prep.columns, first))
    images = [encoded_image(row.image) for row in rows]
    pixels = [np.asarray(Image.open(BytesIO(data))) for data in images]
    examples = [example for row in rows if isinstance(example := examine(row, prep, grouping), Example)]
    read = milliseconds(lambda row: None, read_parquet(source, source.name, prep.columns, first))
    judged = milliseconds(lambda row: examine(row, prep, grouping), rows)
    checked = milliseconds(lambda data: checked_image(data, prep.image), images)
    measured, hashed = milliseconds(measure, pixels), milliseconds(perceptual_hash, pixels)
    with tempfile.TemporaryDirectory(dir=work, prefix="out-") as folder:
        out = Path(folder)
        table, ledger = RowsFile(out / "examples", records.PREPARED), RowsFile(out / "ledger", records.LEDGER)
        written = milliseconds(lambda example: table.add(prepared_row(example)), examples)
        written += milliseconds(lambda example: ledger.add(ledger_row(example, prep.split_seed)), examples)
        store = LocalStorage(out)
        exported = milliseconds(lambda example: store.write_bytes(example.file_name, example.image.data), examples)
    print(f"\nms per row on one core, {len(rows)} rows in this process")
    for step, taken in {
        "read": read,
        "decode": checked - measured,
        "sha256, green pixels": measured - hashed,
        "perceptual hash": hashed,
        "rest of the checks": judged - checked,
        "write parquet": written,
        "write image file (export)": exported,
    }.items():
        print(f"  {step:26}{taken:6.3f}")


if __name__ == "__main__":
    main()
