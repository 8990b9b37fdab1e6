"""What is said of a run, from the store alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from medvl_jobs import cli
from medvl_jobs.contracts import layout
from medvl_jobs.contracts.live import Status
from medvl_jobs.contracts.manifest import Manifest
from medvl_jobs.errors import DataError, MissingInputError, SettingsError, TryAgainError
from medvl_jobs.pipeline import logs, status
from medvl_jobs.pipeline.logs import added
from medvl_jobs.pipeline.plan import as_json, plan
from medvl_jobs.pipeline.runs import find_run
from medvl_jobs.pipeline.signs import signs_of_life
from medvl_jobs.pipeline.stages import stages
from medvl_jobs.settings.keys import stage_keys
from medvl_jobs.settings.run import RunSettings, load_settings
from medvl_jobs.settings.storage import StorageSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.live import LiveStatus
from medvl_jobs.storage.local import LocalStorage
from medvl_jobs.storage.open import open_storage

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PINNED = ("name=trial", "prep.source_fingerprint=data", "model.fingerprint=base", "eval.controls=[]")

MANIFEST = Manifest(
    stage="any", key="x", settings={}, wall_seconds=1, files=(), code_version="1", library_versions={},
    peak_memory_bytes=1, created_at=NOW,
).to_json()  # fmt: skip


class Made:
    """A run as `medvl run` and its stages leave it behind."""

    def __init__(self, storage: Storage, *words: str) -> None:
        self.storage = storage
        self.settings = load_settings(None, (*PINNED, *words))
        self.keys = stage_keys(self.settings)
        self.stages = {each.name: each for each in stages(self.settings, self.keys)}
        self.prefix = layout.run(self.settings.name, self.keys.report)
        graph = as_json(plan(tuple(self.stages.values()), lambda _: False))
        self.write(f"{self.prefix}/plan.json", graph)
        self.write(f"{self.prefix}/run.yaml", yaml.safe_dump(self.settings.model_dump(mode="json")))
        self.write(layout.current(self.settings.name), {"key": self.keys.report})

    def write(self, key: str, content: Any) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        self.storage.write_bytes(key, text.encode())

    def finish(self, *names: str) -> None:
        for name in names:
            self.write(layout.manifest(self.stages[name].prefix), MANIFEST)

    def say(self, name: str, state: str = "working", *, age: float = 5, log: str = "", **more: Any) -> None:
        said = Status(
            stage=name, state=state, unit="steps", host="gpu-1", every_seconds=15,
            started_at=NOW - timedelta(seconds=100), updated_at=NOW - timedelta(seconds=age),
            **{"processes": 1, **more},
        )  # fmt: skip
        prefix = layout.live(self.settings.name, self.keys.report, name)
        self.write(f"{prefix}/status.json", said.to_json())
        self.write(f"{prefix}/log.txt", log)

    def states(self) -> dict[str, str]:
        return {each.stage.name: each.state for each in self.look()}

    def look(self) -> list[status.Look]:
        return status.look(self.storage, find_run(self.storage, self.settings), NOW)

    def text(self) -> str:
        return status.as_text(find_run(self.storage, self.settings), self.look(), self.storage.uri, NOW)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(LocalStorage(tmp_path))


def test_every_stage_has_a_line(made: Made) -> None:
    made.finish("prep")
    made.say("train", done=120, total=520, loss=1.25, rate=4.0, eta_seconds=100.0, eta=NOW + timedelta(seconds=100))
    assert made.states() == {
        "prep": "reused", "train": "working", "eval-base": "waiting", "eval-tuned": "waiting", "report": "waiting",
    }  # fmt: skip
    lines = [line.split("  ") for line in made.text().splitlines()]
    rows = {line[0]: [cell.strip() for cell in line if cell] for line in lines}
    assert rows["prep"][1:] == ["reused"]
    assert rows["train"][1:5] == ["working", "120/520 steps", "1.25", "4/s"]
    assert rows["train"][5].startswith("1 min 40 s, ")
    assert rows["train"][6:] == ["gpu-1", "5.0 s ago"]
    assert rows["eval-tuned"][1:] == ["waiting for train"]
    assert rows["report"][1:] == ["waiting for train, …"]
    assert rows["report: not there yet"]


def test_one_that_is_silent_for_some_refreshes_is_not_called_working(made: Made) -> None:
    made.say("train", age=59, done=1, total=2)
    assert made.states()["train"] == "working"
    made.say("train", age=61, done=1, total=2)
    assert made.states()["train"] == "silent"
    since = (NOW - timedelta(seconds=61)).astimezone()
    assert f"no sign of life since {since:%H:%M:%S}" in made.text()


@pytest.mark.parametrize("state", ["failed", "stopped"])
def test_what_ended_a_stage_is_told(made: Made, state: str) -> None:
    made.say("train", state, done=3, total=9, error=DataError("it is bad", where="here", remedy="mend it").as_dict())
    assert made.states()["train"] == state
    assert made.text().endswith(
        "\n\ntrain, attempt 1: it is bad (DataError, exit code 65)\n  where:  here\n  remedy: mend it\n\n"
        "report: not there yet"
    )
    made.say("train", "working", attempt=2, error=DataError("it is bad").as_dict())
    assert "train, attempt 1: it is bad" in made.text()
    made.finish("train")
    assert "it is bad" not in made.text()


def test_pods_that_still_work_when_the_first_is_done(made: Made) -> None:
    made.say("eval-base", "done", done=5, total=5, processes=4)
    assert made.states()["eval-base"] == "working"
    assert "working, in other pods" in made.text()
    assert "gpu-1 × 4" in made.text()
    made.say("eval-base", "done", done=5, total=5)
    assert made.states()["eval-base"] == "waiting", "its result was removed"


def test_a_finished_run_says_where_its_report_is(made: Made) -> None:
    made.finish("prep", "eval-base", "eval-tuned", "report")
    made.say("eval-base", "done", done=5, total=5)
    assert made.states() == {
        "prep": "reused", "train": "unneeded", "eval-base": "done", "eval-tuned": "reused", "report": "done",
    }  # fmt: skip
    assert made.text().endswith(f"report: {made.storage.uri}/{made.prefix}/report/index.html")
    assert "took 1 min 35 s" in made.text()


def test_what_failed_here_and_was_made_by_another_run_is_reused(made: Made) -> None:
    made.say("train", "failed", done=3, total=9, error=DataError("it is bad").as_dict())
    made.finish("prep", "train")
    (train,) = (each for each in made.look() if each.stage.name == "train")
    assert (train.state, train.status) == ("reused", None)
    assert "3/9" not in made.text()


def test_the_run_of_other_settings_is_found_without_source_or_model(storage: Storage) -> None:
    """Only the store is asked: the source and the model's folder that the settings name do not exist."""
    older, newer = Made(storage), Made(storage, "train.epochs=7")
    elsewhere = ("name=trial", "prep.source=/nowhere", "model.path=/nowhere", "eval.controls=[]")
    found = find_run(storage, load_settings(None, elsewhere))
    assert (found.key, found.exact) == (older.keys.report, True)
    found = find_run(storage, load_settings(None, (*elsewhere, "train.epochs=7")))
    assert (found.key, found.exact) == (newer.keys.report, True)
    found = find_run(storage, load_settings(None, (*elsewhere, "train.epochs=8")))
    assert (found.key, found.exact) == (newer.keys.report, False)
    assert tuple(found.stages) == tuple(newer.stages.values())


