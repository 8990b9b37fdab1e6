"""Requests to the API, from path and body to the answer's object. No sockets here; those are in `http_server`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

from cluster.fakekube import patches, protobuf
from cluster.fakekube.errors import ApiError, Json, bad_request, method_not_allowed
from cluster.fakekube.objects import DeleteOptions, Objects
from cluster.fakekube.rbac import Access, Authority, User
from cluster.fakekube.resources import ACCESS_REVIEW, NAMESPACE, POD, Resource, Resources

_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/(?P<version>[^/]+)(?:/namespaces/(?P<namespace>[^/]+)(?=/))?"
    r"/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[^/]+))?"
)
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch"}


@dataclass(frozen=True)
class Target:
    """What a path names."""

    resource: Resource
    namespace: str
    name: str
    subresource: str


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    content_type: str
    body: bytes
    user: User

    @property
    def wants_watch(self) -> bool:
        return self.method == "GET" and is_true(self.query.get("watch", ""))

    @property
    def dry_run(self) -> bool:
        return self.query.get("dryRun") == "All"

    def object(self) -> Any:
        """The body: JSON, YAML or protobuf."""
        if self.body.startswith(protobuf.MAGIC):
            return protobuf.decode(self.body)
        if not self.body.strip():
            return {}
        try:
            return json.loads(self.body) if self.body.lstrip()[:1] in b"{[" else yaml.safe_load(self.body)
        except (ValueError, yaml.YAMLError) as error:
            raise bad_request(f"the body cannot be read: {error}") from error


@dataclass
class Api:
    """Everything but streams: lists, objects, their changes and deletions."""

    objects: Objects
    resources: Resources
    authority: Authority
    evict: Callable[[str, str], None]
    """The eviction subresource: ends a pod as a drain does."""
    _applied: dict[tuple[str, str], Json] = field(default_factory=dict)
    """What each manager last applied to each object, for server-side apply."""

    def target(self, path: str) -> Target | None:
        """None when nothing is served there."""
        found = _PATH.fullmatch(path)
        if found is None:
            return None
        resource = self.resources.find(found["group"] or "", found["version"], found["plural"])
        if resource is None or (found["sub"] and found["sub"] not in resource.subresources):
            return None
        namespace = found["name"] or "" if resource == NAMESPACE else found["namespace"] or ""
        return Target(resource, namespace, found["name"] or "", found["sub"] or "")

    def authorize(self, request: Request, target: Target) -> None:
        """Raises 403."""
        if target.resource == ACCESS_REVIEW:
            return
        verb = _VERBS.get(request.method)
        if request.method == "GET":
            verb = "watch" if request.wants_watch else "get" if target.name else "list"
        elif request.method == "DELETE":
            verb = "delete" if target.name else "deletecollection"
        by_name = re.fullmatch(r"metadata\.name=([^,]+)", request.query.get("fieldSelector", ""))
        name = target.name or (by_name.group(1) if by_name else "")
        resource = target.resource
        access = Access(
            verb or "", resource.group, resource.plural, target.namespace, name, subresource=target.subresource
        )
        self.authority.check(request.user, access)

    def answer(self, request: Request, target: Target) -> tuple[int, Json]:
        """Code and object."""
        handlers = {
            "GET": self._read,
            "POST": self._create,
            "PUT": self._replace,
            "PATCH": self._patch,
            "DELETE": self._delete,
        }
        if request.method not in handlers:
            raise method_not_allowed()
        return handlers[request.method](request, target)

    def _read(self, request: Request, target: Target) -> tuple[int, Json]:
        if target.name:
            return 200, self.objects.get(target.resource, target.namespace, target.name)
        version, items = self.list(request, target)
        resource = target.resource
        metadata = {"resourceVersion": str(version)}
        listed = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": metadata}
        return 200, {**listed, "items": items}

    def list(self, request: Request, target: Target) -> tuple[int, list[Json]]:
        """The objects that the selectors leave, and the version they are of."""
        labels, fields = request.query.get("labelSelector", ""), request.query.get("fieldSelector", "")
        with self.objects.store.lock:
            return self.objects.store.version, self.objects.list(target.resource, target.namespace, labels, fields)

    def _create(self, request: Request, target: Target) -> tuple[int, Json]:
        body = request.object()
        if target.resource == ACCESS_REVIEW:
            return 201, self._review(request.user, body)
        if target.subresource == "eviction":
            self.evict(target.namespace, target.name)
            return 201, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
        return 201, self.objects.create(target.resource, target.namespace, body, dry_run=request.dry_run)

    def _review(self, user: User, body: Json) -> Json:
        asked = (body.get("spec") or {}).get("resourceAttributes") or {}
        access = Access(
            asked.get("verb", ""),
            asked.get("group", ""),
            asked.get("resource", ""),
            asked.get("namespace", ""),
            asked.get("name", ""),
            subresource=asked.get("subresource", ""),
        )
        allowed = self.authority.allows(user, access)
        kind = {"kind": ACCESS_REVIEW.kind, "apiVersion": ACCESS_REVIEW.api_version}
        return {**kind, "metadata": {}, "spec": body.get("spec", {}), "status": {"allowed": allowed}}

    def _replace(self, request: Request, target: Target) -> tuple[int, Json]:
        new = self.objects.replace(
            target.resource,
            target.namespace,
            target.name,
            request.object(),
            subresource=target.subresource,
            dry_run=request.dry_run,
        )
        return 200, new

    def _patch(self, request: Request, target: Target) -> tuple[int, Json]:
        kind = request.content_type.partition(";")[0].strip()
        if kind == "application/apply-patch+yaml":
            return self._apply(request, target)
        body = request.object()
        if kind == "application/json-patch+json":
            return 200, self._update(request, target, lambda current: patches.json_patch(current, body))
        if kind == "application/merge-patch+json":
            return 200, self._update(request, target, lambda current: patches.merge_patch(current, body))
        if kind == "application/strategic-merge-patch+json" and not target.resource.custom:
            return 200, self._update(request, target, lambda current: patches.strategic_merge(current, body))
        raise ApiError(415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {kind}")

    def _apply(self, request: Request, target: Target) -> tuple[int, Json]:
        body = request.object()
        manager = request.query.get("fieldManager", "")
        if not manager:
            raise bad_request("PatchOptions.meta.k8s.io is invalid: fieldManager: Required value: for apply patch")
        with self.objects.store.lock:
            there = self.objects.find(target.resource, target.namespace, target.name)
            if there is None:
                resource = target.resource
                access = Access("create", resource.group, resource.plural, target.namespace)
                self.authority.check(request.user, access)
                body = {**body, "metadata": {**body.get("metadata", {}), "name": target.name}}
                made = self.objects.create(target.resource, target.namespace, body, dry_run=request.dry_run)
                self._remember(request, made, manager, body)
                return 201, made
            before = self._applied.get((there["metadata"]["uid"], manager), {})
            new = self._update(request, target, lambda current: patches.apply(current, body, before))
            self._remember(request, there, manager, body)
            return 200, new

    def _remember(self, request: Request, obj: Json, manager: str, body: Json) -> None:
        if not request.dry_run:
            self._applied[(obj["metadata"]["uid"], manager)] = body

    def _update(self, request: Request, target: Target, change: Callable[[Json], Json]) -> Json:
        return self.objects.update(
            target.resource,
            target.namespace,
            target.name,
            change,
            subresource=target.subresource,
            dry_run=request.dry_run,
        )

    def _delete(self, request: Request, target: Target) -> tuple[int, Json]:
        options = self._delete_options(request)
        if not target.name:
            _, items = self.list(request, target)
            for item in items:
                metadata = item["metadata"]
                self.objects.delete(target.resource, metadata.get("namespace", ""), metadata["name"], options)
            return 200, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        obj = self.objects.delete(target.resource, target.namespace, target.name, options)
        if self.objects.find(target.resource, target.namespace, target.name) or target.resource == POD:
            return 200, obj
        details = {"name": target.name, "kind": target.resource.plural, "uid": obj["metadata"]["uid"]}
        return 200, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def _delete_options(self, request: Request) -> DeleteOptions:
        """Of the body, else of the query."""
        body = request.object()
        grace = body.get("gracePeriodSeconds", request.query.get("gracePeriodSeconds"))
        conditions = body.get("preconditions") or {}
        orphan = body.get("orphanDependents")
        old_style = {True: "Orphan", False: "Background", None: None}[orphan]
        return DeleteOptions(
            propagation=body.get("propagationPolicy") or request.query.get("propagationPolicy") or old_style,
            grace_seconds=None if grace is None else int(grace),
            uid=conditions.get("uid"),
            version=conditions.get("resourceVersion"),
            dry_run=request.dry_run or bool(body.get("dryRun")),
        )


def is_true(word: str) -> bool:
    """A boolean in a query: Go writes ``true``, Python ``True``."""
    return word.lower() in ("true", "1")


def nothing_there(path: str) -> ApiError:
    """What a path answers that no resource is served at."""
    return ApiError(404, "NotFound", f"the server could not find the requested resource ({path})")
