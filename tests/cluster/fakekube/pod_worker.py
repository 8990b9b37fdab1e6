"""One pod on the node, from its volumes to its last status. Each has a thread of its own."""

from __future__ import annotations

import copy
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from cluster.fakekube.clock import now
from cluster.fakekube.container import Container, Launch
from cluster.fakekube.errors import Json
from cluster.fakekube.events import Recorder
from cluster.fakekube.objects import Objects
from cluster.fakekube.pod_fields import POD_IP
from cluster.fakekube.pod_volumes import MountError, Volumes
from cluster.fakekube.resources import POD

TICK_SECONDS = 0.03


@dataclass(frozen=True)
class PodParts:
    """What the kubelet gives to a pod."""

    objects: Objects
    events: Recorder
    volumes: Volumes
    token: str
    launch: Callable[[Json, Json, Volumes, int], Launch]
    """Of a pod and a container, on its n-th restart."""
    pullable: Callable[[str], bool]
    backoff_seconds: float


class PodWorker:
    """Starts at once. ``stop_now`` is the end of the cluster, `disrupt` an eviction, `kill` a lack of memory."""

    def __init__(self, pod: Json, parts: PodParts) -> None:
        self.pod, self._parts = pod, parts
        spec = pod["spec"]
        policy = spec["restartPolicy"]
        init_policy = "OnFailure" if policy == "Always" else policy
        self._init = [self._container(each, init_policy) for each in spec.get("initContainers") or []]
        self._main = [self._container(each, policy) for each in spec["containers"]]
        self._start_time = now()
        self._disruption: Json | None = None
        self._evicted: tuple[str, str] | None = None
        self._stop_at: float | None = None
        self._published: object = None
        """What the status was made of; the status is written only when this has changed."""
        self._mounted = False
        self._removed = False
        self._abort = False
        self.errors: list[str] = []
        self._thread = threading.Thread(target=self._run, name=f"pod-{pod['metadata']['name']}", daemon=True)
        self._thread.start()

    def _container(self, spec: Json, policy: str) -> Container:
        return Container(
            spec,
            policy,
            self._parts.backoff_seconds,
            lambda container, restart: self._parts.launch(self.pod, container, self._parts.volumes, restart),
            self._parts.pullable,
            self._event,
        )

    def _event(self, kind: str, reason: str, message: str) -> None:
        record = self._parts.events.warning if kind == "Warning" else self._parts.events.normal
        record(self.pod, reason, message)

    def disrupt(self, reason: str, message: str, *, failed_because: str | None) -> None:
        """Note the condition DisruptionTarget; ``failed_because`` also ends the pod as Failed, with this reason."""
        stamp = {"lastProbeTime": None, "lastTransitionTime": now()}
        words = {"status": "True", "reason": reason, "message": message}
        self._disruption = {"type": "DisruptionTarget", **words, **stamp}
        self._publish()
        if failed_because is not None:
            self._evicted = (failed_because, message)

    def kill(self, reason: str) -> None:
        """SIGKILL to whatever runs; exit code 137."""
        for container in [*self._init, *self._main]:
            if container.process is not None:
                container.kill_reason = reason
                container.process.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """To the first process of each container that runs."""
        for container in [*self._init, *self._main]:
            if container.process is not None:
                container.process.signal(number)

    def stop_now(self) -> None:
        self._abort = True

    def join(self) -> None:
        self._thread.join(10)

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._abort and not self._tick():
                time.sleep(TICK_SECONDS)
        except Exception:  # noqa: BLE001 — kept for the test
            self.errors.append(traceback.format_exc())
        finally:
            # This thread must see its processes end: the kernel kills them with it.
            for container in [*self._init, *self._main]:
                if container.process is not None:
                    container.process.kill()
                    container.process.wait()

    def _tick(self) -> bool:
        """One round; true when the pod has ended and all is written."""
        self._look_whether_to_stop()
        stopping = self._stop_at is not None
        if stopping and time.monotonic() >= (self._stop_at or 0.0):
            for container in [*self._init, *self._main]:
                if container.process is not None:
                    container.process.kill()
        current = next((each for each in self._init if each.exit_code != 0 or not each.done), None)
        if stopping or self._have_volumes():
            for container in [current] if current else self._main:
                container.tick(stopping=stopping)
        if stopping:
            for container in [*self._init, *self._main]:
                container.tick(stopping=True)
        if not self._removed:
            self._publish()
        ended = self._phase() in ("Succeeded", "Failed")
        if ended and self._is_marked():
            self._parts.objects.remove_pod(self.pod)
        return ended

    def _have_volumes(self) -> bool:
        if not self._mounted:
            try:
                self._parts.volumes.prepare(self._parts.token)
                self._mounted = True
            except MountError as error:
                self._event("Warning", "FailedMount", str(error))
        return self._mounted

    def _there(self) -> Json | None:
        metadata = self.pod["metadata"]
        there = self._parts.objects.store.get(POD, metadata["namespace"], metadata["name"])
        return there if there and there["metadata"]["uid"] == metadata["uid"] else None

    def _is_marked(self) -> bool:
        there = self._there()
        return there is not None and bool(there["metadata"].get("deletionTimestamp"))

    def _look_whether_to_stop(self) -> None:
        """Deleted: SIGTERM, and SIGKILL after the grace. Removed with force: SIGKILL."""
        there = self._there()
        grace = float(self.pod["spec"]["terminationGracePeriodSeconds"])
        if there is None:
            self._removed, grace = True, 0.0
        elif there["metadata"].get("deletionTimestamp"):
            grace = float(there["metadata"].get("deletionGracePeriodSeconds", grace))
        elif self._evicted is None:
            return
        if self._stop_at is None:
            self._stop_at = time.monotonic() + grace
            for container in [*self._init, *self._main]:
                if container.process is not None:
                    self._event("Normal", "Killing", f"Stopping container {container.spec['name']}")
            if grace:
                self.signal(signal.SIGTERM)
        elif self._removed:
            self._stop_at = 0.0

    def _phase(self) -> str:
        if any(each.done and each.exit_code != 0 for each in self._init):
            return "Failed"
        if all(each.done for each in self._main):
            codes = [each.exit_code for each in self._main]
            return "Succeeded" if all(code == 0 for code in codes) and not self._evicted else "Failed"
        started = any("running" in each.state or each.last_state or each.exit_code is not None for each in self._main)
        return "Running" if started else "Pending"

    def _publish(self) -> None:
        phase = self._phase()
        initialized = all(each.done and each.exit_code == 0 for each in self._init)
        if not initialized:
            for container in self._main:
                container.state = {"waiting": {"reason": "PodInitializing"}}
        ready = all("running" in each.state for each in self._main)
        there = self._there()
        init = [{**each.status(), "ready": each.exit_code == 0} for each in self._init]
        main = [each.status() for each in self._main]
        news = copy.deepcopy((phase, init, main, self._disruption))
        if there is None or news == self._published:
            return
        self._published = news
        done = phase == "Succeeded"
        conditions = [
            _condition("PodScheduled", True, ""),
            _condition("Initialized", initialized, "ContainersNotInitialized"),
            _condition("Ready", ready, "PodCompleted" if done else "ContainersNotReady"),
            _condition("ContainersReady", ready, "PodCompleted" if done else "ContainersNotReady"),
        ]
        if self._disruption:
            conditions.append(self._disruption)
        failed = phase == "Failed" and self._evicted is not None
        reason, message = self._evicted if failed and self._evicted else (None, None)
        self._parts.objects.set_status(
            POD,
            self.pod,
            phase=phase,
            reason=reason,
            message=message,
            conditions=_keep_times(conditions, there["status"].get("conditions") or []),
            startTime=self._start_time,
            podIP=POD_IP,
            podIPs=[{"ip": POD_IP}],
            hostIP=POD_IP,
            initContainerStatuses=init or None,
            containerStatuses=main,
        )


def _condition(kind: str, holds: bool, reason: str) -> Json:
    stamp = {"lastProbeTime": None, "lastTransitionTime": now()}
    made: Json = {"type": kind, "status": "True" if holds else "False", **stamp}
    return made if holds or not reason else {**made, "reason": reason}


def _keep_times(conditions: list[Json], before: list[Json]) -> list[Json]:
    """A condition that did not change keeps its time, so that an unchanged pod is not written again."""
    times = {(each["type"], each["status"]): each["lastTransitionTime"] for each in before}
    return [
        {**each, "lastTransitionTime": times.get((each["type"], each["status"]), each["lastTransitionTime"])}
        for each in conditions
    ]
