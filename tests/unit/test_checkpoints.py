"""Checkpoints: whole or none, of one process and of two, in a store that is faulty, damaged or away."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from transformers import TrainerState

from medvl_jobs.contracts import layout
from medvl_jobs.errors import AccessDeniedError, DataError, MedvlError, SchemaMismatchError, TryAgainError
from medvl_jobs.settings.run import load_settings
from medvl_jobs.settings.train import TrainSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.local import LocalStorage
from medvl_jobs.train import job
from medvl_jobs.train.callbacks import Checkpointing
from medvl_jobs.train.checkpoints import CheckpointStore, training_contract
from medvl_jobs.train.ranks import Ranks
from medvl_jobs.train.uploads import Uploads, back_off_seconds

T = TypeVar("T")


class FaultyStorage(LocalStorage):
    """Remembers what is written, and raises when it is told to."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.written: list[str] = []
        self.failures: Iterator[MedvlError | None] = iter(())
        """What the next writes raise; ``None`` for one that works."""
        self.failed = threading.Event()

    def _write(self, key: str) -> None:
        if error := next(self.failures, None):
            self.failed.set()
            raise error
        self.written.append(key)

    def write_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        self._write(key)
        return super().write_bytes(key, data, if_absent=if_absent)

    def upload(self, path: Path, key: str) -> None:
        self._write(key)
        super().upload(path, key)


def away() -> TryAgainError:
    return TryAgainError("the store is away", where="s3://bucket", remedy="start again")


def away_for_ever() -> Iterator[MedvlError]:
    while True:
        yield away()


@pytest.fixture
def faulty(tmp_path: Path) -> FaultyStorage:
    return FaultyStorage(tmp_path / "store")


@dataclass(frozen=True)
class ThreadRanks(Ranks):
    """Ranks that are threads of one process."""

    values: list[Any] = field(default_factory=list)
    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))

    def all_of(self, value: T) -> list[T]:
        self.values[self.rank] = value
        self.barrier.wait(30)
        values = list(self.values)
        self.barrier.wait(30)
        return values

    def largest(self, *values: int) -> list[int]:
        return [max(each) for each in zip(*self.all_of(values), strict=True)]


def on_two_ranks(call: Callable[[Ranks], T]) -> list[T]:
    """What the call returns on each of two ranks that run at the same time."""
    values, barrier = [None, None], threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(call, [ThreadRanks(rank, 2, "cpu", values, barrier) for rank in range(2)]))


def two_stores(storage: Storage, **options: Any) -> list[CheckpointStore]:
    return on_two_ranks(lambda ranks: CheckpointStore(storage, "k", **{"keep": 2, "ranks": ranks, **options}))


def write_checkpoint(folder: Path, content: str) -> Path:
    (folder / "sub").mkdir(parents=True, exist_ok=True)
    (folder / "state.json").write_text(content)
    (folder / "sub" / "weights.bin").write_bytes(content.encode() * 10)
    return folder


def save(checkpoints: CheckpointStore, folder: Path, step: int) -> bool:
    rank = checkpoints.ranks.rank
    return checkpoints.save(write_checkpoint(folder / f"{rank}-{step}", f"step {step} of rank {rank}"), step)


# ----------------------------------------------------------------------------------------------------- one process


def test_the_newest_complete_checkpoint_is_restored(storage: Storage, tmp_path: Path) -> None:
    checkpoints = CheckpointStore(storage, "k", keep=2)
    assert checkpoints.restore_latest(tmp_path) is None
    for step in (5, 10, 100):
        assert save(checkpoints, tmp_path, step)
    assert checkpoints.steps() == [10, 100]
    assert not list(storage.list_keys(layout.checkpoint("k", 5)))
    # A newer one that was cut off while it was uploaded does not count.
    storage.write_bytes(f"{layout.checkpoint('k', 200)}/{layout.checkpoint_files(0)}/state.json", b"half")
    restored = checkpoints.restore_latest(tmp_path / "scratch")
    assert restored == tmp_path / "scratch" / "checkpoint-100"
    assert (restored / "state.json").read_text() == "step 100 of rank 0"
    assert (restored / "sub" / "weights.bin").read_bytes() == b"step 100 of rank 0" * 10
    # It goes when a later one is whole.
    save(checkpoints, tmp_path, 300)
    assert not list(storage.list_keys(layout.checkpoint("k", 200)))
    assert checkpoints.steps() == [100, 300]


