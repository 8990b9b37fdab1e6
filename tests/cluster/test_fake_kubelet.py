"""The fake's scheduler and kubelet: volumes, environment, pods that cannot start, and the end of processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.fakekube import ApiError, Cluster, running_cluster
from cluster.manifests import container, pod
from medvl_jobs import __version__

SHOW = "python -c 'import json,os,sys; print(json.dumps([dict(os.environ), sys.argv[1:]]))'"


def waiting(cluster: Cluster, name: str) -> dict:
    (status,) = cluster.get("pod", name)["status"].get("containerStatuses") or [{}]
    return status.get("state", {}).get("waiting") or {}


def test_the_environment_is_what_the_manifest_says(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDVL_SECRET_OF_THE_TEST", "x")
    cluster.create({"kind": "Secret", "metadata": {"name": "s"}, "stringData": {"user": "me"}})
    cluster.create({"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"A": "1", "B": "2"}})
    env = [
        {"name": "B", "value": "3"},
        {"name": "USER_NAME", "valueFrom": {"secretKeyRef": {"name": "s", "key": "user"}}},
        {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "user", "optional": True}}},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "MARK", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['mark']"}}},
        {"name": "BOTH", "value": "$(POD)-$(B)-$(UNKNOWN)-$$(B)"},
    ]
    made = pod("p", SHOW, main={"env": env, "envFrom": [{"configMapRef": {"name": "c"}}]})
    made["metadata"]["labels"] = {"mark": "m"}
    cluster.create(made)
    cluster.wait_for_phase("p", "Succeeded")
    seen, _ = json.loads(cluster.logs("p"))
    expected = {"A": "1", "B": "3", "USER_NAME": "me", "POD": "p", "MARK": "m", "BOTH": "p-3-$(UNKNOWN)-$(B)"}
    assert {key: seen.get(key) for key in expected} == expected
    assert "NONE" not in seen
    assert "MEDVL_SECRET_OF_THE_TEST" not in seen


def test_paths_inside_of_mounts_are_real(cluster: Cluster) -> None:
    cluster.create({"kind": "ConfigMap", "metadata": {"name": "run"}, "data": {"run.yaml": "a: 1", "other": ""}})
    cluster.create({"kind": "PersistentVolumeClaim", "metadata": {"name": "models"}, "spec": {}})
    volumes = [
        {"name": "run", "configMap": {"name": "run", "items": [{"key": "run.yaml", "path": "run.yaml"}]}},
        {"name": "models", "persistentVolumeClaim": {"claimName": "models"}},
        {"name": "tmp", "emptyDir": {}},
    ]
    mounts = [
        {"name": "run", "mountPath": "/etc/medvl"},
        {"name": "models", "mountPath": "/models"},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    env = [{"name": "HOME", "value": "/tmp"}, {"name": "HF_HOME", "value": "/tmp/hf"}]
    words = ["--config", "/etc/medvl/run.yaml", "x=/models/a", "s3://bucket/tmp/b", "/etcetera", "/modelsX"]
    command = ["python", "-c", "import json,os,sys; print(json.dumps([dict(os.environ), sys.argv[1:]]))"]
    made = pod("p", "", main={"command": command, "args": words, "volumeMounts": mounts, "env": env}, volumes=volumes)
    made["spec"]["initContainers"] = [container("echo weights > /models/a", "fill", volumeMounts=mounts)]
    cluster.create(made)
    cluster.wait_for_phase("p", "Succeeded")
    seen, args = json.loads(cluster.logs("p"))
    assert Path(args[1]).read_text() == "a: 1"
    assert os.listdir(Path(args[1]).parent) == ["run.yaml"]
    models = cluster.kubelet.volumes.of_claim("default", "models")
    assert args[2] == f"x={models}/a"
    assert (models / "a").read_text() == "weights\n"
    assert args[3:] == ["s3://bucket/tmp/b", "/etcetera", "/modelsX"]
    assert seen["HOME"] == seen["TMPDIR"] != "/tmp"
    assert seen["HF_HOME"] == f"{seen['HOME']}/hf"
    init, main = (cluster.get("pod", "p")["status"][kind][0] for kind in ("initContainerStatuses", "containerStatuses"))
    assert init["state"]["terminated"]["exitCode"] == main["state"]["terminated"]["exitCode"] == 0


def test_a_host_path_below_the_temporary_folder_is_itself(cluster: Cluster, tmp_path: Path) -> None:
    volumes = [{"name": "data", "hostPath": {"path": str(tmp_path)}}]
    mounts = [{"name": "data", "mountPath": "/data"}]
    cluster.create(pod("p", "echo here > /data/file", main={"volumeMounts": mounts}, volumes=volumes))
    cluster.wait_for_phase("p", "Succeeded")
    assert (tmp_path / "file").read_text() == "here\n"


def test_a_missing_secret_holds_the_container(cluster: Cluster) -> None:
    env = [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s3", "key": "key"}}}]
    cluster.create(pod("p", "echo $KEY", main={"env": env}))
    found = cluster.wait("it waits", lambda: "message" in waiting(cluster, "p") and waiting(cluster, "p"))
    assert found == {"reason": "CreateContainerConfigError", "message": 'secret "s3" not found'}
    cluster.create({"kind": "Secret", "metadata": {"name": "s3"}, "stringData": {"wrong": "1"}})
    message = "couldn't find key key in Secret default/s3"
    cluster.wait("the key", lambda: waiting(cluster, "p").get("message") == message)
    cluster.patch("secret", "s3", {"stringData": {"key": "value"}})
    cluster.wait_for_phase("p", "Succeeded")
    assert cluster.logs("p") == "value\n"


def test_a_missing_config_map_holds_the_pod(cluster: Cluster) -> None:
    volumes = [{"name": "run", "configMap": {"name": "plan"}}]
    cluster.create(pod("p", "true", volumes=volumes))
    text = 'FailedMount: MountVolume.SetUp failed for volume "run" : configmap "plan" not found'
    cluster.wait("the event", lambda: f"p: {text}" in cluster.events("p"))
    cluster.wait("it waits", lambda: waiting(cluster, "p") == {"reason": "ContainerCreating"})
    cluster.create({"kind": "ConfigMap", "metadata": {"name": "plan"}, "data": {}})
    cluster.wait_for_phase("p", "Succeeded")


def test_an_image_that_cannot_be_pulled(cluster: Cluster) -> None:
    cluster.kubelet.unpullable.add("registry/image:*")
    cluster.create(pod("p", "true"))
    for reason in ("ErrImagePull", "ImagePullBackOff"):
        cluster.wait(reason, lambda reason=reason: waiting(cluster, "p").get("reason") == reason)
    assert cluster.get("pod", "p")["status"]["phase"] == "Pending"
    cluster.kubelet.unpullable.clear()
    cluster.wait_for_phase("p", "Succeeded")


def test_a_pod_that_asks_for_too_much_waits_for_room() -> None:
    with running_cluster(capacity={"nvidia.com/gpu": "4"}) as cluster:
        gpus = {"resources": {"limits": {"nvidia.com/gpu": 4}}}
        cluster.create(pod("first", "sleep 60", main=gpus))
        cluster.wait_for_phase("first", "Running")
        cluster.create(pod("second", "true", main=gpus))
        scheduled = cluster.wait("it is refused", lambda: cluster.get("pod", "second")["status"].get("conditions"))[0]
        assert (scheduled["type"], scheduled["status"], scheduled["reason"]) == (
            "PodScheduled",
            "False",
            "Unschedulable",
        )
        assert scheduled["message"] == "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
        cluster.delete("pod", "first")
        cluster.wait_for_phase("second", "Succeeded")


def test_the_end_of_a_process(cluster: Cluster) -> None:
    cluster.create(pod("killed", "echo up; sleep 60"))
    cluster.create(pod("stubborn", "trap '' TERM; echo up; sleep 600; sleep 600", terminationGracePeriodSeconds=3))
    cluster.create(pod("nothing", "", main={"command": ["no-such-program"]}))
    cluster.wait_for_log("killed", "up")
    cluster.kill("killed", reason="OOMKilled")
    failed = cluster.wait_for_phase("killed", "Failed")
    ended = failed["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")
    cluster.wait_for_log("stubborn", "up")
    started = time.monotonic()
    cluster.delete("pod", "stubborn")
    assert cluster.get("pod", "stubborn")["metadata"]["deletionTimestamp"]
    cluster.wait_gone("pod", "stubborn")
    assert 2.8 < time.monotonic() - started < 25
    refused = cluster.wait_for_phase("nothing", "Failed")
    ended = refused["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
    assert "executable file not found" in ended["message"]


def is_alive(pid_file: Path) -> bool:
    try:
        return "sleep" in Path(f"/proc/{int(pid_file.read_text())}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return False


def test_nothing_outlives_its_container_or_the_cluster(tmp_path: Path) -> None:
    """Also what has made a session of its own."""
    with running_cluster() as cluster:
        for name, then in (("short", "sleep 0.2"), ("long", "sleep 60")):
            cluster.create(pod(name, f"setsid sleep 777 & echo $! > {tmp_path}/{name}; echo up; {then}"))
            cluster.wait_for_log(name, "up")
        cluster.wait_for_phase("short", "Succeeded")
        assert not is_alive(tmp_path / "short")
        assert is_alive(tmp_path / "long")
    assert not is_alive(tmp_path / "long")


def test_nothing_outlives_a_killed_test_run(tmp_path: Path) -> None:
    script = (
        "import time\nfrom cluster.fakekube import running_cluster\nfrom cluster.manifests import pod\n"
        "with running_cluster() as cluster:\n"
        f"    cluster.create(pod('p', 'sh -c \"echo \\$PPID\" > {tmp_path}/pid; exec sleep 777'))\n"
        "    time.sleep(600)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "TMPDIR": str(tmp_path)}
    run = subprocess.Popen([sys.executable, "-c", script], env=env)
    deadline = time.monotonic() + 240
    while not is_alive(tmp_path / "pid") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_alive(tmp_path / "pid")
    run.kill()
    run.wait()
    deadline = time.monotonic() + 60
    while is_alive(tmp_path / "pid") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(tmp_path / "pid")


def test_a_container_says_last_words(cluster: Cluster) -> None:
    cluster.create(pod("file", "echo said > /dev/termination-log; exit 1"))
    cluster.create(pod("log", "seq 100; exit 1", main={"terminationMessagePolicy": "FallbackToLogsOnError"}))
    said = {
        name: cluster.wait_for_phase(name, "Failed")["status"]["containerStatuses"][0]["state"]["terminated"]
        for name in ("file", "log")
    }
    assert said["file"]["message"] == "said\n"
    assert said["log"]["message"].splitlines() == [str(number) for number in range(21, 101)]


def test_a_pod_of_medvl_runs_medvl(cluster: Cluster) -> None:
    cluster.create(pod("p", "", main={"command": ["medvl"], "args": ["--version"]}))
    cluster.wait_for_phase("p", "Succeeded")
    assert cluster.logs("p") == f"{__version__}\n"


def test_a_pod_refused(cluster: Cluster) -> None:
    mounts = [{"name": "nowhere", "mountPath": "/x"}]
    with pytest.raises(ApiError, match="nowhere"):
        cluster.create(pod("p", "true", main={"volumeMounts": mounts}))
    with pytest.raises(ApiError, match=r"configMap\.name: Required value"):
        cluster.create(pod("p", "true", volumes=[{"name": "run", "configMap": {"name": ""}}]))


def test_a_restricted_namespace(cluster: Cluster) -> None:
    enforced = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.patch("namespace", "default", {"metadata": {"labels": enforced}})
    with pytest.raises(ApiError, match="violates PodSecurity") as error:
        cluster.create(pod("p", "true"))
    assert 'allowPrivilegeEscalation != false (container "medvl" must set' in error.value.message
    own = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    whole = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    cluster.create(pod("p", "true", main={"securityContext": own}, securityContext=whole))
    cluster.wait_for_phase("p", "Succeeded")
