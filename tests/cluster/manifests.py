"""Small objects for the tests of the fake cluster."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


def container(script: str, name: str = "medvl", **more: Any) -> Json:
    return {"name": name, "image": "registry/image:1", "command": ["sh", "-c", script], **more}


def pod(name: str, script: str, *, main: Json | None = None, **spec: Any) -> Json:
    """``main`` adds to the container, the rest to the pod's spec."""
    return {
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "containers": [container(script, **(main or {}))], **spec},
    }


def job(name: str, script: str, *, main: Json | None = None, pod: Json | None = None, **spec: Any) -> Json:
    """``main`` adds to the container, ``pod`` to the pod's spec, the rest to the Job's."""
    template = {"spec": {"restartPolicy": "Never", "containers": [container(script, **(main or {}))], **(pod or {})}}
    return {"kind": "Job", "metadata": {"name": name}, "spec": {**spec, "template": template}}


def pytorch_job(name: str, script: str, *, main: Json | None = None, workers: int = 0, **policy: Any) -> Json:
    """One master with two processes; ``policy`` is the runPolicy, with ``restartPolicy`` as of the replicas."""
    restart = policy.pop("restartPolicy", "OnFailure")
    spec = {"containers": [container(script, "pytorch", **(main or {}))]}
    replicas: Json = {"Master": {"replicas": 1, "restartPolicy": restart, "template": {"spec": spec}}}
    if workers:
        replicas["Worker"] = {"replicas": workers, "restartPolicy": restart, "template": {"spec": spec}}
    return {
        "kind": "PyTorchJob",
        "metadata": {"name": name},
        "spec": {"nprocPerNode": "2", "runPolicy": policy, "pytorchReplicaSpecs": replicas},
    }
