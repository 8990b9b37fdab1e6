"""Pin a run: put the fingerprints of everything that it reads from outside the store into its settings.

After that all keys follow from the settings alone, and a stage in a container need not read the source again to know
where its input lies.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.fingerprint import short_hash
from medvl_jobs.errors import MissingInputError
from medvl_jobs.model.weights import LOADED, bucket_files, fingerprint_of, in_bucket, is_hub_id
from medvl_jobs.prep.source import Source, find_source
from medvl_jobs.settings.model import ModelSettings
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.settings.storage import StorageSettings
from medvl_jobs.storage.base import Storage

WHOLE_BYTES = 16 * 2**20
"""Files up to this size are hashed whole; of larger ones (60 GB of weights) the size and three samples are."""
SAMPLE_BYTES = 2**20


def pin(settings: RunSettings, storage: Storage) -> RunSettings:
    """The settings with all fingerprints; those that are set already are kept.

    Raises `MissingInputError` when the source, the base model or the adapter does not exist.
    """
    evaluation = settings.eval
    return pin_model(pin_source(settings)).model_copy(
        update={
            "eval": evaluation.model_copy(
                update={"adapter_fingerprint": evaluation.adapter_fingerprint or adapter_fingerprint(settings, storage)}
            ),
        }
    )


def pin_source(settings: RunSettings, source: Source | None = None) -> RunSettings:
    """The settings with the fingerprint of the source alone: all that prep needs. Raises what `find_source` raises."""
    prep = settings.prep
    fingerprint = prep.source_fingerprint or (source or find_source(prep, settings.storage)).fingerprint
    return settings.model_copy(update={"prep": prep.model_copy(update={"source_fingerprint": fingerprint})})


def pin_model(settings: RunSettings) -> RunSettings:
    """The settings with the fingerprint of the base model alone. Raises `MissingInputError` when there is none."""
    model = settings.model
    fingerprint = model.fingerprint or model_fingerprint(model, settings.storage)
    return settings.model_copy(update={"model": model.model_copy(update={"fingerprint": fingerprint})})


def model_fingerprint(model: ModelSettings, storage: StorageSettings) -> str:
    """Hash of a local checkpoint's files, of the list of one in a bucket, or the name and revision of one on the hub.

    Large files are sampled at the start, the middle and the end: two checkpoints that differ only elsewhere would be
    taken for one. A hub model without a revision is only as fixed as its newest commit.
    """
    if in_bucket(model.path):
        return fingerprint_of(bucket_files(model.path, storage)[1])
    folder = Path(model.path)
    if folder.is_dir():
        return directory_fingerprint(folder)
    if not is_hub_id(model.path):
        raise MissingInputError(
            "the base model does not exist",
            where=model.path,
            remedy="set model.path to a directory, s3://bucket/path, or a hub id (owner/name); where only pods with "
            "GPUs see the directory, set model.fingerprint too, to anything that changes with the weights",
        )
    return f"hub:{model.path}@{model.revision or 'main'}"


def adapter_fingerprint(settings: RunSettings, storage: Storage) -> str | None:
    """Hash of the adapter that the settings name, or ``None`` when the run trains its own."""
    if settings.eval.adapter is None:
        return None
    named = settings.eval.adapter.rstrip("/")
    if Path(named).is_dir():
        return directory_fingerprint(Path(named))
    stat = storage.stat(f"{named}/{layout.ADAPTER_WEIGHTS}")
    if stat is None:
        raise MissingInputError(
            "there is no adapter here",
            where=f"{named}, as a directory or in {storage.uri}",
            remedy=f"set eval.adapter to a directory that PEFT saved, or to a prefix like {layout.adapter('<key>')}",
        )
    config = storage.stat(f"{named}/{layout.ADAPTER_CONFIG}")
    return short_hash([named, stat.fingerprint, config.fingerprint if config else None])


def directory_fingerprint(folder: Path) -> str:
    """Hash over the names and contents of the files that loading reads, the large ones sampled.

    Not over everything: a copy from the hub has a read-me, and a hidden folder with the time of the download.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix in LOADED and not path.name.startswith("."))
    return short_hash([[path.relative_to(folder).as_posix(), _content_hash(path)] for path in files])


def _content_hash(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        if size <= WHOLE_BYTES:
            digest.update(stream.read())
        else:
            for offset in (0, size // 2, size - SAMPLE_BYTES):
                stream.seek(offset)
                digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()
