"""The three images, built for CPUs from the one Dockerfile, run the pipeline as the chart runs them: with no rights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import seaweedfs
from pipeline_runs import SMALL

from medvl_jobs.samples.build import build_sample
from medvl_jobs.settings.keys import variants
from medvl_jobs.settings.run import load_settings
from medvl_jobs.settings.storage import StorageSettings
from medvl_jobs.storage.open import open_storage

ROOT = Path(__file__).parents[2]
IMAGES = ("prep", "train", "eval")
RESTRICTED = (
    "--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp:rw,mode=1777", "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
)  # fmt: skip
"""What the chart's security context says. The user is not here: the image itself brings it."""
LOCAL = ("--runtime=runc", "--network=host", "--ulimit=nofile=10000:10000", "--ulimit=nproc=9000:9000")
"""For machines that are containers themselves: their limits are below podman's own, and crun does not start there."""
PROBE = """
import json, os, pathlib
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
def writable(folder):
    try:
        (pathlib.Path(folder) / "probe").write_text("x")
        return True
    except OSError:
        return False
print(json.dumps({
    "ids": [*os.getresuid(), *os.getresgid()],
    "capabilities": {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} != {0},
    "new_privileges": status["NoNewPrivs"] != "1",
    "writable": [folder for folder in ("/", "/etc", "/opt/venv", "/home", "/root", "/run", "/var/tmp", "/tmp")
                 if writable(folder)],
    "bytecode": len(list(pathlib.Path("/opt/venv/lib").rglob("medvl_jobs/**/*.pyc"))) > 50,
    "pip": any(pathlib.Path("/opt/venv").rglob("pip/__init__.py")),
}))
"""


@pytest.fixture(scope="module", autouse=True)
def images() -> None:
    """All three, of the code as it is. Where they cannot be built this fails: nothing here is skipped."""
    environment = {**os.environ, "PYTHON": sys.executable}
    build = ROOT / "images" / "build-cpu"
    built = subprocess.run([build], capture_output=True, text=True, check=False, env=environment)
    assert built.returncode == 0, built.stdout + built.stderr


def podman(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["podman", *map(str, words)], capture_output=True, text=True, check=False, timeout=1500)


