"""Memory of the host while a checkpoint of many files is loaded, as a multiple of its weights.

Two kinds are told apart. *Own* memory (``RssAnon``) is what a process must have. *Pages of files* (``RssFile``) are the
checkpoint itself, mapped: the same for all processes of a machine, and the kernel takes them back when it needs them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_model
import torch
from safetensors.torch import save_file
from transformers import Qwen3VLMoeForConditionalGeneration

from medvl_jobs.model.layouts import to_hub_layout

LAYERS, EXPERTS, EXPERT_WIDTH, SHARD_BYTES = 16, 96, 384, 40e6
CONSTANT = 64e6
"""What loading takes whatever the model: modules, buffers, threads."""

MEASURE = """
import sys, threading, warnings
warnings.simplefilter("ignore")
import torch, tiny_model
from medvl_jobs.model.checkpoint import load_model

def resident():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status") if line.startswith(("RssAnon", "RssFile")))
    return [int(lines[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile")]

def watch():
    while not loaded.wait(0.002):
        peak[:] = map(max, peak, resident())

load_model(tiny_model.MODEL)  # imports, and what the first model brings with it
before = resident()
peak, loaded = list(before), threading.Event()
watching = threading.Thread(target=watch)
watching.start()
model = load_model(tiny_model.MODEL.model_copy(update={"path": sys.argv[1], "dtype": "bfloat16"}))
loaded.set()
watching.join()
peak = map(max, peak, resident())
print(*(now - then for now, then in zip(peak, before)))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, int]:
    """A checkpoint in the hub's layout, mostly experts as the 30B; its bytes, and those of its largest file."""
    folder = tmp_path_factory.mktemp("checkpoint")
    for path in Path(tiny_model.BASE_MODEL).iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {
        "num_hidden_layers": LAYERS,
        "num_local_experts": EXPERTS,
        "moe_intermediate_size": EXPERT_WIDTH,
    }
    (folder / "config.json").write_text(json.dumps(config))
    kind = Qwen3VLMoeForConditionalGeneration
    with torch.device("meta"):
        weights = kind(kind.config_class.from_dict(config)).bfloat16().state_dict()
    index: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    for number, (name, weight) in enumerate(weights.items(), start=1):
        shard[name] = torch.full(to_hub_layout(name, weight, config).shape, 0.01, dtype=torch.bfloat16)
        if sum(value.nbytes for value in shard.values()) > SHARD_BYTES or number == len(weights):
            file = f"model-{len(index):05d}.safetensors"
            save_file(shard, folder / file, metadata={"format": "pt"})
            index |= dict.fromkeys(shard, file)
            shard = {}
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    words = {"metadata": {"total_size": sum(sizes)}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(words))
    return folder, sum(sizes), max(sizes)


def test_loading_needs_the_weights_once(checkpoint: tuple[Path, int, int]) -> None:
    """On a CPU, where the weights end in the host's memory: own memory at most the weights and one file of them."""
    folder, weights, largest = checkpoint
    assert weights > 400e6
    assert len(list(folder.glob("*.safetensors"))) >= 8
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, folder],
        env={"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    own, pages = (int(word) for word in ran.stdout.split())
    print(f"own memory {own / weights:.2f}, pages of files {pages / weights:.2f} of {weights / 1e6:.0f} MB of weights")
    assert own <= weights + largest + CONSTANT
    assert pages <= weights + CONSTANT