def test_the_manifest_is_written_last(faulty: FaultyStorage, tmp_path: Path) -> None:
    save(CheckpointStore(faulty, "k", keep=2), tmp_path, 5)
    assert faulty.written[-1] == layout.manifest(layout.checkpoint("k", 5))
    assert len(faulty.written) == 3


WEIGHTS = f"{layout.checkpoint('k', 20)}/{layout.checkpoint_files(0)}/sub/weights.bin"
MANIFEST = layout.manifest(layout.checkpoint("k", 20))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda storage: storage.write_bytes(WEIGHTS, b"x" * 170), "sub/weights.bin has another content"),
        (lambda storage: storage.write_bytes(WEIGHTS, b"x"), "sub/weights.bin has 1 bytes instead of 170"),
        (lambda storage: storage.delete(WEIGHTS), "sub/weights.bin is missing"),
        (lambda storage: storage.write_bytes(MANIFEST, b'{"stage": "chec'), "manifest.json: the manifest is not JSON"),
    ],
    ids=["flipped", "cut", "gone", "manifest"],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    faulty: FaultyStorage,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Storage], None],
    said: str,
) -> None:
    checkpoints = CheckpointStore(faulty, "k", keep=2)
    for step in (10, 20):
        save(checkpoints, tmp_path, step)
    damage(faulty)
    checkpoints = CheckpointStore(faulty, "k", keep=2)
    restored = checkpoints.restore_latest(tmp_path / "scratch")
    assert restored == tmp_path / "scratch" / "checkpoint-10"
    assert "the checkpoint of step 20 is damaged" in caplog.text
    assert said in caplog.text
    # It does not count among those to keep.
    save(checkpoints, tmp_path, 30)
    assert checkpoints.steps() == [10, 30]
    assert not (tmp_path / "scratch" / "checkpoint-20").exists()


def test_a_damaged_checkpoint_is_replaced_when_training_comes_there_again(
    faulty: FaultyStorage, tmp_path: Path
) -> None:
    checkpoints = CheckpointStore(faulty, "k", keep=2)
    for step in (10, 20):
        save(checkpoints, tmp_path, step)
    faulty.write_bytes(WEIGHTS, b"x")
    checkpoints = CheckpointStore(faulty, "k", keep=2)
    checkpoints.restore_latest(tmp_path / "scratch")
    checkpoints.save(write_checkpoint(tmp_path / "other", "other"), 20)
    restored = CheckpointStore(faulty, "k", keep=2).restore_latest(tmp_path / "again")
    assert restored == tmp_path / "again" / "checkpoint-20"
    assert (restored / "state.json").read_text() == "other"


