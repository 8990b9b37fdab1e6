"""Who may do what at a time: ``coordination.k8s.io/v1`` Leases, which the API server lets one of several takers win.

The rules are those of client-go's leader election: whoever sees a Lease unchanged for its duration, *by its own clock*,
may take it. Two clocks are never compared.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from medvl_jobs.cluster.client import Cluster, ConflictError
from medvl_jobs.cluster.status import Json
from medvl_jobs.errors import MedvlError, TryAgainError
from medvl_jobs.settings.cluster import ClusterSettings

log = logging.getLogger(__name__)


class Lease:
    """One Lease, as one that wants it sees it."""

    def __init__(self, cluster: Cluster, name: str, identity: str, owner: Json, seconds: float) -> None:
        """``identity`` wants it; it goes away with the last ``owner``; unchanged for ``seconds`` it is free."""
        self.cluster, self.name, self.identity, self.owner, self.seconds = cluster, name, identity, owner, seconds
        self.holder = ""
        """Whoever had it when it was last looked at."""
        self._seen: tuple[str, object] | None = None
        self._since = 0.0

    def take(self) -> Json | None:
        """Take it or renew it, if it is free or one's own; returns what was written, or nothing when it is another's.

        Raises `ConflictError` when another one was faster.
        """
        lease = self.cluster.read_lease(self.name)
        spec = (lease or {}).get("spec") or {}
        self.holder = spec.get("holderIdentity") or ""
        seen = (self.holder, spec.get("renewTime"))
        if seen != self._seen:
            self._seen, self._since = seen, time.monotonic()
        patience = float(spec.get("leaseDurationSeconds") or self.seconds)
        if self.holder not in ("", self.identity) and time.monotonic() - self._since <= patience:
            return None
        return self.write(lease, self.identity)

    def write(self, lease: Json | None, holder: str) -> Json:
        """Write it as the successor of ``lease``. Raises `ConflictError` when that is not the newest."""
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        metadata: Json = dict(lease["metadata"]) if lease else {"name": self.name, "namespace": self.cluster.namespace}
        others = [each for each in metadata.get("ownerReferences") or [] if each["uid"] != self.owner["uid"]]
        metadata["ownerReferences"] = [*others, self.owner]
        spec = {"holderIdentity": holder, "leaseDurationSeconds": max(1, round(self.seconds)), "renewTime": now}
        return self.cluster.write_lease(
            {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
        )


class RunLease:
    """The right to carry out one run, renewed for as long as it is held."""

    def __init__(self, cluster: Cluster, name: str, owner: Json, settings: ClusterSettings) -> None:
        """``owner``: the plan."""
        # Two that a person has started on one machine have one name, and are two.
        identity = f"{settings.identity}_{uuid.uuid4().hex[:8]}"
        self.lease = Lease(cluster, name, identity, owner, settings.lease_seconds)
        self._renewed = float("-inf")
        self._closed = threading.Event()

    @contextmanager
    def held(self) -> Iterator[RunLease]:
        """Wait for it, keep it for the block, and give it back."""
        self._acquire()
        renewing = threading.Thread(target=self._renew, daemon=True)
        renewing.start()
        try:
            yield self
        finally:
            self._closed.set()
            renewing.join()
            self._give_back()

    def check(self) -> None:
        """Raises `TryAgainError` when it may be somebody else's by now. To be called before anything is changed."""
        if time.monotonic() - self._renewed > self.lease.seconds:
            remedy = "nothing is lost: start again, and what runs is adopted"
            raise TryAgainError("the Lease could not be renewed in time", where=self.lease.name, remedy=remedy)

    def _acquire(self) -> None:
        told = ""
        while not self._take():
            if self.lease.holder not in ("", told):
                told = self.lease.holder
                log.info("another coordinator has this run: %s; waiting for it", told)
            time.sleep(min(2.0, self.lease.seconds / 3))

    def _renew(self) -> None:
        while not self._closed.wait(self.lease.seconds / 3):
            self._take()

    def _take(self) -> bool:
        started = time.monotonic()
        try:
            if self.lease.take() is None:
                return False
        except ConflictError:
            return False  # by somebody else, or by oneself when the answer got lost: the next look tells
        except MedvlError as error:  # a refusal too: the rights were there at the start
            log.warning("the Lease cannot be had at the moment: %s", error.what)
            return False
        self._renewed = started
        return True

    def _give_back(self) -> None:
        try:
            found = self.lease.cluster.read_lease(self.lease.name)
            if found and found["spec"].get("holderIdentity") == self.lease.identity:
                self.lease.write(found, "")
        except MedvlError as error:
            log.warning("the Lease could not be given back, it runs out in %g s: %s", self.lease.seconds, error.what)
