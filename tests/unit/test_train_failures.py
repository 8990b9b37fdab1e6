from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from medvl_jobs.errors import SettingsError, TryAgainError
from medvl_jobs.train.failures import in_our_words
from medvl_jobs.train.start import refuse_unlike_stages


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[/x/third_party/gloo/gloo/transport/tcp/pair.cc:544] Connection closed by peer [127.0.0.1]:1"),
        RuntimeError("[/x/gloo/transport/tcp/unbound_buffer.cc:82] Timed out waiting 1000ms for recv operation"),
        dist.DistBackendError("NCCL communicator was aborted on rank 0."),
    ],
)
def test_a_lost_process_is_worth_another_attempt(error: RuntimeError) -> None:
    with pytest.raises(TryAgainError, match="another process of this training is gone"), in_our_words():
        raise error


def test_a_dead_worker_is_worth_another_attempt() -> None:
    with pytest.raises(TryAgainError, match="decodes images died: DataLoader worker"), in_our_words():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"), in_our_words():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_a_full_gpu_says_what_to_lower() -> None:
    with pytest.raises(SettingsError, match="the GPU's memory ran out: CUDA out of memory") as refused, in_our_words():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
    assert "train.batch_tokens" in refused.value.remedy


def test_unlike_gpus_must_not_choose_unlike_stages() -> None:
    refuse_unlike_stages([2, 2])
    with pytest.raises(SettingsError, match=r"gives \[0, 3\] on different GPUs"):
        refuse_unlike_stages([3, 0])
