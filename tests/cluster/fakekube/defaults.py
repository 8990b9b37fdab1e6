"""What the API server fills in at creation, as far as somebody reads it."""

from __future__ import annotations

import base64
import copy
from typing import Any

from cluster.fakekube.errors import Json
from cluster.fakekube.resources import (
    CLAIM,
    DEPLOYMENT,
    JOB,
    NAMESPACE,
    POD,
    PYTORCH_JOB,
    REPLICA_SET,
    SECRET,
    SERVICE,
    Resource,
)

CONTROLLER_UID = "batch.kubernetes.io/controller-uid"
JOB_NAME = "batch.kubernetes.io/job-name"
DROPS_STATUS = (POD, JOB, PYTORCH_JOB, DEPLOYMENT, REPLICA_SET, SERVICE)


def fill_in(resource: Resource, obj: Json) -> Json:
    """The object with its defaults; ``metadata.uid`` is already set."""
    filled = copy.deepcopy(obj)
    if resource in DROPS_STATUS:
        filled["status"] = {}
    if resource == JOB:
        _job(filled)
    elif resource == POD:
        pod_spec(filled["spec"])
        filled["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
    elif resource == SECRET:
        filled.setdefault("type", "Opaque")
    elif resource == NAMESPACE:
        filled["status"] = {"phase": "Active"}
        filled["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = filled["metadata"]["name"]
    elif resource == CLAIM:
        filled["status"] = {"phase": "Bound"}
    elif resource == DEPLOYMENT:
        pod_spec(filled["spec"]["template"]["spec"])
    return filled


def decode_string_data(resource: Resource, obj: Json) -> Json:
    """``stringData`` of a Secret is written only."""
    if resource != SECRET or "stringData" not in obj:
        return obj
    encoded = {key: base64.b64encode(str(text).encode()).decode() for key, text in (obj["stringData"] or {}).items()}
    rest = {key: value for key, value in obj.items() if key != "stringData"}
    return {**rest, "data": {**(obj.get("data") or {}), **encoded}}


def _job(job: Json) -> None:
    spec: Json = job["spec"]
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = spec["parallelism"] = 1
    elif spec.get("parallelism") is None:
        spec["parallelism"] = 1
    spec.setdefault("completionMode", "NonIndexed")
    per_index = spec.get("backoffLimitPerIndex") is not None
    spec.setdefault("backoffLimit", 2147483647 if per_index else 6)
    spec.setdefault("suspend", False)
    spec.setdefault("manualSelector", False)
    policy = "Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed"
    spec.setdefault("podReplacementPolicy", policy)
    uid, name = job["metadata"]["uid"], job["metadata"]["name"]
    template: Json = spec["template"]
    labels = template.setdefault("metadata", {}).setdefault("labels", {}) or {}
    labels.update({CONTROLLER_UID: uid, JOB_NAME: name, "controller-uid": uid, "job-name": name})
    template["metadata"]["labels"] = labels
    spec.setdefault("selector", {"matchLabels": {CONTROLLER_UID: uid}})
    pod_spec(template["spec"])


def pod_spec(spec: Json) -> None:
    """The defaults of a pod's spec that clients print or that kubelets need."""
    scalars: dict[str, Any] = {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler",
        "securityContext": {},
    }
    for key, value in scalars.items():
        if spec.get(key) is None:
            spec[key] = value
    for container in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]:
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        latest = container["image"].endswith(":latest") or ":" not in container["image"].rpartition("/")[2]
        container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
        container.setdefault("resources", {})
        for port in container.get("ports") or []:
            port.setdefault("protocol", "TCP")
