"""The GPUs that a training is planned for.

Sources: NVIDIA's data sheets (A100 80GB SXM; H100 SXM; H200 SXM; H800 SXM, which is an H100 with less NVLink), dense
figures, without sparsity. The memory is the ``total_memory`` that torch finds on such boards, which a training is held
against too: some hundred megabytes less than ``nvidia-smi`` shows, and more than the name says.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One type of GPU. Bytes and floating-point operations per second, not per millisecond, and no prefixes."""

    name: str
    memory_bytes: int
    hbm_bytes_per_second: float
    bf16_flops: float
    """Dense bfloat16 on the tensor cores."""
    fp32_flops: float
    """float32 proper: torch does not use TF32 unless it is told to."""
    nvlink_bytes_per_second: float
    """Both directions together, as the data sheets count."""
    pcie_bytes_per_second: float
    """To the host, both directions together: 16 lanes of the fourth generation, of the fifth from Hopper on."""


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("A100", 81049 * 2**20, 2.039e12, 312e12, 19.5e12, 600e9, 64e9),
        Gpu("H800", 81082 * 2**20, 3.35e12, 989e12, 67e12, 400e9, 128e9),
        Gpu("H100", 81082 * 2**20, 3.35e12, 989e12, 67e12, 900e9, 128e9),
        Gpu("H200", 143156 * 2**20, 4.8e12, 989e12, 67e12, 900e9, 128e9),
    )
}
