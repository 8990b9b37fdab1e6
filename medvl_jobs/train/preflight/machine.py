"""The other processes, the disk, the shared memory and the store: what a training needs beside GPUs."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from medvl_jobs.errors import MedvlError, TryAgainError
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.probe import probe
from medvl_jobs.train.planner.setup import FULL, Zero
from medvl_jobs.train.preflight.findings import Finding
from medvl_jobs.train.ranks import Ranks

ALL_REDUCE_SECONDS = 120.0
"""NCCL needs some ten seconds to find its ways between machines the first time."""
SHARED_MEMORY = Path("/dev/shm")


def all_reduce_finding(ranks: Ranks, seconds: float = ALL_REDUCE_SECONDS) -> Finding:
    """Sum the ranks of all processes, which must be the one number that it can be. All processes call it together.

    After ``seconds`` it is given up, and refused as `TryAgainError`: the process group must not be used any more.
    """
    name = "all-reduce"
    if ranks.world == 1:
        return Finding(name, "one process: none to be done")
    where = f"process {ranks.rank} of {ranks.world}, on {socket.gethostname()}"
    remedy = "see that the other processes run and that their ports are open to each other; NCCL_DEBUG=INFO says more"
    started = time.perf_counter()
    try:
        ranked = torch.tensor([float(ranks.rank), 1.0], device=ranks.device)
        work = dist.all_reduce(ranked, async_op=True)
        assert work is not None
        # With a timeout NCCL's wait blocks this thread too, not the GPU's stream alone.
        work.wait(timedelta(seconds=seconds))
        found = ranked.tolist()
    except RuntimeError as error:
        what = f"failed or took more than {seconds:.0f} s: {str(error).splitlines()[0]}"
        return Finding(name, what, "refused", where, remedy, TryAgainError)
    expected = [ranks.world * (ranks.world - 1) / 2, float(ranks.world)]
    if found != expected:
        return Finding(name, f"gave {found}, not {expected}", "refused", where, remedy, TryAgainError)
    return Finding(name, f"{ranks.world} processes over {dist.get_backend()} in {time.perf_counter() - started:.2f} s")


def disk_finding(scratch: Path, needed_bytes: int, free_bytes: int | None = None) -> Finding:
    """Whether what a training writes on this machine will find room. ``free_bytes``: none asks the disk."""
    free = shutil.disk_usage(scratch).free if free_bytes is None else free_bytes
    said = f"{needed_bytes / 1e9:.2f} GB needed, {free / 1e9:.1f} GB free"
    if free < needed_bytes:
        remedy = "set TMPDIR to a folder with room; in a pod, a larger emptyDir at /tmp"
        return Finding("disk", said, "refused", str(scratch), remedy)
    return Finding("disk", said)


def disk_bytes(split_bytes: int, checkpoint: int, processes: int) -> int:
    """What ``processes`` of one machine write into scratch: each its copy of the train split, the first checkpoints.

    Each process fetches the one that it resumes from; then there are two more at most: the next while it is being
    written, and one on its way to the store.
    """
    return processes * split_bytes + (processes + 2) * checkpoint


def checkpoint_bytes(trained_parameters: int, zero: Zero, element_bytes: int) -> int:
    """The adapter and AdamW's two moments in float32.

    DeepSpeed adds the weights that it steps with, in float32, and those that it computes with, ``element_bytes`` each.
    """
    return trained_parameters * (3 * FULL if zero == 0 else 4 * FULL + element_bytes)


def shared_memory_finding(needed_bytes: int, free_bytes: int | None) -> Finding:
    """Room for what worker processes hand over. ``free_bytes``: none where there is no such file system.

    A container has 64 MB of it unless it is told otherwise, and a worker that finds none dies of a bus error.
    """
    if needed_bytes == 0 or free_bytes is None:
        return Finding("shared memory", "not used" if needed_bytes == 0 else f"no {SHARED_MEMORY} here")
    said = f"{needed_bytes / 1e9:.2f} GB for micro-batches on their way, {free_bytes / 1e9:.2f} GB free"
    if free_bytes < needed_bytes:
        remedy = "mount an emptyDir with medium Memory at /dev/shm, or set train.workers=0"
        return Finding("shared memory", said, "refused", str(SHARED_MEMORY), remedy)
    return Finding("shared memory", said)


def free_shared_memory() -> int | None:
    """Bytes; none where there is no such file system."""
    return shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else None


def store_finding(storage: Storage, check: Callable[[Storage], None] = probe) -> Finding:
    """Write, read, list and delete one small object."""
    started = time.perf_counter()
    try:
        check(storage)
    except MedvlError as error:
        return Finding.of("store", error)
    return Finding("store", f"{storage.uri} can be written, read and listed; {time.perf_counter() - started:.2f} s")
