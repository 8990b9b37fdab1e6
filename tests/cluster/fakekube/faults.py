"""Requests that go wrong on purpose, and a record of all requests."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import Literal

from cluster.fakekube.errors import ApiError

When = Literal["before", "after"]


@dataclass
class Fault:
    """The next ``left`` requests that match get ``status``, or with None a closed connection."""

    left: int
    method: str
    path: str
    status: int | None
    when: When

    def fits(self, method: str, path: str) -> bool:
        return (
            self.left > 0 and re.fullmatch(self.method, method) is not None and re.search(self.path, path) is not None
        )


@dataclass(frozen=True)
class Served:
    """One request and its answer; code 0 is a closed connection."""

    user: str
    method: str
    path: str
    code: int


class ConnectionDropped(Exception):  # noqa: N818 — it is not the server's error
    """The server hangs up."""


class Faults:
    """Ask for failures with `fail_next`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self.served: list[Served] = []

    def fail_next(
        self, count: int, method: str = ".*", path: str = "", *, status: int | None = 500, when: When = "before"
    ) -> Fault:
        """``path`` is searched for in path and query; ``when="after"`` does the work and loses the answer."""
        fault = Fault(count, method, path, status, when)
        with self._lock:
            self._faults.append(fault)
        return fault

    def strike(self, method: str, path: str, when: When) -> None:
        """Raises what was asked for, if it was."""
        with self._lock:
            fault = next((each for each in self._faults if each.when == when and each.fits(method, path)), None)
            if fault is None:
                return
            fault.left -= 1
        if fault.status is None:
            raise ConnectionDropped
        reasons = {401: "Unauthorized", 403: "Forbidden", 409: "Conflict", 429: "TooManyRequests", 504: "Timeout"}
        reason = reasons.get(fault.status, "InternalError" if fault.status == 500 else "ServiceUnavailable")
        raise ApiError(fault.status, reason, "the test asked for this failure")
