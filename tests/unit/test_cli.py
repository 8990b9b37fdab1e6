from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from medvl_jobs import cli, command_line, errors
from medvl_jobs.settings.storage import StorageSettings


@pytest.fixture
def termination_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "termination-log"
    monkeypatch.setenv("MEDVL_TERMINATION_LOG", str(path))
    return path


BASE_MODEL = f"model.path={resources.files('medvl_jobs.samples') / 'base-model'}"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((), 64, "required"),
        (("frobnicate",), 64, "invalid choice"),
        (("eval",), 64, "--variant"),
        (("eval", "--variant", "other"), 64, "invalid"),
        (("prep", "prep.val_ratio=7"), 64, "less than 1"),
        (("prep", "--config", "nowhere.yaml"), 66, "settings file does not exist"),
        (("prep", "prep.source=nowhere.parquet", BASE_MODEL), 66, "nowhere.parquet"),
        (("train", "prep.source=README.md", "model.path=/nowhere"), 66, "base model does not exist"),
        (("train", BASE_MODEL, "prep.source_fingerprint=x"), 66, "the prep stage has not finished here"),
        (("report", BASE_MODEL, "prep.source_fingerprint=x"), 66, "has not finished here"),
        (("train", BASE_MODEL, "prep.source_fingerprint=x", "eval.adapter=adapters/no"), 66, "there is no adapter"),
        (("sample", "--out", "/dev/null/x"), 64, "a file lies where a folder is needed"),
    ],
)  # fmt: skip
def test_every_error_has_its_exit_code_and_last_words(
    words: tuple[str, ...],
    code: int,
    says: str,
    termination_log: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    storage = (
        (f"storage.uri={tmp_path / 'store'}",) if words and words[0] in {"prep", "train", "eval", "report"} else ()
    )
    assert cli.main([*words, *storage]) == code
    printed = capfd.readouterr().err
    assert says in printed
    last_words = json.loads(termination_log.read_text())
    assert last_words["exit_code"] == code
    assert last_words["reason"]
    assert last_words["remedy"]


def test_missing_bucket_and_wrong_key(
    s3_settings: StorageSettings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    where = [f"storage.endpoint_url={s3_settings.endpoint_url}", "storage.region=us-east-1", "storage.path_style=true"]
    train = ["train", BASE_MODEL, "prep.source_fingerprint=x", *where]
    assert cli.main([*train, "storage.uri=s3://no-such-bucket/x"]) == 66
    assert "no-such-bucket" in capfd.readouterr().err
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert cli.main([*train, f"storage.uri={s3_settings.uri}"]) == 77
    assert "AWS_ACCESS_KEY_ID" in capfd.readouterr().err


def test_too_little_memory_is_worth_another_try(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def without_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(cli, "_dispatch", without_memory)
    assert cli.main(["prep"]) == 75
    assert "prep.workers" in capfd.readouterr().err


def test_settings_stand_anywhere() -> None:
    before = command_line.parse(["compare", "a", "b", "name=x", "storage.uri=/s", "--out", "d"])
    for words in (
        ["compare", "a", "b", "--out", "d", "name=x", "storage.uri=/s"],
        ["compare", "a", "b", "name=x", "--out", "d", "storage.uri=/s"],
        ["compare", "--out", "d", "a", "b", "name=x", "storage.uri=/s"],
    ):
        assert command_line.parse(words) == before
    for words in (["compare", "a", "b", "--out", "d", "c"], ["train", "--chek"], ["sample", "--out", "d", "x=1"]):
        with pytest.raises(errors.SettingsError, match=f"unrecognized arguments: {words[-1]}"):
            command_line.parse(words)


def test_exit_codes_are_the_documented_ones() -> None:
    codes = {kind.__name__: kind.exit_code for kind in (errors.MedvlError, *errors.MedvlError.__subclasses__())}
    assert codes == {
        "MedvlError": 70, "SettingsError": 64, "DataError": 65, "MissingInputError": 66, "TryAgainError": 75,
        "AccessDeniedError": 77, "SchemaMismatchError": 78, "PreemptedError": 143, "GaveUpError": 69,
    }  # fmt: skip
    assert all(str(code) in str(command_line.parser().epilog) for code in codes.values())
    assert all(f"{code}" in str(errors.__doc__) for code in codes.values())


def test_a_termination_log_that_cannot_be_written_hides_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEDVL_TERMINATION_LOG", "/no/such/folder/log")
    assert cli.main(["frobnicate"]) == 64
    assert "invalid choice" in capfd.readouterr().err


def test_sigterm_has_its_code_and_last_words(termination_log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_dispatch", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert cli.main(["sample", "--out", "x"]) == 143
    assert json.loads(termination_log.read_text())["error"] == "PreemptedError"


def test_whoever_reads_the_output_may_go() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    program = "import sys; from medvl_jobs import cli; cli._dispatch = lambda *_: print('a plan'); sys.exit(cli.main())"
    command = [sys.executable, "-c", program, "plan"]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert ended.returncode == 141
    assert "BrokenPipeError" not in ended.stderr


def test_no_termination_log_is_invented_on_a_laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDVL_TERMINATION_LOG", raising=False)
    existed = Path("/dev/termination-log").exists()
    assert cli.main(["frobnicate"]) == 64
    assert Path("/dev/termination-log").exists() == existed


def test_the_command_line_stays_small() -> None:
    """A new knob is a setting. Whoever adds an option here says why in docs/decisions."""
    text = command_line.parser().format_help()
    commands = "sample run prep model plan train export eval report compare collect chat status logs"
    for command in commands.split():
        assert f"    {command} " in text
    options: set[str] = set()
    for action in command_line.parser()._subparsers._group_actions[0].choices.values():  # type: ignore[union-attr]
        options |= {option for each in action._actions for option in each.option_strings}
    known = {"--help", "--config", "--out", "--rows", "--seed", "--variant", "--dry-run", "--check", "--workers"}
    looking = {"--json", "--watch", "--follow"}
    assert options == {"-h", "--executor", *known, *looking}


LIGHT = (
    "cli", "prep.job", "prep.check.job", "train.planner.job", "report.job", "pipeline.job", "samples.build",
    "storage.open",
)  # fmt: skip


@pytest.mark.parametrize("module", LIGHT)
def test_light_parts_import_without_torch(module: str) -> None:
    heavy = {"torch", "transformers", "peft", "datasets", "boto3", "matplotlib", "jieba"}
    script = f"import sys, medvl_jobs.{module}; print(sorted({heavy!r} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
