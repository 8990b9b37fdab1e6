"""Every key in the store. Nobody else joins strings into keys.

    prepared/<key>/
      train/part-00000.parquet …        rows of `records.PREPARED`
      val/part-00000.parquet …
      quarantine/part-00000.parquet …   rows of `records.QUARANTINE`: what was refused, why, and the original bytes
      llamafactory/                     images/, mllm_train_data.json, mllm_val_data.json, dataset_info.json
      card.json                         counts and reasons
      manifest.json
    adapters/<key>/
      adapter_config.json  adapter_model.safetensors  README.md
      base_model.json                   fingerprint of the base model that it belongs to
      trainer_log.jsonl  training_loss.png  all_results.json
      checkpoints/step-000100/…         each with its own manifest.json
      manifest.json
    predictions/<key>/
      part-00000.jsonl …                one line per finished example, appended in the order they finish
      predict_results.json  scores.parquet
      manifest.json
    runs/<name>/<run key>/
      run.yaml  plan.json
      report/index.html  report/report.json  report/report.md  report/figures/…
      manifest.json
    runs/<name>/latest.json             the newest run key of that name

A prefix without ``manifest.json`` does not exist: it is being made, or its maker died.
"""

from __future__ import annotations

MANIFEST = "manifest.json"
CARD = "card.json"
RUN_FILE = "run.yaml"
PLAN = "plan.json"
PREDICT_RESULTS = "predict_results.json"
SCORES = "scores.parquet"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_BASE = "base_model.json"
TRAINER_LOG = "trainer_log.jsonl"
TRAINING_LOSS = "training_loss.png"
ALL_RESULTS = "all_results.json"


def prepared(key: str) -> str:
    """Prefix of one prepared dataset."""
    return f"prepared/{key}"


def adapter(key: str) -> str:
    """Prefix of one trained adapter."""
    return f"adapters/{key}"


def checkpoints(key: str) -> str:
    """Prefix of the checkpoints of one adapter."""
    return f"{adapter(key)}/checkpoints"


def checkpoint(key: str, step: int) -> str:
    """Prefix of one checkpoint; zero-padded so that key order is step order."""
    return f"{checkpoints(key)}/step-{step:06d}"


def predictions(key: str) -> str:
    """Prefix of the predictions of one variant."""
    return f"predictions/{key}"


def run(name: str, key: str) -> str:
    """Prefix of one run: its settings, plan and report."""
    return f"runs/{name}/{key}"


def report_file(name: str, key: str, file: str) -> str:
    """One file of a run's report."""
    return f"{run(name, key)}/report/{file}"


def latest(name: str) -> str:
    """The pointer to the newest run of a name."""
    return f"runs/{name}/latest.json"


def part(number: int, suffix: str) -> str:
    """File name of the ``number``-th part: ``part-00007.parquet``."""
    return f"part-{number:05d}.{suffix}"


def manifest(prefix: str) -> str:
    """Key of the manifest that makes ``prefix`` exist."""
    return f"{prefix}/{MANIFEST}"
