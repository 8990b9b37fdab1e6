"""Fixtures of the tests on Kubernetes."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import seaweedfs

from cluster.fakekube import Cluster, running_cluster
from cluster.release import Release, store, upload_inputs
from medvl_jobs.samples.build import build_sample


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """An empty cluster with the training operator and eight GPUs."""
    with running_cluster() as running:
        yield running


@pytest.fixture(scope="session")
def inputs(s3_server: seaweedfs.SeaweedFS, tmp_path_factory: pytest.TempPathFactory) -> Iterator[seaweedfs.SeaweedFS]:
    """The S3 server, with a small sample and the tiny model in its bucket, and its credentials in the environment."""
    sample = tmp_path_factory.mktemp("sample")
    build_sample(sample, seed=42, rows=60)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment.items():
            patch.setenv(name, value)
        upload_inputs(s3_server, Path(sample))
        yield s3_server


@pytest.fixture(scope="session")
def finished(inputs: seaweedfs.SeaweedFS) -> Iterator[Release]:
    """A release that has gone from ``helm install`` to its report, in a cluster of its own."""
    with running_cluster() as cluster:
        release = Release(cluster, inputs)
        release.install()
        release.finish()
        yield release


@pytest.fixture
def copied(finished: Release) -> Callable[..., str]:
    """Makes a store with what that release has made, less what is left out; returns its prefix."""

    def copy(*left_out: str) -> str:
        prefix = f"store-{uuid.uuid4().hex[:8]}"
        source, target = finished.storage, store(finished.server, prefix)
        for key in source.list_keys(""):
            if not key.startswith(left_out):
                target.write_bytes(key, source.read_bytes(key))
        return prefix

    return copy