def test_without_a_whole_checkpoint_training_begins_again_and_says_so(
    faulty: FaultyStorage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = CheckpointStore(faulty, "k", keep=2)
    save(checkpoints, tmp_path, 20)
    faulty.delete(WEIGHTS)
    assert checkpoints.restore_latest(tmp_path / "scratch") is None
    assert "none of 1 checkpoints is whole: training from the beginning" in caplog.text


def test_a_store_that_is_away_is_no_damage(faulty: FaultyStorage, tmp_path: Path) -> None:
    checkpoints = CheckpointStore(faulty, "k", keep=2)
    save(checkpoints, tmp_path, 20)

    def download(key: str, path: Path) -> None:
        raise away()

    faulty.download = download  # type: ignore[method-assign]
    with pytest.raises(TryAgainError):
        checkpoints.restore_latest(tmp_path / "scratch")


def test_a_checkpoint_of_another_contract_is_refused(faulty: FaultyStorage, tmp_path: Path) -> None:
    settings = TrainSettings()
    then = training_contract(settings, processes=2, zero=2, examples=100)
    assert {then["processes"], then["train.zero"], then["examples"]} == {2, 100}
    assert str(then["torch"]).count(".") == 1
    save(CheckpointStore(faulty, "k", keep=2, contract=then), tmp_path, 20)
    now = training_contract(settings.model_copy(update={"batch_size": 4}), processes=4, zero=0, examples=100)
    with pytest.raises(SchemaMismatchError) as refused:
        CheckpointStore(faulty, "k", keep=2, contract=now).restore_latest(tmp_path / "scratch")
    for difference in ("processes: 2 then, 4 now", "train.batch_size: 8 then, 4 now", "train.zero: 2 then, 0 now"):
        assert difference in refused.value.what
    assert "examples" not in refused.value.what
    assert "train on 2 processes (GPUs) again" in refused.value.remedy
    assert f"delete {faulty.uri}/adapters/k/checkpoints" in refused.value.remedy
    same = CheckpointStore(faulty, "k", keep=2, contract=dict(then))
    assert same.restore_latest(tmp_path / "scratch") == tmp_path / "scratch" / "checkpoint-20"


# --------------------------------------------------------------------------------------------------- two processes


def test_each_of_two_ranks_stores_its_own_and_restores_all(storage: Storage, tmp_path: Path) -> None:
    first, second = two_stores(storage)
    assert first.attempt == second.attempt
    for checkpoints, own in ((second, "rng_1"), (first, "rng_0")):
        folder = write_checkpoint(tmp_path / own, own)
        (folder / own).write_text(own)
        assert checkpoints.steps() == []
        checkpoints.save(folder, 5)
    assert first.steps() == [5]
    for rank, restored in enumerate(on_two_ranks(lambda ranks: restore(storage, ranks, tmp_path / str(ranks.rank)))):
        assert restored is not None
        assert {path.name for path in restored.iterdir()} == {"rng_0", "rng_1", "state.json", "sub"}
        assert (restored / "state.json").read_text() == f"rng_{rank}"  # both have one: each gets back its own


def restore(storage: Storage, ranks: Ranks, scratch: Path) -> Path | None:
    return CheckpointStore(storage, "k", keep=2, ranks=ranks).restore_latest(scratch)


def test_the_first_rank_waits_for_the_list_of_this_attempt(faulty: FaultyStorage, tmp_path: Path) -> None:
    cut_off = two_stores(faulty)[1]  # an attempt of which only the second rank has finished
    cut_off.save(write_checkpoint(tmp_path / "old", "old"), 5)
    first, second = two_stores(faulty)
    waited: list[float] = []

    def pause(seconds: float) -> None:
        assert first.steps() == []
        waited.append(seconds)
        second.save(write_checkpoint(tmp_path / "1", "new"), 5)

    assert first.save(write_checkpoint(tmp_path / "0", "new"), 5, pause)
    assert waited == [first.poll_seconds]
    for restored in on_two_ranks(lambda ranks: restore(faulty, ranks, tmp_path / f"scratch-{ranks.rank}")):
        assert restored is not None
        assert (restored / "state.json").read_text() == "new"


def test_a_step_that_one_rank_has_left_out_is_left_out(
    faulty: FaultyStorage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = two_stores(faulty)
    save(second, tmp_path, 10)
    assert not save(first, tmp_path, 5)
    assert "step 5 is left out" in caplog.text
    assert first.steps() == []
    assert save(first, tmp_path, 10)
    assert first.steps() == [10]
    assert not list(faulty.list_keys(layout.checkpoint("k", 5)))


def test_damage_that_one_rank_sees_sends_both_to_the_one_before(faulty: FaultyStorage, tmp_path: Path) -> None:
    first, second = two_stores(faulty)
    for step in (10, 20):
        for checkpoints in (second, first):
            save(checkpoints, tmp_path, step)

    class HalfBlind(FaultyStorage):
        def download(self, key: str, path: Path) -> None:
            super().download(key, path)
            if "scratch-2/checkpoint-20/" in str(path):
                path.write_text("damaged on the way")

    blind = HalfBlind(Path(faulty.uri))
    restored = on_two_ranks(lambda ranks: restore(blind, ranks, tmp_path / f"scratch-{ranks.rank + 1}"))
    assert restored == [tmp_path / "scratch-1" / "checkpoint-10", tmp_path / "scratch-2" / "checkpoint-10"]
    assert not (tmp_path / "scratch-1" / "checkpoint-20").exists()


def test_an_error_of_one_rank_ends_both(faulty: FaultyStorage, tmp_path: Path) -> None:
    def attempt(ranks: Ranks) -> str:
        def call() -> None:
            if ranks.rank == 1:
                raise AccessDeniedError("no")

        with pytest.raises(AccessDeniedError) as raised:
            ranks.together(call)
        return raised.value.what

    assert on_two_ranks(attempt) == ["another process of this training failed", "no"]


def test_processes_agree_for_real(tmp_path: Path) -> None:
    code = (
        "import sys, torch.distributed as dist; from medvl_jobs.train.ranks import Ranks; rank = int(sys.argv[1]);"
        "dist.init_process_group('gloo', init_method='file://' + sys.argv[2], rank=rank, world_size=2);"
        "ranks = Ranks.joined('cpu'); print(ranks.largest(rank, 1 - rank, 7 * rank), ranks.all_of((rank, 'x')));"
        "dist.destroy_process_group()"
    )
    words = [[sys.executable, "-c", code, str(rank), str(tmp_path / "meeting")] for rank in range(2)]
    processes = [subprocess.Popen(each, stdout=subprocess.PIPE, text=True) for each in words]
    said = [process.communicate(timeout=400)[0].strip() for process in processes]
    assert said == ["[1, 1, 7] [(0, 'x'), (1, 'x')]"] * 2
    assert Ranks.joined("cpu") == Ranks()


# ------------------------------------------------------------------------------------------------- in the background


@pytest.fixture
def folders(tmp_path: Path) -> Callable[[int], Path]:
    return lambda step: write_checkpoint(tmp_path / "trainer" / f"checkpoint-{step}", f"step {step}")


def uploads_to(storage: Storage, patience_seconds: float = 60.0, **options: Any) -> Uploads:
    options = {"back_off": lambda failures: 0.0, **options}
    return Uploads(CheckpointStore(storage, "k", keep=2), patience_seconds=patience_seconds, **options)


def drained(uploads: Uploads) -> Exception | None:
    uploads.wait(30)
    busy, failure = uploads.look()
    assert not busy
    uploads.close()
    return failure


def test_uploads_catch_up_and_send_nothing_twice(
    faulty: FaultyStorage, folders: Callable[[int], Path], caplog: pytest.LogCaptureFixture
) -> None:
    faulty.failures = iter([None, away(), away(), away()])
    uploads = uploads_to(faulty)
    uploads.put(folders(5), 5)
    assert drained(uploads) is None
    assert uploads.checkpoints.steps() == [5]
    assert len(faulty.written) == len(set(faulty.written)) == 3
    assert caplog.text.count("step 5 is not stored yet, training goes on: the store is away") == 3


def test_a_stored_checkpoint_is_removed_from_this_machine(
    faulty: FaultyStorage, folders: Callable[[int], Path]
) -> None:
    uploads = uploads_to(faulty)
    uploads.put(folders(5), 5)
    assert drained(uploads) is None
    assert [path.name for path in folders(10).parent.iterdir()] == ["checkpoint-10"]


class SlowStorage(FaultyStorage):
    """Begins no write before it may."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.begun, self.may = threading.Event(), threading.Event()

    def _write(self, key: str) -> None:
        self.begun.set()
        assert self.may.wait(30)
        super()._write(key)


def test_of_those_that_wait_only_the_newest_is_stored(
    tmp_path: Path, folders: Callable[[int], Path], caplog: pytest.LogCaptureFixture
) -> None:
    slow = SlowStorage(tmp_path / "store")
    uploads = uploads_to(slow)
    uploads.put(folders(5), 5)
    assert slow.begun.wait(30)
    for step in (10, 15, 20):
        uploads.put(folders(step), step)
    assert sorted(path.name for path in (tmp_path / "trainer").iterdir()) == ["checkpoint-20", "checkpoint-5"]
    assert uploads.look() == (True, None)
    slow.may.set()
    assert drained(uploads) is None
    assert uploads.checkpoints.steps() == [5, 20]
    assert not list((tmp_path / "trainer").iterdir())
    assert "step 10 is left out" in caplog.text


def test_nothing_is_stored_after_the_end(tmp_path: Path, folders: Callable[[int], Path]) -> None:
    """Or a thread that goes on would find half of a checkpoint in a folder that is being removed."""
    slow = SlowStorage(tmp_path / "store")
    uploads = uploads_to(slow)
    uploads.put(folders(5), 5)
    assert slow.begun.wait(30)
    uploads.put(folders(10), 10)

    def release() -> None:
        while not uploads._closed:
            time.sleep(0.01)
        slow.may.set()

    releasing = threading.Thread(target=release, daemon=True)
    releasing.start()
    uploads.close()
    written = list(slow.written)
    releasing.join()
    assert uploads.checkpoints.steps() == [5]  # what was under way is whole, what waited is not begun
    assert slow.written == written


def test_one_that_fails_is_left_out_for_a_newer_one(faulty: FaultyStorage, folders: Callable[[int], Path]) -> None:
    came = threading.Event()

    def back_off(failures: int) -> float:
        assert came.wait(30)
        return 0.0

    faulty.failures = iter([away()])
    uploads = uploads_to(faulty, back_off=back_off)
    uploads.put(folders(5), 5)
    assert faulty.failed.wait(30)
    uploads.put(folders(10), 10)
    came.set()
    assert drained(uploads) is None
    assert uploads.checkpoints.steps() == [10]
    assert not list(folders(99).parent.glob("checkpoint-[15]*"))


def test_patience_ends_with_75(faulty: FaultyStorage, folders: Callable[[int], Path]) -> None:
    times = iter(range(0, 10000, 100))
    faulty.failures = away_for_ever()
    uploads = uploads_to(faulty, patience_seconds=600, clock=lambda: next(times))
    uploads.put(folders(5), 5)
    failure = drained(uploads)
    assert isinstance(failure, TryAgainError)
    assert failure.what == "no checkpoint could be stored for 10 minutes: the store is away"
    assert failure.where == "s3://bucket"
    assert next(times) == 700
    assert folders(5).exists()


def test_patience_begins_anew_with_every_checkpoint_stored(
    faulty: FaultyStorage, folders: Callable[[int], Path]
) -> None:
    times = iter(range(0, 10000, 100))
    uploads = uploads_to(faulty, patience_seconds=250, clock=lambda: next(times))
    for step in (5, 10, 15):
        faulty.failures = iter([away(), away()])
        uploads.put(folders(step), step)
        uploads.wait(30)
    assert drained(uploads) is None
    assert uploads.checkpoints.steps() == [10, 15]


@pytest.mark.parametrize("error", [AccessDeniedError("no"), RuntimeError("a fault of ours")])
def test_other_errors_end_it_at_once(faulty: FaultyStorage, folders: Callable[[int], Path], error: MedvlError) -> None:
    faulty.failures = iter([error])
    uploads = uploads_to(faulty)
    uploads.put(folders(5), 5)
    assert drained(uploads) is error


def test_the_wait_after_a_failure_grows_to_a_minute() -> None:
    assert [back_off_seconds(failures) for failures in (1, 2, 3, 4, 5, 100)] == [5, 10, 20, 40, 60, 60]


# --------------------------------------------------------------------------------------------------- ends of steps


def ends_of_steps(uploads: Uploads, ranks: Ranks | None = None, **options: Any) -> Checkpointing:
    return Checkpointing(uploads, ranks or Ranks(), **{"every_minutes": 15.0, **options})


def end_step(callback: Checkpointing, step: int) -> tuple[bool, bool]:
    """Whether a checkpoint and the end were asked for."""
    control: Any = SimpleNamespace(should_save=False, should_training_stop=False)
    callback.on_step_end(None, SimpleNamespace(global_step=step, max_steps=20), control)
    return control.should_save, control.should_training_stop


def begin(callback: Checkpointing, state: TrainerState | None = None, **steps: int) -> None:
    arguments: Any = SimpleNamespace(**{"logging_steps": 5, "eval_steps": None, "save_steps": 50, **steps})
    callback.on_train_begin(arguments, state or TrainerState(), None)


def end(callback: Checkpointing) -> None:
    callback.on_train_end(None, None, None)


@pytest.fixture
def _sigterm() -> Iterator[None]:
    previous = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, previous)


@pytest.mark.usefixtures("_sigterm")
def test_sigterm_asks_for_a_checkpoint_and_the_end(
    faulty: FaultyStorage, tmp_path: Path, folders: Callable[[int], Path]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    callback = ends_of_steps(uploads_to(faulty))
    begin(callback)
    assert end_step(callback, 1) == (False, False)
    os.kill(os.getpid(), signal.SIGTERM)
    assert end_step(callback, 2) == (True, True)
    assert callback.preempted
    folders(2)
    arguments, state = SimpleNamespace(output_dir=str(tmp_path / "trainer")), SimpleNamespace(global_step=2)
    callback.on_save(arguments, state, None)
    end(callback)
    assert callback.uploads.checkpoints.steps() == [2]  # it is there before anybody says that it is
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.usefixtures("_sigterm")
def test_a_resumed_training_saves_and_logs_as_often_as_it_is_told_now(faulty: FaultyStorage) -> None:
    """The Trainer goes by its state, and takes that from the checkpoint."""
    state = TrainerState(max_steps=100, save_steps=50, logging_steps=5)
    begin(ends_of_steps(uploads_to(faulty)), state, save_steps=7, logging_steps=1)
    assert (state.save_steps, state.logging_steps) == (7, 1)


@pytest.mark.usefixtures("_sigterm")
def test_sigterm_with_the_last_step_stops_nothing(faulty: FaultyStorage) -> None:
    callback = ends_of_steps(uploads_to(faulty))
    begin(callback)
    os.kill(os.getpid(), signal.SIGTERM)
    assert end_step(callback, 20) == (False, False)
    assert not callback.preempted
    end(callback)


def test_a_checkpoint_is_due_by_the_clock_of_the_first_rank(
    faulty: FaultyStorage, folders: Callable[[int], Path], tmp_path: Path
) -> None:
    def steps(ranks: Ranks) -> list[bool]:
        now = [0.0]
        # The second rank's clock is far ahead, which must not matter.
        callback = ends_of_steps(uploads_to(faulty), ranks, clock=lambda: now[0] + 1e6 * ranks.rank * now[0])
        saves = []
        for step, minutes in enumerate((10, 14.9, 15.1, 16, 30, 30.2), start=1):
            now[0] = minutes * 60
            saves.append(end_step(callback, step)[0])
            if saves[-1]:
                arguments = SimpleNamespace(output_dir=str(tmp_path / "trainer" / str(ranks.rank)))
                callback.on_save(arguments, SimpleNamespace(global_step=step), None)
        callback.uploads.close()
        return saves

    for rank in range(2):
        for step in (3, 6):
            write_checkpoint(tmp_path / "trainer" / str(rank) / f"checkpoint-{step}", "x")
    assert on_two_ranks(steps) == [[False, False, True, False, False, True]] * 2
    assert not ends_of_steps(uploads_to(faulty), every_minutes=None, clock=lambda: 1e9)._is_due()


def test_uploads_that_fail_on_one_rank_end_both_at_the_same_step(
    faulty: FaultyStorage, tmp_path: Path, folders: Callable[[int], Path]
) -> None:
    broken = FaultyStorage(tmp_path / "other")
    broken.failures = iter([AccessDeniedError("no")])

    def steps(ranks: Ranks) -> str:
        uploads = uploads_to(broken if ranks.rank else faulty)
        callback = ends_of_steps(uploads, ranks)
        assert end_step(callback, 1) == (False, False)
        uploads.put(write_checkpoint(tmp_path / str(ranks.rank), "x"), 1)
        uploads.wait(30)
        with pytest.raises(AccessDeniedError) as raised:
            end_step(callback, 2)
        uploads.close()
        return raised.value.what

    assert on_two_ranks(steps) == ["another process of this training failed", "no"]


def test_at_the_end_both_ranks_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # it is for main threads
    storage = SlowStorage(tmp_path / "store")
    beats = [0, 0]

    def train(ranks: Ranks) -> list[int]:
        def beat() -> None:
            beats[ranks.rank] += 1
            if beats[ranks.rank] == 2:
                storage.may.set()

        store = CheckpointStore(storage, "k", keep=2, ranks=ranks)
        store.poll_seconds = 0.01
        callback = ends_of_steps(Uploads(store, patience_seconds=60), ranks, beat=beat)
        callback.uploads.put(write_checkpoint(tmp_path / str(ranks.rank), "x"), 7)
        callback.on_train_end(None, None, None)
        return store.steps()

    monkeypatch.setattr("medvl_jobs.train.callbacks.DRAIN_SECONDS", 0.05)
    assert on_two_ranks(train) == [[7], [7]]


def test_the_end_raises_what_has_ended_the_uploads(
    faulty: FaultyStorage, folders: Callable[[int], Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    faulty.failures = away_for_ever()
    callback = ends_of_steps(uploads_to(faulty, patience_seconds=0))
    callback.uploads.put(folders(5), 5)
    with pytest.raises(TryAgainError, match="no checkpoint could be stored for 0 minutes"):
        end(callback)


def test_a_training_that_fails_waits_for_its_uploads(
    tmp_path: Path, folders: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes next is the end of its scratch folder."""
    slow = SlowStorage(tmp_path / "store")
    monkeypatch.setattr(job.Work, "of", lambda *_: None)

    class Failing(SimpleNamespace):
        def add_callback(self, callback: Any) -> None:
            if isinstance(callback, Checkpointing):
                self.checkpointing = callback

        def train(self, resume_from_checkpoint: str | None) -> None:
            self.checkpointing.uploads.put(folders(5), 5)
            assert slow.begun.wait(30)
            threading.Timer(0.2, slow.may.set).start()
            raise DataError("no finite loss")

    loader = SimpleNamespace(waited_seconds=0.0, first_step=None)
    model = SimpleNamespace(config=SimpleNamespace(to_dict=dict))
    trainer: Any = Failing(model=model, schedule=None, loader=loader, left_out=0, remove_callback=lambda _: None)
    checkpoints = CheckpointStore(slow, "k", keep=2)
    with pytest.raises(DataError, match="no finite loss"):
        job.fit(trainer, load_settings(None, ()), checkpoints, [], tmp_path)
    assert checkpoints.steps() == [5]
