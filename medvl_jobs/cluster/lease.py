"""One writer at a time: a ``coordination.k8s.io/v1`` Lease, taken, renewed and given back.

The rules are those of client-go's leader election: whoever sees a Lease that was not renewed for its duration, *by its
own clock*, may take it, and the API server lets one of several takers win. Two clocks are never compared.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from medvl_jobs.cluster.client import Cluster, ConflictError
from medvl_jobs.cluster.status import Json
from medvl_jobs.errors import MedvlError, TryAgainError
from medvl_jobs.settings.cluster import ClusterSettings

log = logging.getLogger(__name__)


class Lease:
    """The right to carry out one run."""

    def __init__(self, cluster: Cluster, name: str, owner: Json, settings: ClusterSettings) -> None:
        """``owner``: it goes away with the last plan that has held it."""
        self.cluster, self.name, self.owner = cluster, name, owner
        self.identity, self.seconds = settings.identity, settings.lease_seconds
        self._held: Json = {}
        self._renewed = 0.0
        self._closed = threading.Event()

    @contextmanager
    def held(self) -> Iterator[Lease]:
        """Wait for it, keep it for the block, and give it back."""
        self._acquire()
        renewing = threading.Thread(target=self._renew, daemon=True)
        renewing.start()
        try:
            yield self
        finally:
            self._closed.set()
            renewing.join()
            self._release()

    def check(self) -> None:
        """Raises `TryAgainError` when it may be somebody else's by now. To be called before anything is changed."""
        if time.monotonic() - self._renewed > self.seconds:
            remedy = "nothing is lost: start again, and what runs is adopted"
            raise TryAgainError("the Lease could not be renewed in time", where=self.name, remedy=remedy)

    def _acquire(self) -> None:
        seen, since, told = None, time.monotonic(), ""
        while True:
            try:
                lease = self.cluster.read_lease(self.name)
                spec = (lease or {}).get("spec") or {}
                holder = spec.get("holderIdentity") or ""
                if (holder, spec.get("renewTime")) != seen:
                    seen, since = (holder, spec.get("renewTime")), time.monotonic()
                patience = float(spec.get("leaseDurationSeconds") or self.seconds)
                if holder in ("", self.identity) or time.monotonic() - since > patience:
                    self._write(lease)
                    return
                if holder != told:
                    log.info("another coordinator has this run: %s; waiting for it", holder)
                    told = holder
            except ConflictError:
                pass  # somebody else was faster: look who
            except TryAgainError as trouble:
                log.warning("%s; looking again", trouble)
            time.sleep(min(2.0, self.seconds / 3))

    def _write(self, lease: Json | None, identity: str | None = None) -> None:
        started, now = time.monotonic(), datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        metadata: Json = dict(lease["metadata"]) if lease else {"name": self.name, "namespace": self.cluster.namespace}
        others = [each for each in metadata.get("ownerReferences") or [] if each["uid"] != self.owner["uid"]]
        metadata["ownerReferences"] = [*others, self.owner]
        spec = {
            "holderIdentity": self.identity if identity is None else identity,
            "leaseDurationSeconds": max(1, round(self.seconds)),
            "renewTime": now,
        }
        if lease is None or (lease.get("spec") or {}).get("holderIdentity") != self.identity:
            spec["acquireTime"] = now
        else:
            spec["acquireTime"] = lease["spec"].get("acquireTime", now)
        self._held = self.cluster.write_lease(
            {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
        )
        self._renewed = started

    def _renew(self) -> None:
        while not self._closed.wait(self.seconds / 3):
            try:
                self._write(self._held)
            except ConflictError:
                log.error("the Lease %s was taken by somebody else", self.name)
                self._renewed = float("-inf")
                return
            except MedvlError as error:
                log.warning("the Lease could not be renewed: %s", error.what)

    def _release(self) -> None:
        if self._renewed == float("-inf"):
            return
        try:
            self._write(self._held, identity="")
        except MedvlError as error:
            log.warning("the Lease could not be given back, it runs out in %g s: %s", self.seconds, error.what)
