"""A few processes that make parts."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor
from concurrent.futures import wait as wait_for_futures
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from multiprocessing import forkserver
from multiprocessing.connection import wait

from medvl_jobs.errors import TryAgainError

Task = Callable[[], None]
RunAll = Callable[[Iterable[Task]], None]


# A fork of this process would inherit its threads' locks in whatever state they are; the fork server has no threads.
_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOAD = ["medvl_jobs.prep.part"]
"""What every worker has imported when it begins."""


def start_server() -> None:
    """Let the server import what workers need, while this process finds the source and imports its own.

    Without it that begins with the first task, and a small prep takes half a second longer.
    """
    _CONTEXT.set_forkserver_preload(_PRELOAD)
    forkserver.ensure_running()


@contextmanager
def workers(count: int) -> Iterator[RunAll]:
    """Gives a function that calls every task it is handed once, ``count`` at a time, and returns when all have ended.

    Tasks travel to another process, so they are partial applications of module-level functions; with ``count=1`` they
    stay in this one. With the first error of a task the others are stopped, wherever they are.
    Raises `TryAgainError` when a worker is killed.
    """
    if count == 1:
        yield _run_here
        return
    start_server()
    with ProcessPoolExecutor(count, mp_context=_CONTEXT, initializer=_start_worker) as pool:

        def run_all(tasks: Iterable[Task]) -> None:
            try:
                done, _ = wait_for_futures([pool.submit(_run, task) for task in tasks], return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            except BrokenProcessPool as error:
                what = "a worker was killed, most likely because memory ran out"
                remedy = "start again: finished parts are kept; if it happens again, lower prep.workers"
                raise TryAgainError(what, where="prep.workers", remedy=remedy) from error
            except BaseException:
                # A task can take hours, a pod that is asked to stop has seconds; what is cut off is made again.
                for worker in multiprocessing.active_children():
                    worker.terminate()
                pool.shutdown(cancel_futures=True)
                raise

        yield run_all


def _run_here(tasks: Iterable[Task]) -> None:
    for task in tasks:
        task()


def _run(task: Task) -> None:
    """In a worker. Trap: the pool takes SystemExit for the task's result, and the worker for free to take the next."""
    try:
        task()
    except SystemExit as stopped:
        os._exit(int(stopped.code or 0))


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and do not outlive it."""
    sys.meta_path.insert(0, _WithoutPandas())  # for as long as it lives
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # an exit, so that files are tidied away
    threading.Thread(target=_die_with_parent, daemon=True).start()


@contextmanager
def without_pandas() -> Iterator[None]:
    """Where pandas is installed, pyarrow imports it with the first array, to ask whether that is one of its series.

    Prep has none. In the block the answer is no, which saves a quarter of a second and 60 MB a process.
    """
    finder = _WithoutPandas()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _WithoutPandas(MetaPathFinder):
    """Finds nothing, and pandas even less."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        """None lets the next finder look."""
        if name == "pandas":
            raise ModuleNotFoundError(name=name)


def _die_with_parent() -> None:
    """After ``kill -9`` of the parent, workers would wait for its next task for ever, each keeping the others alive."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
