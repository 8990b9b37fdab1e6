"""The train stage: read the prepared dataset, train an adapter, write it with all that a reviewer asks for."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from transformers import TrainerCallback

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.live import Progress, untold
from medvl_jobs.contracts.manifest import Manifest, Provenance
from medvl_jobs.errors import PreemptedError, TryAgainError
from medvl_jobs.model.versions import OF_AN_ADAPTER
from medvl_jobs.settings.environment import read_environment
from medvl_jobs.settings.keys import StageKeys
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.files import scratch_folder
from medvl_jobs.storage.publish import Publication, installed, read_manifest, require_manifest
from medvl_jobs.train.artifacts import all_results, loss_figure, model_card, trainer_log
from medvl_jobs.train.batches import MicroBatch
from medvl_jobs.train.callbacks import Checkpointing
from medvl_jobs.train.checkpoints import CheckpointStore, training_contract
from medvl_jobs.train.data import TrainingExamples
from medvl_jobs.train.failures import in_our_words
from medvl_jobs.train.lora import trainable_parameters
from medvl_jobs.train.preflight.checks import Preflight
from medvl_jobs.train.reporters import TensorBoard, Told, reporters
from medvl_jobs.train.start import Start, start
from medvl_jobs.train.tracking import LogLines, Work, training_lines
from medvl_jobs.train.trainer import AnswerTrainer, BadStep
from medvl_jobs.train.uploads import Uploads
from medvl_jobs.train.watchdog import Watchdog
from medvl_jobs.train.zero import adapter_weights

log = logging.getLogger(__name__)


def run(settings: RunSettings, storage: Storage, keys: StageKeys, progress: Progress = untold) -> Manifest:
    """Train the adapter of ``keys.adapter``, from the newest checkpoint if there is one.

    Raises `PreemptedError` after SIGTERM, with a checkpoint in the store, and what the loaders raise.
    """
    prefix = layout.adapter(keys.adapter)
    if (done := read_manifest(storage, prefix)) is not None:
        return done
    began = time.monotonic()
    prepared = require_manifest(storage, layout.prepared(keys.prep), "prep")
    servers = reporters(settings.train.report_to)
    preflight = Preflight(settings, storage)
    with in_our_words(), scratch_folder("medvl-train-") as scratch:
        started = start(settings, storage, keys, scratch, preflight)
        log.info("%s", preflight.table())
        examples = started.loader.dataset
        trainer = AnswerTrainer(
            model=started.model,
            args=started.arguments,
            ranks=started.ranks,
            loader=started.loader,
            bad_steps=settings.train.limits.bad_steps,
            on_bad_step=bad_step_writer(storage, keys.adapter, started.ranks.rank, examples),
        )
        text = settings.model_dump_json(indent=2, include={"model", "prompt", "train"})
        board = TensorBoard(storage, keys.adapter, scratch / "tensorboard", text)
        watchers = [Told(progress), *([board] if "tensorboard" in settings.train.report_to else []), *servers]
        fit(trainer, settings, checkpoint_store(settings, storage, keys, started), watchers, scratch)
        weights = adapter_weights(trainer.model) if trainer.is_deepspeed_enabled else None  # all processes gather it
        if trainer.is_world_process_zero():
            publication = Publication(storage, prefix)
            folder = scratch / "adapter"
            trainer.model.save_pretrained(folder, state_dict=weights)
            write_adapter(publication, settings, trainer, layout.prepared(keys.prep), folder)
            board.publish(publication)
            publication.finish(provenance(settings, keys, prepared, trainer, began))
        trainer.accelerator.wait_for_everyone()
    return require_manifest(storage, prefix, "train")


def checkpoint_store(settings: RunSettings, storage: Storage, keys: StageKeys, started: Start) -> CheckpointStore:
    """Where this training's checkpoints lie, and what they belong to."""
    return CheckpointStore(
        storage,
        keys.adapter,
        keep=settings.train.keep_checkpoints,
        ranks=started.ranks,
        contract=training_contract(
            settings.train, processes=started.ranks.world, zero=started.zero, examples=len(started.loader.dataset)
        ),
    )


def fit(
    trainer: AnswerTrainer,
    settings: RunSettings,
    checkpoints: CheckpointStore,
    watchers: Sequence[TrainerCallback],
    scratch: Path,
) -> None:
    """Train to the end, or to SIGTERM; then every checkpoint is in the store."""
    train = settings.train
    work = Work.of(settings, trainer.model.config.to_dict(), trainer.schedule)
    uploads = Uploads(checkpoints, patience_seconds=train.limits.store_minutes * 60)
    watchdog = Watchdog(train.limits.hang_minutes, read_environment().termination_log)
    checkpointing = Checkpointing(
        uploads, checkpoints.ranks, every_minutes=train.save_every_minutes, beat=watchdog.beat
    )
    lines = LogLines(work, checkpoints.ranks, lambda: trainer.loader.waited_seconds, lambda: trainer.left_out)
    # The first may ask for a checkpoint, and a checkpoint asks for a log line, which the others then tell: this order.
    for callback in (checkpointing, lines, *watchers, watchdog):
        trainer.add_callback(callback)
    trainer.remove_callback(transformers.PrinterCallback)  # it prints the same steps as Python dicts
    resume = checkpoints.restore_latest(scratch)
    trainer.loader.first_step = int(resume.name.rpartition("-")[2]) if resume else 0
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    finally:
        uploads.close()
        watchdog.call_off()
    if checkpointing.preempted:
        raise PreemptedError(
            f"stopped by SIGTERM at step {trainer.state.global_step} of {trainer.state.max_steps}",
            where=checkpoints.prefix,
            remedy="start the same command again: it resumes from there",
        )


def bad_step_writer(storage: Storage, adapter_key: str, process: int, examples: TrainingExamples) -> BadStep:
    """Writes down which examples a step without a finite loss had."""

    def write(step: int, micro_batches: list[MicroBatch], loss: float) -> None:
        ids = [examples.ids(each) for each in micro_batches]
        found = {"step": step, "process": process, "loss": repr(loss), "micro_batches": ids}
        try:
            storage.write_bytes(layout.bad_step(adapter_key, step, process), json.dumps(found, indent=2).encode())
        except TryAgainError as error:  # the store may be away for a while; the training goes on
            log.warning("the bad step's examples are not stored (%s): %s", error.what, ids)

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
    publication: Publication, settings: RunSettings, trainer: AnswerTrainer, prepared: str, folder: Path
) -> None:
    """The adapter in PEFT's format, which lies in ``folder``, its card, the log, the curve and the totals."""
    lines = training_lines(trainer.state)
    results = all_results(lines, trainer.schedule.totals(trainer.state.global_step))
    parameters = trainable_parameters(trainer.model)
    (folder / "README.md").write_text(model_card(settings, results, parameters, prepared), encoding="utf-8")
    base = {"path": settings.model.path, "fingerprint": settings.model.fingerprint, **installed(OF_AN_ADAPTER)}
    (folder / layout.ADAPTER_BASE).write_text(json.dumps(base, indent=2) + "\n", encoding="utf-8")
    for path in sorted(folder.iterdir()):
        publication.upload(path, path.name)
    publication.write_bytes(layout.TRAINER_LOG, trainer_log(lines).encode(), rows=len(lines))
    publication.write_bytes(layout.TRAINING_LOSS, loss_figure(lines))
    publication.write_bytes(layout.ALL_RESULTS, (json.dumps(results, indent=2) + "\n").encode())
