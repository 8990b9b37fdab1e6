"""Fixtures of more than one folder."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import seaweedfs
from hypothesis import HealthCheck, settings

from medvl_jobs.settings.storage import StorageSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.open import open_storage

# The same examples each time, however long one takes: neither luck nor a busy machine decides.
settings.register_profile(
    "same everywhere", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same everywhere")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[seaweedfs.SeaweedFS]:
    """One real S3 server for the whole run."""
    with seaweedfs.running() as server:
        yield server


@pytest.fixture
def s3_settings(s3_server: seaweedfs.SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> StorageSettings:
    """Settings of an empty prefix in the server's bucket, with the right credentials in the environment."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    uri = f"s3://{s3_server.bucket}/{uuid.uuid4().hex}"
    return StorageSettings(uri=uri, endpoint_url=s3_server.endpoint_url, region="us-east-1", path_style=True)


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty store on each backend in turn; a test that takes this holds for both."""
    if request.param == "local":
        return open_storage(StorageSettings(uri=str(tmp_path / "store")))
    return open_storage(request.getfixturevalue("s3_settings"))
