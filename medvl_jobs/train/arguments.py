"""Our settings in the Trainer's words."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import TrainingArguments

from medvl_jobs.errors import SettingsError
from medvl_jobs.settings.environment import Topology
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.train.watchdog import collective_seconds
from medvl_jobs.train.zero import DeepSpeedConfig


def training_arguments(settings: RunSettings, scratch: Path, deepspeed: DeepSpeedConfig | None) -> TrainingArguments:
    """What the Trainer is told. Making it gives this process its GPU and joins it to the others.

    One epoch and no accumulation: for the Trainer the schedule is one long epoch, whose batches are whole steps.
    """
    train = settings.train
    return TrainingArguments(
        output_dir=str(scratch / "trainer"),
        run_name=settings.name,
        deepspeed=deepspeed,
        num_train_epochs=1,
        per_device_train_batch_size=train.batch_size,
        ignore_data_skip=True,  # the loader begins where the checkpoint ends
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.scheduler,
        warmup_steps=train.warmup_ratio,  # a float below 1 is a share of all steps
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        activation_checkpointing=train.activation_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        bf16=settings.model.dtype == "bfloat16",
        seed=train.seed,
        logging_steps=train.log_every_steps,
        logging_nan_inf_filter=False,  # it would log the last loss again in the place of one that is none
        save_steps=train.save_every_steps,
        save_total_limit=None,  # `Uploads` removes each from this machine when it is stored
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=[],
        use_cpu=not torch.cuda.is_available(),
        ddp_find_unused_parameters=False,  # every LoRA module takes part in every step
        ddp_timeout=collective_seconds(train.limits.hang_minutes),
        disable_tqdm=True,  # its bar prints dicts on stdout, between the log lines
    )


def refuse_data_parallel(topology: Topology) -> None:
    """Raises `SettingsError` where the Trainer would wrap the model in ``DataParallel``.

    That splits every tensor of a batch along its first axis, and ours have three different ones: examples, image
    patches and labelled tokens.
    """
    gpus = torch.cuda.device_count()
    if topology.local_rank is None and gpus > 1:
        raise SettingsError(
            f"one process sees {gpus} GPUs",
            where="train",
            remedy=f"start one process per GPU: PET_NPROC_PER_NODE={gpus} medvl train …",
        )
