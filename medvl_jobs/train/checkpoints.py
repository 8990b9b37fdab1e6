"""Checkpoints in the store: complete ones only, the newest first, the older ones dropped."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.manifest import Provenance
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.publish import Publication, read_manifest

log = logging.getLogger(__name__)


class CheckpointStore:
    """The checkpoints of one adapter. A checkpoint without a manifest was cut off while it was uploaded: not one."""

    def __init__(self, storage: Storage, adapter_key: str, *, keep: int) -> None:
        """``keep`` complete checkpoints stay, older ones are deleted."""
        self.storage, self.adapter_key, self.keep = storage, adapter_key, keep

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        prefix = f"{layout.checkpoints(self.adapter_key)}/"
        keys = self.storage.list_keys(prefix)
        found = (key.removeprefix(prefix).split("/") for key in keys)
        return sorted(int(parts[0].removeprefix("step-")) for parts in found if parts[1:] == [layout.MANIFEST])

    def save(self, folder: Path, step: int) -> None:
        """Upload a folder as the checkpoint of ``step``, then drop what is beyond ``keep``."""
        started = time.monotonic()
        publication = Publication(self.storage, layout.checkpoint(self.adapter_key, step))
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            publication.upload(path, path.relative_to(folder).as_posix())
        publication.finish(
            Provenance(
                stage="checkpoint",
                key=self.adapter_key,
                settings={},
                counts={"step": step},
                wall_seconds=time.monotonic() - started,
            )
        )
        log.info("checkpoint of step %d stored", step)
        for old in self.steps()[: -self.keep]:
            self._delete(old)

    def restore_latest(self, scratch: Path) -> Path | None:
        """Download the newest complete checkpoint, or return ``None`` when there is none."""
        steps = self.steps()
        if not steps:
            return None
        prefix = layout.checkpoint(self.adapter_key, steps[-1])
        manifest = read_manifest(self.storage, prefix)
        if manifest is None:
            return None
        folder = scratch / f"checkpoint-{steps[-1]}"
        for entry in manifest.files:
            self.storage.download(f"{prefix}/{entry.path}", folder / entry.path)
        log.info("resuming from the checkpoint of step %d", steps[-1])
        return folder

    def _delete(self, step: int) -> None:
        prefix = layout.checkpoint(self.adapter_key, step)
        # The manifest first: from then on the rest is no checkpoint, whatever interrupts the deletion.
        self.storage.delete(layout.manifest(prefix))
        for key in list(self.storage.list_keys(f"{prefix}/")):
            self.storage.delete(key)
