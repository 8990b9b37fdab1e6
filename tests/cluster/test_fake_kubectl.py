"""Real kubectl, of two versions, against the fake."""

from __future__ import annotations

import json
import threading
import time

import pytest
import yaml

from cluster.fakekube import Cluster
from cluster.manifests import job, pod, pytorch_job

VERSIONS = pytest.mark.parametrize("major", [3, 4])
MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}}


@VERSIONS
def test_get_and_describe(cluster: Cluster, major: int) -> None:
    cluster.create(job("j", "echo hello; exit 64", backoffLimit=0))
    cluster.create(pytorch_job("t", "echo hello; sleep 60"))
    cluster.kubectl("wait", "--for=condition=Failed", "job/j", "--timeout=240s", major=major)
    cluster.kubectl("wait", "--for=condition=Running", "pytorchjob/t", "--timeout=240s", major=major)
    listed = cluster.kubectl("get", "pods,jobs,pytorchjobs", "-o", "name", major=major).stdout.split()
    assert {"job.batch/j", "pytorchjob.kubeflow.org/t", "pod/t-master-0"} < set(listed)
    described = cluster.kubectl("describe", "job", "j", major=major).stdout
    assert "BackoffLimitExceeded" in described
    described = cluster.kubectl("describe", "pod", "t-master-0", major=major).stdout
    assert "Started container pytorch" in described
    assert "training.kubeflow.org/job-role=master" in described
    assert cluster.kubectl("logs", "job/j", major=major).stdout == "hello\n"
    assert cluster.kubectl("get", "secret", "none", major=major, check=False).returncode == 1


@VERSIONS
def test_logs_follow_until_the_end(cluster: Cluster, major: int) -> None:
    cluster.create(pytorch_job("t", "for i in 1 2 3; do echo line $i; sleep 0.3; done"))
    cluster.wait_for_log("t-master-0", "line 1")
    following = cluster.start_kubectl("logs", "-f", "t-master-0", major=major)
    out, _ = following.communicate(timeout=240)
    assert out.splitlines() == ["line 1", "line 2", "line 3"]


@VERSIONS
def test_apply(cluster: Cluster, major: int) -> None:
    def apply(*flags: str, **data: str) -> None:
        cluster.kubectl("apply", *flags, "-f", "-", stdin=yaml.safe_dump({**MAP, "data": data}), major=major)

    apply("--server-side", a="1", b="2")
    apply("--server-side", a="3")
    assert cluster.get("cm", "m")["data"] == {"a": "3"}
    apply("--server-side", "--dry-run=server", a="4")
    assert cluster.get("cm", "m")["data"] == {"a": "3"}
    cluster.kubectl("delete", "configmap", "m", major=major)
    apply(a="1", b="2")
    apply(a="5")
    assert cluster.get("cm", "m")["data"] == {"a": "5"}
    shown = cluster.kubectl("get", "cm", "m", "-o", "json", major=major).stdout
    assert json.loads(shown)["data"] == {"a": "5"}


@VERSIONS
def test_delete_waits_for_the_end_of_the_pod(cluster: Cluster, major: int) -> None:
    cluster.create(pod("p", "trap 'sleep 1; exit 0' TERM; echo up; sleep 60 & wait"))
    cluster.wait_for_log("p", "up")
    started = time.monotonic()
    cluster.kubectl("delete", "pod", "p", major=major)
    assert time.monotonic() - started > 0.9
    assert cluster.find("pod", "p") is None


@VERSIONS
def test_get_watch_and_rights(cluster: Cluster, major: int) -> None:
    watching = cluster.start_kubectl("get", "cm", "--watch-only", "-o", "name", major=major)

    def change() -> None:
        cluster.create(MAP)
        while watching.poll() is None:  # again and again: it may not watch yet
            cluster.patch("cm", "m", {"data": {"now": str(time.time_ns())}})
            time.sleep(0.1)

    changing = threading.Thread(target=change, daemon=True)
    changing.start()
    assert watching.stdout is not None
    assert watching.stdout.readline() == "configmap/m\n"
    watching.kill()
    watching.communicate()
    changing.join()
    assert cluster.kubectl("auth", "can-i", "create", "jobs.batch", major=major).stdout == "yes\n"


@VERSIONS
def test_create(cluster: Cluster, major: int) -> None:
    cluster.kubectl("create", "secret", "generic", "s", "--from-literal=k=v", major=major)
    cluster.kubectl("create", "configmap", "c", "--from-literal=k=v", major=major)
    cluster.kubectl("create", "namespace", "team", major=major)
    cluster.kubectl("label", "configmap", "c", "a=b", major=major)
    assert (cluster.get("secret", "s")["data"], cluster.get("cm", "c")["data"]) == ({"k": "dg=="}, {"k": "v"})
    assert cluster.names("cm", "a=b") == ["c"]
    cluster.kubectl("create", "job", "j", "--image=x", "--dry-run=client", "-o", "yaml", "--", "true", major=major)
    assert "No resources found" in cluster.kubectl("get", "all", major=major).stderr
