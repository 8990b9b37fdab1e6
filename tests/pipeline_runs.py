"""Runs of the real command line, small enough for a test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from medvl_jobs.storage.base import Storage

MEDVL = (sys.executable, "-m", "medvl_jobs")
SMALL = (
    "train.epochs=1",
    "train.save_every_steps=3",
    "train.log_every_steps=1",
    "train.batch_size=8",
    "eval.max_new_tokens=12",
    "eval.flush_every=8",
    "eval.batch_size=8",
    "eval.controls=[tuned-shuffled]",
    "model.threads=1",
)
"""Overrides of the demo's profile: a minute instead of five."""


def medvl(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run to the end; the output is shown when it fails."""
    ran = subprocess.run([*MEDVL, *words], capture_output=True, text=True, timeout=1500, check=False)
    if check and ran.returncode != 0:
        raise AssertionError(f"medvl {' '.join(words)} ended with {ran.returncode}:\n{ran.stdout}\n{ran.stderr}")
    return ran


def start(*words: str, log: Path, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start and return at once; everything that it prints goes to ``log``."""
    with log.open("ab") as stream:
        return subprocess.Popen([*MEDVL, *words], stdout=stream, stderr=stream, env={**os.environ, **(env or {})})


def results(storage: Storage) -> dict[str, Any]:
    """What two runs of the same settings must have in common, down to the last byte where nothing measures time."""
    found: dict[str, Any] = {}
    for key in storage.list_keys(""):
        name = key.rsplit("/", 1)[-1]
        if {"checkpoints", "tensorboard", "live"} & set(key.split("/")) or name in {"manifest.json", "run.yaml"}:
            continue
        data = storage.read_bytes(key)
        if name == "trainer_log.jsonl":
            found[key] = [
                (line["current_steps"], line["loss"], line["grad_norm"]) for line in map(json.loads, data.splitlines())
            ]
        elif name in {"all_results.json", "predict_results.json"}:
            timed = ("runtime", "second", "time", "memory", "wait")
            found[key] = {k: v for k, v in json.loads(data).items() if not any(word in k for word in timed)}
        elif name == "report.json":
            report = json.loads(data)
            found[key] = {part: report[part] for part in ("verdict", "overall", "slicings", "gallery")}
        elif name not in {"index.html", "report.md", "README.md", "adapter_config.json"} and "/figures/" not in key:
            found[key] = data
    return found
