"""The base model in a bucket, on the hub, and in the cache."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import huggingface_hub
import huggingface_hub.errors
import pytest

from medvl_jobs.errors import AccessDeniedError, MedvlError, MissingInputError, SettingsError, TryAgainError
from medvl_jobs.model.weights import fill, place
from medvl_jobs.pipeline.pin import pin_model
from medvl_jobs.settings.model import ModelSettings
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.settings.storage import StorageSettings
from medvl_jobs.storage.open import open_storage

FILES = {"config.json": b"{}", "model.safetensors": b"w" * 3000, "README.md": b"hello", "original/config.json": b"{}"}


@pytest.fixture
def in_a_bucket(s3_settings: StorageSettings, tmp_path: Path) -> RunSettings:
    """A pinned run whose model lies in the bucket."""
    storage = open_storage(s3_settings)
    for name, data in FILES.items():
        storage.write_bytes(f"models/tiny/{name}", data)
    model = ModelSettings(path=f"{s3_settings.uri}/models/tiny", cache=tmp_path / "cache")
    return pin_model(RunSettings(storage=s3_settings, model=model))


def test_what_loading_reads_is_fetched_and_no_more(in_a_bucket: RunSettings) -> None:
    folder = Path(fill(in_a_bucket.model, in_a_bucket.storage))
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", ".medvl-complete"}
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert place(in_a_bucket.model) == (str(folder), None)


def test_filled_once(in_a_bucket: RunSettings) -> None:
    folder = Path(fill(in_a_bucket.model, in_a_bucket.storage))
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    away = in_a_bucket.storage.model_copy(update={"endpoint_url": "http://127.0.0.1:1"})
    assert fill(in_a_bucket.model, away) == str(folder), "a full cache needs no bucket"
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_another_content_has_another_place(in_a_bucket: RunSettings) -> None:
    first = fill(in_a_bucket.model, in_a_bucket.storage)
    open_storage(in_a_bucket.storage).write_bytes("models/tiny/model.safetensors", b"v" * 3000)
    unpinned = in_a_bucket.model_copy(update={"model": in_a_bucket.model.model_copy(update={"fingerprint": None})})
    pinned = pin_model(unpinned)
    assert pinned.model.fingerprint != in_a_bucket.model.fingerprint
    with pytest.raises(MissingInputError, match="not in the cache"):
        place(pinned.model)
    second = fill(pinned.model, pinned.storage)
    assert first != second
    assert (Path(second) / "model.safetensors").read_bytes() == b"v" * 3000


def test_a_model_that_changed_after_planning_is_refused(in_a_bucket: RunSettings) -> None:
    open_storage(in_a_bucket.storage).write_bytes("models/tiny/model.safetensors", b"v" * 3000)
    with pytest.raises(MissingInputError, match="not the one that the run was planned with"):
        fill(in_a_bucket.model, in_a_bucket.storage)


def test_a_half_filled_cache_is_no_model_and_is_completed(in_a_bucket: RunSettings) -> None:
    folder = Path(fill(in_a_bucket.model, in_a_bucket.storage))
    (folder / ".medvl-complete").unlink()
    (folder / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(MissingInputError, match="not in the cache"):
        place(in_a_bucket.model)
    fill(in_a_bucket.model, in_a_bucket.storage)
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_several_processes_fill_it_at_once(in_a_bucket: RunSettings) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        folders = pool.starmap(fill, [(in_a_bucket.model, in_a_bucket.storage)] * 3)
    assert len(set(folders)) == 1


def test_what_is_wrong_with_a_bucket_is_said(s3_settings: StorageSettings, tmp_path: Path) -> None:
    open_storage(s3_settings).write_bytes("no-weights/config.json", b"{}")
    for name, said in (("nothing", "there is no checkpoint"), ("no-weights", "no weights")):
        with pytest.raises(MissingInputError, match=said):
            pin_model(RunSettings(storage=s3_settings, model=ModelSettings(path=f"{s3_settings.uri}/{name}")))
    with pytest.raises(SettingsError, match="loaded from a cache"):
        place(ModelSettings(path="s3://bucket/model", fingerprint="x"))
    with pytest.raises(SettingsError, match="no cache to fill"):
        fill(ModelSettings(path="s3://bucket/model", fingerprint="x"), s3_settings)


def test_a_directory_is_loaded_as_it_is(tmp_path: Path) -> None:
    model = ModelSettings(path=str(tmp_path), cache=tmp_path / "cache", revision="r")
    assert place(model) == (str(tmp_path), "r")
    assert fill(model, StorageSettings()) == str(tmp_path)


def test_without_a_cache_a_hub_model_is_the_hubs_business() -> None:
    assert place(ModelSettings(path="owner/name", revision="r")) == ("owner/name", "r")


def from_hub(tmp_path: Path) -> ModelSettings:
    return ModelSettings(path="owner/name", revision="abc", cache=tmp_path, fingerprint="hub:owner/name@abc")


def test_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def snapshot_download(repo: str, **words: Any) -> None:
        asked.update(words, repo=repo)
        for name in files:
            (words["local_dir"] / name).write_text("{}")

    hub = Mock()
    hub.return_value.model_info.return_value.sha = "the-commit"
    monkeypatch.setattr(huggingface_hub, "HfApi", hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    files = ["config.json"]
    with pytest.raises(MissingInputError, match="no weights"):
        fill(from_hub(tmp_path), StorageSettings())
    files.append("model.safetensors")
    folder = fill(from_hub(tmp_path), StorageSettings())
    assert (asked["repo"], asked["revision"]) == ("owner/name", "the-commit")
    hub.return_value.model_info.assert_called_with("owner/name", revision="abc")
    assert "*.safetensors" in asked["allow_patterns"]
    assert place(from_hub(tmp_path)) == (folder, None)


@pytest.mark.parametrize(
    ("raised", "meaning"),
    [
        ("GatedRepoError", AccessDeniedError),
        ("RepositoryNotFoundError", MissingInputError),
        ("RevisionNotFoundError", MissingInputError),
        ("HfHubHTTPError", TryAgainError),
    ],
)
def test_the_hubs_answers(
    raised: str, meaning: type[MedvlError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **words: Any) -> None:
        raise getattr(huggingface_hub.errors, raised)("no", response=Mock())

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    with pytest.raises(meaning):
        fill(from_hub(tmp_path), StorageSettings())
    with pytest.raises(MissingInputError):
        place(from_hub(tmp_path))
