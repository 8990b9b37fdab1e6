"""vLLM's command line, and a server that is started, watched and ended, whatever it does."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_model
from ports import free_port

from medvl_jobs.errors import GaveUpError, MissingInputError, SettingsError, TryAgainError
from medvl_jobs.eval.server import process as module
from medvl_jobs.eval.server.command import Served, command_line
from medvl_jobs.eval.server.process import ServerProcess
from medvl_jobs.eval.server.start import longest
from medvl_jobs.settings.eval import EvalSettings
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.settings.server import ServerSettings

SERVES = """
import http.server, os, signal, subprocess, sys
port, folder = int(sys.argv[1]), sys.argv[2]
child = subprocess.Popen([sys.executable, "-c", "import signal, time; {ignores}time.sleep(600)"])
open(folder + "/child", "w").write(str(child.pid))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
        if self.path == "/die": print("CUDA error: an illegal memory access", flush=True); os._exit(3)
    def log_message(self, *args): ...
print("ready soon", os.environ["VLLM_NO_USAGE_STATS"], flush=True)
{before}
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def settings(**server: object) -> RunSettings:
    return RunSettings(model=tiny_model.MODEL, eval=EvalSettings(max_new_tokens=99, server=ServerSettings(**server)))


def test_the_command_line_for_the_base_model() -> None:
    words = command_line(settings(), Served("/models/qwen", None, "base", 700), 1234)
    assert words == [
        "/opt/vllm/bin/vllm", "serve", "/models/qwen",
        "--served-model-name", "base",
        "--host", "127.0.0.1", "--port", "1234",
        "--dtype", "float32",
        "--max-model-len", "700",
        "--limit-mm-per-prompt", '{"image": 1, "video": 0}',
        "--mm-processor-kwargs", '{"size": {"shortest_edge": 36864, "longest_edge": 36864}}',
        "--data-parallel-size", "1",
        "--seed", "0",
        "--uvicorn-log-level", "warning",
    ]  # fmt: skip


@pytest.mark.parametrize(("rank", "allowed"), [(4, 8), (8, 8), (24, 32), (64, 64), (500, 512), (600, 600)])
def test_the_command_line_for_an_adapter(rank: int, allowed: int) -> None:
    served = Served("Qwen/Qwen3-VL-30B-A3B-Instruct", "abc", "base", 700, ("tuned", "/tmp/adapter", rank))
    words = command_line(settings(replicas=4, command=("vllm", "serve"), arguments=("--enforce-eager",)), served, 1)
    assert words[:3] == ["vllm", "serve", "Qwen/Qwen3-VL-30B-A3B-Instruct"]
    assert words[words.index("--data-parallel-size") + 1] == "4"
    assert words[words.index("--revision") + 1] == "abc"
    after = words[words.index("--enable-lora") :]
    assert after == [
        "--enable-lora", "--max-lora-rank", str(allowed), "--max-loras", "1", "--lora-modules", "tuned=/tmp/adapter",
        "--enforce-eager",
    ]  # fmt: skip


def test_the_longest_prompt_and_answer_have_room() -> None:
    renderer = tiny_model.renderer()
    room = longest(settings(), renderer)
    for width, height in ((192, 192), (10, 1900), (333, 100), (2000, 2000)):
        assert renderer.count_tokens(width, height) + 99 <= room
    assert room < 300


def start(tmp_path: Path, before: str = "", ignores: str = "") -> ServerProcess:
    port = free_port()
    program = SERVES.replace("{before}", before).replace("{ignores}", ignores)
    return ServerProcess([sys.executable, "-c", program, str(port), str(tmp_path)], port)


