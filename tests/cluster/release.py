"""A release of the real chart, in the cluster in memory, with a real S3 server: small enough for a test."""

from __future__ import annotations

import copy
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import seaweedfs
import yaml

from cluster.fakekube import Cluster, Json
from medvl_jobs.settings.storage import StorageSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.open import open_storage

CHART = Path(__file__).parents[2] / "charts" / "medvl"
SECRET = "s3-credentials"
INPUTS = "inputs"
"""Where in the bucket the sample and the tiny model lie, for all tests."""

SMALL: dict[str, Any] = {
    "attempt": 1,
    "storage": {"region": "us-east-1", "pathStyle": True, "existingSecret": SECRET},
    "gpu": {"enabled": False, "count": 2, "shmSize": "64Mi"},
    "coordinator": {"resyncSeconds": 2},
    "train": {"threads": 1},
    "run": {
        "name": "demo",
        "profile": "demo",
        "prep": {"llamafactory_export": False, "workers": 1},
        "model": {"threads": 1},
        "train": {"epochs": 1, "batch_size": 4, "log_every_steps": 1, "save_every_steps": 50},
        "eval": {"max_new_tokens": 8, "batch_size": 16, "limit": 16, "controls": ["tuned-shuffled"]},
        "report": {"gallery": 2, "resamples": 200},
    },
}
"""Values of a run of a minute: two training processes, no GPU."""


def merged(*layers: dict[str, Any]) -> dict[str, Any]:
    """Values as helm puts them together: later ones win."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else copy.deepcopy(value)
    return result


def store(server: seaweedfs.SeaweedFS, prefix: str) -> Storage:
    """A prefix of the server's bucket, with this process's credentials."""
    uri = f"s3://{server.bucket}/{prefix}"
    return open_storage(StorageSettings(uri=uri, endpoint_url=server.endpoint_url, region="us-east-1", path_style=True))


def upload_inputs(server: seaweedfs.SeaweedFS, sample: Path) -> None:
    """The sample's data and the tiny model, as a user would put them into the bucket."""
    inputs = store(server, INPUTS)
    inputs.upload(sample / "medtrinity-sample.parquet", "data/medtrinity-sample.parquet")
    for path in sorted((sample / "base-model").iterdir()):
        inputs.upload(path, f"base-model/{path.name}")


@dataclass
class Release:
    """One release: its values so far, and what a person would do with it."""

    cluster: Cluster
    server: seaweedfs.SeaweedFS
    name: str = "medvl-train"
    prefix: str = field(default_factory=lambda: f"store-{uuid.uuid4().hex[:8]}")
    helm: int = 4

    def __post_init__(self) -> None:
        """The Secret is the user's to make."""
        if self.cluster.find("secret", SECRET) is None:
            keys = {
                "AWS_ACCESS_KEY_ID": self.server.access_key_id,
                "AWS_SECRET_ACCESS_KEY": self.server.secret_access_key,
            }
            self.cluster.create({"kind": "Secret", "metadata": {"name": SECRET}, "stringData": keys})
        inputs = f"s3://{self.server.bucket}/{INPUTS}"
        here = {
            "storage": {"endpoint": self.server.endpoint_url, "bucket": self.server.bucket, "prefix": self.prefix},
            "run": {"prep": {"source": f"{inputs}/data"}, "model": {"path": f"{inputs}/base-model"}},
        }
        self.values = merged(SMALL, here)

    @property
    def storage(self) -> Storage:
        """The release's store."""
        return store(self.server, self.prefix)

    def install(self, changed: dict[str, Any] | None = None, command: str = "install", check: bool = True) -> Any:
        """``helm install``, or another command that takes values; ``changed`` stays for the next one."""
        self.values = merged(self.values, changed or {})
        words = (command, self.name, str(CHART), "--values", "-")
        return self.cluster.helm(*words, major=self.helm, check=check, stdin=yaml.safe_dump(self.values))

    def upgrade(self, changed: dict[str, Any] | None = None) -> Any:
        """``helm upgrade``."""
        return self.install(changed, "upgrade")

    @property
    def plan(self) -> str:
        """The name of the plan that is in force."""
        (name,) = self.cluster.names("configmap", f"app.kubernetes.io/instance={self.name}")
        return name

    @property
    def coordinator(self) -> str:
        """The name of the coordinator's Job."""
        (name,) = self.cluster.names(
            "job", f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component=coordinator"
        )
        return name

    def running_coordinator(self) -> str:
        """The name of its pod, once it runs."""

        def look() -> str | None:
            pods = self.cluster.all("pod", f"job-name={self.coordinator}")
            running = [pod["metadata"]["name"] for pod in pods if pod["status"].get("phase") == "Running"]
            return running[-1] if running else None

        return self.cluster.wait("a coordinator that runs", look)

    def finish(self, timeout: float = 900) -> str:
        """Wait until the coordinator's Job is complete; returns what its pods said."""
        job = self.coordinator
        done = self.cluster.wait_for_condition("job", job, "Complete", "Failed", timeout=timeout)
        said = self.said()
        assert condition(done, "Complete"), f"{said}\n{self.cluster.state()}"
        return said

    def fail(self, timeout: float = 600) -> str:
        """Wait until the coordinator's Job has failed; returns what its pods said."""
        done = self.cluster.wait_for_condition("job", self.coordinator, "Complete", "Failed", timeout=timeout)
        said = self.said()
        assert condition(done, "Failed"), f"{said}\n{self.cluster.state()}"
        return said

    def said(self) -> str:
        """The logs of all pods of the coordinator."""
        pods = self.cluster.names("pod", f"job-name={self.coordinator}")
        return "\n".join(self.cluster.logs(pod) for pod in pods)

    def children(self, stage: str | None = None) -> list[Json]:
        """Jobs and PyTorchJobs of the plan in force, oldest first."""
        labels = f"medvl.io/plan={self.plan}" + (f",medvl.io/stage={stage}" if stage else "")
        found = [*self.cluster.all("job", labels), *self.cluster.all("pytorchjob", labels)]
        return sorted(found, key=lambda child: int(child["metadata"]["resourceVersion"]))

    def stages(self) -> list[str]:
        """The stages that have children, sorted."""
        return sorted(child["metadata"]["labels"]["medvl.io/stage"] for child in self.children())

    def wait_for_child(self, stage: str, timeout: float = 400) -> Json:
        """The newest child of a stage, once it is there."""
        return self.cluster.wait(f"a child of {stage}", lambda: self.children(stage), timeout)[-1]

    def wait_to_say(self, text: str, timeout: float = 400) -> str:
        """The coordinator's log, once the text is in it."""

        def look() -> str | None:
            said = self.said()
            return said if text in said else None

        return self.cluster.wait(f"the coordinator says {text!r}", look, timeout)


def condition(obj: Json, kind: str) -> bool:
    """Whether a condition is true."""
    return any(c["type"] == kind and c["status"] == "True" for c in obj["status"].get("conditions") or [])


def planned(said: str) -> dict[str, str]:
    """What the coordinator's plan says of each stage: ``run``, ``reuse``, ``unneeded``."""
    return {stage: action for action, stage in re.findall(r"^(run|reuse|unneeded) +(\S+) +\S+/", said, re.MULTILINE)}


def loss_lines(log: str) -> Iterator[Json]:
    """The JSON lines of a training log."""
    for line in log.splitlines():
        if line.startswith('{"step"'):
            yield yaml.safe_load(line)