def test_a_run_that_was_started_stage_by_stage_is_found(made: Made) -> None:
    made.say("train", done=1, total=2)
    for key in list(made.storage.list_keys("")):
        if "/live/" not in key:
            made.storage.delete(key)
    assert made.states() == {"train": "working"}
    made.say("train", "done", done=2, total=2)
    assert made.states() == {"train": "done"}
    assert "report: not there yet" in made.text()


def test_a_run_that_is_not_there(made: Made, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError) as caught:
        find_run(made.storage, load_settings(None, ("name=other",)))
    assert "no run 'other'" in caught.value.what
    assert "that are there: trial" in caught.value.remedy
    with pytest.raises(MissingInputError, match="no run 'other'"):
        find_run(LocalStorage(tmp_path / "empty"), load_settings(None, ("name=other",)))


@pytest.mark.parametrize("name", ["plan.json", "run.yaml", "current.json"])
@pytest.mark.parametrize("content", ['{"a', "[1]", "{}", "\x00"])
def test_what_is_damaged_is_named(made: Made, name: str, content: str) -> None:
    key = layout.current("trial") if name == "current.json" else f"{made.prefix}/{name}"
    made.write(key, content)
    if (name == "current.json" and content in {"[1]", "{}"}) or (name, content) == ("plan.json", "{}"):
        assert find_run(made.storage, made.settings).exact  # says nothing, and is not needed
        return
    with pytest.raises(DataError) as caught:
        find_run(made.storage, load_settings(None, ("name=trial",)))
    assert str(caught.value.where).endswith(key)


def test_a_bucket_that_is_not_there(s3_settings: StorageSettings) -> None:
    storage = open_storage(s3_settings.model_copy(update={"uri": "s3://no-such-bucket/x"}))
    with pytest.raises(MissingInputError, match="no-such-bucket"):
        find_run(storage, load_settings(None, ("name=trial",)))


