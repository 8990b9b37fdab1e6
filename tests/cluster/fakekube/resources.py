"""The kinds of objects that this Kubernetes knows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True)
class Resource:
    """One kind, with where it lies in the API."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    custom: bool = False
    """Defined by a CustomResourceDefinition: no strategic merge patch, and PUT needs a resourceVersion."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """As in messages: ``jobs.batch``, ``pods``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def qualified_kind(self) -> str:
        """As in messages of validation: ``Job.batch``, ``Pod``."""
        return f"{self.kind}.{self.group}" if self.group else self.kind


_RBAC = "rbac.authorization.k8s.io"
NODE = Resource("", "v1", "nodes", "Node", namespaced=False, short_names=("no",), subresources=("status",))
NAMESPACE = Resource(
    "", "v1", "namespaces", "Namespace", namespaced=False, short_names=("ns",), subresources=("status", "finalize")
)
CONFIG_MAP = Resource("", "v1", "configmaps", "ConfigMap", short_names=("cm",))
SECRET = Resource("", "v1", "secrets", "Secret")
SERVICE_ACCOUNT = Resource("", "v1", "serviceaccounts", "ServiceAccount", short_names=("sa",))
SERVICE = Resource("", "v1", "services", "Service", short_names=("svc",), subresources=("status",))
CLAIM = Resource(
    "", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", short_names=("pvc",), subresources=("status",)
)
POD = Resource("", "v1", "pods", "Pod", short_names=("po",), subresources=("status", "log", "eviction"))
EVENT = Resource("", "v1", "events", "Event", short_names=("ev",))
JOB = Resource("batch", "v1", "jobs", "Job", subresources=("status",))
PYTORCH_JOB = Resource("kubeflow.org", "v1", "pytorchjobs", "PyTorchJob", subresources=("status", "scale"), custom=True)
ROLE = Resource(_RBAC, "v1", "roles", "Role")
ROLE_BINDING = Resource(_RBAC, "v1", "rolebindings", "RoleBinding")
CLUSTER_ROLE = Resource(_RBAC, "v1", "clusterroles", "ClusterRole", namespaced=False)
CLUSTER_ROLE_BINDING = Resource(_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False)
LEASE = Resource("coordination.k8s.io", "v1", "leases", "Lease")
NETWORK_POLICY = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", short_names=("netpol",))
DEPLOYMENT = Resource("apps", "v1", "deployments", "Deployment", short_names=("deploy",), subresources=("status",))
REPLICA_SET = Resource("apps", "v1", "replicasets", "ReplicaSet", short_names=("rs",), subresources=("status",))
CRD = Resource(
    "apiextensions.k8s.io",
    "v1",
    "customresourcedefinitions",
    "CustomResourceDefinition",
    namespaced=False,
    short_names=("crd",),
    subresources=("status",),
)
ACCESS_REVIEW = Resource(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False
)
_BUILT_IN = (
    NODE, NAMESPACE, CONFIG_MAP, SECRET, SERVICE_ACCOUNT, SERVICE, CLAIM, POD, EVENT, JOB, ROLE, ROLE_BINDING,
    CLUSTER_ROLE, CLUSTER_ROLE_BINDING, LEASE, NETWORK_POLICY, DEPLOYMENT, REPLICA_SET, CRD, ACCESS_REVIEW,
)  # fmt: skip


class Resources:
    """What is served now. The training operator's PyTorchJob can be missing, as on a cluster without the operator."""

    def __init__(self, *, pytorch_jobs: bool = True) -> None:
        self.pytorch_jobs = pytorch_jobs

    def __iter__(self) -> Iterator[Resource]:
        yield from _BUILT_IN
        if self.pytorch_jobs:
            yield PYTORCH_JOB

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        return next((r for r in self if (r.group, r.version, r.plural) == (group, version, plural)), None)

    def of_kind(self, kind: str) -> Resource:
        """By kind, plural, or short name, in any case; for helpers of tests."""
        word = kind.lower()
        for resource in (*_BUILT_IN, PYTORCH_JOB):
            if word in (resource.kind.lower(), resource.plural, *resource.short_names):
                return resource
        raise KeyError(kind)

    def groups(self) -> dict[str, list[str]]:
        """Each API group but the core one, with its versions."""
        found: dict[str, list[str]] = {}
        for resource in self:
            versions = found.setdefault(resource.group, [])
            if resource.version not in versions:
                versions.append(resource.version)
        found.pop("", None)
        return found
