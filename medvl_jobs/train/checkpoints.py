"""Checkpoints in the store: whole ones only, the newest first, the older ones dropped."""

from __future__ import annotations

import json
import logging
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.fingerprint import sha256_file
from medvl_jobs.contracts.manifest import FileEntry, Manifest, Provenance
from medvl_jobs.errors import MissingInputError, SchemaMismatchError, TryAgainError
from medvl_jobs.settings.train import TrainSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.publish import Publication, library_versions, read_manifest
from medvl_jobs.train.ranks import Ranks

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
"""Between two looks for the lists of the other processes."""
_FILES = TypeAdapter(tuple[FileEntry, ...])
_PROCESSES = "processes"

Contract = Mapping[str, int | str]


def training_contract(settings: TrainSettings, *, processes: int, zero: int, examples: int) -> Contract:
    """What must be the same for a checkpoint to go on, beyond what the adapter's key stands for.

    ``zero`` is the stage in force. Of the libraries whose files these are, major and minor version count.
    """
    versions = library_versions()
    libraries = ("torch", "transformers", "peft", *(("deepspeed",) if zero else ()))
    return {
        _PROCESSES: processes,
        "train.batch_size": settings.batch_size,
        "train.gradient_accumulation": settings.gradient_accumulation,
        "train.zero": zero,
        "examples": examples,
        **{name: ".".join(versions[name].split(".")[:2]) for name in libraries},
    }


