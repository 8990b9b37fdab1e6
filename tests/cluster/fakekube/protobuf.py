"""The messages that helm and kubectl send as protobuf: simple objects, a deletion's options, a question of rights."""

from __future__ import annotations

import base64

from cluster.fakekube.errors import ApiError, Json

MAGIC = b"k8s\0"
_Fields = list[tuple[int, bytes]]


def decode(body: bytes) -> Json:
    """An object out of Kubernetes' envelope. Raises 415 for a kind that is not known here."""
    envelope = dict(_fields(body.removeprefix(MAGIC)))
    kind = dict(_fields(envelope[1])).get(2, b"").decode()
    raw = _fields(envelope.get(2, b""))
    if kind in ("Secret", "ConfigMap", "Namespace", "ServiceAccount"):
        return _object(kind, raw)
    if kind == "DeleteOptions":
        return _delete_options(raw)
    if kind == "SelfSubjectAccessReview":
        return _review(raw)
    words = f"this API server reads no protobuf of kind {kind}: use kubectl apply, which sends JSON"
    raise ApiError(415, "UnsupportedMediaType", words)


def _fields(data: bytes) -> _Fields:
    """Field numbers with their bytes; an integer as its decimal digits."""
    at, found = 0, []
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 == 0:
            value, at = _varint(data, at)
            found.append((tag >> 3, str(value).encode()))
        elif tag & 7 == 2:
            length, at = _varint(data, at)
            found.append((tag >> 3, data[at : at + length]))
            at += length
        else:
            raise ApiError(400, "BadRequest", f"protobuf wire type {tag & 7}")
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def _entry(data: bytes) -> tuple[str, bytes]:
    pair = dict(_fields(data))
    return pair.get(1, b"").decode(), pair.get(2, b"")


def _object(kind: str, fields: _Fields) -> Json:
    """Metadata is field 1 and data field 2 of all of them; the rest is of Secrets and ConfigMaps."""
    obj: Json = {"apiVersion": "v1", "kind": kind, "metadata": {}}
    immutable = {"Secret": 5, "ConfigMap": 4}.get(kind)
    for number, value in fields:
        if number == 1:
            obj["metadata"] = _metadata(value)
        elif number == 2 and immutable is not None:
            key, data = _entry(value)
            text = base64.b64encode(data).decode() if kind == "Secret" else data.decode()
            obj.setdefault("data", {})[key] = text
        elif number == 3 and kind == "Secret":
            obj["type"] = value.decode()
        elif number == immutable:
            obj["immutable"] = value == b"1"
    return obj


def _metadata(data: bytes) -> Json:
    names = {1: "name", 2: "generateName", 3: "namespace", 5: "uid", 6: "resourceVersion"}
    maps = {11: "labels", 12: "annotations"}
    metadata: Json = {}
    for number, value in _fields(data):
        if number in names and value:
            metadata[names[number]] = value.decode()
        elif number in maps:
            key, text = _entry(value)
            metadata.setdefault(maps[number], {})[key] = text.decode()
    return metadata


def _delete_options(fields: _Fields) -> Json:
    options: Json = {}
    for number, value in fields:
        if number == 1:
            options["gracePeriodSeconds"] = int(value)
        elif number == 4:
            options["propagationPolicy"] = value.decode()
        elif number == 5:
            options["dryRun"] = [value.decode()]
    return options


def _review(fields: _Fields) -> Json:
    names = {1: "namespace", 2: "verb", 3: "group", 4: "version", 5: "resource", 6: "subresource", 7: "name"}
    asked = dict(_fields(dict(_fields(dict(fields)[2])).get(1, b"")))
    return {"spec": {"resourceAttributes": {names[at]: value.decode() for at, value in asked.items() if at in names}}}
