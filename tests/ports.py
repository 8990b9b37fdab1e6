"""Ports for servers that are told where to listen."""

from __future__ import annotations

import secrets
import socket
from contextlib import ExitStack


def free_ports(count: int) -> list[int]:
    """So many ports of this machine, all different, that nobody listens on.

    They lie below those that the system gives to outgoing connections: none is taken before its server listens.
    """
    with ExitStack() as stack:
        return [_hold_one(stack) for _ in range(count)]


def free_port() -> int:
    """One of them."""
    (port,) = free_ports(1)
    return port


def _hold_one(stack: ExitStack) -> int:
    holder = stack.enter_context(socket.socket())
    while True:
        port = 10_000 + secrets.randbelow(6_000)
        try:
            holder.bind(("127.0.0.1", port))
        except OSError:
            continue
        return port
