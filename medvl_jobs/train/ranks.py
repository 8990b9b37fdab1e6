"""The processes of one training, and what they tell each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.distributed as dist

from medvl_jobs.errors import MedvlError, error_class

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among the others. All methods are for the main threads of all of them at the same point."""

    rank: int = 0
    world: int = 1
    device: torch.device | str = "cpu"
    """Where the tensors of an all-reduce lie: NCCL takes a GPU's only."""

    @classmethod
    def joined(cls, device: torch.device | str) -> Ranks:
        """Of the process group that this process has joined; alone when there is none."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls(device=device)
        return cls(dist.get_rank(), dist.get_world_size(), device)

    def all_of(self, value: T) -> list[T]:
        """The values of all processes, in the order of their ranks; picklable ones."""
        if self.world == 1:
            return [value]
        values: list[T | None] = [None] * self.world
        dist.all_gather_object(values, value)
        return cast("list[T]", values)

    def largest(self, *values: int) -> list[int]:
        """For each of the values the largest that a process has: one small all-reduce."""
        if self.world == 1:
            return list(values)
        agreed = torch.tensor(values, dtype=torch.int64, device=self.device)
        dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
        return cast("list[int]", agreed.tolist())

    def together(self, call: Callable[[], T]) -> list[T]:
        """What ``call`` returns on each process. When it raises on one of them, it raises on all."""
        answer: T | None = None
        error: Exception | None = None
        try:
            answer = call()
        except Exception as failed:  # noqa: BLE001  raised again below; alone it would leave the others waiting
            error = failed
        raise_on_all(error, *self.largest(exit_code(error)))
        return self.all_of(cast("T", answer))


def exit_code(error: Exception | None) -> int:
    """What the job would end with: 0 without an error."""
    return 0 if error is None else getattr(error, "exit_code", MedvlError.exit_code)


def raise_on_all(own: Exception | None, code: int) -> None:
    """Raise this process's own error, or one of the same kind when only others have one.

    ``code`` is the largest `exit_code` of all processes, 0 when none has failed.
    """
    if code == 0:
        return
    what = "another process of this training failed"
    raise own or error_class(code)(what, remedy="its own message says more; it is in the same log")
