"""One process per GPU: their environment, their exit codes, signals. The processes are real and do no training."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from medvl_jobs.errors import SettingsError
from medvl_jobs.settings.environment import Topology, read_topology

OPERATOR = {
    "WORLD_SIZE": "4",
    "RANK": "1",
    "PET_NPROC_PER_NODE": "2",
    "PET_NNODES": "2",
    "PET_NODE_RANK": "1",
    "MASTER_ADDR": "job-master-0",
    "MASTER_PORT": "23456",
}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*OPERATOR, "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_alone_it_launches_nothing() -> None:
    assert not read_topology().is_launcher


def test_the_operators_variables_become_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OPERATOR.items():
        monkeypatch.setenv(name, value)
    topology = read_topology()
    assert topology.is_launcher
    assert topology.of_process(1) == {
        "RANK": "3",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "job-master-0",
        "MASTER_PORT": "23456",
    }
    monkeypatch.setenv("LOCAL_RANK", "0")  # started by torchrun, or by us
    assert not read_topology().is_launcher


def test_one_machine_needs_no_name_service(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**OPERATOR, "WORLD_SIZE": "2", "PET_NNODES": "1", "PET_NODE_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert read_topology().of_process(0)["MASTER_ADDR"] == "127.0.0.1"


def test_one_process_that_was_told_it_is_four_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(SettingsError, match="one process alone"):
        read_topology()
    monkeypatch.setenv("WORLD_SIZE", "auto")
    with pytest.raises(SettingsError, match="no number"):
        read_topology()


RANK = """
    import json, os, signal, sys, time
    rank = os.environ["LOCAL_RANK"]
    def say(code):
        with open(os.environ["MEDVL_TERMINATION_LOG"], "w") as log: log.write(f"rank {rank} says {code}")
        sys.exit(code)
    def meet():
        open(f"here-{rank}", "w").close()
        while not all(os.path.exists(f"here-{each}") for each in range(2)): time.sleep(0.01)
