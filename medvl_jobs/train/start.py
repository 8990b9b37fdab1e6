"""From settings to a model that is ready to be trained, with everything checked on the way.

The order matters: what can be refused comes before what takes minutes, the processes join before any of them loads
60 GB, and DeepSpeed must be set up before the model is loaded, which it deals out meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from peft import PeftModel
from transformers import TrainingArguments

from medvl_jobs.errors import SettingsError
from medvl_jobs.model.checkpoint import best_device, load_model, load_processor, set_threads
from medvl_jobs.model.dataset import open_split
from medvl_jobs.model.prompts import PromptRenderer
from medvl_jobs.settings.environment import Topology, name_accelerator, read_topology
from medvl_jobs.settings.keys import StageKeys
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.train.arguments import refuse_data_parallel, training_arguments
from medvl_jobs.train.batches import Schedule
from medvl_jobs.train.data import MicroBatches, StepLoader, TrainingExamples, worker_count
from medvl_jobs.train.lora import add_lora
from medvl_jobs.train.loss import AnswerLossModel
from medvl_jobs.train.planner.setup import Zero
from medvl_jobs.train.preflight.checks import Preflight
from medvl_jobs.train.ranks import Ranks
from medvl_jobs.train.zero import deepspeed_config, prepare_process, resolve_zero


@dataclass(frozen=True)
class Start:
    """A training before its first step."""

    arguments: TrainingArguments
    """To be kept: transformers holds the DeepSpeed configuration in it by a weak reference."""
    ranks: Ranks
    zero: Zero
    """The stage in force."""
    loader: StepLoader
    model: PeftModel


def start(settings: RunSettings, storage: Storage, keys: StageKeys, scratch: Path, preflight: Preflight) -> Start:
    """Read the data, join the other processes, load the model. Raises what ``preflight`` refuses."""
    topology = read_topology()
    set_threads(settings.model)
    take_gpu(topology)
    preflight.alone(keys.prep, scratch)
    renderer = PromptRenderer(load_processor(settings.model), settings.prompt)
    examples = TrainingExamples(open_split(storage, keys.prep, "train", scratch), renderer, settings.train.max_tokens)
    zero = resolve_zero(settings, examples.lengths, topology.world)
    deepspeed = deepspeed_config(settings.train.model_copy(update={"zero": zero}), settings.model)
    prepare_process(deepspeed)
    arguments = training_arguments(settings, scratch, deepspeed)
    ranks = Ranks.joined(arguments.device)
    preflight.joined(ranks)
    refuse_unlike_stages(ranks.all_of(zero))
    schedule = Schedule(examples.lengths, settings.train, ranks.world)
    preflight.data(examples, schedule, zero)
    transformers.set_seed(settings.train.seed)  # the adapter's A is drawn before the Trainer seeds anything
    device = None if zero == 3 else best_device()
    model = add_lora(load_model(settings.model, device, kind=AnswerLossModel), settings.train.lora)
    preflight.model(model)
    batches = MicroBatches(examples, packing=settings.train.packing, dtype=getattr(torch, settings.model.dtype))
    loader = StepLoader(batches, schedule, ranks.rank, worker_count(settings.train, topology.processes))
    return Start(arguments, ranks, zero, loader, model)


def refuse_unlike_stages(stages: Sequence[Zero]) -> None:
    """Raises `SettingsError` where processes on unlike GPUs have chosen unlike ZeRO stages: they would never meet."""
    if len(set(stages)) > 1:
        raise SettingsError(
            f"train.zero=auto gives {sorted(set(stages))} on different GPUs",
            where="train.zero",
            remedy="set train.zero, or use equal GPUs",
        )


def take_gpu(topology: Topology) -> None:
    """Give this process its own GPU, and the log to the first of all processes, which share one."""
    refuse_data_parallel(topology)
    name_accelerator("cuda" if torch.cuda.is_available() else "cpu")
    local_rank = topology.local_rank or 0
    if local_rank < torch.cuda.device_count():  # else the preflight refuses, in its words
        torch.cuda.set_device(local_rank)
    if topology.rank > 0:
        logging.getLogger("medvl_jobs").setLevel(logging.WARNING)
