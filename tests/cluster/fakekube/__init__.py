"""An in-memory Kubernetes for tests: API server, controllers, and a kubelet that runs containers as processes.

Start it with `running_cluster`; helm 3 and 4, kubectl and the Python client work against it as they are.

As in Kubernetes: resource versions and conflicts, watches (selectors, bookmarks, 410), patches, deletion with grace,
finalizers and owners, RBAC by service account, Pod Security "restricted", immutable fields, the rules of names, the
Job controller, the training operator v1.9.4 with exactly the environment that it injects, restarts and back-off
(shorter), scheduling by resources, pull errors, missing ConfigMaps and Secrets, termination messages, logs.

Otherwise than in Kubernetes:

- A container is a process of this machine with a clean environment. A path below a mount is replaced by the real one
  in arguments and environment, not inside of files; nothing is read-only and nobody is another user.
- MASTER_ADDR and MASTER_PORT of a PyTorchJob lead to this machine. A pod gets a KUBECONFIG in place of the token at a
  fixed path; without TLS, helm and kubectl send no token and use a door of their own, as administrators.
- Server-side apply has no field owners, so it never conflicts. Schemas are not checked: unknown fields are kept.
- One node. No probes, sidecars, lifecycle hooks, services that lead anywhere, network policies, quotas, priorities.
- Deployments, ReplicaSets and CustomResourceDefinitions are only kept, not acted upon.
"""

from cluster.fakekube.cluster import Cluster, running_cluster
from cluster.fakekube.errors import ApiError, Json

__all__ = ["ApiError", "Cluster", "Json", "running_cluster"]