"""


def start(
    folder: Path, body: str, processes: int = 2, errors: Path | None = None, grace: float = 300.0
) -> subprocess.Popen[bytes]:
    """The real launcher, with a module `medvl_jobs` in the way that its children run in place of ours."""
    fake = folder / "fake"
    (fake / "medvl_jobs").mkdir(parents=True)
    (fake / "medvl_jobs" / "__init__.py").touch()
    (fake / "medvl_jobs" / "__main__.py").write_text(textwrap.dedent(RANK) + textwrap.dedent(body))
    root = Path(__file__).parents[2]
    script = f"""
        import os, sys
        sys.path.insert(0, {str(root)!r})
        from pathlib import Path
        from medvl_jobs.settings.environment import Topology
        from medvl_jobs.train import launcher
        launcher.GRACE_SECONDS = {grace}
        os.environ["PYTHONPATH"] = {str(fake)!r}
        topology = Topology({processes}, 1, 0, None, ("127.0.0.1", "1"))
        sys.exit(launcher.launch(["train"], topology, Path({str(folder / "last-words")!r})))
    """
    with (folder / "out").open("w") as out, (errors or Path(os.devnull)).open("w") as err:
        command = [sys.executable, "-c", textwrap.dedent(script)]
        return subprocess.Popen(command, cwd=fake, stdout=out, stderr=err if errors else None)


def said(folder: Path) -> str:
    path = folder / "last-words"
    return path.read_text() if path.exists() else ""


def test_all_well(tmp_path: Path) -> None:
    launcher = start(
        tmp_path, "os.write(1, f\"{os.environ['RANK']} {os.environ['WORLD_SIZE']} {sys.argv[1:]}\\n\".encode())"
    )
    assert launcher.wait(timeout=120) == 0
    assert sorted((tmp_path / "out").read_text().splitlines()) == ["0 2 ['train']", "1 2 ['train']"]
    assert said(tmp_path) == ""


def test_the_code_and_the_words_are_those_of_the_first_to_fail(tmp_path: Path) -> None:
    launcher = start(
        tmp_path,
        """
        signal.signal(signal.SIGTERM, lambda *_: say(143))
        if rank == "1": say(65)
        time.sleep(600)
        """,
    )
    assert launcher.wait(timeout=120) == 65
    assert said(tmp_path) == "rank 1 says 65"


def test_of_several_that_fail_at_once_the_one_that_cannot_be_cured_is_told(tmp_path: Path) -> None:
    """The others often fail because it has, and a permanent code must not be tried again."""
    launcher = start(tmp_path, "meet()\nsay(65 if rank == '1' else 70)")
    assert launcher.wait(timeout=120) == 65
    assert said(tmp_path) == "rank 1 says 65"


def test_a_process_that_is_killed_ends_the_others(tmp_path: Path) -> None:
    launcher = start(tmp_path, "if rank == '0': os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(600)")
    assert launcher.wait(timeout=120) == 137
    words = json.loads(said(tmp_path))
    assert words["reason"] == "process 0 of this pod was ended by SIGKILL"
    assert words["exit_code"] == 137
    assert "memory" in words["remedy"]


def test_what_nccl_aborts_is_worth_another_attempt(tmp_path: Path) -> None:
    launcher = start(tmp_path, "if rank == '1': os.abort()\ntime.sleep(600)", errors=tmp_path / "errors")
    assert launcher.wait(timeout=120) == 75
    words = json.loads(said(tmp_path))
    assert (words["error"], words["exit_code"]) == ("TryAgainError", 75)
    assert words["reason"] == "process 1 of this pod was ended by SIGABRT"
    assert "in <module>" in (tmp_path / "errors").read_text()  # Python's stack, by PYTHONFAULTHANDLER


@pytest.mark.parametrize("cause", ["os.kill(os.getpid(), signal.SIGKILL)", "say(70)"])
def test_of_several_that_fail_at_once_the_cause_is_told_not_that_a_connection_broke(tmp_path: Path, cause: str) -> None:
    launcher = start(tmp_path, f"meet()\nif rank == '0': say(75)\n{cause}")
    assert launcher.wait(timeout=120) == (70 if "70" in cause else 137)
    assert "75" not in said(tmp_path)


def test_a_process_that_does_not_end_tells_where_it_is_and_is_named(tmp_path: Path) -> None:
    launcher = start(
        tmp_path,
        """
        import faulthandler, pathlib
        def stuck_in_a_disk(): time.sleep(600)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if rank == "1":
            faulthandler.register(signal.SIGUSR1)
            pathlib.Path("ready-1").touch()
            stuck_in_a_disk()
        if rank == "2":
            pathlib.Path("ready-2").touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        while not (os.path.exists("ready-1") and os.path.exists("ready-2")): time.sleep(0.05)
        with open(os.environ["MEDVL_TERMINATION_LOG"], "w") as log:
            json.dump({"reason": "no step has ended", "where": "after step 3"}, log)
        sys.exit(75)
        """,
        processes=3,
        errors=tmp_path / "errors",
        grace=1.0,
    )
    assert launcher.wait(timeout=120) == 75
    errors = (tmp_path / "errors").read_text()
    assert errors.count("in stuck_in_a_disk") == 1
    assert json.loads(said(tmp_path)) == {
        "reason": "no step has ended",
        "where": "after step 3; process 2 of this pod was stopped",
    }


def test_sigterm_reaches_all_and_their_checkpoint_is_waited_for(tmp_path: Path) -> None:
    launcher = start(
        tmp_path,
        """
        def stop(*_):
            time.sleep(2)
            open(f"saved-{rank}", "w").close()
            say(143)
        signal.signal(signal.SIGTERM, stop)
        open(f"ready-{rank}", "w").close()
        time.sleep(600)
        """,
    )
    fake = tmp_path / "fake"
    wait_for(lambda: (fake / "ready-0").exists() and (fake / "ready-1").exists())
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(timeout=120) == 143
    assert (fake / "saved-0").exists()
    assert (fake / "saved-1").exists()
    assert "says 143" in said(tmp_path)


def test_a_fault_while_stopping_is_not_called_a_checkpoint(tmp_path: Path) -> None:
    launcher = start(
        tmp_path,
        """
        signal.signal(signal.SIGTERM, lambda *_: say(75 if rank == "1" else 143))
        open(f"ready-{rank}", "w").close()
        time.sleep(600)
        """,
    )
    fake = tmp_path / "fake"
    wait_for(lambda: (fake / "ready-0").exists() and (fake / "ready-1").exists())
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(timeout=120) == 75
    assert said(tmp_path) == "rank 1 says 75"


def test_the_processes_do_not_outlive_the_launcher(tmp_path: Path) -> None:
    launcher = start(tmp_path, "os.write(1, f'{os.getpid()}\\n'.encode())\ntime.sleep(600)")
    wait_for(lambda: (tmp_path / "out").read_text().count("\n") == 2)
    pids = [int(pid) for pid in (tmp_path / "out").read_text().split()]
    launcher.kill()
    launcher.wait()
    wait_for(lambda: not any(is_running(pid) for pid in pids))


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_for(condition: object, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_wrong_settings_are_said_once_before_anything_is_started() -> None:
    environment = {**os.environ, **OPERATOR, "WORLD_SIZE": "2", "PET_NNODES": "1", "PET_NODE_RANK": "0"}
    ran = subprocess.run(
        [sys.executable, "-m", "medvl_jobs", "train", "train.epoch=3"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 64
    assert ran.stderr.count("did you mean 'epochs'?") == 1


def test_topology_is_data() -> None:
    assert json.dumps(Topology(1, 1, 0, None, ("a", "1")).of_process(0))