def test_the_command_line(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    words = (f"storage.uri={made.storage.uri}", "name=trial")
    made.say("train", log="a line\n")
    made.say("prep", log="another\n")
    assert cli.main(["status", *words]) == 0
    assert "trial, the newest run of this name" in capfd.readouterr().out
    assert cli.main(["status", "--json", *words]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["name"], told["key"], told["report"]) == ("trial", made.keys.report, None)
    assert told["stages"][1]["status"]["host"] == "gpu-1"
    assert cli.main(["logs", "train", *words]) == 0
    assert capfd.readouterr().out == "a line\n"
    assert cli.main(["logs", *words]) == 0
    assert capfd.readouterr().out == "==> prep <==\nanother\n==> train <==\na line\n"
    assert cli.main(["logs", "trian", *words]) == 64
    assert "its stages are prep, train, eval-base" in capfd.readouterr().err
    assert cli.main(["logs", "report", *words]) == 66
    assert "kubectl logs" in capfd.readouterr().err
    assert cli.main(["status", words[0], "name=other"]) == 66


def test_watching_ends_with_the_report_and_bears_a_store_that_is_away(
    made: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rounds = count()

    def pause(seconds: float) -> None:
        assert seconds == 15
        match next(rounds):
            case 0:
                made.say("train", done=1, total=2)
            case 1:
                monkeypatch.setattr(LocalStorage, "exists", unreachable)
            case 2:
                monkeypatch.undo()
                made.finish(*made.stages)

    def unreachable(*_: object) -> bool:
        raise TryAgainError("S3 does not answer")

    with monkeypatch.context() as clock:
        clock.setattr(status, "time", SimpleNamespace(sleep=pause))
        shown = list(status.texts(made.settings, made.storage, watch=True))
    assert len(shown) == 3
    assert "1/2 steps" in shown[1]
    assert shown[2].endswith("/report/index.html")
    assert "S3 does not answer; looking again" in caplog.text


def test_watching_a_run_that_has_written_nothing_but_its_settings(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def pause(seconds: float) -> None:
        made.finish(*made.stages)
        made.say("report", "done")

    made.storage.delete(f"{made.prefix}/plan.json")
    monkeypatch.setattr(status, "time", SimpleNamespace(sleep=pause))
    shown = list(status.texts(made.settings, made.storage, watch=True))
    assert ["report " in text for text in shown] == [False, True]


def followed(made: Made, story: Iterator[None], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What ``logs --follow`` prints of the training, with a chapter of the story between two looks."""
    monkeypatch.setattr(logs, "time", SimpleNamespace(sleep=lambda _: next(story)))
    monkeypatch.setattr(logs, "datetime", type("Then", (), {"now": staticmethod(lambda _: NOW)}))
    return list(logs.texts(made.settings, made.storage, ["train"], follow=True))


def test_a_bar_that_is_drawn_over_is_followed_line_by_line(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def story() -> Iterator[None]:
        made.say("train", log="one\n 10%", age=0)
        yield
        made.say("train", log="one\n 50%", age=0)
        yield
        made.say("train", "failed", log="one\n100%\nthe end")
        yield

    assert followed(made, story(), monkeypatch) == ["one\n", "100%\nthe end"]


def test_following_prints_each_line_once(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def story() -> Iterator[None]:
        made.say("train", log="one\ntwo\n", age=0)
        yield
        made.say("train", log="two\nthree\n", age=0)
        yield
        made.say("train", "failed", log="two\nthree\nthe end\n")
        yield

    assert followed(made, story(), monkeypatch) == [
        "one\ntwo\n",
        "three\n",
        "the end\n",
    ]


def test_an_unknown_stage_is_refused(made: Made) -> None:
    with pytest.raises(SettingsError, match="no stage 'eval'"):
        next(logs.texts(made.settings, made.storage, ["eval"]))


@pytest.mark.parametrize(
    ("before", "now", "new"),
    [
        ("", "a\nb\n", "a\nb\n"),
        ("a\nb\n", "a\nb\n", ""),
        ("a\nb\n", "a\nb\nc\n", "c\n"),
        ("a\nb\nc\n", "b\nc\nd\n", "d\n"),
        ("a\na\nb\n", "a\nb\nc\n", "c\n"),
        ("a\nb\n", "x\ny\n", "x\ny\n"),
    ],
)
def test_what_is_new_in_a_log_that_loses_its_start(before: str, now: str, new: str) -> None:
    assert added(before, now) == new


@pytest.mark.parametrize(
    ("words", "environment", "processes"),
    [
        ("train", {}, 1),
        ("train", {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}, 4),
        ("train", {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}, None),
        ("eval --variant base", {}, 1),
        ("eval --variant base", {"JOB_COMPLETION_INDEX": "0"}, 3),
        ("eval --variant base", {"JOB_COMPLETION_INDEX": "1"}, None),
        ("prep", {"JOB_COMPLETION_INDEX": "0"}, 2),
        ("eval --variant tuned-blank", {}, None),
    ],
)
def test_one_process_speaks_for_all(
    words: str, environment: dict[str, str], processes: int | None, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = load_settings(None, (*PINNED, "eval.shards=3", "prep.indexes=2"))
    signs = signs_of_life(settings, made.storage, tuple(words.split()))
    assert (signs.processes if isinstance(signs, LiveStatus) else None) == processes
    unpinned = load_settings(None, ("name=trial", "prep.source_fingerprint=data"))
    assert not isinstance(signs_of_life(unpinned, made.storage, ("prep",)), LiveStatus)
    made.finish(*made.stages)
    assert not isinstance(signs_of_life(settings, made.storage, tuple(words.split())), LiveStatus)


def test_settings_of_live_are_in_no_key() -> None:
    once, often = (load_settings(None, (*PINNED, f"live.every_seconds={n}")) for n in (1, 99))
    assert isinstance(once, RunSettings)
    assert stage_keys(once) == stage_keys(often)
