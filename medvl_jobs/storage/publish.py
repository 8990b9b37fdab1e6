"""How a stage hands over its output: files first, their list last.

A prefix without ``manifest.json`` does not exist for anybody else, so a stage that dies half-way leaves nothing that
could be mistaken for a result, and a stage that runs again finds the parts it may `Publication.adopt`.
"""

from __future__ import annotations

import hashlib
import resource
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import medvl_jobs
from medvl_jobs.contracts import layout
from medvl_jobs.contracts.fingerprint import sha256_file
from medvl_jobs.contracts.manifest import FileEntry, Manifest, Provenance
from medvl_jobs.errors import MissingInputError, SchemaMismatchError, TryAgainError
from medvl_jobs.storage.base import Storage

LIBRARIES = (
    "accelerate",
    "boto3",
    "deepspeed",
    "kubernetes",
    "numpy",
    "peft",
    "pillow",
    "pyarrow",
    "pydantic",
    "tokenizers",
    "torch",
    "transformers",
    "vllm",
)
"""Distributions whose version can change a result, or explain a failure."""


class Publication:
    """The objects of one stage under one prefix, remembered until the manifest names them. Not for several threads."""

    def __init__(self, storage: Storage, prefix: str) -> None:
        """``prefix`` comes from `contracts.layout`: ``prepared/ab12``."""
        self._storage, self._prefix = storage, prefix
        self._files: dict[str, FileEntry] = {}

    @property
    def uri(self) -> str:
        """Where the output lies."""
        return f"{self._storage.uri}/{self._prefix}"

    def write_bytes(self, path: str, data: bytes, *, rows: int | None = None) -> None:
        """Store ``data`` as ``path`` under the prefix; the same path again replaces it."""
        self._storage.write_bytes(self._key(path), data)
        self._remember(path, len(data), hashlib.sha256(data).hexdigest(), rows)

    def upload(self, source: Path, path: str, *, rows: int | None = None) -> None:
        """Store the local file ``source`` as ``path`` under the prefix. Raises `MissingInputError`."""
        self._storage.upload(source, self._key(path))
        self._remember(path, source.stat().st_size, sha256_file(source), rows)

    def adopt(self, path: str, *, rows: int | None = None) -> None:
        """List an object that an earlier attempt left there, hashed as it lies now. Raises `MissingInputError`."""
        data = self._storage.read_bytes(self._key(path))
        self._remember(path, len(data), hashlib.sha256(data).hexdigest(), rows)

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """What the manifest will list so far, sorted by path."""
        return tuple(self._files[path] for path in sorted(self._files))

    def include(self, files: Iterable[FileEntry]) -> None:
        """List files that another process of the same stage has stored and hashed."""
        self._files |= {entry.path: entry for entry in files}

    def finish(self, provenance: Provenance) -> Manifest:
        """Write the manifest, after which the output exists. Returns the one that counts.

        That is another writer's when it was first: two attempts of one stage can overlap, when a node that was given
        up for lost goes on working. Raises `TryAgainError` when the two have overwritten each other's files.
        """
        ours = Manifest(
            **dict(provenance),
            files=self.files,
            code_version=medvl_jobs.__version__,
            library_versions=library_versions(),
            peak_memory_bytes=peak_memory_bytes(),
            created_at=datetime.now(UTC).replace(microsecond=0),
        )
        key = layout.manifest(self._prefix)
        if self._storage.write_bytes(key, ours.to_json().encode(), if_absent=True):
            return ours
        theirs = require_manifest(self._storage, self._prefix, provenance.stage)
        self._refuse_mixture(theirs)
        return theirs

    def _refuse_mixture(self, theirs: Manifest) -> None:
        """Check the winner's files where ours had other bytes: training is not exact to the bit, so that is likely.

        The manifest of a mixture goes away, or every later run would take it for a result.
        """
        for entry in theirs.files:
            mine = self._files.get(entry.path)
            if mine is None or mine.sha256 == entry.sha256:
                continue
            if hashlib.sha256(self._storage.read_bytes(self._key(entry.path))).hexdigest() != entry.sha256:
                self._storage.delete(layout.manifest(self._prefix))
                what = f"two attempts wrote {entry.path} at the same time; neither result is whole"
                raise TryAgainError(what, where=self.uri, remedy="start again; its manifest has been removed")

    def _key(self, path: str) -> str:
        if path == layout.MANIFEST:
            raise ValueError(f"{path} is written by finish() only: it would make the output exist too early")
        return f"{self._prefix}/{path}"

    def _remember(self, path: str, size: int, sha256: str, rows: int | None) -> None:
        self._files[path] = FileEntry(path=path, bytes=size, sha256=sha256, rows=rows)


def read_manifest(storage: Storage, prefix: str) -> Manifest | None:
    """The manifest of ``prefix``, or none when its stage has not finished.

    Raises `SchemaMismatchError`, and `MissingInputError` when the bucket itself does not exist.
    """
    key = layout.manifest(prefix)
    # Not "read it, and take MissingInputError for no": a bucket that is missing would look like a stage still to run.
    if not storage.exists(key):
        return None
    return Manifest.from_json(storage.read_bytes(key), where=f"{storage.uri}/{key}")


def require_manifest(storage: Storage, prefix: str, stage: str) -> Manifest:
    """The manifest that ``stage`` wrote under ``prefix``. Raises `MissingInputError`, `SchemaMismatchError`."""
    manifest = read_manifest(storage, prefix)
    where = f"{storage.uri}/{layout.manifest(prefix)}"
    if manifest is None:
        remedy = f"run `medvl {stage}` first, with the same settings; if it did run, its log says why it did not finish"
        raise MissingInputError(f"the {stage} stage has not finished here", where=where, remedy=remedy)
    if manifest.stage != stage:
        what = f"this was made by the {manifest.stage} stage, not by {stage}"
        raise SchemaMismatchError(what, where=where, remedy=f"name a prefix that `medvl {stage}` wrote")
    return manifest


def library_versions() -> dict[str, str]:
    """Versions of those `LIBRARIES` that are installed; none of them is imported for it."""
    return installed(LIBRARIES)


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Version of each package that is installed, by its name."""
    return {name: found for name in packages if (found := _version(name))}


@cache
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def peak_memory_bytes() -> int:
    """The largest resident size so far of this process, or of a child that has ended if that was larger.

    The system keeps the maximum over children, not their sum, so parallel workers count once.
    """
    largest = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return largest if sys.platform == "darwin" else largest * 1024