class CheckpointStore:
    """The checkpoints of one adapter, as one of the processes sees them. All of them make theirs at the same point.

    Each process stores its own files. Those after the first then leave a list of theirs; the first waits for all
    lists and writes the manifest last. A checkpoint without a manifest was cut off: not one.
    """

    def __init__(
        self,
        storage: Storage,
        adapter_key: str,
        *,
        keep: int,
        ranks: Ranks | None = None,
        contract: Contract | None = None,
    ) -> None:
        """``keep`` whole checkpoints stay. ``contract`` comes from `training_contract`; without ``ranks`` alone."""
        self.storage, self.adapter_key, self.keep = storage, adapter_key, keep
        self.ranks, self.contract = ranks or Ranks(), contract or {}
        # Lists of an earlier attempt, cut off at the same step, name files that this one replaces.
        self.attempt = self.ranks.all_of(uuid.uuid4().hex[:8])[0]
        self.poll_seconds = POLL_SECONDS
        self._broken: set[int] = set()
        self._begun: tuple[int, Publication] | None = None

    @property
    def prefix(self) -> str:
        """Of all checkpoints of the adapter."""
        return layout.checkpoints(self.adapter_key)

    def steps(self) -> list[int]:
        """Steps of the checkpoints that have a manifest, oldest first."""
        return sorted(step for step, name in self._objects() if name == layout.MANIFEST)

    def save(self, folder: Path, step: int, pause: Callable[[float], object] = time.sleep) -> bool:
        """Store what this process has of the checkpoint of ``step``; the first process then makes it whole.

        ``pause`` waits for some seconds. Returns ``False`` when another process has left this step out for a newer
        one. Call it again after a `TryAgainError`: what is stored already is not sent again.
        """
        started = time.monotonic()
        publication = self._upload(folder, step)
        if self.ranks.rank > 0:
            key = layout.checkpoint_list(self.adapter_key, step, self.ranks.rank, self.attempt)
            self.storage.write_bytes(key, _FILES.dump_json(publication.files))
            return True
        lists = self._lists_of_others(step, pause)
        if lists is None:
            return False
        for key in lists:
            publication.include(_FILES.validate_json(self.storage.read_bytes(key)))
        self._begun = None  # when the manifest fails, another attempt may have overwritten files: all are sent again
        publication.finish(
            Provenance(
                stage="checkpoint",
                key=self.adapter_key,
                settings=dict(self.contract),
                counts={"step": step},
                wall_seconds=time.monotonic() - started,
            )
        )
        log.info("checkpoint of step %d stored", step)
        self._broken.discard(step)
        try:
            self._drop_older(step)
        except TryAgainError as error:
            log.warning("older checkpoints stay until the next one is stored: %s", error.what)
        return True

    def restore_latest(self, scratch: Path) -> Path | None:
        """Download the newest whole checkpoint, the same on all processes; ``None`` when there is none.

        A damaged one is named in the log and passed over. Raises `SchemaMismatchError` for one of another contract.
        """
        steps = self.ranks.together(self.steps)[0]
        for step in reversed(steps):
            folder = scratch / f"checkpoint-{step}"
            faults = self.ranks.together(partial(self._fetch, step, folder))
            if not any(faults):
                log.info("resuming from the checkpoint of step %d", step)
                return folder
            shutil.rmtree(folder, ignore_errors=True)
            self._broken.add(step)
            for fault in dict.fromkeys(filter(None, faults)) if self.ranks.rank == 0 else ():
                log.warning("the checkpoint of step %d is damaged, trying the one before: %s", step, fault)
        if steps and self.ranks.rank == 0:
            log.warning("none of %d checkpoints is whole: training from the beginning", len(steps))
        return None

    def _upload(self, folder: Path, step: int) -> Publication:
        if self._begun is None or self._begun[0] != step:
            prefix = layout.checkpoint(self.adapter_key, step)
            if self.ranks.rank == 0:  # an earlier attempt's, which was found damaged or this one would be beyond it
                self.storage.delete(layout.manifest(prefix))
            self._begun = step, Publication(self.storage, prefix)
        publication = self._begun[1]
        stored = {entry.path for entry in publication.files}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = f"{layout.checkpoint_files(self.ranks.rank)}/{path.relative_to(folder).as_posix()}"
            if name not in stored:
                publication.upload(path, name)
        return publication

    def _lists_of_others(self, step: int, pause: Callable[[float], object]) -> list[str] | None:
        """Wait for them. Each process goes from step to step, so a list of a later one means that none will come."""
        others = range(1, self.ranks.world)
        list_of = partial(layout.checkpoint_list, self.adapter_key, attempt=self.attempt)
        while others:
            found = self._objects()
            keys = {f"{layout.checkpoint(self.adapter_key, at)}/{name}" for at, name in found}
            missing = [rank for rank in others if list_of(step, rank) not in keys]
            if not missing:
                break
            later = {at for at, _ in found if at > step}
            if any(list_of(at, rank) in keys for at in later for rank in missing):
                log.warning("the checkpoint of step %d is left out: another process has gone on to a newer one", step)
                return None
            pause(self.poll_seconds)
        return [list_of(step, rank) for rank in others]

    def _fetch(self, step: int, folder: Path) -> str | None:
        """Download one checkpoint; returns what is wrong with it."""
        prefix = layout.checkpoint(self.adapter_key, step)
        try:
            manifest = read_manifest(self.storage, prefix)
        except SchemaMismatchError as error:
            if isinstance(error.__cause__, json.JSONDecodeError | UnicodeDecodeError):
                return f"{layout.MANIFEST}: {error.what}"
            raise
        if manifest is None:
            return f"{layout.MANIFEST} is gone"
        self._refuse_another_contract(step, manifest)
        # A file that several processes have, each with its own content, is this process's own: that comes last.
        mine = f"{layout.checkpoint_files(self.ranks.rank)}/"
        for entry in sorted(manifest.files, key=lambda entry: entry.path.startswith(mine)):
            path = folder / entry.path.partition("/")[2]
            try:
                self.storage.download(f"{prefix}/{entry.path}", path)
            except MissingInputError:
                return f"{entry.path} is missing"
            if (size := path.stat().st_size) != entry.bytes:
                return f"{entry.path} has {size} bytes instead of {entry.bytes}"
            if sha256_file(path) != entry.sha256:
                return f"{entry.path} has another content than was stored (sha256)"
        return None

    def _refuse_another_contract(self, step: int, manifest: Manifest) -> None:
        then, now = manifest.settings, self.contract
        names = [name for name in {**now, **then} if then.get(name) != now.get(name)]
        if not names:
            return
        differences = [f"{name}: {then.get(name, 'none')} then, {now.get(name, 'none')} now" for name in names]
        undo = ["set them back to what they were"] if names != [_PROCESSES] else []
        if _PROCESSES in names:
            undo.insert(0, f"train on {then.get(_PROCESSES)} processes (GPUs) again")
        where = f"{self.storage.uri}/{self.prefix}"
        raise SchemaMismatchError(
            f"the checkpoint of step {step} was made under other conditions: {'; '.join(differences)}",
            where=where,
            remedy=f"{', and '.join(undo)}; or delete {where} to train from the beginning",
        )

    def _drop_older(self, step: int) -> None:
        """Delete what is older than ``step``, unfinished ones too, for every process is past them; ``keep`` stay."""
        found = self._objects()
        whole = {at for at, name in found if name == layout.MANIFEST and at <= step} - self._broken
        older = {at for at, _ in found if at < step}
        for at in sorted(older - set(sorted(whole)[-self.keep :])):
            prefix = layout.checkpoint(self.adapter_key, at)
            # The manifest first: from then on the rest is no checkpoint, whatever interrupts the deletion.
            self.storage.delete(layout.manifest(prefix))
            for key in list(self.storage.list_keys(f"{prefix}/")):
                self.storage.delete(key)

    def _objects(self) -> list[tuple[int, str]]:
        """Step and name of everything that lies under the prefix."""
        keys = self.storage.list_keys(f"{self.prefix}/")
        parts = (key.removeprefix(f"{self.prefix}/step-").partition("/") for key in keys)
        return [(int(step), name) for step, _, name in parts if step.isdecimal()]
