"""What the API server refuses: names, labels, what may not change. Schemas are not checked here, see tests/chart."""

from __future__ import annotations

import json
import re
from typing import Any

from cluster.fakekube.errors import Json, denied_by_webhook, forbidden, invalid, not_found
from cluster.fakekube.podspec import Cause, pod_problems
from cluster.fakekube.resources import (
    CLAIM,
    CONFIG_MAP,
    CRD,
    DEPLOYMENT,
    JOB,
    NAMESPACE,
    POD,
    PYTORCH_JOB,
    ROLE,
    ROLE_BINDING,
    SECRET,
    SERVICE,
    Resource,
)

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_QUALIFIED = re.compile(r"([a-z0-9.-]+/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_MEBIBYTE = 1024 * 1024
_MUTABLE_IN_JOB = ("parallelism", "suspend", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished")
_FREE_NAMES = (ROLE, ROLE_BINDING, CRD)


def check_new(resource: Resource, obj: Json) -> None:
    """Raises 422 for an object that Kubernetes would refuse at creation; the training operator's webhook says 403."""
    causes = _metadata_problems(resource, obj["metadata"]) + _data_problems(resource, obj)
    if resource == JOB:
        causes += job_problems(obj)
    elif resource == POD:
        causes += pod_problems("spec", obj.get("spec") or {})
    elif resource == DEPLOYMENT:
        causes += pod_problems("spec.template.spec", obj["spec"]["template"]["spec"])
    if causes:
        raise invalid(resource.qualified_kind, obj["metadata"]["name"], causes)
    if resource == PYTORCH_JOB:
        check_pytorch_job(obj)


def check_change(resource: Resource, old: Json, new: Json) -> None:
    """Raises 422 for a change of what may not change."""
    causes = _metadata_problems(resource, new["metadata"])
    name = new["metadata"]["name"]
    if resource in (CONFIG_MAP, SECRET):
        causes += _data_problems(resource, new)
        if old.get("immutable"):
            causes += [
                (field, "Forbidden: field is immutable when `immutable` is set")
                for field in ("immutable", "data", "binaryData")
                if (old.get(field) or {}) != (new.get(field) or {})
            ]
    elif resource == JOB:
        causes += _job_changes(old["spec"], new["spec"])
    elif resource == POD and _frozen_part(old["spec"]) != _frozen_part(new["spec"]):
        causes.append(("spec", "Forbidden: pod updates may not change fields other than `spec.containers[*].image`"))
    elif resource == ROLE_BINDING and old["roleRef"] != new["roleRef"]:
        causes.append(("roleRef", f"Invalid value: {_short(new['roleRef'])}: cannot change roleRef"))
    elif resource == CLAIM and _without(old["spec"], "resources") != _without(new["spec"], "resources"):
        causes.append(("spec", "Forbidden: spec is immutable after creation except resources.requests"))
    elif resource == PYTORCH_JOB:
        check_pytorch_job(new)
    if causes:
        raise invalid(resource.qualified_kind, name, causes)


def _without(spec: Json, *fields: str) -> Json:
    return {key: value for key, value in spec.items() if key not in fields}


def _frozen_part(spec: Json) -> Json:
    images = ("containers", "initContainers")
    bare = {name: [_without(each, "image") for each in spec.get(name) or []] for name in images}
    changeable = (
        "activeDeadlineSeconds",
        "tolerations",
        "schedulingGates",
        "terminationGracePeriodSeconds",
        "nodeName",
    )
    return {**_without(spec, *images, *changeable), **bare}


def _job_changes(old: Json, new: Json) -> list[Cause]:
    elastic = ("completions",) if new.get("completionMode") == "Indexed" else ()
    return [
        (f"spec.{field}", f"Invalid value: {_short(new.get(field))}: field is immutable")
        for field in sorted({*old, *new})
        if field not in (*_MUTABLE_IN_JOB, *elastic) and old.get(field) != new.get(field)
    ]


def _short(value: Any) -> str:
    return json.dumps(value)[:400]


def _metadata_problems(resource: Resource, metadata: Json) -> list[Cause]:
    name = str(metadata.get("name", ""))
    causes: list[Cause] = []
    if resource in (SERVICE, NAMESPACE):
        pattern, limit, what = (_DNS_1035 if resource == SERVICE else _LABEL), 63, "a DNS-1035 label"
    else:
        pattern, limit, what = _SUBDOMAIN, 253, "a lowercase RFC 1123 subdomain"
    if resource not in _FREE_NAMES and not pattern.fullmatch(name):
        causes.append(("metadata.name", f'Invalid value: "{name}": {what} must consist of lower case alphanumerics'))
    if len(name) > limit:
        causes.append(("metadata.name", f'Invalid value: "{name}": must be no more than {limit} characters'))
    causes += label_problems("metadata.labels", metadata.get("labels") or {})
    for key in metadata.get("annotations") or {}:
        if not _QUALIFIED.fullmatch(key.lower()):
            causes.append(("metadata.annotations", f'Invalid value: "{key}": name part must consist of alphanumerics'))
    return causes


def label_problems(field: str, labels: dict[str, Any]) -> list[Cause]:
    causes: list[Cause] = []
    for key, value in labels.items():
        if not _QUALIFIED.fullmatch(key):
            causes.append((field, f'Invalid value: "{key}": name part must consist of alphanumeric characters'))
        if not isinstance(value, str) or not _LABEL_VALUE.fullmatch(value):
            causes.append((field, f'Invalid value: "{value}": a valid label must be an empty string or alphanumerics'))
        elif len(value) > 63:
            causes.append((field, f'Invalid value: "{value}": must be no more than 63 characters'))
    return causes


def _data_problems(resource: Resource, obj: Json) -> list[Cause]:
    if resource not in (CONFIG_MAP, SECRET):
        return []
    data: dict[str, Any] = obj.get("data") or {}
    causes: list[Cause] = []
    for key, value in data.items():
        if not re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", key):
            causes.append((f"data[{key}]", f'Invalid value: "{key}": a valid config key must consist of alphanumerics'))
        if not isinstance(value, str):
            causes.append((f"data[{key}]", f"Invalid value: {_short(value)}: must be a string"))
    if sum(len(str(value)) for value in data.values()) > _MEBIBYTE:
        causes.append(("", f"Too long: must have at most {_MEBIBYTE} bytes"))
    return causes


def job_problems(job: Json) -> list[Cause]:
    """The rules of a Job beside its schema."""
    spec: Json = job.get("spec") or {}
    template: Json = (spec.get("template") or {}).get("spec") or {}
    causes = pod_problems("spec.template.spec", template)
    # The Job's name becomes a label of its pods.
    causes += label_problems("spec.template.labels", {"job-name": job["metadata"]["name"]})
    causes += label_problems("spec.template.labels", (spec["template"].get("metadata") or {}).get("labels") or {})
    policy = template.get("restartPolicy")
    if policy not in ("Never", "OnFailure"):
        given = "Required value" if policy is None else f'Unsupported value: "{policy}"'
        causes.append(("spec.template.spec.restartPolicy", f'{given}: supported values: "OnFailure", "Never"'))
    indexed = spec.get("completionMode") == "Indexed"
    if indexed and spec.get("completions") is None:
        causes.append(("spec.completions", "Required value: when completion mode is Indexed"))
    if spec.get("backoffLimitPerIndex") is not None and not indexed:
        causes.append(("spec.backoffLimitPerIndex", "Invalid value: requires indexed completion mode"))
    if spec.get("podFailurePolicy"):
        causes += _failure_policy_problems(spec, policy)
    return causes


def _failure_policy_problems(spec: Json, restart_policy: str | None) -> list[Cause]:
    field = "spec.podFailurePolicy.rules"
    causes: list[Cause] = []
    if restart_policy != "Never":
        message = 'Invalid value: only "Never" is supported when podFailurePolicy is specified'
        causes.append(("spec.template.spec.restartPolicy", message))
    for at, rule in enumerate(spec["podFailurePolicy"].get("rules") or []):
        if rule.get("action") not in ("Ignore", "FailJob", "Count", "FailIndex"):
            causes.append((f"{field}[{at}].action", f'Unsupported value: "{rule.get("action")}"'))
        if ("onExitCodes" in rule) == bool(rule.get("onPodConditions")):
            causes.append((f"{field}[{at}]", "Invalid value: specifying one of OnExitCodes and OnPodConditions"))
        codes = rule.get("onExitCodes") or {}
        if codes and codes.get("operator") not in ("In", "NotIn"):
            causes.append((f"{field}[{at}].onExitCodes.operator", f'Unsupported value: "{codes.get("operator")}"'))
        if codes.get("operator") == "In" and 0 in codes.get("values", []):
            causes.append((f"{field}[{at}].onExitCodes.values", "Invalid value: 0: must not be 0 for the In operator"))
    return causes


def check_pytorch_job(job: Json) -> None:
    """The training operator's validating webhook."""
    name, spec = job["metadata"]["name"], job.get("spec") or {}
    replicas: Json = spec.get("pytorchReplicaSpecs") or {}
    causes: list[Cause] = []
    if not _DNS_1035.fullmatch(name) or len(name) > 63:
        causes.append(("metadata.name", f'Invalid value: "{name}": a DNS-1035 label'))
    if not replicas:
        causes.append(("spec.pytorchReplicaSpecs", "Required value: must be specified"))
    for role, replica in replicas.items():
        field = f"spec.pytorchReplicaSpecs[{role}]"
        containers = replica.get("template", {}).get("spec", {}).get("containers") or []
        if role not in ("Master", "Worker"):
            causes.append((field, f'Unsupported value: "{role}": supported values: "Master", "Worker"'))
        if role == "Master" and replica.get("replicas") != 1:
            causes.append((f"{field}.replicas", "Forbidden: must be 1"))
        if not containers:
            causes.append((f"{field}.template.spec.containers", "Required value: must be specified"))
        elif not any(each.get("name") == "pytorch" for each in containers):
            causes.append(
                (f"{field}.template.spec.containers", "Required value: must have at least one with name pytorch")
            )
    if not isinstance(spec.get("nprocPerNode", "auto"), str):
        raise invalid("PyTorchJob.kubeflow.org", name, [("spec.nprocPerNode", "Invalid value: must be of type string")])
    if causes:
        text = str(invalid("PyTorchJob.kubeflow.org", name, causes))
        raise denied_by_webhook("validator.pytorchjob.training-operator.kubeflow.org", text)


def check_namespace(namespace: Json | None, name: str, resource: Resource, obj_name: str) -> None:
    """Raises 404 for a namespace that is not there, 403 for one that is being deleted."""
    if namespace is None:
        raise not_found("namespaces", name)
    if namespace["metadata"].get("deletionTimestamp"):
        why = f"unable to create new content in namespace {name} because it is being terminated"
        raise forbidden(resource.qualified, obj_name, why)
