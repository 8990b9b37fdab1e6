"""Which libraries are installed, and which versions of them are known to spoil a training. Imports none of them.

It runs before everything else: what medvl itself imports is not there in some of the versions that are refused here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from medvl_jobs.errors import SchemaMismatchError, SettingsError
from medvl_jobs.model.versions import major
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.publish import installed
from medvl_jobs.train.preflight.findings import Finding, require

PACKAGES = ("torch", "transformers", "peft", "accelerate", "deepspeed", "flash-attn")
NEEDED = ("torch", "transformers", "peft", "accelerate")


def require_libraries(settings: RunSettings) -> None:
    """Raises `SettingsError` or `SchemaMismatchError` where `library_findings` refuses."""
    require(library_findings(installed(PACKAGES), settings))


def library_findings(versions: Mapping[str, str], settings: RunSettings) -> list[Finding]:
    """The versions of `PACKAGES`, by name, and what is wrong with them."""
    said = ", ".join(f"{name} {versions.get(name, '–')}" for name in PACKAGES)
    return [
        Finding("libraries", said),
        *(_missing(name, why) for name, why in _needed(settings).items() if name not in versions),
        *_torch(versions.get("torch", "")),
        *_transformers(versions.get("transformers", "")),
    ]


def _needed(settings: RunSettings) -> dict[str, str]:
    """Package -> the setting that needs it."""
    needed = dict.fromkeys(NEEDED, "training")
    if settings.train.zero in {2, 3} or settings.train.offload != "none":
        needed["deepspeed"] = "train.zero"
    if settings.model.attention == "flash_attention_2":  # transformers would fetch kernels from the hub instead
        needed["flash-attn"] = "model.attention=flash_attention_2"
    return needed


def _missing(package: str, why: str) -> Finding:
    remedy = "pip install 'medvl[train]'" if package in NEEDED else f"install {package}, or change {why}"
    return Finding(package, f"is not installed, and {why} needs it", "refused", "libraries", remedy)


def _torch(version: str) -> list[Finding]:
    if not re.match(r"2\.9\b", version):
        return []
    return [
        Finding(
            "torch 2.9",
            f"torch {version} computes the vision tower's Conv3d 4 to 20 times slower (pytorch#166122)",
            "refused",
            "libraries",
            "install torch 2.10 or newer, or 2.8 or older",
            SchemaMismatchError,
        )
    ]


def _transformers(version: str) -> list[Finding]:
    if not version or int(major(version)) >= 5:
        return []
    return [
        Finding(
            "transformers 4",
            f"transformers {version} runs every token through every expert of Qwen3-VL-MoE (4.57, transformers#43315): "
            "16 times the work",
            "refused",
            "libraries",
            "install transformers 5",
            SchemaMismatchError,
        )
    ]


def grouped_mm_finding(torch_version: str, capability: tuple[int, int] | None, experts: str) -> Finding:
    """Whether torch has the kernel that ``model.experts=grouped_mm`` asks for; ``capability`` is none on a CPU.

    Where it has not, transformers goes through the experts one by one and says nothing. The rules are those of
    ``_can_use_grouped_mm`` in transformers' ``integrations/moe.py``: torch 2.10 from compute capability 8.0 on, 2.9 as
    well, 2.8 and older on 9.x alone and not on CPUs.
    """
    name, where = "experts", "model.experts"
    if experts != "grouped_mm":
        return Finding(name, f"{experts}, as asked: slow, each expert alone", "warning", where, f"{where}=grouped_mm")
    numbers = re.match(r"(\d+)\.(\d+)", torch_version)
    version = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if version >= (2, 9):
        there = capability is None or capability >= (8, 0)
    else:
        there = capability is not None and capability[0] == 9
    device = "CPUs" if capability is None else f"compute capability {capability[0]}.{capability[1]}"
    if there:
        return Finding(name, f"grouped_mm: torch {torch_version} has the kernel for {device}")
    return Finding(
        name,
        f"torch {torch_version} has no grouped matrix product for {device}",
        "refused",
        where,
        "set model.experts=eager, or use torch 2.10 or newer on a GPU of compute capability 8.0 or more",
        SettingsError,
    )
