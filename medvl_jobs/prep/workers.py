"""A few processes that make parts."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from medvl_jobs.errors import TryAgainError

_PR_SET_PDEATHSIG = 1
_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")

Task = Callable[[], None]
RunAll = Callable[[Iterable[Task]], None]


@contextmanager
def workers(count: int) -> Iterator[RunAll]:
    """Gives a function that calls every task it is handed once, ``count`` at a time, and returns when all have ended.

    Tasks travel to another process, so they are partial applications of module-level functions; with ``count=1`` they
    stay in this one. The first error of a task is raised when those that run have ended; the rest are not started.
    Raises `TryAgainError` when a worker is killed.
    """
    if count == 1:
        yield _run_here
        return
    # A fork of this process would inherit its threads' locks in whatever state they are; the fork server has none.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["medvl_jobs.prep.part"])
    with ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker) as pool:

        def run_all(tasks: Iterable[Task]) -> None:
            try:
                for future in [pool.submit(task) for task in tasks]:
                    future.result()
            except BrokenProcessPool as error:
                what = "a worker was killed, most likely because memory ran out"
                remedy = "start again: finished parts are kept; if it happens again, lower prep.workers"
                raise TryAgainError(what, where="prep.workers", remedy=remedy) from error
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

        yield run_all


def _run_here(tasks: Iterable[Task]) -> None:
    for task in tasks:
        task()


def processors() -> int:
    """Processors that this process may use: the affinity mask, or the quota of the container when that is less."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CGROUP_QUOTA.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return available  # no cgroup of version 2: not a container, or an old one
    return available if quota == "max" else max(1, min(available, int(quota) // int(period)))


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
