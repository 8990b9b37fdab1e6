"""The downward API."""

from __future__ import annotations

import re

from cluster.fakekube.errors import Json

POD_IP = "127.0.0.1"


def downward(pod: Json, path: str) -> str:
    """The value of a field path, empty for a label or an annotation that is not there."""
    metadata, spec = pod["metadata"], pod["spec"]
    simple = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "status.podIP": POD_IP,
        "status.podIPs": POD_IP,
        "status.hostIP": POD_IP,
    }
    if path in simple:
        return str(simple[path])
    if found := re.fullmatch(r"metadata\.(labels|annotations)\['([^']+)'\]", path):
        return str((metadata.get(found.group(1)) or {}).get(found.group(2), ""))
    if path in ("metadata.labels", "metadata.annotations"):
        entries = metadata.get(path.partition(".")[2]) or {}
        return "".join(f'{key}="{value}"\n' for key, value in sorted(entries.items()))
    raise ValueError(f"the kubelet of the tests does not know the field {path}")


def quantity(text: str | int | float) -> float:
    """``500m``, ``4Gi``, ``2``."""
    found = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", str(text))
    if found is None:
        raise ValueError(f"not a quantity: {text}")
    factors = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    factors.update({"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40})
    return float(found.group(1)) * factors[found.group(2)]


def requests_of(pod: Json) -> dict[str, float]:
    """What a pod asks of its node: its containers together, or its hungriest init container."""
    total: dict[str, float] = {}
    for container in pod["spec"]["containers"]:
        for name, amount in _requests(container).items():
            total[name] = total.get(name, 0.0) + amount
    for container in pod["spec"].get("initContainers") or []:
        for name, amount in _requests(container).items():
            total[name] = max(total.get(name, 0.0), amount)
    return total


def _requests(container: Json) -> dict[str, float]:
    resources = container.get("resources") or {}
    both = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: quantity(amount) for name, amount in both.items()}
