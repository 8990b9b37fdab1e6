"""The manifest: what lies under one prefix of the store, how it was made, and from what. Written last."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, ValidationError

from medvl_jobs.errors import SchemaMismatchError

SCHEMA_VERSION = 2
"""Goes up with every change of the fields: a reader refuses fields that it does not know."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class InputRef(_Frozen):
    """Something that was read: the manifest of another stage, or a source file."""

    uri: str
    fingerprint: str
    """``sha256:…`` of the content, or ``etag:…`` as the store of a source file gives it."""


class FileEntry(_Frozen):
    """One object under the manifest's prefix."""

    path: str
    """Relative to the prefix."""
    bytes: NonNegativeInt
    sha256: Sha256
    rows: NonNegativeInt | None = None
    """Examples in the file; none where that means nothing (a figure, a model)."""


class Provenance(_Frozen):
    """The part of a manifest that only the stage itself can know."""

    stage: str
    """``prep``, ``train``, ``eval`` or ``report``; ``prep-part`` and ``prep-check`` for what prep makes besides."""
    key: str
    """Hash of the semantic settings and the inputs: the same key promises the same result."""
    inputs: tuple[InputRef, ...] = ()
    settings: dict[str, Any]
    """Resolved, defaults included."""
    counts: dict[str, int] = {}
    """Examples by what became of them, tokens, steps: what the stage counts."""
    git_sha: str | None = None
    image_digest: str | None = None
    wall_seconds: NonNegativeFloat
    gpu_seconds: NonNegativeFloat = 0.0
    """Wall seconds times the GPUs held, idle or not: what is paid for."""


class Manifest(Provenance):
    """All of it; see `Publication.finish`."""

    schema_version: int = SCHEMA_VERSION
    files: tuple[FileEntry, ...]
    """Sorted by path."""
    code_version: str
    library_versions: dict[str, str]
    peak_memory_bytes: NonNegativeInt
    """Of the largest single process of the stage."""
    created_at: AwareDatetime
    """UTC."""

    def to_json(self) -> str:
        """The text that is stored; `from_json` gives back an equal manifest, and that the same text."""
        return self.model_dump_json(indent=2) + "\n"

    def as_input(self, uri: str) -> InputRef:
        """How the next stage names this one: where it lies, and the sha256 of the stored manifest."""
        return InputRef(uri=uri, fingerprint="sha256:" + hashlib.sha256(self.to_json().encode()).hexdigest())

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str = "") -> Manifest:
        """Read a stored manifest; ``where`` it lies is for the error. Raises `SchemaMismatchError`."""
        try:
            value = json.loads(text)
        except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
            raise _mismatch(f"the manifest is not JSON: {error}", where) from error
        version = value.get("schema_version") if isinstance(value, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            what = f"the manifest has schema {version}, this medvl reads up to {SCHEMA_VERSION}"
            raise SchemaMismatchError(what, where=where, remedy="use the medvl that wrote it, or a newer one")
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"])) or "the whole"
            raise _mismatch(f"the manifest does not fit its schema: {field}: {first['msg']}", where) from error


def _mismatch(what: str, where: str) -> SchemaMismatchError:
    return SchemaMismatchError(what, where=where, remedy="delete this file and run the stage that wrote it again")
