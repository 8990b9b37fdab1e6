"""Logs of containers, as ``pods/log`` gives them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster.fakekube.api import is_true
from cluster.fakekube.errors import Json, bad_request
from cluster.fakekube.objects import Objects
from cluster.fakekube.resources import POD

POLL_SECONDS = 0.05


class LogReader:
    """Reads the files that the kubelet writes; ``file_of`` maps a pod's uid, container and restart to one."""

    def __init__(self, objects: Objects, file_of: Callable[[str, str, int], Path], stopped: Callable[[], bool]) -> None:
        self._objects, self._file_of, self._stopped = objects, file_of, stopped

    def read(self, pod: Json, query: dict[str, str]) -> Iterator[bytes]:
        """The log of one container. Raises 400 where Kubernetes does, before the first byte."""
        container = query.get("container") or _only_container(pod)
        state = _state_of(pod, container)
        previous = is_true(query.get("previous", ""))
        restart = _restart(state, previous=previous)
        file = self._file_of(pod["metadata"]["uid"], container, restart)
        name = pod["metadata"]["name"]
        if previous and not (restart >= 0 and file.exists()):
            raise bad_request(f'previous terminated container "{container}" in pod "{name}" not found')
        if not file.exists():
            waiting = ((state.get("state") or {}).get("waiting") or {}).get("reason", "ContainerCreating")
            raise bad_request(f'container "{container}" in pod "{name}" is waiting to start: {waiting}')
        follow = is_true(query.get("follow", "")) and not previous
        return self._chunks(file, query, pod, (container, restart) if follow else None)

    def text(self, pod: Json, container: str = "", *, previous: bool = False) -> str:
        """The whole log, empty when there is none."""
        container = container or _only_container(pod)
        restart = _restart(_state_of(pod, container), previous=previous)
        file = self._file_of(pod["metadata"]["uid"], container, restart)
        return file.read_text(errors="replace") if restart >= 0 and file.exists() else ""

    def _chunks(self, file: Path, query: dict[str, str], pod: Json, follow: tuple[str, int] | None) -> Iterator[bytes]:
        with file.open("rb") as log:
            text = log.read()
            if "tailLines" in query:
                lines = text.splitlines(keepends=True)
                text = b"".join(lines[max(0, len(lines) - int(query["tailLines"])) :])
            yield text[: int(query["limitBytes"])] if "limitBytes" in query else text
            while follow is not None:
                ended = self._stopped() or self._has_ended(pod, *follow)
                yield log.read()
                if ended:
                    return
                time.sleep(POLL_SECONDS)

    def _has_ended(self, pod: Json, container: str, restart: int) -> bool:
        metadata = pod["metadata"]
        now = self._objects.find(POD, metadata["namespace"], metadata["name"])
        if now is None or now["metadata"]["uid"] != metadata["uid"]:
            return True
        status = _state_of(now, container)
        over = "terminated" in (status.get("state") or {}) or _waits_to_restart(status)
        return over or int(status.get("restartCount", 0)) > restart


def _restart(status: Json, *, previous: bool) -> int:
    """Which run of the container is meant; one that waits for its restart has only a previous run."""
    return int(status.get("restartCount", 0)) - (previous and not _waits_to_restart(status))


def _waits_to_restart(status: Json) -> bool:
    return "waiting" in (status.get("state") or {}) and "terminated" in (status.get("lastState") or {})


def _only_container(pod: Json) -> str:
    names = [each["name"] for each in pod["spec"]["containers"]]
    if len(names) > 1:
        raise bad_request(
            f"a container name must be specified for pod {pod['metadata']['name']}, choose one of: [{' '.join(names)}]"
        )
    return str(names[0])


def _state_of(pod: Json, container: str) -> Json:
    spec, status = pod["spec"], pod.get("status") or {}
    names = [each["name"] for group in ("initContainers", "containers") for each in spec.get(group) or []]
    if container not in names:
        raise bad_request(f"container {container} is not valid for pod {pod['metadata']['name']}")
    statuses = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    return next((each for each in statuses if each["name"] == container), {})
