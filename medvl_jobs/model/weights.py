"""Where the base model lies: a directory, the hub or a bucket, and the cache that the last two are loaded from.

No torch: the pod that fills a cache has none.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from medvl_jobs.contracts.fingerprint import short_hash
from medvl_jobs.errors import AccessDeniedError, MissingInputError, SettingsError, TryAgainError
from medvl_jobs.settings.model import ModelSettings
from medvl_jobs.settings.storage import StorageSettings
from medvl_jobs.storage.base import ObjectStat, Storage
from medvl_jobs.storage.files import os_errors
from medvl_jobs.storage.open import open_storage

log = logging.getLogger(__name__)

LOADED = (".json", ".safetensors", ".jinja", ".txt", ".model", ".bin")
"""Endings of the files of a checkpoint or an adapter that change what it answers."""
WEIGHTS = (".safetensors", ".bin")
_COMPLETE = ".medvl-complete"
"""Written last into a folder of the cache."""
_AT_ONCE = 4
"""Files that are on their way at a time; each goes in several parts as well."""


def in_bucket(path: str) -> bool:
    """Whether a model's path is a bucket's."""
    return path.startswith("s3://")


def is_hub_id(path: str) -> bool:
    """Whether a path can be a hub's ``owner/name``."""
    return not Path(path).is_absolute() and not path.startswith(".") and path.count("/") == 1


def bucket_files(path: str, storage: StorageSettings) -> tuple[Storage, dict[str, ObjectStat]]:
    """The files of a checkpoint in a bucket that loading reads. Raises `MissingInputError` when there is none."""
    folder = open_storage(storage.model_copy(update={"uri": path.rstrip("/")}))
    found = {
        name: stat
        for name, stat in folder.list_stats("")
        if "/" not in name and name.endswith(LOADED) and not name.startswith(".")
    }
    if not any(name.endswith(WEIGHTS) for name in found):
        what = "there is no checkpoint in the bucket" if not found else "the checkpoint in the bucket has no weights"
        raise MissingInputError(what, where=path, remedy="set model.path to s3://bucket/path of a whole checkpoint")
    return folder, found


def place(model: ModelSettings) -> tuple[str, str | None]:
    """What to load from, a directory or a hub id, and the hub's revision.

    Raises `MissingInputError` when it should be in the cache and is not, `SettingsError` when it needs a cache.
    """
    if Path(model.path).is_dir() or (model.cache is None and not in_bucket(model.path)):
        return model.path, model.revision
    if model.cache is None:
        remedy = "set model.cache to a directory with room for it, and fill it with 'medvl model'"
        raise SettingsError("a base model in a bucket is loaded from a cache", where=model.path, remedy=remedy)
    folder = _folder(model)
    if not _is_complete(folder):
        remedy = "fill the cache first: medvl model"
        raise MissingInputError(f"the base model {model.path} is not in the cache", where=str(folder), remedy=remedy)
    return str(folder), None


def fill(model: ModelSettings, storage: StorageSettings) -> str:
    """Bring a pinned model into its cache, unless it is there; returns the directory to load from.

    A process that dies leaves a folder without its last file, which the next one completes. Of several processes on one
    volume the first one works and the others wait. Raises what the hub's or the bucket's answers mean.
    """
    if Path(model.path).is_dir():
        return model.path
    if model.cache is None:
        raise SettingsError("there is no cache to fill", where="model.cache", remedy="set it to a directory")
    folder = _folder(model)
    with os_errors(model.cache):
        if _is_complete(folder):
            log.info("%s is in the cache: %s", model.path, folder)
            return str(folder)
        with _alone(folder):
            if not _is_complete(folder):
                _fetch(model, storage, folder)
    log.info("%s is in the cache now: %s", model.path, folder)
    return str(folder)


