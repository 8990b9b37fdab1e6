"""The two messages that helm's typed client sends as protobuf: a Secret, and the options of a deletion."""

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
    if kind == "Secret":
        return _secret(raw)
    if kind == "DeleteOptions":
        return _delete_options(raw)
    raise ApiError(415, "UnsupportedMediaType", f"this API server reads no protobuf of kind {kind}")


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


def _secret(fields: _Fields) -> Json:
    secret: Json = {"apiVersion": "v1", "kind": "Secret", "metadata": {}, "data": {}}
    for number, value in fields:
        if number == 1:
            secret["metadata"] = _metadata(value)
        elif number == 2:
            key, data = _entry(value)
            secret["data"][key] = base64.b64encode(data).decode()
        elif number == 3:
            secret["type"] = value.decode()
        elif number == 5:
            secret["immutable"] = value == b"1"
    return secret


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
