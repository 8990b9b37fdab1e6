"""The train stage: read the prepared dataset, train an adapter, write it with all that a reviewer asks for."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from pathlib import Path

import torch
import transformers
from transformers import TrainingArguments

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.manifest import Manifest, Provenance
from medvl_jobs.errors import PreemptedError
from medvl_jobs.model.checkpoint import best_device, load_model, load_processor, set_threads
from medvl_jobs.model.dataset import open_split
from medvl_jobs.model.prompts import PromptRenderer
from medvl_jobs.settings.environment import read_environment, read_topology
from medvl_jobs.settings.keys import StageKeys
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.publish import Publication, read_manifest, require_manifest
from medvl_jobs.train.arguments import training_arguments
from medvl_jobs.train.artifacts import all_results, loss_figure, model_card, trainer_log
from medvl_jobs.train.batches import MicroBatch, Schedule
from medvl_jobs.train.callbacks import LogLines, StopOnSigterm, StoreCheckpoints, training_lines
from medvl_jobs.train.checkpoints import CheckpointStore
from medvl_jobs.train.data import MicroBatches, StepLoader, TrainingExamples, worker_count
from medvl_jobs.train.lora import add_lora, trainable_parameters
from medvl_jobs.train.loss import AnswerLossModel
from medvl_jobs.train.trainer import AnswerTrainer, BadStep

log = logging.getLogger(__name__)


def run(settings: RunSettings, storage: Storage, keys: StageKeys) -> Manifest:
    """Train the adapter of ``keys.adapter``, from the newest checkpoint if there is one.

    Raises `PreemptedError` after SIGTERM, with a checkpoint in the store, and what the loaders raise.
    """
    prefix = layout.adapter(keys.adapter)
    if (done := read_manifest(storage, prefix)) is not None:
        return done
    started = time.monotonic()
    prepared = require_manifest(storage, layout.prepared(keys.prep), "prep")
    with tempfile.TemporaryDirectory(prefix="medvl-train-") as folder:
        scratch = Path(folder)
        set_threads(settings.model)
        arguments = training_arguments(settings, scratch)  # first: it gives this process its GPU
        if arguments.process_index > 0:
            logging.getLogger("medvl_jobs").setLevel(logging.WARNING)  # all processes share one log
        renderer = PromptRenderer(load_processor(settings.model), settings.prompt)
        rows = open_split(storage, keys.prep, "train", scratch)
        examples = TrainingExamples(rows, renderer, settings.train.max_tokens)
        schedule = Schedule(examples.lengths, settings.train, arguments.world_size)
        transformers.set_seed(settings.train.seed)  # the adapter's A is drawn before the Trainer seeds anything
        model = add_lora(load_model(settings.model, best_device(), kind=AnswerLossModel), settings.train.lora)
        trainable, total = trainable_parameters(model)
        log.info("training %d of %d parameters on %d examples", trainable, total, len(examples))
        checkpoints = CheckpointStore(storage, keys.adapter, keep=settings.train.keep_checkpoints)
        trainer = AnswerTrainer(
            model=model,
            args=arguments,
            loader=step_loader(settings, examples, schedule, arguments),
            bad_steps=settings.train.limits.bad_steps,
            on_bad_step=bad_step_writer(storage, keys.adapter, arguments.process_index, examples),
        )
        fit(trainer, checkpoints, scratch)
        if trainer.is_world_process_zero():
            publication = Publication(storage, prefix)
            write_adapter(publication, settings, trainer, layout.prepared(keys.prep), scratch)
            publication.finish(provenance(settings, keys, prepared, trainer, started))
        trainer.accelerator.wait_for_everyone()
    return require_manifest(storage, prefix, "train")


def step_loader(
    settings: RunSettings, examples: TrainingExamples, schedule: Schedule, arguments: TrainingArguments
) -> StepLoader:
    """This process's share of the data."""
    batches = MicroBatches(examples, packing=settings.train.packing, dtype=getattr(torch, settings.model.dtype))
    workers = worker_count(settings.train, read_topology().processes)
    return StepLoader(batches, schedule, arguments.process_index, workers)


def fit(trainer: AnswerTrainer, checkpoints: CheckpointStore, scratch: Path) -> None:
    """Train to the end, or to SIGTERM."""
    stop = StopOnSigterm()
    # The stop asks for a checkpoint, and a checkpoint asks for a log line: in this order.
    for callback in (stop, LogLines(trainer.schedule.examples_per_step), StoreCheckpoints(checkpoints)):
        trainer.add_callback(callback)
    trainer.remove_callback(transformers.PrinterCallback)  # it prints the same steps as Python dicts
    resume = checkpoints.restore_latest(scratch)
    trainer.loader.first_step = int(resume.name.rpartition("-")[2]) if resume else 0
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if stop.stopped:
        raise PreemptedError(
            f"stopped by SIGTERM at step {trainer.state.global_step} of {trainer.state.max_steps}",
            where=layout.checkpoints(checkpoints.adapter_key),
            remedy="start the same command again: it resumes from there",
        )


def bad_step_writer(storage: Storage, adapter_key: str, process: int, examples: TrainingExamples) -> BadStep:
    """Writes down which examples a step without a finite loss had."""

    def write(step: int, micro_batches: list[MicroBatch], loss: float) -> None:
        ids = [examples.ids(each) for each in micro_batches]
        found = {"step": step, "process": process, "loss": repr(loss), "micro_batches": ids}
        storage.write_bytes(layout.bad_step(adapter_key, step, process), json.dumps(found, indent=2).encode())

    return write


def provenance(
    settings: RunSettings, keys: StageKeys, prepared: Manifest, trainer: AnswerTrainer, started: float
) -> Provenance:
    """What the manifest says of this training."""
    environment = read_environment()
    seconds = time.monotonic() - started
    examples = trainer.loader.dataset
    return Provenance(
        stage="train",
        key=keys.adapter,
        inputs=(prepared.as_input(layout.prepared(keys.prep)),),
        settings=settings.model_dump(mode="json", include={"model", "prompt", "train"}),
        counts={"examples": len(examples), "left_out_too_long": examples.left_out, "steps": trainer.state.global_step},
        git_sha=environment.git_sha,
        image_digest=environment.image_digest,
        wall_seconds=seconds,
        gpu_seconds=seconds * trainer.args.world_size if torch.cuda.is_available() else 0.0,
    )


def write_adapter(
    publication: Publication, settings: RunSettings, trainer: AnswerTrainer, prepared: str, scratch: Path
) -> None:
    """The adapter in PEFT's format, its card, the log, the curve and the totals."""
    folder = scratch / "adapter"
    trainer.model.save_pretrained(folder)
    lines = training_lines(trainer.state)
    results = all_results(lines, trainer.schedule.totals(trainer.state.global_step).examples)
    parameters = trainable_parameters(trainer.model)
    (folder / "README.md").write_text(model_card(settings, results, parameters, prepared), encoding="utf-8")
    base = {"path": settings.model.path, "fingerprint": settings.model.fingerprint}
    (folder / layout.ADAPTER_BASE).write_text(json.dumps(base, indent=2) + "\n", encoding="utf-8")
    for path in sorted(folder.iterdir()):
        publication.upload(path, path.name)
    publication.write_bytes(layout.TRAINER_LOG, trainer_log(lines).encode(), rows=len(lines))
    publication.write_bytes(layout.TRAINING_LOSS, loss_figure(lines))
    publication.write_bytes(layout.ALL_RESULTS, (json.dumps(results, indent=2) + "\n").encode())