def run(image: str, *words: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run an image to its end."""
    return podman("run", "--rm", *LOCAL, *RESTRICTED, *options, f"localhost/medvl-{image}:cpu", *words)


def inspected(image: str) -> dict[str, Any]:
    """The image's configuration."""
    found: dict[str, Any] = json.loads(podman("image", "inspect", f"localhost/medvl-{image}:cpu").stdout)[0]["Config"]
    return found


@pytest.mark.timeout(1800)  # the first test of this file waits for the build
@pytest.mark.parametrize("image", IMAGES)
def test_a_process_has_no_rights(image: str) -> None:
    ran = podman("run", "--rm", *LOCAL, *RESTRICTED, "--entrypoint=python", f"localhost/medvl-{image}:cpu", "-c", PROBE)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {
        "ids": [65532] * 6,
        "capabilities": False,
        "new_privileges": False,
        "writable": ["/tmp"],
        "bytecode": True,
        "pip": False,
    }


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_says_what_it_is(image: str) -> None:
    config = inspected(image)
    label = "org.opencontainers.image."
    sha = config["Labels"][label + "revision"]
    assert config["Labels"][label + "title"] == f"medvl-{image}"
    assert config["Labels"][label + "version"] == run(image, "--version").stdout.strip()
    assert len(sha.removesuffix("-dirty")) == 40
    assert f"MEDVL_GIT_SHA={sha}" in config["Env"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["medvl"]
    assert "Healthcheck" not in config


@pytest.mark.parametrize("command", ["prep", "train", "eval --variant=base", "report"])
def test_wrong_settings_reach_the_termination_log(command: str, tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    log.touch()
    log.chmod(0o666)  # as the kubelet makes it
    image = command.split(maxsplit=1)[0].replace("report", "prep")
    ran = run(image, *command.split(), "train.lora.rnak=8", options=(f"--volume={log}:/dev/termination-log",))
    assert ran.returncode == 64, ran.stderr
    said = json.loads(log.read_text())
    assert said["exit_code"] == 64
    assert "rnak" in said["reason"]


@pytest.fixture
def in_bucket(
    s3_server: seaweedfs.SeaweedFS, s3_settings: StorageSettings, tmp_path: Path
) -> Iterator[tuple[str, ...]]:
    """Options of a container with the sample mounted and the bucket as its store; what still runs is ended."""
    build_sample(tmp_path / "data", rows=80)
    variables = {
        **s3_server.environment,
        "MEDVL_STORAGE__URI": s3_settings.uri,
        "MEDVL_STORAGE__ENDPOINT_URL": s3_settings.endpoint_url,
        "MEDVL_STORAGE__REGION": s3_settings.region,
        "MEDVL_STORAGE__PATH_STYLE": "true",
    }
    mount = f"--volume={tmp_path / 'data'}:{tmp_path / 'data'}:ro"  # run.yaml names its files by absolute paths
    name = f"medvl-test-{tmp_path.name}-{time.time_ns()}"
    yield (f"--name={name}", mount, *(f"--env={key}={value}" for key, value in variables.items()))
    podman("rm", "--force", "--ignore", name)


@pytest.mark.timeout(1800)
def test_the_pipeline(in_bucket: tuple[str, ...], s3_settings: StorageSettings, tmp_path: Path) -> None:
    """A stage is an image. train is told to stop on its way, and goes on from its checkpoint."""
    small = (*SMALL, "train.epochs=4")  # so long that SIGTERM comes before its end on a busy machine, too
    words = ("--config", str(tmp_path / "data" / "run.yaml"), *small)
    storage = open_storage(s3_settings)

    def stage(image: str, *command: str) -> str:
        ran = run(image, *command, *words, options=in_bucket)
        assert ran.returncode == 0, ran.stderr
        return ran.stderr

    stage("prep", "prep")
    assert stop_after_a_checkpoint(in_bucket, words, s3_settings) == 143
    assert "resuming from the checkpoint of step" in stage("train", "train")
    evaluated = variants(load_settings(tmp_path / "data" / "run.yaml", small))
    for variant in evaluated:
        stage("eval", "eval", f"--variant={variant}")
    stage("prep", "report")

    (page,) = [key for key in storage.list_keys("runs/") if key.endswith("/index.html")]
    report = json.loads(storage.read_bytes(page.replace("index.html", "report.json")))
    assert {variant["variant"] for variant in report["variants"]} == set(evaluated)
    (manifest,) = [key for key in storage.list_keys("adapters/") if key.count("/") == 2 and "manifest" in key]
    made_by = json.loads(storage.read_bytes(manifest))["git_sha"]
    assert made_by == inspected("train")["Labels"]["org.opencontainers.image.revision"]


def stop_after_a_checkpoint(in_bucket: tuple[str, ...], words: tuple[str, ...], store: StorageSettings) -> int:
    """SIGTERM to process 1, as the kubelet sends it; returns how the container ended."""
    name = in_bucket[0].partition("=")[2]
    started = podman("run", "--detach", *LOCAL, *RESTRICTED, *in_bucket, "localhost/medvl-train:cpu", "train", *words)
    assert started.returncode == 0, started.stderr
    deadline = time.monotonic() + 600
    while not any("/checkpoints/" in key and "/manifest" in key for key in open_storage(store).list_keys("")):
        assert podman("inspect", "--format={{.State.Status}}", name).stdout.strip() == "running", podman("logs", name)
        assert time.monotonic() < deadline, podman("logs", name)
        time.sleep(0.2)
    podman("kill", "--signal=TERM", name)
    code = int(podman("wait", name).stdout)
    podman("rm", name)
    return code
