"""The development store of k8s/: the server's own arguments and its Job's own script, which wants curl."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml
from ports import free_ports

MANIFEST = Path(__file__).parents[2] / "k8s" / "dev-store.yaml"


def test_the_dev_store_starts_and_its_job_makes_the_bucket(tmp_path: Path) -> None:
    """The server's own arguments and the Job's own script, on other ports. Twice: the Job may find its bucket there."""
    secret, _, server, job = yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8"))
    ports = free_ports(8)
    names = ("master.port", "volume.port", "filer.port", "s3.port")
    options = [f"-{name}{kind}={ports.pop()}" for name in names for kind in ("", ".grpc")]
    s3 = next(option.partition("=")[2] for option in options if option.startswith("-s3.port="))
    options += [f"-dir={tmp_path}", f"-filer.localSocket={tmp_path}/filer", f"-s3.localSocket={tmp_path}/s3"]
    (serving,), (making,) = ([*each["spec"]["template"]["spec"]["containers"]] for each in (server, job))
    command = [Path(sys.executable).with_name(serving["command"][0]), *serving["args"], *options]
    environment = {**os.environ, **secret["stringData"], "STORE": f"http://127.0.0.1:{s3}", "BUCKET": "medvl"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(2):
            subprocess.run([*making["command"], *making["args"]], env=environment, capture_output=True, check=True)
    finally:
        process.kill()
        process.wait()
