"""The command line: call one job, turn errors into exit codes. Its words are in `command_line`.

A stage is imported inside its own branch, so that prep, report and run start without torch.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from medvl_jobs.command_line import parse
from medvl_jobs.errors import MedvlError, PreemptedError, TryAgainError
from medvl_jobs.processes import leave_last_words
from medvl_jobs.settings.environment import read_environment, read_topology
from medvl_jobs.settings.keys import StageKeys
from medvl_jobs.settings.run import RunSettings, load_settings
from medvl_jobs.storage.base import Storage

INTERRUPTED = 130
UNHEARD = 141
"""128 and the number of SIGPIPE, as other programs end."""
CLEAR = "\x1b[H\x1b[2J"
"""Empties a terminal."""


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for library in ("httpx", "httpx2", "matplotlib", "datasets", "botocore"):
        logging.getLogger(library).setLevel(logging.WARNING)
    previous = signal.signal(signal.SIGTERM, _stop)
    try:
        return _carry_out(parse(words), sys.argv[1:] if words is None else words)
    except MedvlError as error:
        return _failed(error)
    except _Terminated:
        remedy = "start the same command again: what is finished is kept"
        return _failed(PreemptedError("stopped by SIGTERM", remedy=remedy))
    except MemoryError:
        remedy = "give it more memory, or less to do at once (prep.workers, train.batch_size, eval.batch_size)"
        return _failed(TryAgainError("memory ran out", remedy=remedy))
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  the last stop: whatever nobody foresaw must reach the termination log
        traceback.print_exc()
        unforeseen = MedvlError(
            f"{type(error).__name__}: {error}", remedy="this is a fault of medvl: please report the traceback"
        )
        _last_words(unforeseen.as_dict())
        return unforeseen.exit_code
    finally:
        signal.signal(signal.SIGTERM, previous)


def _carry_out(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """Whoever reads our output, ``head`` for one, may have seen enough of it."""
    try:
        code = _dispatch(arguments, words) or 0
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes the rest as it ends
        return UNHEARD
    return code


def _failed(error: MedvlError) -> int:
    print(f"medvl: {error}", file=sys.stderr)
    _last_words(error.as_dict())
    return error.exit_code


class _Terminated(BaseException):
    """No ``Exception``: some code here takes all of those for damage in what it reads, and would go on."""


def _stop(number: int, frame: FrameType | None) -> None:
    """SIGTERM outside the training loop. As process 1 of a container we would not even get it without a handler."""
    raise _Terminated


def _dispatch(arguments: argparse.Namespace, words: Sequence[str]) -> int | None:
    """Returns an exit code where that is another process's."""
    if arguments.command == "sample":
        from medvl_jobs.samples.build import build_sample

        print(build_sample(arguments.out, seed=arguments.seed, rows=arguments.rows))
        return None
    workers = getattr(arguments, "workers", None)
    more = [] if workers is None else [f"prep.workers={workers}"]
    named = [word for word in arguments.overrides if arguments.command == "logs" and "=" not in word]
    overrides = [word for word in arguments.overrides if word not in named]
    settings = load_settings(arguments.config, (*overrides, *more))
    if arguments.command == "run":
        _run(settings, arguments.executor, dry_run=arguments.dry_run)
    elif arguments.command == "model":
        _model(settings)
    elif arguments.command == "plan":
        _plan(settings)
    elif arguments.command == "compare":
        _compare(settings, (arguments.run_a, arguments.run_b), arguments.out)
    elif arguments.command == "prep":
        _prep(settings, check=arguments.check)
    elif arguments.command == "status":
        _status(settings, as_json=arguments.json, watch=arguments.watch)
    elif arguments.command == "logs":
        _logs(settings, named, follow=arguments.follow)
    elif arguments.command == "train" and (topology := read_topology()).is_launcher:
        from medvl_jobs.train.launcher import launch

        return launch(words, topology, read_environment().termination_log)
    else:
        _stage(settings, arguments)
    return None


def _run(settings: RunSettings, executor: str, *, dry_run: bool) -> None:
    from medvl_jobs.pipeline import job
    from medvl_jobs.storage.open import open_storage

    storage = open_storage(settings.storage)
    page = job.run(settings, storage, executor=job.Executor(executor), dry_run=dry_run)
    if page:
        print(f"\nreport: {storage.uri}/{page}")


def _prep(settings: RunSettings, *, check: bool) -> None:
    """The first stage needs no model, so it is pinned by its source alone."""
    from medvl_jobs.prep.workers import start_server, without_pandas

    if settings.prep.workers != 1:
        start_server()  # before the imports below: what they take, it takes at the same time
    from medvl_jobs.pipeline.pin import pin_source
    from medvl_jobs.pipeline.signs import signs_of_life
    from medvl_jobs.prep.source import find_source
    from medvl_jobs.settings.keys import prep_key
    from medvl_jobs.storage.open import open_storage

    storage = open_storage(settings.storage)
    # Found once: to know the content of a local source is to read all of it. A pinned run is finished without it.
    source = None if settings.prep.source_fingerprint else find_source(settings.prep, settings.storage)
    settings = pin_source(settings, source)
    if check:
        from medvl_jobs.prep.check import job as dataset_check

        dataset_check.run(settings, storage, prep_key(settings), source)
    else:
        from medvl_jobs.prep import job

        with signs_of_life(settings, storage, ("prep",)) as progress, without_pandas():
            job.run(settings, storage, prep_key(settings), source, progress)


