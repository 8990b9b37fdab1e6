"""Many pairs from several processes: the same numbers, and an end with a reason."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from medvl_jobs.errors import DataError, MedvlError, TryAgainError
from medvl_jobs.eval import parallel
from medvl_jobs.eval.parallel import Pair, Score, paired, score_in_parallel
from medvl_jobs.eval.similarity import score_here, score_pairs

ROOT = Path(__file__).parents[2]
ELSEWHERE = sys.argv[0] == "-c"
"""Whether this is one of the other processes."""
PAIRS = [("a lung", "the lung"), ("肺部 🙂", "肺"), ("", "a\nb"), ("<think>\n\n</think>\n\nx", "x"), ("é" * 99, "é")]


def lengths(pairs: Sequence[Pair]) -> list[Score]:
    return [{"length": float(len(prediction)), "process": float(os.getpid())} for prediction, _ in pairs]


def failing_elsewhere(pairs: Sequence[Pair]) -> list[Score]:
    missing: dict[str, Score] = {}
    return [missing[prediction] for prediction, _ in pairs] if ELSEWHERE else lengths(pairs)


def killed_elsewhere(pairs: Sequence[Pair]) -> list[Score]:
    if ELSEWHERE:
        os.kill(os.getpid(), signal.SIGKILL)
    return lengths(pairs)


def failing_here(pairs: Sequence[Pair]) -> list[Score]:
    if not ELSEWHERE:
        raise DataError("a bad pair")
    time.sleep(600)
    return []


def children() -> set[str]:
    """Of this process, those that are done and not waited for included."""
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_scores_are_in_the_order_of_the_pairs(processes: int) -> None:
    pairs = [("x" * length, "") for length in range(7)]
    scores = score_in_parallel(lengths, pairs, processes)
    assert [score["length"] for score in scores] == list(range(7))
    assert len({score["process"] for score in scores}) == min(processes, 7)
    assert scores[0]["process"] == os.getpid()


def test_two_processes_give_the_numbers_of_one() -> None:
    assert score_in_parallel(score_here, PAIRS, 2) == score_here(PAIRS)


def test_few_pairs_stay_here_and_many_use_the_processors_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "PAIRS_PER_PROCESS", 3)
    monkeypatch.setattr(parallel, "processors", lambda: 2)
    for count, processes in ((0, 0), (5, 1), (6, 2), (60, 2)):
        scores = score_in_parallel(lengths, [("", "")] * count)
        assert len({score["process"] for score in scores}) == processes
    monkeypatch.setattr(parallel, "processors", lambda: 1)
    assert {score["process"] for score in score_in_parallel(lengths, [("", "")] * 60)} == {os.getpid()}


def test_an_error_in_another_process_is_told_with_its_traceback() -> None:
    with pytest.raises(MedvlError, match=r"(?s)a process that scores answers failed.*KeyError: 'second'"):
        score_in_parallel(failing_elsewhere, [("first", ""), ("second", "")], 2)


def test_a_killed_process_is_told_and_not_waited_for() -> None:
    with pytest.raises(TryAgainError, match="ended by signal 9"):
        score_in_parallel(killed_elsewhere, [("", "")] * 4, 2)


def test_an_error_here_ends_the_others() -> None:
    """They would sleep for ten minutes."""
    before = children()
    with pytest.raises(DataError, match="a bad pair"):
        score_in_parallel(failing_here, [("", "")] * 3, 3)
    assert children() <= before


@pytest.mark.parametrize("how", ["script", "standard input"])
def test_a_program_without_a_guard_and_one_without_a_file_may_call_it(tmp_path: Path, how: str) -> None:
    """multiprocessing would run the script again in each process; a notebook has no file to run."""
    program = (
        "from medvl_jobs.eval import parallel, similarity\n"
        "pairs = [('a lung', 'the lung')] * 3\n"
        "print(parallel.score_in_parallel(similarity.score_here, pairs, 2) == similarity.score_here(pairs))\n"
    )
    script = tmp_path / "unguarded.py"
    script.write_text(program)
    words = [sys.executable, str(script)] if how == "script" else [sys.executable, "-"]
    done = subprocess.run(
        words, input=program, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, capture_output=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_what_are_no_pairs_of_texts_is_refused() -> None:
    assert score_pairs([], []) == []
    with pytest.raises(DataError, match="2 predictions and 1 references"):
        paired(["a", "b"], ["a"])
    with pytest.raises(DataError, match="the reference is a float, not a text") as caught:
        paired(["a", "b"], ["a", float("nan")])  # type: ignore[list-item]
    assert caught.value.where == "pair 1"
