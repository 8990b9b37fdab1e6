"""Where this process runs: the facts of the environment that are not settings."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medvl_jobs.errors import SettingsError

KUBERNETES_TERMINATION_LOG = "/dev/termination-log"


@dataclass(frozen=True)
class Environment:
    """Provenance and places that a container sets through ``MEDVL_…`` variables."""

    git_sha: str | None
    image_digest: str | None
    termination_log: Path
    completion_index: str | None
    """Which pod of an Indexed Job this is, ``"0"`` and on; none outside of one."""


def read_environment() -> Environment:
    """Read ``MEDVL_GIT_SHA``, ``MEDVL_IMAGE_DIGEST``, ``MEDVL_TERMINATION_LOG`` and ``JOB_COMPLETION_INDEX``."""
    return Environment(
        git_sha=os.environ.get("MEDVL_GIT_SHA") or _git_sha(),
        image_digest=os.environ.get("MEDVL_IMAGE_DIGEST"),
        termination_log=Path(os.environ.get("MEDVL_TERMINATION_LOG", KUBERNETES_TERMINATION_LOG)),
        completion_index=os.environ.get("JOB_COMPLETION_INDEX"),
    )


OWN_VARIABLES = ("MEDVL_", "AWS_")
"""How the names of our own variables begin: settings, a server's key, the store's credentials."""


def foreign_environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment for a program that is not ours, without our own; ``more`` where that is not set."""
    return {**more, **{name: value for name, value in os.environ.items() if not name.startswith(OWN_VARIABLES)}}


@functools.cache
def _git_sha() -> str | None:
    """The commit of the checkout that the package runs from, with ``-dirty`` when it has changes; else ``None``."""
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            cwd=folder, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


@dataclass(frozen=True)
class Topology:
    """How many processes train together, and which of them this is: torchrun's conventions, and the operator's.

    Kubeflow's training operator sets ``PET_…`` for the one process of each pod, with ``WORLD_SIZE`` already counting
    all processes and ``RANK`` counting pods.
    """

    processes: int
    """Of each machine."""
    machines: int
    machine: int
    local_rank: int | None
    """Which process of this machine this is; none when it has to start them."""
    master: tuple[str, str]
    """Address and port of the first machine."""

    @property
    def is_launcher(self) -> bool:
        """Whether this process is to start the others, and not to train itself."""
        return self.local_rank is None and self.world > 1

    @property
    def world(self) -> int:
        """All processes of all machines."""
        return self.processes * self.machines

    @property
    def rank(self) -> int:
        """Which of all processes this one is."""
        return self.machine * self.processes + (self.local_rank or 0)

    def environment(self, local_rank: int, termination_log: Path) -> dict[str, str]:
        """The whole environment of one of the processes to start: this one's, its place, its own termination log.

        ``PYTHONFAULTHANDLER``, unless it is set: NCCL ends a process by SIGABRT, and says nothing of Python's stacks.
        """
        told = {**self.of_process(local_rank), "MEDVL_TERMINATION_LOG": str(termination_log)}
        return {"PYTHONFAULTHANDLER": "1", **os.environ, **told}

    def of_process(self, local_rank: int) -> dict[str, str]:
        """The variables that tell one of the processes its place."""
        # One machine needs neither the cluster's name service nor the Service of the job.
        address = "127.0.0.1" if self.machines == 1 else self.master[0]
        return {
            "RANK": str(self.machine * self.processes + local_rank),
            "LOCAL_RANK": str(local_rank),
            "WORLD_SIZE": str(self.world),
            "LOCAL_WORLD_SIZE": str(self.processes),
            "MASTER_ADDR": address,
            "MASTER_PORT": self.master[1],
        }


def read_topology() -> Topology:
    """Read what torchrun or the training operator has set; alone, it is one process of one. Raises `SettingsError`."""
    rank = _whole("LOCAL_RANK", 0) if "LOCAL_RANK" in os.environ else None
    size = _whole("WORLD_SIZE", 1)
    if rank is not None:  # started by torchrun, or by our launcher
        processes = _whole("LOCAL_WORLD_SIZE", 1)
        machines, machine = size // processes, _whole("RANK", 0) // processes
    else:
        processes, machines = _whole("PET_NPROC_PER_NODE", 1), _whole("PET_NNODES", 1)
        machine = _whole("PET_NODE_RANK", 0)
    if rank is None and size != 1 and size != processes * machines:
        raise SettingsError(
            f"WORLD_SIZE is {size}, but this is one process alone: it would wait for the others for ever",
            where="the environment",
            remedy="set PET_NPROC_PER_NODE to the processes of a machine (and PET_NNODES), or start it with torchrun",
        )
    return Topology(
        processes=processes,
        machines=machines,
        machine=machine,
        local_rank=rank,
        master=(os.environ.get("MASTER_ADDR", "127.0.0.1"), os.environ.get("MASTER_PORT", "23456")),
    )


def name_accelerator(name: str) -> None:
    """Tell DeepSpeed ``cpu`` or ``cuda``. Left to find out, it says so on stdout, between the log lines."""
    os.environ.setdefault("DS_ACCELERATOR", name)


def pose_as_the_only_process() -> bool:
    """Set what torchrun would have set, for a process that nobody has given a place; returns whether that was so.

    For DeepSpeed, which trains in no other.
    """
    if "LOCAL_RANK" in os.environ:
        return False
    os.environ.update(read_topology().of_process(0))
    return True


def _whole(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdecimal():
        remedy = "set it to a number: nprocPerNode of the PyTorchJob, for one"
        raise SettingsError(f"{variable} is {text!r}, and no number", where="the environment", remedy=remedy)
    return int(text)
