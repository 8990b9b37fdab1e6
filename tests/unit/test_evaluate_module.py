"""The folder that Hugging Face's evaluate loads by its path, on a machine without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "similarity.jsonl"
PROGRAM = """\
import json, socket, sys

def refuse(*address):
    sys.exit(f"a connection to {address}")

socket.socket.connect = socket.getaddrinfo = refuse
import evaluate
*pairs, last = map(json.loads, open(sys.argv[1], encoding="utf-8"))
module = evaluate.load("medvl_jobs/eval/llamafactory_similarity")
means = module.compute(predictions=[p["pred"] for p in pairs], references=[p["label"] for p in pairs])
module.add_batch(predictions=[""], references=["a lung"])
print(json.dumps([means, last["aggregate"], module.compute()]))
"""


def test_it_is_loaded_offline_and_gives_the_golden_numbers(tmp_path: Path) -> None:
    """SystemExit is not swallowed by evaluate, which takes every other error of a connection for no answer."""
    environment = {**os.environ, "HF_HOME": str(tmp_path)}
    words = [sys.executable, "-c", PROGRAM, str(GOLDEN)]
    done = subprocess.run(words, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    means, golden, empty = json.loads(done.stdout)
    assert means == golden
    assert set(empty.values()) == {0.0}
