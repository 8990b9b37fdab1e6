"""Scores of many pairs from several processes, in the order of the pairs."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import IO

from medvl_jobs.errors import DataError, MedvlError, TryAgainError
from medvl_jobs.processes import processors

Pair = tuple[str, str]
"""Prediction and reference."""
Score = dict[str, float]
Scorer = Callable[[Sequence[Pair]], list[Score]]
"""Gives a score for each pair, in their order, and for each the same whatever the others are. It travels to another
process, so it is a function of a module other than the main program, or a partial application of one."""

PAIRS_PER_PROCESS = 750
"""Half a second of work: about what a process needs to start and to read jieba's dictionary."""
MOST_PROCESSES = 8
"""Each holds jieba's dictionary, 150 MB; more of them would start longer than they work."""

_WORKER = "import sys; sys.path[:] = {path!r}; from medvl_jobs.eval.parallel import serve; serve()"


def paired(predictions: Sequence[str], references: Sequence[str]) -> list[Pair]:
    """Each prediction with its own reference. Raises `DataError` when they are not as many, or no texts."""
    if len(predictions) != len(references):
        raise DataError(
            f"{len(predictions)} predictions and {len(references)} references are no pairs",
            remedy="score every prediction against its own reference; a failed one is an empty text",
        )
    pairs = list(zip(predictions, references, strict=True))
    for index, text in enumerate(chain.from_iterable(pairs)):
        if not isinstance(text, str):
            what = f"the {'reference' if index % 2 else 'prediction'} is a {type(text).__name__}, not a text"
            raise DataError(what, where=f"pair {index // 2}", remedy="score a failed prediction as an empty text")
    return pairs


def score_in_parallel(scorer: Scorer, pairs: Sequence[Pair], processes: int | None = None) -> list[Score]:
    """What ``scorer`` gives for the pairs, with so many processes; this one is among them.

    Without ``processes`` as many work as there are processors for them, and few pairs stay here. Raises `TryAgainError`
    when a process is killed and `MedvlError`, with its traceback, when the scorer fails in one.
    """
    count = processes or min(processors(), MOST_PROCESSES, len(pairs) // PAIRS_PER_PROCESS)
    if count <= 1:
        return scorer(pairs)
    scores: list[Score] = [{}] * len(pairs)
    with ExitStack() as started:
        # Every n-th pair: neighbours are alike, and some kinds take far longer than others.
        others = [started.enter_context(_elsewhere(scorer, pairs[first::count])) for first in range(1, count)]
        scores[::count] = scorer(pairs[::count])
        for first, other in enumerate(others, start=1):
            scores[first::count] = other.result()
    return scores


@dataclass(frozen=True)
class _Elsewhere:
    """A process that scores its pairs from one file into another."""

    process: subprocess.Popen[bytes]
    answer: IO[bytes]
    words: IO[bytes]

    def result(self) -> list[Score]:
        """Wait for the end, and read what it left."""
        code = self.process.wait()
        self.answer.seek(0)
        self.words.seek(0)
        if code < 0:
            raise TryAgainError(
                f"a process that scores answers was ended by signal {-code}, most likely because memory ran out",
                remedy="start again: the answers are kept; if it happens again, give the evaluation more memory",
            )
        if code:
            words = self.words.read().decode(errors="replace").strip()
            raise MedvlError(f"a process that scores answers failed:\n{words}", remedy="report it with these lines")
        scores: list[Score] = pickle.load(self.answer)
        return scores


@contextmanager
def _elsewhere(scorer: Scorer, pairs: Sequence[Pair]) -> Iterator[_Elsewhere]:
    """Start a process, and end it with the block if it has not ended by itself.

    Not by `multiprocessing`: it runs the caller's main program again, which a notebook does not have and a script
    without a guard does not survive. Files, not pipes: nobody has to read and write at the same time.
    """
    with tempfile.TemporaryFile() as task, tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as words:
        pickle.dump((scorer, pairs), task)
        task.seek(0)
        command = [sys.executable, "-c", _WORKER.format(path=sys.path)]
        with subprocess.Popen(command, stdin=task, stdout=answer, stderr=words) as process:
            try:
                yield _Elsewhere(process, answer, words)
            finally:
                process.kill()


def serve() -> None:
    """In the other process: scorer and pairs from standard input, the scores to standard output."""
    scorer, pairs = pickle.load(sys.stdin.buffer)
    pickle.dump(scorer(pairs), sys.stdout.buffer)
