"""The GPUs of this machine: as many as there are processes, usable by this torch, large enough."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from medvl_jobs.errors import SchemaMismatchError
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.train.preflight.findings import Finding
from medvl_jobs.train.preflight.libraries import grouped_mm_finding

DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Gpu:
    """One GPU, as torch sees it."""

    name: str
    memory_bytes: int
    capability: tuple[int, int]
    """Compute capability. bfloat16 and flash-attention need 8.0, an A100's."""


@dataclass(frozen=True)
class Machine:
    """What torch and the driver say."""

    gpus: tuple[Gpu, ...]
    torch: str
    cuda: str | None
    """Version of CUDA that torch was built with; none for a build for CPUs."""
    driver: str | None
    """The driver's own words; none where there is none."""
    architectures: tuple[str, ...] = ()
    """What torch was compiled for: ``sm_90``, or ``compute_90`` for what the driver compiles for later GPUs too."""
    complaint: str = ""
    """Why torch can use no GPU, in its own words."""


def read_machine() -> Machine:
    """Ask torch and the driver. No process gets hold of a GPU, and none of its memory is taken."""
    driver = DRIVER.read_text(encoding="utf-8").splitlines()[0] if DRIVER.exists() else None
    gpus: tuple[Gpu, ...] = ()
    complaint = ""
    if torch.cuda.is_available():
        every = (torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count()))
        gpus = tuple(Gpu(each.name, each.total_memory, (each.major, each.minor)) for each in every)
    elif driver and torch.version.cuda:
        try:
            torch.cuda.init()
        except RuntimeError as error:  # "The NVIDIA driver on your system is too old (found version …)"
            complaint = str(error).splitlines()[0]
    return Machine(gpus, torch.__version__, torch.version.cuda, driver, tuple(torch.cuda.get_arch_list()), complaint)


def gpu_findings(machine: Machine, processes: int, settings: RunSettings) -> list[Finding]:
    """``processes`` train on this machine."""
    if not machine.gpus:
        return [
            _none(machine),
            *_flash_attention(machine, settings),
            grouped_mm_finding(machine.torch, None, settings.model.experts),
        ]
    least = min(each.capability for each in machine.gpus)
    return [
        _driver(machine),
        *_architectures(machine),
        _count(machine, processes),
        *_bfloat16(machine, settings),
        *_flash_attention(machine, settings),
        grouped_mm_finding(machine.torch, least, settings.model.experts),
    ]


def _driver(machine: Machine) -> Finding:
    return Finding("driver", f"{machine.driver or 'no version to be read'}; torch {machine.torch}, CUDA {machine.cuda}")


def _architectures(machine: Machine) -> list[Finding]:
    """Refuse a GPU that this torch has no code for: its first operation would end with "no kernel image"."""
    lacking = [each for each in machine.gpus if not any(_runs(word, each.capability) for word in machine.architectures)]
    if not lacking:
        return []
    what = f"torch {machine.torch} is not compiled for {lacking[0].name} ({_dotted(lacking[0].capability)})"
    remedy = "install torch for a newer CUDA, or an older torch for an older GPU"
    return [Finding("torch", what, "refused", ", ".join(machine.architectures), remedy, SchemaMismatchError)]


def _runs(architecture: str, capability: tuple[int, int]) -> bool:
    """Machine code runs on GPUs of its major version from its minor on, PTX on all that are not older."""
    kind, _, digits = architecture.partition("_")
    digits = digits.rstrip("af")  # sm_90a: with what this one architecture alone has
    compiled = int(digits[:-1]), int(digits[-1])
    return compiled <= capability and (kind == "compute" or compiled[0] == capability[0])


def _dotted(capability: tuple[int, int]) -> str:
    return f"compute capability {capability[0]}.{capability[1]}"


