"""Owner references."""

from __future__ import annotations

from cluster.fakekube.errors import Json
from cluster.fakekube.objects import Objects
from cluster.fakekube.resources import Resource


def owner_reference(owner: Json) -> Json:
    """Of a controller to what it makes."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def controller_uid(obj: Json) -> str | None:
    return next((o["uid"] for o in obj["metadata"].get("ownerReferences") or [] if o.get("controller")), None)


def owned_by(objects: Objects, resource: Resource, owner: Json) -> list[Json]:
    """What a controller has made."""
    metadata = owner["metadata"]
    return [obj for obj in objects.list(resource, metadata["namespace"]) if controller_uid(obj) == metadata["uid"]]
