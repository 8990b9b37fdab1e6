"""The manifest as text."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from medvl_jobs.contracts.manifest import SCHEMA_VERSION, FileEntry, InputRef, Manifest
from medvl_jobs.errors import SchemaMismatchError

SHA = "0" * 64
MANIFEST = Manifest(
    stage="train",
    key="ab12",
    inputs=(InputRef(uri="s3://bucket/prepared/cd34", fingerprint=f"sha256:{SHA}"),),
    settings={"lora": {"rank": 8, "dropout": 0.1}, "learning_rate": 1e-4, "name": "лёгкое", "zero": None},
    counts={"train": 12},
    wall_seconds=1.5,
    gpu_seconds=6.0,
    files=(FileEntry(path="adapter_model.safetensors", bytes=3, sha256=SHA),),
    code_version="0.1.0",
    library_versions={"torch": "2.13.0+cpu"},
    peak_memory_bytes=1 << 30,
    created_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
)


def changed(**fields: Any) -> str:
    return json.dumps(json.loads(MANIFEST.to_json()) | fields)


def test_text_and_manifest_turn_into_each_other() -> None:
    text = MANIFEST.to_json()
    again = Manifest.from_json(text)
    assert again == MANIFEST
    assert again.to_json() == text
    assert json.loads(text)["created_at"] == "2026-01-02T03:04:05Z"


def test_the_next_stage_names_it_by_the_hash_of_what_is_stored() -> None:
    ref = MANIFEST.as_input("s3://bucket/adapters/ab12")
    assert ref.fingerprint == "sha256:" + hashlib.sha256(MANIFEST.to_json().encode()).hexdigest()
    assert Manifest.from_json(MANIFEST.to_json()).as_input(ref.uri) == ref


def test_it_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        MANIFEST.stage = "eval"


def test_a_newer_schema_asks_for_a_newer_program_whatever_else_it_holds() -> None:
    with pytest.raises(SchemaMismatchError, match="newer") as caught:
        Manifest.from_json(changed(schema_version=SCHEMA_VERSION + 1, something_new=1), where="s3://b/manifest.json")
    assert caught.value.where == "s3://b/manifest.json"
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ('{"schema_version": 1', "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        ("[]", "schema"),
        ("{}", "stage"),
        (changed(surprise=1), "surprise"),
        (changed(schema_version="next"), "schema_version"),
        (changed(files=[{"path": "a", "bytes": -1, "sha256": SHA}]), "files.0.bytes"),
        (changed(files=[{"path": "a", "bytes": 1, "sha256": "short"}]), "files.0.sha256"),
        (changed(created_at="2026-01-02T03:04:05"), "created_at"),
    ],
)
def test_what_is_not_a_manifest_says_where_it_fails(text: str | bytes, words: str) -> None:
    with pytest.raises(SchemaMismatchError, match=words) as caught:
        Manifest.from_json(text)
    assert caught.value.remedy
