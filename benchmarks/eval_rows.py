"""What both programs are to answer with and about: a model that never stops by itself, an adapter, and rows."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from benchmarks.shapes import MAX_PIXELS, MIN_PIXELS, SEED, checkpoint
from benchmarks.slices import sources
from benchmarks.training_rows import PREP
from medvl_jobs.model.checkpoint import load_model
from medvl_jobs.prep.split import ticket, val_tickets
from medvl_jobs.settings.model import ModelSettings
from medvl_jobs.settings.prep import PrepSettings

TRAIN_ROWS = 2
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Rows:
    """Prepared rows in a local store."""

    store: Path
    source: Path
    samples: int

    def settings(self) -> list[str]:
        """What a `medvl` command is told of them."""
        return [f"prep.source={self.source}", f"storage.uri={self.store}", *PREP]

    def conversations(self) -> Path:
        """LLaMA-Factory's ``dataset_dir``, with ``mllm_val_data.json``."""
        [prepared] = (self.store / "prepared").glob("*/llamafactory")
        return prepared


def validation_rows(count: int, work: Path) -> Rows:
    """Prepare ``count`` rows of the validation side, in a new store."""
    source, store = work / f"validation-{count}.parquet", work / f"store-eval-{count}"
    if not source.exists():
        _write_source(count, source, work)
    shutil.rmtree(store, ignore_errors=True)
    command = [sys.executable, "-m", "medvl_jobs", "prep", f"prep.source={source}", f"storage.uri={store}", *PREP]
    subprocess.run(command, check=True, capture_output=True)
    return Rows(store, source, count)


def endless(shape: str, work: Path) -> Path:
    """The checkpoint of `shapes` without a way to end an answer: the head gives every special token a logit of 0.

    Of 151,643 random logits one is always above. So all answers have the same length, in every program.
    """
    model = checkpoint(shape, work)
    path = model.with_name(f"{model.name}-endless")
    if (path / "complete").exists():
        return path
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(model, path, ignore=shutil.ignore_patterns("complete"))
    weights = load_file(model / WEIGHTS)
    special = min(AutoTokenizer.from_pretrained(model).added_tokens_decoder)
    weights["lm_head.weight"][special:] = 0
    save_file(weights, path / WEIGHTS, metadata={"format": "pt"})
    (path / "complete").touch()
    return path


def adapter(model: Path) -> Path:
    """An adapter with random weights on q, k, v and o, of rank 8."""
    path = model.with_name(f"{model.name}-adapter")
    if not (path / "adapter_model.safetensors").exists():
        torch.manual_seed(SEED)
        names = ["q_proj", "k_proj", "v_proj", "o_proj"]
        lora = LoraConfig(
            r=8, lora_alpha=16, target_modules=names, exclude_modules=".*visual.*", init_lora_weights=False
        )
        settings = ModelSettings(path=str(model), dtype="float32", min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
        get_peft_model(load_model(settings), lora).save_pretrained(path)
    return path


def _write_source(count: int, path: Path, work: Path) -> None:
    """A parquet file with so many rows for the val side, by their hash, and a few for train."""
    rendered = max(2000, 8 * count)  # the default split puts a fifth into val; 2,000 are there for prep already
    table = pq.read_table(sources(work, [rendered])[rendered])
    prep = PrepSettings()
    val = [ticket(each, prep.split_seed) < val_tickets(prep.val_ratio) for each in table["id"].to_pylist()]
    chosen = [at for at, is_val in enumerate(val) if is_val][:count]
    chosen += [at for at, is_val in enumerate(val) if not is_val][:TRAIN_ROWS]
    pq.write_table(table.take(chosen), path, row_group_size=100)
