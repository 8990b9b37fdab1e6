"""From a container's manifest to the command line and the environment of a process on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from ports import free_port

from cluster.fakekube.container import Launch
from cluster.fakekube.errors import Json
from cluster.fakekube.objects import Objects
from cluster.fakekube.owners import controller_uid
from cluster.fakekube.pod_env import environment, expand
from cluster.fakekube.pod_volumes import Rewriter, Volumes

PROGRAMS: Mapping[str, Sequence[str]] = {
    "medvl": (sys.executable, "-m", "medvl_jobs"),
    "python": (sys.executable,),
    "python3": (sys.executable,),
}
ACCOUNT_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"


@dataclass
class Launcher:
    """The images of this node: which programs are in them, and what stands in their environment.

    A process gets what its manifest says, below that the few variables of an image (PATH, HOME, LANG, HOSTNAME, TMPDIR
    and ``image_env``), and for a pod with a service account's token a KUBECONFIG in place of the files that a pod has
    at fixed paths. Two values differ from the manifest: MASTER_ADDR and MASTER_PORT (and their PET_ twins) of a
    PyTorchJob, since there is no cluster DNS, and since two jobs on one machine cannot share a port.
    """

    objects: Objects
    folder: Path
    api_url: str
    programs: Mapping[str, Sequence[str]] = field(default_factory=lambda: dict(PROGRAMS))
    entrypoint: Sequence[str] = ("medvl",)
    """Of every image, for containers without a command."""
    image_env: Mapping[str, str] = field(default_factory=dict)
    _ports: dict[str, int] = field(default_factory=dict)

    def pod_folder(self, pod: Json) -> Path:
        return self.folder / "pods" / str(pod["metadata"]["uid"])

    def log_file(self, uid: str, container: str, restart: int) -> Path:
        return self.folder / "pods" / uid / "logs" / f"{container}-{restart}.log"

    def launch(self, pod: Json, container: Json, volumes: Volumes, restart: int, token: str) -> Launch:
        """Raises `ConfigError` for a missing ConfigMap, Secret, or key."""
        folder = self.pod_folder(pod)
        name = container["name"]
        log = self.log_file(pod["metadata"]["uid"], name, restart)
        message = folder / "termination" / f"{name}-{restart}"
        home = folder / "home" / name
        for each in (log.parent, message.parent, home):
            each.mkdir(parents=True, exist_ok=True)
        declared = environment(pod, container, self.objects)
        places = {container["terminationMessagePath"]: message}
        if token:
            places[ACCOUNT_FOLDER] = self._account(pod, token)
        places.update(volumes.places(container, lambda text: expand(text, declared)))
        rewrite = Rewriter(places)
        env = {
            **self._base(pod, home, places),
            **({"KUBECONFIG": str(self._account(pod, token) / "kubeconfig")} if token else {}),
            **self.image_env,
            "MEDVL_TERMINATION_LOG": str(message),
            **{key: rewrite(value) for key, value in self._reachable(pod, declared).items()},
        }
        argv = [rewrite(expand(word, declared)) for word in self._command(container)]
        program = list(self.programs.get(argv[0], [argv[0]]))
        workdir = Path(rewrite(container["workingDir"])) if container.get("workingDir") else home
        return Launch([*program, *argv[1:]], env, workdir if workdir.is_dir() else home, log, message)

    def _command(self, container: Json) -> list[str]:
        if container["name"] == "init-pytorch":
            return ["true"]  # the operator's own: it waits for the master's name in the cluster's DNS
        return [*(container.get("command") or self.entrypoint), *(container.get("args") or [])]

    def _base(self, pod: Json, home: Path, places: dict[str, Path]) -> dict[str, str]:
        temporary = places.get("/tmp", home)
        return {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"]),
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "HOSTNAME": pod["spec"].get("hostname") or pod["metadata"]["name"],
            "TMPDIR": str(temporary),
        }

    def _account(self, pod: Json, token: str) -> Path:
        """The service account's files, and a kubeconfig with the same content."""
        folder = self.pod_folder(pod) / "serviceaccount"
        folder.mkdir(parents=True, exist_ok=True)
        namespace = pod["metadata"]["namespace"]
        (folder / "token").write_text(token)
        (folder / "namespace").write_text(namespace)
        (folder / "kubeconfig").write_text(kubeconfig(self.api_url, namespace, token))
        return folder

    def _reachable(self, pod: Json, env: dict[str, str]) -> dict[str, str]:
        job = (pod["metadata"].get("labels") or {}).get("training.kubeflow.org/job-name")
        if job is None or env.get("MASTER_ADDR") != f"{job}-master-0":
            return env
        port = str(self._port(controller_uid(pod) or job))
        there = {
            "MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "PET_MASTER_PORT": port,
        }
        return {**env, **there}

    def _port(self, job_uid: str) -> int:
        """One free port for each job, kept over its restarts."""
        if job_uid not in self._ports:
            self._ports[job_uid] = free_port()
        return self._ports[job_uid]


def kubeconfig(url: str, namespace: str, token: str) -> str:
    """A kubeconfig file; without a token for the administrator's door."""
    context = {"cluster": "fake", "user": "user", "namespace": namespace}
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fake", "cluster": {"server": url}}],
            "users": [{"name": "user", "user": {"token": token} if token else {}}],
            "contexts": [{"name": "fake", "context": context}],
            "current-context": "fake",
        }
    )
