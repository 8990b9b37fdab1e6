"""``medvl chat``: serve the page until somebody ends it."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import uvicorn

from medvl_jobs.chat.app import LOOPBACK, Page
from medvl_jobs.chat.desk import LEAVE_SECONDS
from medvl_jobs.chat.examples import Example, read_some
from medvl_jobs.chat.in_process import InProcessPair
from medvl_jobs.chat.loading import Loading
from medvl_jobs.chat.models import ModelPair
from medvl_jobs.chat.server import ServerPair
from medvl_jobs.errors import SettingsError
from medvl_jobs.model.adapters import fetch_adapter
from medvl_jobs.settings.keys import StageKeys
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage

log = logging.getLogger(__name__)

NO_SOURCE = "none"
"""Where a fingerprint of the data would stand."""
FINISH_SECONDS = 10
"""After SIGTERM, answers under way have so long; Kubernetes gives 30 seconds."""


class Server(uvicorn.Server):
    """Ends answers that outlast `FINISH_SECONDS` by itself: uvicorn would cancel them, with a traceback for each."""

    def __init__(self, page: Page, finish_seconds: float = FINISH_SECONDS) -> None:
        """To serve this page."""
        self._page, self._finish_seconds = page, finish_seconds
        config = uvicorn.Config(
            page.app(),
            log_config=None,  # medvl's own lines
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=math.ceil(finish_seconds + LEAVE_SECONDS),
        )
        super().__init__(config)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for the answers, then call them off."""
        asyncio.get_running_loop().call_later(self._finish_seconds, self._page.call_off)
        await super().shutdown(sockets)


def run(settings: RunSettings, storage: Storage, keys: StageKeys) -> None:
    """Serve until SIGTERM or Ctrl-C, which arrive as they would without a server.

    Raises what loading the models raises, and `SettingsError` when the address cannot be listened on.
    """
    chat = settings.chat
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    if chat.host not in LOOPBACK and chat.password is None:
        log.warning(
            "whoever reaches %s:%s may ask, and see the examples: there is no chat.password", chat.host, chat.port
        )
    with tempfile.TemporaryDirectory(prefix="medvl-chat-", ignore_cleanup_errors=True) as folder:

        def load(show: Callable[[list[Example]], None]) -> ModelPair:
            show(read_some(storage, keys.prep, chat.examples, Path(folder)))
            return open_pair(settings, storage, keys, Path(folder))

        def give_up() -> None:
            server.should_exit = True

        loading = Loading(load, give_up)
        server = Server(Page(settings, loading))
        with _listener(chat.host, chat.port) as listener:
            log.info("the page is at http://%s:%d, and waits for the models", *listener.getsockname()[:2])
            server.run(sockets=[listener])
        if loading.error is not None:
            raise loading.error


def with_source(settings: RunSettings) -> RunSettings:
    """The settings with a source, be it none: an adapter that is named, or a server, can be asked without data.

    The page has no examples then.
    """
    prep, evaluation = settings.prep, settings.eval
    if prep.source or prep.source_fingerprint or not (evaluation.adapter or evaluation.engine == "openai"):
        return settings
    return settings.model_copy(update={"prep": prep.model_copy(update={"source_fingerprint": NO_SOURCE})})


def _listener(host: str, port: int) -> socket.socket:
    """A socket of our own: uvicorn ends the process when it gets none."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        remedy = "set chat.host and chat.port to an address of this machine that is free; port 0 takes any"
        raise SettingsError(f"the page cannot be served: {error}", where=f"{host}:{port}", remedy=remedy) from error


def open_pair(settings: RunSettings, storage: Storage, keys: StageKeys, scratch: Path) -> ModelPair:
    """Both models, as ``eval.engine`` says. Raises what loading raises."""
    if settings.eval.engine == "openai":
        return ServerPair(settings)
    adapter, _ = fetch_adapter(settings, storage, keys, scratch)
    return InProcessPair(settings, adapter)
