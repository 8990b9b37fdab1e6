"""An in-memory Kubernetes for tests: API server, controllers, and a kubelet that runs containers as processes."""

from cluster.fakekube.cluster import Cluster, running_cluster
from cluster.fakekube.errors import ApiError, Json

__all__ = ["ApiError", "Cluster", "Json", "running_cluster"]
