"""DeepSpeed's ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054): which stage, its configuration, and its traps.

The order matters. `prepare_process` comes before `TrainingArguments`, which get the dictionary of `deepspeed_config`;
the model is loaded after them, with ``device=None`` under stage 3: each weight is then dealt out while it is loaded.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from medvl_jobs.model.weights import place
from medvl_jobs.settings.environment import pose_as_the_only_process
from medvl_jobs.settings.model import ModelSettings
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.settings.train import TrainSettings
from medvl_jobs.train.batches import Lengths
from medvl_jobs.train.planner.choose import stage_for
from medvl_jobs.train.planner.gpus import GPUS
from medvl_jobs.train.planner.job import read_config
from medvl_jobs.train.planner.setup import Setup, Workload, Zero
from medvl_jobs.train.planner.shape import ModelShape

log = logging.getLogger(__name__)

LEAF = "transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe.Qwen3VLMoeTextSparseMoeBlock"
"""Stage 3 gathers it whole. Inside it, which experts run depends on the data, and so differs between processes."""
DeepSpeedConfig = dict[str, Any]


def resolve_zero(settings: RunSettings, lengths: Lengths, world: int) -> Zero:
    """The stage to train with: the one that is set, else the fastest that the planner finds to fit this GPU.

    On a CPU, and alone, there is nothing to be shared: the lowest that does what ``train.offload`` says. ``lengths``
    are those of the training's examples. Raises `SettingsError` when no stage fits.
    """
    setup = training_setup(settings, lengths, world)
    if len(setup.stages) == 1:
        return setup.stages[0]
    if world == 1 or not torch.cuda.is_available():
        return min(setup.stages)
    found = torch.cuda.get_device_properties(torch.cuda.current_device())
    gpu = next((each for name, each in GPUS.items() if name in found.name), None)
    stage = stage_for(setup, found.total_memory, gpu, settings.plan.attained)
    why = "the fastest that fits" if gpu else "the lowest that fits: how fast this type is is not known"
    log.info("train.zero=auto: %d on %d × %s, %s", stage, world, found.name, why)
    return stage


def deepspeed_config(train: TrainSettings, model: ModelSettings) -> DeepSpeedConfig | None:
    """What DeepSpeed is told; none for ``train.zero`` 0, which is DDP. ``train.zero`` is not ``auto`` any more.

    "auto" is what transformers fills in, from the training arguments and from the model's hidden size.
    """
    assert train.zero != "auto"
    if train.zero == 0:
        return None
    return {
        # A name only: the trainer's micro-batches are of any size, and it tells DeepSpeed which is a step's last.
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": 1,
        "gradient_clipping": train.max_grad_norm,
        "bf16": {"enabled": model.dtype == "bfloat16"},
        # The adapter's gradients are small: they are summed over micro-batches and processes without being rounded.
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        # torch's AdamW, as with DDP. DeepSpeed's own ones are compiled on first use, and an image has no compiler.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": _zero_optimization(train),
    }


def _zero_optimization(train: TrainSettings) -> dict[str, Any]:
    options: dict[str, Any] = {
        "stage": train.zero,
        "contiguous_gradients": True,
        "reduce_bucket_size": "auto",
        "overlap_comm": torch.cuda.is_available(),  # by CUDA streams
    }
    if train.offload != "none":
        options["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if train.zero == 3:
        options |= {
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
            # Only the adapter is ever saved, and `adapter_weights` gathers it.
            "stage3_gather_16bit_weights_on_model_save": False,
            "leaf_module": {"classes": [LEAF]},
        }
        if train.offload == "parameters":
            options["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return options


def prepare_process(config: DeepSpeedConfig | None) -> None:
    """Make this process one that DeepSpeed trains in. Nothing, without a configuration.

    - On CPUs it compiles a shared-memory all-reduce when it joins the processes: a minute, and the end where there is
      no compiler. gloo does the same as fast for an adapter.
    - It asks for what a launcher sets, MPI's names last, also where there is one process alone.
    """
    if config is None:
        return
    # Here and not above: it takes three seconds.
    from deepspeed import comm  # noqa: PLC0415
    from deepspeed.utils import logger  # noqa: PLC0415

    # Not `comm.torch`: that is torch, which the package imports by this name.
    sys.modules[f"{comm.__name__}.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]
    logger.setLevel(logging.WARNING)
    if pose_as_the_only_process() and not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]


def adapter_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """What is trained, whole and in float32, on the CPU. All processes must call it: they gather it from each other.

    The stock ways to it: under stage 3 in the model's dtype, bfloat16, which forgets what training has collected below
    its precision; under stage 2 with a copy of all 62 GB of frozen weights beside it.
    """
    from deepspeed.utils import safe_get_full_fp32_param  # noqa: PLC0415

    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            whole = safe_get_full_fp32_param(parameter)
            found[name] = (parameter if whole is None else whole).detach().float().cpu().clone()
    return found


def training_setup(settings: RunSettings, lengths: Lengths, world: int) -> Setup:
    """What the planner counts with, of the examples themselves instead of the dataset's card."""
    model = settings.model.model_copy(update={"path": place(settings.model)[0]})
    shape = ModelShape.from_config(read_config(settings.model_copy(update={"model": model})), settings.model.path)
    work = Workload(
        examples=len(lengths),
        mean_tokens=float(lengths.tokens.mean()),
        longest_tokens=int(lengths.tokens.max()),
        answer_tokens=float(lengths.labels.mean()),
        image_tokens=float(lengths.images.mean()),
    )
    return Setup(shape, settings.model, settings.train, work, world)
