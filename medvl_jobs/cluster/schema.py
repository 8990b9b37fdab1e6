"""Whether a manifest fits the clients' models: the API server silently drops a field that it does not know."""

from __future__ import annotations

import re
from typing import Any

import kubeflow.training
import kubernetes.client

from medvl_jobs.errors import SettingsError

Manifest = dict[str, Any]

MODELS = {"Job": "V1Job", "PyTorchJob": "KubeflowOrgV1PyTorchJob"}
_CONTAINER = re.compile(r"(list|dict)(?:\[|\()(?:str, )?(.+)[\])]")
_PLAIN: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "datetime": (str,),
}


_QUANTITY = re.compile(r"\.(limits|requests)\.[^.]+(\.[^.]+)*$|\.(sizeLimit|divisor)$")
"""Where the models say "string" and the API takes a number as well."""


def check(manifest: Manifest, where: str) -> None:
    """Raises `SettingsError` when the manifest is none that the coordinator creates, or has a field that is unknown."""
    kind = manifest.get("kind")
    if kind not in MODELS:
        raise SettingsError(f"a stage is a Job or a PyTorchJob, not a {kind}", where=where)
    problems = _problems(manifest, MODELS[kind], "")
    if problems:
        raise SettingsError(
            f"the {kind} does not fit its model: {'; '.join(problems)}",
            where=where,
            remedy="correct the value of the chart that it comes from; fields have the names of the Kubernetes API",
        )


def _problems(value: Any, kind: str, path: str) -> list[str]:
    if value is None or kind == "object":
        return []
    if container := _CONTAINER.fullmatch(kind):
        shape, inner = (list if container[1] == "list" else dict), container[2]
        if not isinstance(value, shape):
            return [f"{path} is no {shape.__name__}"]
        items = enumerate(value) if isinstance(value, list) else value.items()
        return [problem for key, item in items for problem in _problems(item, inner, f"{path}.{key}")]
    if kind in _PLAIN:
        # bool is an int to Python, and not to Kubernetes
        plain = (str, int, float) if _QUANTITY.search(path) else _PLAIN[kind]
        fits = isinstance(value, plain) and not (isinstance(value, bool) and kind != "bool")
        return [] if fits else [f"{path.lstrip('.')} is {value!r}, no {kind}"]
    if not isinstance(value, dict):
        return [f"{path.lstrip('.')} is {value!r}, no {kind}"]
    model = getattr(kubeflow.training, kind, None) or getattr(kubernetes.client, kind)
    types = {name: model.openapi_types[attribute] for attribute, name in model.attribute_map.items()}
    unknown = [f"{path.lstrip('.')} has no field {name!r}" for name in value if name not in types]
    known = [(name, item) for name, item in value.items() if name in types]
    return unknown + [p for name, item in known for p in _problems(item, types[name], f"{path}.{name}")]
