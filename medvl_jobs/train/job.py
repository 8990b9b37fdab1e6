"""The train stage: read the prepared dataset, train an adapter, write it with all that a reviewer asks for."""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers
from peft import PeftModel
from transformers import Trainer, TrainingArguments

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.manifest import Manifest, Provenance
from medvl_jobs.errors import PreemptedError, SettingsError
from medvl_jobs.model.checkpoint import best_device, load_model, load_processor, set_threads
from medvl_jobs.model.dataset import open_split
from medvl_jobs.model.prompts import PromptRenderer
from medvl_jobs.settings.environment import read_environment
from medvl_jobs.settings.keys import StageKeys
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.publish import Publication, read_manifest, require_manifest
from medvl_jobs.train.artifacts import all_results, loss_figure, model_card, trainer_log
from medvl_jobs.train.callbacks import LogLines, StopOnSigterm, StoreCheckpoints, training_lines
from medvl_jobs.train.checkpoints import CheckpointStore
from medvl_jobs.train.data import TrainingExamples
from medvl_jobs.train.lora import add_lora, trainable_parameters

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
        refuse_data_parallel(arguments)
        if arguments.process_index > 0:
            logging.getLogger("medvl_jobs").setLevel(logging.WARNING)  # all processes share one log
        renderer = PromptRenderer(load_processor(settings.model), settings.prompt)
        rows = open_split(storage, keys.prep, "train", scratch)
        examples = TrainingExamples(rows, renderer, settings.train.max_tokens)
        transformers.set_seed(settings.train.seed)  # the adapter's A is drawn before the Trainer seeds anything
        model = add_lora(load_model(settings.model, best_device()), settings.train.lora)
        trainable, total = trainable_parameters(model)
        log.info("training %d of %d parameters on %d examples", trainable, total, len(examples))
        checkpoints = CheckpointStore(storage, keys.adapter, keep=settings.train.keep_checkpoints)
        trainer = fit(model, examples, arguments, checkpoints, scratch)
        if trainer.is_world_process_zero():
            publication = Publication(storage, prefix)
            write_adapter(publication, settings, trainer, layout.prepared(keys.prep), scratch)
            publication.finish(provenance(settings, keys, prepared, trainer, started))
        trainer.accelerator.wait_for_everyone()
    return require_manifest(storage, prefix, "train")


def training_arguments(settings: RunSettings, scratch: Path) -> TrainingArguments:
    """Our settings in the Trainer's words."""
    train = settings.train
    return TrainingArguments(
        output_dir=str(scratch / "trainer"),
        num_train_epochs=train.epochs,
        per_device_train_batch_size=train.batch_size,
        gradient_accumulation_steps=train.gradient_accumulation,
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
        save_steps=train.save_every_steps,
        save_total_limit=1,  # on this machine; the store keeps its own number
        include_num_input_tokens_seen="non_padding",
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=[],
        use_cpu=not torch.cuda.is_available(),
        ddp_find_unused_parameters=False,  # every LoRA module takes part in every step
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=not sys.stderr.isatty(),
    )


def refuse_data_parallel(arguments: TrainingArguments) -> None:
    """Raises `SettingsError` where the Trainer would wrap the model in ``DataParallel``.

    That splits every tensor of a batch along its first axis, and ours have three different ones: examples, image
    patches and labelled tokens.
    """
    if arguments.n_gpu > 1:
        raise SettingsError(
            f"one process sees {arguments.n_gpu} GPUs",
            where="train",
            remedy=f"start one process per GPU: torchrun --nproc-per-node {arguments.n_gpu} -m medvl_jobs train …",
        )


def fit(
    model: PeftModel,
    examples: TrainingExamples,
    arguments: TrainingArguments,
    checkpoints: CheckpointStore,
    scratch: Path,
) -> Trainer:
    """Train to the end, or to SIGTERM; returns the trainer in its last state."""
    stop = StopOnSigterm()
    samples_per_step = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=examples,
        data_collator=examples.collator(),
        # The stop asks for a checkpoint, and a checkpoint asks for a log line: in this order.
        callbacks=[stop, LogLines(samples_per_step), StoreCheckpoints(checkpoints)],
    )
    trainer.remove_callback(transformers.PrinterCallback)  # it prints the same steps as Python dicts
    resume = checkpoints.restore_latest(scratch)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if stop.stopped:
        raise PreemptedError(
            f"stopped by SIGTERM at step {trainer.state.global_step} of {trainer.state.max_steps}",
            where=layout.checkpoints(checkpoints.adapter_key),
            remedy="start the same command again: it resumes from there",
        )
    return trainer


def provenance(
    settings: RunSettings, keys: StageKeys, prepared: Manifest, trainer: Trainer, started: float
) -> Provenance:
    """What the manifest says of this training."""
    environment = read_environment()
    seconds = time.monotonic() - started
    examples: TrainingExamples = trainer.train_dataset
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
    publication: Publication, settings: RunSettings, trainer: Trainer, prepared: str, scratch: Path
) -> None:
    """The adapter in PEFT's format, its card, the log, the curve and the totals."""
    folder = scratch / "adapter"
    trainer.model.save_pretrained(folder)
    lines = training_lines(trainer.state)
    results = all_results(lines, round(lines[-1]["epoch"] * len(trainer.train_dataset)))
    parameters = trainable_parameters(trainer.model)
    (folder / "README.md").write_text(model_card(settings, results, parameters, prepared), encoding="utf-8")
    base = {"path": settings.model.path, "fingerprint": settings.model.fingerprint}
    (folder / layout.ADAPTER_BASE).write_text(json.dumps(base, indent=2) + "\n", encoding="utf-8")
    for path in sorted(folder.iterdir()):
        publication.upload(path, path.name)
    publication.write_bytes(layout.TRAINER_LOG, trainer_log(lines).encode(), rows=len(lines))
    publication.write_bytes(layout.TRAINING_LOSS, loss_figure(lines))
    publication.write_bytes(layout.ALL_RESULTS, (json.dumps(results, indent=2) + "\n").encode())
