"""A whole Kubernetes in this process, for tests: start it with `running_cluster`."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import kube_tools
import kubernetes.client
import yaml

from cluster.fakekube import state
from cluster.fakekube.api import Api
from cluster.fakekube.errors import Json
from cluster.fakekube.faults import Faults
from cluster.fakekube.garbage import GarbageCollector
from cluster.fakekube.http_server import ApiServer
from cluster.fakekube.jobs import JobController
from cluster.fakekube.kubelet import Kubelet
from cluster.fakekube.launching import Launcher, kubeconfig
from cluster.fakekube.logs import LogReader
from cluster.fakekube.loops import Loop
from cluster.fakekube.objects import DeleteOptions, Objects
from cluster.fakekube.pytorch_jobs import PyTorchJobController
from cluster.fakekube.rbac import Authority
from cluster.fakekube.resources import NAMESPACE, SERVICE_ACCOUNT, Resources
from cluster.fakekube.store import Store
from cluster.fakekube.tools import Ran, Tools

CAPACITY = {"cpu": "512", "memory": "4Ti", "ephemeral-storage": "8Ti", "pods": "500", "nvidia.com/gpu": "8"}
Found = TypeVar("Found")


class Cluster:
    """See `running_cluster`. Kinds are named as kubectl does: ``job``, ``pods``, ``ConfigMap``, ``pvc``."""

    def __init__(
        self,
        folder: Path,
        *,
        pytorch_jobs: bool = True,
        capacity: Mapping[str, str] | None = None,
        image_env: Mapping[str, str] | None = None,
        programs: Mapping[str, Sequence[str]] | None = None,
        backoff_seconds: float = 0.2,
    ) -> None:
        self.folder, self.namespace = folder, "default"
        self.store = Store()
        self.objects = Objects(self.store)
        self.resources = Resources(pytorch_jobs=pytorch_jobs)
        self.faults = Faults()
        self._authority = Authority(self.store)
        self._stopped = False
        self._add_namespace("default")
        self.launcher = Launcher(self.objects, folder, "", image_env=image_env or {})
        self.launcher.programs = {**self.launcher.programs, **(programs or {})}
        token_of = self._authority.token_of
        self.kubelet = Kubelet(self.objects, self.launcher, token_of, {**CAPACITY, **(capacity or {})}, backoff_seconds)
        self._logs = LogReader(self.objects, self.launcher.log_file, lambda: self._stopped)
        api = Api(self.objects, self.resources, self._authority, self.kubelet.drain)
        self._server = ApiServer(api, self.faults, self._logs)
        self.launcher.api_url = self.url
        self.kubeconfig = self._write_kubeconfig("admin", self._server.admin_url, "")
        self._tools = Tools(self.kubeconfig, folder / "tools")
        steps: dict[str, Callable[[], None]] = {
            "job-controller": JobController(self.objects, backoff_seconds).step,
            "pytorchjob-controller": PyTorchJobController(self.objects).step,
            "garbage-collector": GarbageCollector(self.objects).step,
            "namespaces": self._furnish_namespaces,
            "kubelet": self.kubelet.step,
        }
        self._loops = [Loop(name, self.store, step) for name, step in steps.items()]
        for loop in self._loops:
            loop.start()

    # --- ways in

    @property
    def url(self) -> str:
        """Of the API; it asks for a token."""
        return self._server.url

    @property
    def admin_url(self) -> str:
        """Of the API as the administrator, without a token."""
        return self._server.admin_url

    def token(self, account: str = "default", namespace: str = "") -> str:
        """Of a service account, which need not exist."""
        return self._authority.token_of(namespace or self.namespace, account)

    def kubeconfig_of(self, account: str, namespace: str = "") -> Path:
        """With a service account's token, for the Python client: helm and kubectl send one over TLS only."""
        return self._write_kubeconfig(account, self.url, self.token(account, namespace))

    def client(self, token: str = "") -> kubernetes.client.ApiClient:
        """The Python client; the administrator's without a token."""
        settings = kubernetes.client.Configuration()
        settings.host = self.url if token else self.admin_url
        if token:
            settings.api_key = {"authorization": f"Bearer {token}"}
        return kubernetes.client.ApiClient(settings)

    def helm(self, *args: str, major: int = 4, check: bool = True, stdin: str = "") -> Ran:
        """Run helm 3 or 4 as the administrator; raises with its output when it fails, unless told not to."""
        return self._run(kube_tools.helm(major), args, check, stdin)

    def kubectl(self, *args: str, major: int = 4, check: bool = True, stdin: str = "") -> Ran:
        """Run the kubectl that goes with this helm: 1.32 with 3, 1.37 with 4."""
        return self._run(kube_tools.kubectl(major), args, check, stdin)

    def start_kubectl(self, *args: str, major: int = 4) -> subprocess.Popen[str]:
        """kubectl in the background, for ``logs -f`` and the like; stdout and stderr are one pipe."""
        return self._tools.start(kube_tools.kubectl(major), args)

    def _run(self, program: Path, args: Sequence[str], check: bool, stdin: str) -> Ran:
        ran = self._tools.run(program, args, stdin)
        if check and ran.returncode != 0:
            words = f"{program.name} {' '.join(args)} ended with {ran.returncode}:\n{ran.stdout}\n{ran.stderr}"
            raise AssertionError(f"{words}\n{self.state()}")
        return ran

    # --- reading

    def get(self, kind: str, name: str, namespace: str = "") -> Json:
        """Raises `ApiError` 404."""
        return self.objects.get(self.resources.of_kind(kind), namespace or self.namespace, name)

    def find(self, kind: str, name: str, namespace: str = "") -> Json | None:
        return self.objects.find(self.resources.of_kind(kind), namespace or self.namespace, name)

    def all(self, kind: str, labels: str = "", namespace: str = "") -> list[Json]:
        resource = self.resources.of_kind(kind)
        return self.objects.list(resource, (namespace or self.namespace) if resource.namespaced else "", labels)

    def names(self, kind: str, labels: str = "", namespace: str = "") -> list[str]:
        return [obj["metadata"]["name"] for obj in self.all(kind, labels, namespace)]

    def logs(self, pod: str, container: str = "", *, previous: bool = False, namespace: str = "") -> str:
        """All that a pod's container has said, empty for one that is not there."""
        found = self.find("pod", pod, namespace)
        return self._logs.text(found, container, previous=previous) if found else ""

    def events(self, name: str = "", namespace: str = "") -> list[str]:
        """``reason: message`` of each event, or of those about one object."""
        return state.event_lines(self.all("event", namespace=namespace), name)

    def state(self) -> str:
        """Everything that helps to understand a failure."""
        return state.describe(self.objects, self._logs, [*self._faults_of_loops()])

    # --- waiting

    def wait(self, what: str, look: Callable[[], Found | None], timeout: float = 240.0) -> Found:
        """Until ``look`` gives something that is true, at every change of the cluster; raises with its whole state."""
        return state.wait(self, what, look, timeout)

    def wait_for_condition(
        self, kind: str, name: str, *conditions: str, timeout: float = 240.0, namespace: str = ""
    ) -> Json:
        """The object, once one of the conditions is true."""

        def look() -> Json | None:
            obj = self.find(kind, name, namespace) or {}
            found = (obj.get("status") or {}).get("conditions") or []
            return obj if any(c["type"] in conditions and c["status"] == "True" for c in found) else None

        return self.wait(f"{kind} {name}: {' or '.join(conditions)}", look, timeout)

    def wait_for_phase(self, pod: str, *phases: str, timeout: float = 240.0, namespace: str = "") -> Json:
        """The pod, once it is there and in one of the phases."""

        def look() -> Json | None:
            obj = self.find("pod", pod, namespace)
            return obj if obj and obj["status"].get("phase") in phases else None

        return self.wait(f"pod {pod}: {' or '.join(phases)}", look, timeout)

    def wait_gone(self, kind: str, name: str, timeout: float = 240.0, namespace: str = "") -> None:
        self.wait(f"{kind} {name}: gone", lambda: self.find(kind, name, namespace) is None, timeout)

    def wait_for_log(self, pod: str, text: str, timeout: float = 240.0, namespace: str = "") -> str:
        """The log, once the text is in it."""

        def look() -> str | None:
            log = self.logs(pod, namespace=namespace)
            return log if text in log else None

        return self.wait(f"the log of {pod} says {text!r}", look, timeout)

    # --- changing

    def create(self, manifest: Json | str, namespace: str = "") -> Json:
        """From an object or from YAML."""
        obj: Json = yaml.safe_load(manifest) if isinstance(manifest, str) else manifest
        where = namespace or obj.get("metadata", {}).get("namespace") or self.namespace
        return self.objects.create(self.resources.of_kind(obj["kind"]), where, obj)

    def patch(self, kind: str, name: str, change: Json, namespace: str = "") -> Json:
        """A merge patch."""
        return state.patch(self.objects, self.resources.of_kind(kind), namespace or self.namespace, name, change)

    def delete(self, kind: str, name: str, namespace: str = "", *, propagation: str = "Background") -> None:
        options = DeleteOptions(propagation=propagation)
        self.objects.delete(self.resources.of_kind(kind), namespace or self.namespace, name, options)

    def evict(self, pod: str, namespace: str = "") -> None:
        """By the kubelet, as under memory pressure: DisruptionTarget, SIGTERM, the pod stays as Failed."""
        self.kubelet.evict(namespace or self.namespace, pod)

    def drain(self, pod: str, namespace: str = "") -> None:
        """By the eviction API, as ``kubectl drain``: DisruptionTarget, and the pod is deleted with its grace."""
        self.kubelet.drain(namespace or self.namespace, pod)

    def kill(self, pod: str, namespace: str = "", *, reason: str = "Error") -> None:
        """SIGKILL to its containers, exit code 137; ``reason="OOMKilled"`` as for a lack of memory."""
        self.kubelet.kill(namespace or self.namespace, pod, reason)

    # --- trouble

    def fail_next(self, count: int, method: str = ".*", path: str = "", **how: Any) -> None:
        """See `Faults.fail_next`: status=500 | None (hang up), when="before" | "after"."""
        self.faults.fail_next(count, method, path, **how)

    @contextmanager
    def api_down(self) -> Iterator[None]:
        """Every request fails, as with a server that is not there; nodes and controllers go on."""
        fault = self.faults.fail_next(1_000_000_000, status=None)
        self.store.drop_watches()
        try:
            yield
        finally:
            fault.left = 0

    def drop_watches(self) -> None:
        """End every open watch, without an error."""
        self.store.drop_watches()

    def forget_old_versions(self) -> None:
        """Every open watch, and every new one from a version before now, answers 410."""
        self.store.forget()

    # --- its own life

    def stop(self) -> None:
        """Ends all processes and threads. Raises when the fake itself has made a mistake."""
        self._stopped = True
        for loop in reversed(self._loops):
            loop.stop()
        errors = self.kubelet.stop()
        self._server.stop()
        errors += self._faults_of_loops()
        if errors:
            raise AssertionError("the fake cluster has a fault:\n" + "\n".join(errors))

    def _faults_of_loops(self) -> list[str]:
        return [error for loop in self._loops for error in loop.errors]

    def _add_namespace(self, name: str) -> None:
        if self.objects.find(NAMESPACE, "", name) is None:
            self.objects.create(NAMESPACE, "", {"metadata": {"name": name}})
        self._furnish_namespaces()

    def _furnish_namespaces(self) -> None:
        """Each gets its default service account."""
        for namespace in self.objects.list(NAMESPACE):
            name = namespace["metadata"]["name"]
            dying = namespace["metadata"].get("deletionTimestamp")
            if not dying and self.objects.find(SERVICE_ACCOUNT, name, "default") is None:
                self.objects.create(SERVICE_ACCOUNT, name, {"metadata": {"name": "default"}})

    def _write_kubeconfig(self, name: str, url: str, token: str) -> Path:
        file = self.folder / f"kubeconfig-{name}"
        file.write_text(kubeconfig(url, self.namespace, token))
        return file


@contextmanager
def running_cluster(**settings: Any) -> Iterator[Cluster]:
    """A cluster in a temporary folder, with everything that it runs, until the end of the block; see `Cluster`.

    ``pytorch_jobs=False`` is a cluster without the training operator; ``capacity={"nvidia.com/gpu": "4"}`` is the
    node's; ``image_env`` stands in the images; ``programs`` maps the first word of a command to what runs here.
    """
    with tempfile.TemporaryDirectory(prefix="medvl-cluster-", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(Path(folder), **settings)
        try:
            yield cluster
        finally:
            cluster.stop()
