"""The volumes of a pod as real folders, and the rewriting of paths that stands in for mounts."""

from __future__ import annotations

import base64
import hashlib
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cluster.fakekube.errors import Json
from cluster.fakekube.objects import Objects
from cluster.fakekube.pod_fields import downward
from cluster.fakekube.resources import CLAIM, CONFIG_MAP, SECRET


class MountError(Exception):
    """A volume cannot be there yet; the message is the kubelet's."""


@dataclass(frozen=True)
class VolumeFolders:
    """Where volumes lie. Those of a pod end with it, claims and host paths stay."""

    root: Path

    def of_claim(self, namespace: str, name: str) -> Path:
        return _made(self.root / "claims" / namespace / name)

    def of_host_path(self, path: str) -> Path:
        """A path below the machine's temporary folder is itself; any other lies in a folder of the fake node."""
        if Path(path).is_relative_to(tempfile.gettempdir()):
            return _made(Path(path))
        return _made(self.root / "host" / path.lstrip("/"))

    def of_image(self, reference: str) -> Path:
        return _made(self.root / "images" / hashlib.sha256(reference.encode()).hexdigest()[:16])


def _made(folder: Path) -> Path:
    if not folder.is_file():
        folder.mkdir(parents=True, exist_ok=True)
    return folder


class Rewriter:
    """Replaces paths inside of mounts, wherever they stand in a text, by where they really are."""

    def __init__(self, places: dict[str, Path]) -> None:
        self._places = {path.rstrip("/") or "/": real for path, real in places.items()}
        longest_first = sorted(self._places, key=len, reverse=True)
        one_of = "|".join(re.escape(path) for path in longest_first)
        # Not in the middle of a path or a URL; `--config=/etc/x`, `key=/etc/x` and `a:/etc/x` are all meant.
        self._pattern = re.compile(rf"(?<![\w./-])({one_of})(?=/|[^\w.-]|$)") if one_of else None

    def __call__(self, text: str) -> str:
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda found: str(self._places[found.group(1)]), text)


class Volumes:
    """The volumes of one pod."""

    def __init__(self, pod: Json, folder: Path, folders: VolumeFolders, objects: Objects) -> None:
        self._pod, self._folder, self._folders, self._objects = pod, folder, folders, objects
        self._paths: dict[str, Path] = {}

    def prepare(self, token: str) -> None:
        """Make them all. Raises `MountError`; call it again later."""
        for volume in self._pod["spec"].get("volumes") or []:
            try:
                self._paths[volume["name"]] = self._path_of(volume, token)
            except MountError as error:
                raise MountError(f'MountVolume.SetUp failed for volume "{volume["name"]}" : {error}') from None

    def places(self, container: Json, expand: Callable[[str], str]) -> dict[str, Path]:
        """Mount paths of a container with the real paths."""
        found: dict[str, Path] = {}
        for mount in container.get("volumeMounts") or []:
            real = self._paths[mount["name"]]
            below = mount.get("subPath") or expand(mount.get("subPathExpr") or "")
            if below:
                real = real / below
                if not real.exists():
                    real.mkdir(parents=True)
            found[mount["mountPath"]] = real
        return found

    def _path_of(self, volume: Json, token: str) -> Path:
        folder = self._folder / "volumes" / str(volume["name"])
        namespace = self._pod["metadata"]["namespace"]
        if "persistentVolumeClaim" in volume:
            name = volume["persistentVolumeClaim"]["claimName"]
            if self._objects.find(CLAIM, namespace, name) is None:
                raise MountError(f'persistentvolumeclaim "{name}" not found')
            return self._folders.of_claim(namespace, name)
        if "hostPath" in volume:
            return self._folders.of_host_path(volume["hostPath"]["path"])
        if "image" in volume:
            return self._folders.of_image(volume["image"]["reference"])
        _made(folder)
        if "projected" in volume:
            for source in volume["projected"].get("sources") or []:
                self._fill(folder, source, token, secret_name="name")
        else:
            self._fill(folder, volume, token, secret_name="secretName")
        return folder

    def _fill(self, folder: Path, source: Json, token: str, *, secret_name: str) -> None:
        if "configMap" in source:
            self._write(folder, "configmap", source["configMap"], source["configMap"].get("name", ""))
        elif "secret" in source:
            self._write(folder, "secret", source["secret"], source["secret"].get(secret_name, ""))
        elif "downwardAPI" in source:
            for item in source["downwardAPI"].get("items") or []:
                _write_file(folder / item["path"], downward(self._pod, item["fieldRef"]["fieldPath"]).encode())
        elif "serviceAccountToken" in source:
            _write_file(folder / source["serviceAccountToken"]["path"], token.encode())

    def _write(self, folder: Path, kind: str, source: Json, name: str) -> None:
        """The files of a ConfigMap or Secret: all its keys, or the items that are asked for."""
        resource = SECRET if kind == "secret" else CONFIG_MAP
        obj = self._objects.find(resource, self._pod["metadata"]["namespace"], name)
        if obj is None:
            if source.get("optional"):
                return
            raise MountError(f'{kind} "{name}" not found')
        content = contents(obj)
        items = source.get("items")
        for item in [{"key": key, "path": key} for key in content] if items is None else items:
            if item["key"] in content:
                _write_file(folder / item["path"], content[item["key"]])
            elif not source.get("optional"):
                raise MountError(f"references non-existent {kind} key: {item['key']}")


def contents(obj: Json) -> dict[str, bytes]:
    """Of a ConfigMap or Secret, decoded."""
    data: dict[str, str] = obj.get("data") or {}
    if obj["kind"] == "Secret":
        return {key: base64.b64decode(text) for key, text in data.items()}
    binary = {key: base64.b64decode(text) for key, text in (obj.get("binaryData") or {}).items()}
    return {**{key: text.encode() for key, text in data.items()}, **binary}


def _write_file(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
