from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from medvl_jobs.errors import DataError, MissingInputError, TryAgainError
from medvl_jobs.pipeline import local
from medvl_jobs.pipeline.pin import WHOLE_BYTES, directory_fingerprint, model_fingerprint
from medvl_jobs.pipeline.plan import Step, as_json, plan, show
from medvl_jobs.pipeline.stages import Stage, stages
from medvl_jobs.settings.keys import stage_keys
from medvl_jobs.settings.model import ModelSettings
from medvl_jobs.settings.run import load_settings
from medvl_jobs.settings.storage import StorageSettings

PINNED = ("prep.source_fingerprint=a", "model.fingerprint=b")


def graph(*words: str) -> tuple[Stage, ...]:
    settings = load_settings(None, (*PINNED, *words))
    return stages(settings, stage_keys(settings))


def actions(finished: set[str], *words: str) -> dict[str, str]:
    steps = plan(graph(*words), lambda stage: stage.name in finished)
    return {step.stage.name: step.action for step in steps}


def test_the_graph() -> None:
    stage = {stage.name: stage for stage in graph()}
    assert list(stage) == ["prep", "train", "eval-base", "eval-tuned", "eval-tuned-shuffled", "report"]
    assert stage["eval-base"].needs == ("prep",)
    assert stage["eval-tuned"].needs == ("prep", "train")
    assert stage["eval-tuned"].words == ("eval", "--variant", "tuned")


def test_only_what_is_about_the_tuned_model_waits_for_it() -> None:
    stage = {stage.name: stage for stage in graph("eval.controls=[tuned-blank, template, base-formatted]")}
    assert list(stage)[2:-1] == ["eval-base", "eval-tuned", "eval-tuned-blank", "eval-template", "eval-base-formatted"]
    assert stage["eval-tuned-blank"].needs == ("prep", "train")
    assert stage["eval-template"].needs == stage["eval-base-formatted"].needs == ("prep",)
    assert {name: each.manifest for name, each in stage.items()} == {
        "prep": "prep",
        "train": "train",
        "eval-base": "eval",
        "eval-tuned": "eval",
        "eval-tuned-blank": "eval",
        "eval-template": "template",
        "eval-base-formatted": "eval",
        "report": "report",
    }


def test_every_stage_comes_after_what_it_needs() -> None:
    for words in ((), ("eval.controls=[]",), ("eval.adapter=x", "eval.adapter_fingerprint=f")):
        seen: set[str] = set()
        for stage in graph(*words):
            assert set(stage.needs) <= seen
            seen.add(stage.name)


def test_everything_runs_at_first_and_nothing_afterwards() -> None:
    names = {stage.name for stage in graph()}
    assert set(actions(set()).values()) == {"run"}
    assert set(actions(names).values()) == {"reuse"}


def test_only_what_is_missing_runs() -> None:
    found = actions({"prep", "train", "eval-base", "eval-tuned-shuffled"})
    assert [name for name, action in found.items() if action == "run"] == ["eval-tuned", "report"]


def test_a_lost_input_of_finished_work_is_not_made_again() -> None:
    found = actions({"train", "eval-base", "eval-tuned", "eval-tuned-shuffled", "report"})
    assert found["prep"] == "unneeded"


def test_an_adapter_from_outside_needs_no_training() -> None:
    assert "train" not in actions(set(), "eval.adapter=x", "eval.adapter_fingerprint=f")


def test_the_plan_can_be_read() -> None:
    steps = plan(graph(), lambda stage: stage.name == "prep")
    assert show(steps).splitlines()[0].split()[:2] == ["reuse", "prep"]
    assert as_json(steps)[3]["command"] == ["medvl", "eval", "--variant", "tuned"]


def test_model_fingerprint_follows_the_content(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(WHOLE_BYTES + 10))
    before = directory_fingerprint(tmp_path)
    assert model_fingerprint(ModelSettings(path=str(tmp_path)), StorageSettings()) == before
    with weights.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"x")
    assert directory_fingerprint(tmp_path) != before


def test_model_fingerprint_ignores_what_loading_does_not_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = directory_fingerprint(tmp_path)
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "config.json").write_text("downloaded today")
    (tmp_path / "README.md").write_text("a model")
    assert directory_fingerprint(tmp_path) == before


def test_model_on_the_hub_is_named_by_its_revision() -> None:
    on_hub = ModelSettings(path="Qwen/Qwen3-VL", revision="abc")
    assert model_fingerprint(on_hub, StorageSettings()) == "hub:Qwen/Qwen3-VL@abc"
    with pytest.raises(MissingInputError, match="base model does not exist"):
        model_fingerprint(ModelSettings(path="/no/such/model"), StorageSettings())


def test_a_failing_stage_stops_the_run_with_its_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MEDVL", [sys.executable, "-c", "import sys; sys.exit(65)"])
    steps = [Step(Stage("prep", (), "prepared/x"), "run"), Step(Stage("train", (), "adapters/x"), "run")]
    with pytest.raises(DataError, match="stage prep ended with exit code 65"):
        local.execute(steps, tmp_path / "run.yaml")


def test_a_killed_stage_is_worth_another_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MEDVL", [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    with pytest.raises(TryAgainError, match="stage train was ended by SIGKILL") as caught:
        local.execute([Step(Stage("train", (), "adapters/x"), "run")], tmp_path / "run.yaml")
    assert "memory ran out" in caught.value.remedy


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_stage_does_not_outlive_a_killed_run(tmp_path: Path) -> None:
    """kill -9 of the parent: a second start must not meet the first one's stage at work."""
    pid_file = tmp_path / "pid"
    stage = tmp_path / "stage.py"
    stage.write_text(
        f"import os, pathlib, time\npathlib.Path({str(pid_file)!r}).write_text(f'{{os.getpid()}}.')\ntime.sleep(600)\n"
    )
    run = f"import sys; from medvl_jobs.pipeline import local; local._run([sys.executable, {str(stage)!r}])"
    with subprocess.Popen([sys.executable, "-c", run]) as parent:
        wait_for(lambda: pid_file.exists() and pid_file.read_text().endswith("."), "the stage never started")
        child = int(pid_file.read_text().rstrip("."))
        assert is_running(child)
        parent.send_signal(signal.SIGKILL)
    wait_for(lambda: not is_running(child), "the stage still runs")
