"""What torch raises in a training, in medvl's words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from medvl_jobs.errors import SettingsError, TryAgainError

GLOO = "gloo/transport/"
"""In every message of gloo's about a connection; it has no type of its own for them."""


@contextmanager
def in_our_words() -> Iterator[None]:
    """A lost process is worth another attempt (`TryAgainError`), too little GPU memory is not (`SettingsError`)."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise SettingsError(
            f"the GPU's memory ran out: {_first_line(error)}",
            where="train.batch_tokens",
            remedy="lower train.batch_tokens, set train.zero=3, or see what medvl plan proposes",
        ) from error
    except RuntimeError as error:
        if str(error).startswith("DataLoader worker"):
            raise TryAgainError(
                f"a process that decodes images died: {_first_line(error)}",
                where="train.workers",
                remedy="most often memory or /dev/shm ran out: raise the limit, or lower train.workers",
            ) from error
        if not isinstance(error, dist.DistError) and GLOO not in str(error):
            raise
        raise TryAgainError(
            f"another process of this training is gone, or did not come: {_first_line(error)}",
            remedy="if it failed, it says why in the same log; start again, it resumes from the last checkpoint",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
