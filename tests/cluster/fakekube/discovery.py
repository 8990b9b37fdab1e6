"""What the API server says about itself: the version, the groups, the resources, and just enough OpenAPI."""

from __future__ import annotations

import re
from collections.abc import Callable

from cluster.fakekube.errors import Json
from cluster.fakekube.resources import ACCESS_REVIEW, VERBS, Resource, Resources

VERSION: Json = {
    "major": "1",
    "minor": "34",
    "gitVersion": "v1.34.0",
    "gitTreeState": "clean",
    "platform": "linux/amd64",
}


def answer(resources: Resources, path: str) -> Json | None:
    """The document at a path, None when it is not one of these."""
    fixed: dict[str, Callable[[], Json]] = {
        "/version": lambda: VERSION,
        "/api": lambda: {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []},
        "/apis": lambda: _groups(resources),
        "/openapi/v3": lambda: _open_api_index(resources),
    }
    if path in fixed:
        return fixed[path]()
    if found := re.fullmatch(r"/apis/([^/]+)", path):
        versions = resources.groups().get(found.group(1))
        return _group(found.group(1), versions) if versions else None
    if found := re.fullmatch(r"(/openapi/v3)?/(?:api|apis/([^/]+))/([^/]+)", path):
        served = [r for r in resources if (r.group, r.version) == (found.group(2) or "", found.group(3))]
        if served:
            return _open_api(served) if found.group(1) else _resource_list(served)
    return None


def _groups(resources: Resources) -> Json:
    groups = [_group(name, versions) for name, versions in resources.groups().items()]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def _open_api_index(resources: Resources) -> Json:
    return {"paths": {_root(r): {"serverRelativeURL": f"/openapi/v3/{_root(r)}?hash=1"} for r in resources}}


def _root(resource: Resource) -> str:
    return f"apis/{resource.api_version}" if resource.group else "api/v1"


def _group(name: str, versions: list[str]) -> Json:
    served = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": served, "preferredVersion": served[0]}


def _resource_list(found: list[Resource]) -> Json:
    entries: list[Json] = []
    for resource in found:
        entry = {
            "name": resource.plural,
            "singularName": resource.kind.lower(),
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": ["create"] if resource == ACCESS_REVIEW else list(VERBS),
            "shortNames": list(resource.short_names),
            "categories": ["all"] if resource.kind in ("Pod", "Job", "Service", "Deployment") else [],
        }
        entries.append(entry)
        for name in resource.subresources:
            verbs = ["get"] if name == "log" else ["create"] if name == "eviction" else ["get", "patch", "update"]
            other = {"name": f"{resource.plural}/{name}", "verbs": verbs, "shortNames": [], "categories": []}
            entries.append({**entry, **other})
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": found[0].api_version,
        "resources": entries,
    }


def _open_api(found: list[Resource]) -> Json:
    """kubectl asks it one thing: whether the server validates fields itself. It says yes, so kubectl does not."""
    paths: Json = {}
    for resource in found:
        kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
        scope = "/namespaces/{namespace}" if resource.namespaced else ""
        operation = {
            "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
            "responses": {},
            "x-kubernetes-group-version-kind": kind,
        }
        path = f"/{_root(resource)}{scope}/{resource.plural}/{{name}}"
        paths[path] = {"patch": {**operation, "x-kubernetes-action": "patch"}}
        paths[path.removesuffix("/{name}")] = {"post": {**operation, "x-kubernetes-action": "post"}}
    info = {"title": "Kubernetes", "version": VERSION["gitVersion"]}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": {}}}