def _fetch(model: ModelSettings, storage: StorageSettings, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if in_bucket(model.path):
        _from_bucket(model, storage, folder)
    else:
        _from_hub(model, folder)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.name.endswith(LOADED)}
    if not any(name.endswith(WEIGHTS) for name in sizes):
        remedy = "check model.path: a whole checkpoint has *.safetensors"
        raise MissingInputError("no weights were fetched", where=model.path, remedy=remedy)
    (folder / _COMPLETE).write_text(json.dumps(sizes), encoding="utf-8")


def _is_complete(folder: Path) -> bool:
    """Whether the marker is there, and all files that it names."""
    try:
        sizes = json.loads((folder / _COMPLETE).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False


def _folder(model: ModelSettings) -> Path:
    """One for each content: another revision, or other bytes in the bucket, never meet the old ones."""
    assert model.cache is not None
    name = model.path.removeprefix("s3://").strip("/").replace("/", "--")
    return model.cache / f"{name}-{short_hash([model.path, model.revision, model.fingerprint])}"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
                raise
            log.warning("this volume knows no locks (%s): let only one pod fill it", error.strerror)
        yield


def _from_bucket(model: ModelSettings, storage: StorageSettings, folder: Path) -> None:
    source, files = bucket_files(model.path, storage)
    if model.fingerprint not in (None, fingerprint_of(files)):
        what = "the base model in the bucket is not the one that the run was planned with"
        raise MissingInputError(what, where=model.path, remedy="start the run again, so that it is planned anew")
    left = {name: stat for name, stat in files.items() if not _is_there(folder / name, stat)}
    size = sum(stat.bytes for stat in left.values())
    if size > (free := shutil.disk_usage(folder).free):
        remedy = "give the cache's volume more room"
        raise TryAgainError(f"{size} bytes are to be fetched, and {free} are free", where=str(folder), remedy=remedy)
    log.info("fetching %d files, %.2f GB, from %s", len(left), size / 1e9, model.path)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        # Under its own name only when it is whole: `Storage.download` sees to that.
        list(pool.map(lambda name: source.download(name, folder / name), left))
    if fingerprint_of(bucket_files(model.path, storage)[1]) != fingerprint_of(files):
        shutil.rmtree(folder)
        what = "the base model in the bucket was written to while it was fetched"
        raise TryAgainError(what, where=model.path, remedy="start again when nobody writes to it")


def fingerprint_of(files: dict[str, ObjectStat]) -> str:
    """What the content of a checkpoint in a bucket is known by: without a byte of it being read."""
    return short_hash(sorted([name, stat.bytes, stat.fingerprint] for name, stat in files.items()))


def _is_there(path: Path, stat: ObjectStat) -> bool:
    return path.is_file() and path.stat().st_size == stat.bytes


def _from_hub(model: ModelSettings, folder: Path) -> None:
    # Here and not above: it takes a second to import, and most runs have their model in a directory.
    import huggingface_hub  # noqa: PLC0415
    from huggingface_hub.errors import (  # noqa: PLC0415
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{model.path}@{model.revision or 'main'}"
    log.info("fetching %s from the hub", where)
    try:
        # Asked first: where the hub is away, the download takes what lies in the folder for the whole.
        commit = huggingface_hub.HfApi().model_info(model.path, revision=model.revision).sha
        patterns = [f"*{ending}" for ending in LOADED]
        huggingface_hub.snapshot_download(model.path, revision=commit, local_dir=folder, allow_patterns=patterns)
    except GatedRepoError as error:
        remedy = "accept its terms on the hub, and give the pod that fills the cache HF_TOKEN"
        raise AccessDeniedError("the hub asks for permission", where=where, remedy=remedy) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        remedy = "check model.path and model.revision; without access, copy the model into the bucket: s3://…"
        raise MissingInputError("the hub has no such model", where=where, remedy=remedy) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, ConnectionError) as error:
        remedy = "without access to the hub, copy the model into the bucket and set model.path to s3://…"
        raise TryAgainError("the hub did not answer", where=where, remedy=remedy) from error
