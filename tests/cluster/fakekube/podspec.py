"""What a pod's spec must hold beside its schema."""

from __future__ import annotations

import re

from cluster.fakekube.errors import Json

Cause = tuple[str, str]
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SOURCES = {"configMap": "name", "secret": "secretName", "persistentVolumeClaim": "claimName", "hostPath": "path"}


def pod_problems(field: str, spec: Json) -> list[Cause]:
    """The fields of a pod's spec that Kubernetes would refuse, each with its words."""
    causes = _volume_problems(field, spec.get("volumes") or [])
    volumes = {volume.get("name") for volume in spec.get("volumes") or []}
    if not spec.get("containers"):
        causes.append((f"{field}.containers", "Required value"))
    names: set[str] = set()
    for group in ("initContainers", "containers"):
        for at, container in enumerate(spec.get(group) or []):
            where = f"{field}.{group}[{at}]"
            name = str(container.get("name", ""))
            if not _NAME.fullmatch(name) or len(name) > 63:
                causes.append((f"{where}.name", f'Invalid value: "{name}": a lowercase RFC 1123 label'))
            if name in names:
                causes.append((f"{where}.name", f'Duplicate value: "{name}"'))
            names.add(name)
            if not container.get("image"):
                causes.append((f"{where}.image", "Required value"))
            causes += _mount_problems(where, container.get("volumeMounts") or [], volumes)
            causes += _env_problems(where, container.get("env") or [])
            causes += _resource_problems(where, container.get("resources") or {})
    return causes


def _volume_problems(field: str, volumes: list[Json]) -> list[Cause]:
    causes: list[Cause] = []
    seen: set[str] = set()
    for at, volume in enumerate(volumes):
        name = str(volume.get("name", ""))
        if not _NAME.fullmatch(name):
            causes.append((f"{field}.volumes[{at}].name", f'Invalid value: "{name}": a lowercase RFC 1123 label'))
        if name in seen:
            causes.append((f"{field}.volumes[{at}].name", f'Duplicate value: "{name}"'))
        seen.add(name)
        for source, key in _SOURCES.items():
            if source in volume and not (volume[source] or {}).get(key):
                causes.append((f"{field}.volumes[{at}].{source}.{key}", "Required value"))
        if sum(1 for key, value in volume.items() if key != "name" and value is not None) > 1:
            causes.append((f"{field}.volumes[{at}]", "Forbidden: may not specify more than 1 volume type"))
    return causes


def _mount_problems(where: str, mounts: list[Json], volumes: set[str | None]) -> list[Cause]:
    causes: list[Cause] = []
    paths: set[str] = set()
    for at, mount in enumerate(mounts):
        if mount.get("name") not in volumes:
            causes.append((f"{where}.volumeMounts[{at}].name", f'Not found: "{mount.get("name")}"'))
        path = mount.get("mountPath")
        if not path:
            causes.append((f"{where}.volumeMounts[{at}].mountPath", "Required value"))
        elif path in paths:
            causes.append((f"{where}.volumeMounts[{at}].mountPath", f'Invalid value: "{path}": must be unique'))
        else:
            paths.add(path)
    return causes


def _env_problems(where: str, env: list[Json]) -> list[Cause]:
    causes: list[Cause] = []
    for at, variable in enumerate(env):
        if not variable.get("name") or "=" in variable["name"]:
            causes.append((f"{where}.env[{at}].name", "Required value"))
        if variable.get("value") and variable.get("valueFrom"):
            message = "Invalid value: may not be specified when `value` is not empty"
            causes.append((f"{where}.env[{at}].valueFrom", message))
        if not isinstance(variable.get("value", ""), str | None):
            causes.append((f"{where}.env[{at}].value", "Invalid value: must be a string"))
    return causes


def _resource_problems(where: str, resources: Json) -> list[Cause]:
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    return [
        (f"{where}.resources.limits", f"Required value: Limit must be set for non overcommitable resources: {name}")
        for name in requests
        if "/" in name and name not in limits
    ]