def _none(machine: Machine) -> Finding:
    if machine.driver and not machine.cuda:
        what, remedy = f"torch {machine.torch} is built for CPUs, and here are GPUs", "install torch for CUDA"
    elif machine.driver:
        what = f"torch for CUDA {machine.cuda} can use no GPU here: {machine.complaint or 'it sees none'}"
        remedy = "update the driver, install torch for an older CUDA, or ask for nvidia.com/gpu in the pod's resources"
    elif machine.cuda:
        remedy = "run it where there are GPUs; in a pod, ask for nvidia.com/gpu in its resources"
        return Finding("GPUs", f"none: it trains on {platform.machine()} CPUs", "warning", "this machine", remedy)
    else:
        return Finding("GPUs", f"none: it trains on {platform.machine()} CPUs")
    return Finding("GPUs", what, "refused", machine.driver, remedy, SchemaMismatchError)


def _count(machine: Machine, processes: int) -> Finding:
    kinds = sorted({f"{each.name}, {each.memory_bytes / 1e9:.1f} GB" for each in machine.gpus})
    said = f"{len(machine.gpus)} × {' and '.join(kinds)}; {processes} processes"
    where = "nprocPerNode of the job, or PET_NPROC_PER_NODE"
    if processes > len(machine.gpus):
        return Finding("GPUs", said, "refused", where, f"start at most {len(machine.gpus)} processes on this machine")
    if processes < len(machine.gpus):
        return Finding("GPUs", said, "warning", where, f"start {len(machine.gpus)} processes: the others are idle")
    if len(kinds) > 1:
        return Finding("GPUs", said, "warning", "this machine", "use equal ones: the slowest sets the pace")
    return Finding("GPUs", said)


def _bfloat16(machine: Machine, settings: RunSettings) -> list[Finding]:
    old = [each.name for each in machine.gpus if each.capability < (8, 0)]
    if settings.model.dtype != "bfloat16" or not old:
        return []
    remedy = "set model.dtype=float32, or use an A100 or newer"
    return [Finding("bfloat16", f"{old[0]} cannot compute in bfloat16", "refused", "model.dtype", remedy)]


def _flash_attention(
    machine: Machine, settings: RunSettings, load: Callable[[str], object] = importlib.import_module
) -> list[Finding]:
    if settings.model.attention != "flash_attention_2":
        return []
    where, remedy = "model.attention", "set model.attention=sdpa, or install flash-attn's wheel for this torch and CUDA"
    if settings.model.dtype != "bfloat16":
        what = f"computes in half precision only, and model.dtype is {settings.model.dtype}"
        return [Finding("flash-attn", what, "refused", where, "set model.attention=sdpa, or model.dtype=bfloat16")]
    if not machine.gpus or min(each.capability for each in machine.gpus) < (8, 0):
        return [Finding("flash-attn", "needs GPUs of compute capability 8.0", "refused", where, remedy)]
    try:
        load("flash_attn_2_cuda")  # the compiled part: built for another torch, it lacks a symbol
    except ImportError as error:
        what = f"cannot be loaded with torch {machine.torch}: {str(error).splitlines()[0]}"
        return [Finding("flash-attn", what, "refused", where, remedy, SchemaMismatchError)]
    return [Finding("flash-attn", f"loaded, built for torch {machine.torch}")]


def memory_finding(needed_bytes: int, gpu: Gpu | None, free_bytes: int | None) -> Finding:
    """The planner's estimate against one GPU, and what of it is free before anything is loaded."""
    needed = f"{needed_bytes / 1e9:.1f} GB by the planner's estimate"
    if gpu is None:
        return Finding("memory", f"{needed}, on CPUs")
    said = f"{needed}, {gpu.memory_bytes / 1e9:.1f} GB on {gpu.name}"
    if needed_bytes > gpu.memory_bytes:
        return Finding("memory", said, "refused", "train", "run medvl plan: it names the nearest settings that fit")
    if free_bytes is not None and free_bytes < needed_bytes:
        held = f"{said}, of which {free_bytes / 1e9:.1f} GB are free"
        return Finding("memory", held, "warning", gpu.name, "end what else runs on this GPU")
    return Finding("memory", said)