def child(tmp_path: Path) -> int:
    return int((tmp_path / "child").read_text())


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 300
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def gone(pid: int) -> bool:
    for _ in range(1200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


def test_it_is_ready_and_ends_with_its_children(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server = start(tmp_path)
    server.wait_ready(120)
    server.watch()
    assert os.getpgid(child(tmp_path)) != os.getpgid(0)
    server.close()
    server.close()
    assert gone(child(tmp_path))
    assert "server | ready soon 1" in caplog.text


def test_it_is_told_no_secret_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDVL_EVAL__SERVER__API_KEY", "sesame")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sesame")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    told = tmp_path / "environment"
    server = start(tmp_path, before=f"open({str(told)!r}, 'w').write(str(dict(os.environ)))")
    server.wait_ready(120)
    server.close()
    assert "sesame" not in told.read_text()
    assert "'HF_HUB_OFFLINE': '1'" in told.read_text()
    assert "'DO_NOT_TRACK': '1'" in told.read_text()


def test_what_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.5)
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    server = start(tmp_path, before=ignore, ignores=ignore)
    server.wait_ready(120)
    server.close()
    assert gone(child(tmp_path))


def test_a_death_before_it_is_ready_is_for_good(tmp_path: Path) -> None:
    before = "print('ValueError: no room for the cache', flush=True); sys.exit(9)"
    server = start(tmp_path, before=before)
    with pytest.raises(GaveUpError, match=r"ended with 9 before it was ready(.|\n)*no room for the cache") as caught:
        server.wait_ready(120)
    assert caught.value.exit_code == 69
    server.close()
    assert gone(child(tmp_path))


def test_a_death_in_the_middle_is_worth_another_attempt(tmp_path: Path) -> None:
    import httpx2

    server = start(tmp_path)
    server.wait_ready(120)
    httpx2.get(f"{server.url}/die", trust_env=False, timeout=120)
    server._process.wait(120)
    with pytest.raises(TryAgainError, match=r"ended with 3 in the middle(.|\n)*illegal memory access") as caught:
        server.watch()
    assert caught.value.exit_code == 75
    server.close()
    assert gone(child(tmp_path))


def test_a_death_by_a_signal_has_its_name(tmp_path: Path) -> None:
    server = start(tmp_path, before="os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(GaveUpError, match=r"ended with 137 \(SIGKILL\)"):
        server.wait_ready(120)
    server.close()


def test_a_start_that_takes_too_long(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server = start(tmp_path, before="import time; time.sleep(600)")
    until(lambda: "ready soon" in caplog.text)
    with pytest.raises(TryAgainError, match=r"not ready after 0.5 s(.|\n)*ready soon") as caught:
        server.wait_ready(0.5)
    assert "start_timeout_seconds" in caught.value.remedy
    server.close()
    assert gone(child(tmp_path))


def test_no_such_program(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no server to start") as caught:
        ServerProcess([str(tmp_path / "vllm"), "serve"], 1)
    assert "eval.server.url" in caught.value.remedy
    (tmp_path / "vllm").write_text("no program")
    with pytest.raises(SettingsError, match="Permission denied"):
        ServerProcess([str(tmp_path / "vllm"), "serve"], 1)


JOB = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts tests in the background ignores it
from medvl_jobs.cli import main
from medvl_jobs.eval.server.process import ServerProcess
import medvl_jobs.cli as cli
def stage(arguments, words):
    port, folder, program = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    server = ServerProcess([sys.executable, "-c", program, str(port), folder], port)
    try:
        server.wait_ready(300)
        open(folder + "/up", "w").close()
        import time; time.sleep(600)
    finally:
        server.close()
cli._dispatch = stage
sys.exit(main(["report"]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_of_the_job_ends_the_server(tmp_path: Path, number: int, code: int) -> None:
    program = SERVES.replace("{before}", "").replace("{ignores}", "")
    job = subprocess.Popen([sys.executable, "-c", JOB, str(free_port()), str(tmp_path), program])
    until((tmp_path / "up").exists)
    job.send_signal(number)
    assert job.wait(120) == code
    assert gone(child(tmp_path))


def test_the_server_does_not_outlive_a_killed_job(tmp_path: Path) -> None:
    program = SERVES.replace("{before}", "open(folder + '/self', 'w').write(str(os.getpid()))").replace("{ignores}", "")
    job = subprocess.Popen([sys.executable, "-c", JOB, str(free_port()), str(tmp_path), program])
    until((tmp_path / "up").exists)
    job.kill()
    job.wait()
    assert gone(int((tmp_path / "self").read_text()))
    os.kill(child(tmp_path), signal.SIGKILL)  # our stand-in's child does not watch its parent; vLLM's do
