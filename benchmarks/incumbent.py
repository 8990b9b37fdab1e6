"""LLaMA-Factory as PyPI has it, in an environment of its own, told to do what medvl does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.training_rows import BATCH

RELEASE = "llamafactory==0.9.5"
TORCHVISION = "torchvision==0.28.0"
"""What goes with torch 2.13."""
METRICS = tuple(f"{name}=={version(name)}" for name in ("jieba", "nltk", "rouge-chinese"))
"""What its scores need, and it cannot predict without, in medvl's versions: both compute with the same code."""
BESIDE = """\
import torch
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
"""Run before the program, in its process: torchvision's compiled operators do not load beside a torch for CPUs, and it
wants their names declared. None is on the measured path."""
ENVIRONMENT = ("DISABLE_VERSION_CHECK=1", "CUDA_VISIBLE_DEVICES=", "HF_HUB_OFFLINE=1")
"""Its check of versions would refuse the absent torchaudio; nothing may be asked of the hub."""
REQUIREMENTS = """\
from importlib.metadata import requires
for requirement in requires("llamafactory"):
    if ";" not in requirement and not requirement.startswith("torch>") and "torchaudio" not in requirement:
        print(requirement)
"""


def installed(folder: Path) -> Path:
    """The Python of LLaMA-Factory's environment, made once: 2 GB, two minutes from a near index.

    Everything but sound is what its own package asks for, with what its scores need; torch is the one that medvl runs
    on here, so that both programs have the same kernels.
    """
    python, marker = folder / "bin" / "python", folder / f"installed-{'-'.join((RELEASE, *METRICS))}"
    if marker.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    release, _, _ = torch.__version__.partition("+")
    print(f"installing {RELEASE} into {folder}", file=sys.stderr)
    subprocess.run([*pip, f"torch=={release}"], check=True)
    subprocess.run([*pip, "--no-deps", RELEASE, TORCHVISION], check=True)
    listed = subprocess.run([str(python), "-c", REQUIREMENTS], check=True, capture_output=True, text=True).stdout
    subprocess.run([*pip, *listed.split(), *METRICS], check=True)
    [packages] = folder.glob("lib/python*/site-packages")
    # Our own name, and not sitecustomize: a distribution's Python may have one, and only one is run.
    (packages / "medvl_benchmark.py").write_text(BESIDE, encoding="utf-8")
    # No release of it goes with this torch. It is imported at the top of a module that uses it for sound alone.
    (packages / "torchaudio.py").touch()
    marker.touch()
    return python


def command(python: Path, checkpoint: Path, data: Path, out: Path) -> list[str]:
    """Train as `llamafactory-cli train` does, from a YAML file that is written into ``out``."""
    return _command(python, out, _common(checkpoint, data, out) | _TRAINING)


def predict_command(python: Path, checkpoint: Path, data: Path, out: Path, told: dict[str, Any]) -> list[str]:
    """Answer the questions of ``mllm_val_data``, greedily, as *Evaluate & Predict* does.

    ``told``: adapter, batch size and length, by its names. It writes ``predict_results.json`` and
    ``generated_predictions.jsonl`` into ``out``.
    """
    predicting = {"do_predict": True, "predict_with_generate": True, "eval_dataset": "mllm_val_data"}
    return _command(python, out, {**_common(checkpoint, data, out), **predicting, "do_sample": False, **told})


def _command(python: Path, out: Path, settings: dict[str, Any]) -> list[str]:
    out.mkdir(parents=True, exist_ok=True)
    file = out / "settings.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    program = "import medvl_benchmark; from llamafactory.cli import main; main()"
    return ["env", *ENVIRONMENT, str(python), "-c", program, "train", str(file)]


def losses(out: Path) -> list[float]:
    """Of every step, as its trainer has them: `trainer_log.jsonl` has the same with fewer digits."""
    state = json.loads((out / "trainer_state.json").read_text(encoding="utf-8"))
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def versions(python: Path) -> dict[str, str]:
    """Of what computes."""
    names = ["llamafactory", "torch", "transformers", "peft", "accelerate"]
    program = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    run = subprocess.run([str(python), "-c", program, *names], check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(run.stdout)
    return found


def _common(checkpoint: Path, data: Path, out: Path) -> dict[str, Any]:
    return {
        "model_name_or_path": str(checkpoint),
        "trust_remote_code": False,
        "stage": "sft",
        "finetuning_type": "lora",
        "dataset_dir": str(data),
        "media_dir": str(data),
        "template": "qwen3_vl_nothink",
        "cutoff_len": 2048,
        "overwrite_cache": True,
        "preprocessing_num_workers": 1,  # its 16 take longer to start than all rows take
        "dataloader_num_workers": 0,
        "output_dir": str(out),
        "overwrite_output_dir": True,
        "report_to": "none",
        "bf16": False,
        "fp16": False,
        "seed": 42,
    }


_TRAINING: dict[str, Any] = {
    "do_train": True,
    "lora_rank": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.0,
    "lora_target": "q_proj,k_proj,v_proj,o_proj",
    "dataset": "mllm_train_data",
    "disable_shuffling": True,  # the rows lie in the order that medvl draws them in
    "logging_steps": 1,
    "save_strategy": "no",
    "plot_loss": False,
    "per_device_train_batch_size": BATCH,
    "gradient_accumulation_steps": 1,
    "learning_rate": 5.0e-5,
    "num_train_epochs": 1.0,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0,
    "max_grad_norm": 1.0,
    "optim": "adamw_torch",
    "include_num_input_tokens_seen": True,
}