def _model(settings: RunSettings) -> None:
    """Needs the model alone: neither the source nor the store may be within reach."""
    from medvl_jobs.model.weights import fill
    from medvl_jobs.pipeline.pin import pin_model

    pinned = pin_model(settings)
    print(fill(pinned.model, pinned.storage))


def _plan(settings: RunSettings) -> None:
    """Needs neither a GPU nor weights, and the source only to find the dataset's card."""
    from medvl_jobs.pipeline.pin import pin_source
    from medvl_jobs.settings.keys import prep_key
    from medvl_jobs.storage.open import open_storage
    from medvl_jobs.train.planner import job as planner

    prep, plan = settings.prep, settings.plan
    needs_card = not plan.knows_the_data and (prep.source or prep.source_fingerprint)
    key = prep_key(pin_source(settings)) if needs_card else None
    planned = planner.run(settings, open_storage(settings.storage), key)
    print(planned)
    planned.require()


def _compare(settings: RunSettings, runs: tuple[str, str], out: Path) -> None:
    """Needs the store alone: what the runs were made of is in their reports."""
    from medvl_jobs.eval.reading import read_facts
    from medvl_jobs.report.two_runs import compare_runs
    from medvl_jobs.storage.open import open_storage

    print(compare_runs(open_storage(settings.storage), runs, settings, out, read_facts)["verdict"]["sentence"])
    print(f"\nreport: {out / 'index.html'}")


def _stage(settings: RunSettings, arguments: argparse.Namespace) -> None:
    """One stage after prep, by hand or as a container does it."""
    from medvl_jobs.pipeline.pin import pin
    from medvl_jobs.pipeline.signs import signs_of_life
    from medvl_jobs.settings.keys import stage_keys
    from medvl_jobs.storage.open import open_storage

    storage = open_storage(settings.storage)
    if arguments.command == "chat":
        from medvl_jobs.chat.job import with_source

        settings = with_source(settings)
    settings = pin(settings, storage)
    keys = stage_keys(settings)
    match arguments.command:
        case "train":
            _train(settings, storage, keys, check=arguments.check)
        case "export":
            from medvl_jobs.train.export import export_merged

            export_merged(settings, storage, keys, arguments.out)
            print(arguments.out)
        case "eval":
            from medvl_jobs.eval import job as evaluate

            with signs_of_life(settings, storage, ("eval", "--variant", arguments.variant.value)) as progress:
                evaluate.run(settings, storage, keys, arguments.variant, progress)
        case "chat":
            from medvl_jobs.chat import job as chat

            chat.run(settings, storage, keys)
        case "report":
            from medvl_jobs.eval.reading import read_facts
            from medvl_jobs.report import job as report

            with signs_of_life(settings, storage, ("report",)):
                report.run(settings, storage, keys, read_facts)
        case "collect":
            from medvl_jobs.report.collect import collect, require

            judged = collect(settings, storage, keys, arguments.out)
            print((arguments.out / "report.md").read_text(encoding="utf-8"))
            print("\n".join(map(str, judged)))
            require(judged)


def _train(settings: RunSettings, storage: Storage, keys: StageKeys, *, check: bool) -> None:
    from medvl_jobs.pipeline.signs import signs_of_life
    from medvl_jobs.train.preflight.libraries import require_libraries

    faulthandler.register(signal.SIGUSR1, file=2)  # the launcher asks one that hangs where it is, on stderr
    if check:
        require_libraries(settings)  # first: what the rest imports is not there in every version
        from medvl_jobs.train.preflight import job as preflight

        if found := preflight.check(settings, storage, keys):  # of several processes the first one's
            print(found)
        return
    with signs_of_life(settings, storage, ("train",)) as progress:
        require_libraries(settings)
        from medvl_jobs.train import job as train

        train.run(settings, storage, keys, progress)


def _status(settings: RunSettings, *, as_json: bool, watch: bool) -> None:
    """Needs the store alone, and of the settings where it is and the run's name."""
    from medvl_jobs.pipeline import status
    from medvl_jobs.storage.open import open_storage

    for text in status.texts(settings, open_storage(settings.storage), as_json=as_json, watch=watch):
        print(f"{CLEAR if watch and not as_json and sys.stdout.isatty() else ''}{text}", flush=True)


def _logs(settings: RunSettings, names: Sequence[str], *, follow: bool) -> None:
    """Likewise."""
    from medvl_jobs.pipeline import logs
    from medvl_jobs.storage.open import open_storage

    for text in logs.texts(settings, open_storage(settings.storage), names, follow=follow):
        print(text, end="", flush=True)


def _last_words(error: dict[str, str | int]) -> None:
    """One JSON line on the termination log, which Kubernetes shows as the pod's reason."""
    leave_last_words(json.dumps(error) + "\n", read_environment().termination_log)
