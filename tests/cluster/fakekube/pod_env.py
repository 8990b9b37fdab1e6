"""The environment of a container, just as its manifest says."""

from __future__ import annotations

import re

from cluster.fakekube.errors import Json
from cluster.fakekube.objects import Objects
from cluster.fakekube.pod_fields import downward, quantity
from cluster.fakekube.pod_volumes import contents
from cluster.fakekube.resources import CONFIG_MAP, SECRET


class ConfigError(Exception):
    """CreateContainerConfigError; the message is the kubelet's."""


def environment(pod: Json, container: Json, objects: Objects) -> dict[str, str]:
    """``envFrom`` first, then ``env``: the later of two of the same name wins."""
    env: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        kind = "secret" if "secretRef" in source else "configmap"
        reference = source.get("secretRef") or source["configMapRef"]
        content = _content(pod, kind, reference, objects)
        env.update({source.get("prefix", "") + key: value.decode() for key, value in content.items()})
    for variable in container.get("env") or []:
        if variable.get("valueFrom"):
            value = _value_from(pod, container, variable["valueFrom"], objects)
            if value is not None:
                env[variable["name"]] = value
        else:
            env[variable["name"]] = expand(variable.get("value") or "", env)
    return env


def expand(text: str, env: dict[str, str]) -> str:
    """``$(NAME)``; ``$$(NAME)`` stays ``$(NAME)``, and so does a name that is not known."""
    return re.sub(
        r"\$\$|\$\(([A-Za-z_][\w.-]*)\)",
        lambda found: "$" if found.group(1) is None else env.get(found.group(1), found.group(0)),
        text,
    )


def _value_from(pod: Json, container: Json, source: Json, objects: Objects) -> str | None:
    if "fieldRef" in source:
        return downward(pod, source["fieldRef"]["fieldPath"])
    if "resourceFieldRef" in source:
        group, _, name = source["resourceFieldRef"]["resource"].partition(".")
        amount = ((container.get("resources") or {}).get(group) or {}).get(name, "0")
        return str(int(quantity(amount) / quantity(source["resourceFieldRef"].get("divisor") or 1)))
    kind = "secret" if "secretKeyRef" in source else "configmap"
    reference = source.get("secretKeyRef") or source["configMapKeyRef"]
    content = _content(pod, kind, reference, objects)
    if reference["key"] in content:
        return content[reference["key"]].decode()
    if reference.get("optional"):
        return None
    called = {"secret": "Secret", "configmap": "ConfigMap"}[kind]
    where = f"{pod['metadata']['namespace']}/{reference['name']}"
    raise ConfigError(f"couldn't find key {reference['key']} in {called} {where}")


def _content(pod: Json, kind: str, reference: Json, objects: Objects) -> dict[str, bytes]:
    resource = SECRET if kind == "secret" else CONFIG_MAP
    obj = objects.find(resource, pod["metadata"]["namespace"], reference.get("name", ""))
    if obj is None:
        if reference.get("optional"):
            return {}
        raise ConfigError(f'{kind} "{reference.get("name", "")}" not found')
    return contents(obj)
