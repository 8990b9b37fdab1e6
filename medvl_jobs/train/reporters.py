"""Where log lines go beside stdout: the run's live status, TensorBoard's files in the store, a tracking server.

All of these callbacks come after `LogLines`, which completes a line. The Trainer puts those of its own ``report_to``
before any that it is given, and they would see its four fields only: so that stays empty, and `reporters` makes them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.live import Progress
from medvl_jobs.errors import MedvlError, SettingsError
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.publish import Publication

log = logging.getLogger(__name__)

UPLOAD_SECONDS = 60.0
"""Between two uploads of TensorBoard's file, which grows by 2 KB a line and has to go as a whole."""


def reporters(names: Sequence[str]) -> list[TrainerCallback]:
    """transformers' own callbacks for the tracking servers among ``train.report_to``.

    Raises `SettingsError` for a name whose package is missing. To go on with the same run after a preemption, set
    ``MLFLOW_RUN_ID``, or ``WANDB_RUN_ID`` and ``WANDB_RESUME=allow``: a server gets a new run for each start otherwise.
    """
    for name in names:
        if find_spec(name) is None:
            raise SettingsError(
                f"the package '{name}' is not installed",
                where="train.report_to",
                remedy=f"pip install {name}, in the training image too; or take it out of train.report_to",
            )
    servers = [name for name in names if name != "tensorboard"]
    return [kind() for kind in get_reporting_integration_callbacks(servers)]


class Told(TrainerCallback):
    """Every step, and the loss of every log line, to a `Progress`."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell where this attempt begins."""
        self.progress(state.global_step, state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """One step more."""
        self.progress(state.global_step, state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """What `LogLines` has made of it."""
        if logs:
            self.progress(state.global_step, state.max_steps, loss=logs.get("loss"))


class TensorBoard(TrainerCallback):
    """TensorBoard's files beside the adapter, a minute behind at most and never behind a checkpoint for long.

    Each attempt at a training writes one file. TensorBoard reads all of a folder, and the first event of a file says
    from which step on those before it no longer count. While the store is away training goes on.
    """

    def __init__(
        self, storage: Storage, adapter_key: str, folder: Path, settings: str, upload_seconds: float = UPLOAD_SECONDS
    ) -> None:
        """``folder`` is on this machine and new. ``settings``: the text to show beside the curves."""
        self.storage, self.adapter_key, self.folder, self.settings = storage, adapter_key, folder, settings
        self.upload_seconds = upload_seconds
        self._writer: Any = None
        self._first_step = 0
        self._last_upload = -upload_seconds
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tensorboard")
        self._upload: Future[None] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember where this attempt begins."""
        self._first_step = state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write a line; from the first process, for all have the same."""
        if not logs or not state.is_world_process_zero:
            return
        if self._writer is None:
            self._open()
        for name, value in logs.items():
            if name != "step":
                self._writer.add_scalar(f"train/{name}", value, state.global_step)
        self._writer.flush()
        now = time.monotonic()
        if control.should_save or now - self._last_upload >= self.upload_seconds:
            self._upload_soon(now)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Store what the last upload did not have. Also after SIGTERM, for the next attempt writes another file."""
        self._thread.shutdown(wait=True)
        if self._upload is not None:
            self._upload.result()
        if self._writer is not None:
            self._writer.close()
            self._store(self._file().name, self._file().read_bytes())

    def _upload_soon(self, now: float) -> None:
        """In the background; not while the upload before is still under way."""
        if self._upload is not None:
            if not self._upload.done():
                return
            self._upload.result()  # raises what is no failure of the store
        self._last_upload = now
        # Read here, where nothing is half-written; the file of a long training has some megabytes.
        self._upload = self._thread.submit(self._store, self._file().name, self._file().read_bytes())

    def publish(self, publication: Publication) -> None:
        """Name the files of all attempts in the adapter's manifest. Raises what the store raises."""
        own = None if self._writer is None else layout.tensorboard_file(self._file().name)
        prefix = f"{layout.adapter(self.adapter_key)}/"
        for key in self.storage.list_keys(f"{layout.tensorboard(self.adapter_key)}/"):
            if (path := key.removeprefix(prefix)) != own:
                publication.adopt(path)
        if own is not None:
            publication.upload(self._file(), own)

    def _open(self) -> None:
        # Here and not above: two seconds to import. Now and not before: it starts a thread, and by the first line the
        # loader has forked its workers.
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415

        self._writer = SummaryWriter(str(self.folder), purge_step=self._first_step + 1)
        self._writer.add_text("settings", "".join(f"    {line}\n" for line in self.settings.splitlines()))

    def _file(self) -> Path:
        """Its name holds time, machine and process: later attempts sort later."""
        (file,) = self.folder.iterdir()
        return file

    def _store(self, name: str, data: bytes) -> None:
        key = f"{layout.adapter(self.adapter_key)}/{layout.tensorboard_file(name)}"
        try:
            self.storage.write_bytes(key, data)
        except MedvlError as error:
            log.warning("TensorBoard's file is not stored yet, training goes on: %s", error.what)
