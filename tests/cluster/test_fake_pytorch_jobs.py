"""The fake's training operator: what it injects, how it restarts, and what its conditions say."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.fakekube import ApiError, Cluster
from cluster.manifests import container, pytorch_job

WAITS_FOR_TERM = "trap 'echo saved; exit 143' TERM; echo up; sleep 60 & wait"


def conditions(cluster: Cluster, name: str = "t") -> dict[str, tuple[str, str]]:
    found = cluster.get("pytorchjob", name)["status"]["conditions"]
    return {each["type"]: (each["status"], each["reason"]) for each in found}


def test_exactly_this_environment_is_injected(cluster: Cluster) -> None:
    own = [{"name": "MINE", "value": "1"}, {"name": "WORLD_SIZE", "value": "mine loses"}]
    cluster.create(pytorch_job("t", "env | sort", main={"env": own}))
    cluster.wait_for_condition("pytorchjob", "t", "Succeeded")
    pod = cluster.get("pod", "t-master-0")
    injected = [
        ("PYTHONUNBUFFERED", "1"),
        ("MASTER_PORT", "23456"),
        ("PET_MASTER_PORT", "23456"),
        ("MASTER_ADDR", "t-master-0"),
        ("PET_MASTER_ADDR", "t-master-0"),
        ("WORLD_SIZE", "2"),
        ("RANK", "0"),
        ("PET_NODE_RANK", "0"),
        ("PET_NPROC_PER_NODE", "2"),
        ("PET_NNODES", "1"),
    ]
    env = [(each["name"], each["value"]) for each in pod["spec"]["containers"][0]["env"]]
    assert env == [("MINE", "1"), ("WORLD_SIZE", "mine loses"), *injected]
    seen = dict(line.split("=", 1) for line in cluster.logs("t-master-0").splitlines())
    base = {"PATH", "HOME", "LANG", "HOSTNAME", "TMPDIR", "KUBECONFIG", "MEDVL_TERMINATION_LOG"}
    shell = {"PWD", "OLDPWD", "SHLVL", "_"}
    assert set(seen) - shell == base | {name for name, _ in env}
    assert seen["MASTER_ADDR"] == seen["PET_MASTER_ADDR"] == "127.0.0.1"
    assert seen["MASTER_PORT"] == seen["PET_MASTER_PORT"] != "23456"
    assert {name: seen[name] for name, value in injected if "MASTER" not in name} == {
        name: value for name, value in injected if "MASTER" not in name
    }


def test_labels_service_and_conditions(cluster: Cluster, tmp_path: Path) -> None:
    cluster.create(pytorch_job("t", f"until test -e {tmp_path}/go; do sleep 0.1; done"))
    cluster.wait_for_condition("pytorchjob", "t", "Running")
    pod = cluster.get("pod", "t-master-0")
    assert pod["metadata"]["labels"] == {
        "training.kubeflow.org/job-name": "t",
        "training.kubeflow.org/job-role": "master",
        "training.kubeflow.org/operator-name": "pytorchjob-controller",
        "training.kubeflow.org/replica-index": "0",
        "training.kubeflow.org/replica-type": "master",
    }
    assert cluster.get("service", "t-master-0")["spec"]["clusterIP"] == "None"
    (tmp_path / "go").touch()
    done = cluster.wait_for_condition("pytorchjob", "t", "Succeeded")
    assert conditions(cluster) == {
        "Created": ("True", "PyTorchJobCreated"),
        "Running": ("False", "PyTorchJobRunning"),
        "Succeeded": ("True", "PyTorchJobSucceeded"),
    }
    assert "completionTime" in done["status"]


def test_workers_share_the_port_and_differ_in_rank(cluster: Cluster) -> None:
    script = 'echo "$RANK $WORLD_SIZE $PET_NNODES $MASTER_PORT"; test $RANK = 1 || sleep 1'
    cluster.create(pytorch_job("t", script, workers=1))
    cluster.wait_for_condition("pytorchjob", "t", "Succeeded")
    master, worker = (cluster.wait_for_log(f"t-{role}-0", "\n").split() for role in ("master", "worker"))
    assert (master[:3], worker[:3]) == (["0", "4", "2"], ["1", "4", "2"])
    assert master[3] == worker[3]
    assert cluster.get("pod", "t-worker-0")["spec"]["initContainers"][0]["name"] == "init-pytorch"


def test_a_failed_container_starts_again_in_its_pod(cluster: Cluster) -> None:
    volume = {"volumes": [{"name": "scratch", "emptyDir": {}}]}
    mount = {"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}
    script = "echo run >> /scratch/runs; echo `wc -l < /scratch/runs`; test `wc -l < /scratch/runs` -ge 3 || exit 137"
    job = pytorch_job("t", script, main=mount, backoffLimit=5)
    job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"].update(volume)
    cluster.create(job)
    cluster.wait_for_condition("pytorchjob", "t", "Succeeded")
    (status,) = cluster.get("pod", "t-master-0")["status"]["containerStatuses"]
    assert status["restartCount"] == 2
    assert status["lastState"]["terminated"]["exitCode"] == 137
    assert cluster.logs("t-master-0").strip() == "3"
    assert cluster.logs("t-master-0", previous=True).strip() == "2"


def test_the_backoff_limit_counts_restarts_of_running_pods(cluster: Cluster) -> None:
    cluster.create(pytorch_job("t", "sleep 0.3; exit 1", backoffLimit=2, cleanPodPolicy="Running"))
    failed = cluster.wait_for_condition("pytorchjob", "t", "Failed")
    (reason,) = [c["message"] for c in failed["status"]["conditions"] if c["type"] == "Failed"]
    assert reason == "Job t has failed because it has reached the specified backoff limit"
    assert conditions(cluster)["Running"][0] == "False"
    cluster.wait_gone("pod", "t-master-0")
    assert cluster.names("service") == []


def test_an_evicted_pod_is_made_anew(cluster: Cluster) -> None:
    cluster.create(pytorch_job("t", WAITS_FOR_TERM))
    cluster.wait_for_log("t-master-0", "up")
    first = cluster.get("pod", "t-master-0")["metadata"]["uid"]
    cluster.evict("t-master-0")
    pods = cluster.wait("another pod", lambda: [p for p in cluster.all("pod") if p["metadata"]["uid"] != first])
    assert pods[0]["metadata"]["name"] == "t-master-0"
    cluster.wait_for_condition("pytorchjob", "t", "Running")
    assert any("PyTorchJobRestarting" in line for line in cluster.events("t"))


@pytest.mark.parametrize(("policy", "ends"), [("OnFailure", False), ("Never", True)])
def test_a_drain(cluster: Cluster, tmp_path: Path, policy: str, ends: bool) -> None:
    """With Never, a pod that is being deleted counts as failed: the operator gives the job up."""
    script = f"trap 'until test -e {tmp_path}/go; do sleep 0.1; done; exit 143' TERM; echo up; sleep 600 & wait"
    cluster.create(pytorch_job("t", script, restartPolicy=policy))
    cluster.wait_for_log("t-master-0", "up")
    first = cluster.get("pod", "t-master-0")["metadata"]["uid"]
    cluster.drain("t-master-0")
    if ends:
        cluster.wait_for_condition("pytorchjob", "t", "Failed")
    else:
        cluster.wait_for_condition("pytorchjob", "t", "Restarting")
        (tmp_path / "go").touch()
        cluster.wait("another pod", lambda: [p for p in cluster.all("pod") if p["metadata"]["uid"] != first])


def test_exit_code_policy(cluster: Cluster) -> None:
    cluster.create(pytorch_job("t", "exit 3", restartPolicy="ExitCode"))
    failed = cluster.wait_for_condition("pytorchjob", "t", "Failed")
    assert "completionTime" not in failed["status"]


def test_suspend_deletes_the_pod_and_nothing_is_counted(cluster: Cluster) -> None:
    cluster.create(pytorch_job("t", WAITS_FOR_TERM))
    cluster.wait_for_log("t-master-0", "up")
    cluster.patch("pytorchjob", "t", {"spec": {"runPolicy": {"suspend": True}}})
    cluster.wait_for_condition("pytorchjob", "t", "Suspended")
    cluster.wait_gone("pod", "t-master-0")
    assert conditions(cluster)["Running"] == ("False", "PyTorchJobSuspended")
    cluster.patch("pytorchjob", "t", {"spec": {"runPolicy": {"suspend": False}}})
    cluster.wait_for_condition("pytorchjob", "t", "Running")
    assert conditions(cluster)["Suspended"] == ("False", "PyTorchJobResumed")


def test_the_webhook(cluster: Cluster) -> None:
    job = pytorch_job("t", "true")
    del job["spec"]["pytorchReplicaSpecs"]["Master"]["replicas"]
    with pytest.raises(ApiError, match="must be 1"):
        cluster.create(job)
    job = pytorch_job("t", "true")
    job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"] = [container("true", "other")]
    with pytest.raises(ApiError, match="pytorch"):
        cluster.create(job)
    job = pytorch_job("t", "true")
    job["spec"]["nprocPerNode"] = 2
    with pytest.raises(ApiError, match="string"):
        cluster.create(job)
