"""Fixtures of the tests on Kubernetes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.fakekube import Cluster, running_cluster


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """An empty cluster with the training operator and eight GPUs."""
    with running_cluster() as running:
        yield running
