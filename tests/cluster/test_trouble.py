"""What goes wrong on a cluster: each is said clearly, at the earliest possible moment, and nothing is lost."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import seaweedfs

from cluster.fakekube import Cluster, running_cluster
from cluster.release import INPUTS, SECRET, Release, store, upload_inputs
from medvl_jobs.errors import TryAgainError
from medvl_jobs.storage.base import Storage

pytestmark = pytest.mark.timeout(1800)
COORDINATOR = "app.kubernetes.io/component=coordinator"


@pytest.fixture
def release(cluster: Cluster, inputs: seaweedfs.SeaweedFS) -> Release:
    """Not installed yet; its store is empty."""
    return Release(cluster, inputs)


def last_words(release: Release) -> dict[str, Any]:
    """The termination message of the coordinator's last pod: what ``kubectl describe pod`` shows."""
    pods = release.cluster.all("pod", f"job-name={release.coordinator}")
    ended = [pod["status"]["containerStatuses"][0]["state"]["terminated"] for pod in pods]
    return dict(json.loads(ended[-1]["message"]), exit_code=ended[-1]["exitCode"], pods=len(pods))


# ------------------------------------------------------------------------------------- before anything is installed


@pytest.mark.parametrize("helm", [3, 4])
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"gpus": {"count": 4}}, "gpus"),
        ({"gpu": {"count": "four"}}, "gpu"),
        ({"gpu": {"enabled": True, "count": 0}}, "count"),
        ({"storage": {"bucket": ""}}, "bucket"),
        ({"run": {"name": "Demo-1"}}, "name"),
        ({"run": {"storage": {"uri": "s3://elsewhere"}}}, "storage"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_values_that_helm_refuses(release: Release, helm: int, values: dict[str, Any], said: str) -> None:
    release.helm = helm
    refused = release.install(values, check=False)
    assert refused.returncode != 0
    assert said in refused.stderr, refused.stderr
    assert release.cluster.all("job") == []


def test_a_name_that_is_too_long(release: Release) -> None:
    for length, said in ((54, "53"), (31, "30")):
        release.name = "m" * length
        refused = release.install(check=False)
        assert refused.returncode != 0
        assert said in refused.stderr, refused.stderr


def test_the_same_name_twice(release: Release) -> None:
    release.install()
    refused = release.install(check=False)
    assert re.search("cannot re-?use a name", refused.stderr)  # helm 3 and helm 4


# ----------------------------------------------------------- helm test and the coordinator's first line say the same


def both_say(release: Release, *said: str, code: int) -> None:
    """``helm test`` fails and the coordinator ends at once, both for this reason."""
    tested = release.cluster.helm("test", release.name, "--logs", major=release.helm, check=False)
    assert tested.returncode != 0
    log = release.fail()
    words = last_words(release)
    assert words["exit_code"] == code
    assert words["pods"] == 1, "trying again cannot help, so it was not tried"
    for text in said:
        assert text in log, log
        assert text in tested.stdout, tested.stdout
    assert release.children() == []


def test_a_setting_that_medvl_does_not_know(release: Release) -> None:
    release.install({"run": {"train": {"epoch": 3}}})
    both_say(release, "unknown setting 'train.epoch'", "did you mean 'epochs'?", code=64)


def test_a_field_of_a_manifest_that_kubernetes_does_not_know(release: Release) -> None:
    """Helm lets it through: it lies below a value that is passed on as it is."""
    release.install({"train": {"affinity": {"nodeAffinityy": {}}}})
    both_say(release, "has no field 'nodeAffinityy'", "train.yaml in ConfigMap", code=64)


def test_a_missing_bucket(release: Release) -> None:
    release.install({"storage": {"bucket": "no-such-bucket"}})
    both_say(release, "no such bucket: no-such-bucket", "create bucket no-such-bucket", code=66)


def test_a_missing_secret(release: Release) -> None:
    release.cluster.delete("secret", SECRET)
    release.install()
    both_say(release, "no usable S3 credentials were found", "AWS_ACCESS_KEY_ID", code=77)


def test_a_wrong_s3_key(release: Release) -> None:
    release.cluster.patch("secret", SECRET, {"stringData": {"AWS_SECRET_ACCESS_KEY": "wrong"}})
    release.install()
    both_say(release, "S3 refuses", code=77)


def test_a_source_that_is_not_there(release: Release) -> None:
    release.install({"run": {"prep": {"source": f"s3://{release.server.bucket}/nowhere"}}})
    both_say(release, "nowhere", code=66)


def test_a_model_that_is_not_there(release: Release) -> None:
    release.install({"run": {"model": {"path": f"s3://{release.server.bucket}/nowhere"}}})
    both_say(release, "there is no checkpoint in the bucket", code=66)


def test_a_cluster_without_the_training_operator(inputs: seaweedfs.SeaweedFS) -> None:
    with running_cluster(pytorch_jobs=False) as cluster:
        release = Release(cluster, inputs)
        assert "knows no PyTorchJob" in release.install().stdout
        both_say(release, "this cluster knows no PyTorchJob", "install Kubeflow's training operator", code=66)


def test_rights_that_are_too_small(release: Release) -> None:
    release.install()
    (role,) = release.cluster.all("role")
    smaller = [rule for rule in role["rules"] if "pytorchjobs" not in rule["resources"]]
    release.cluster.helm("uninstall", release.name)
    release.cluster.wait("no job", lambda: not release.cluster.all("job"))
    # somebody else's role, as where the chart may not make one
    release.cluster.create({"kind": "ServiceAccount", "metadata": {"name": "ours"}})
    release.cluster.create({"kind": "Role", "metadata": {"name": "ours"}, "rules": smaller})
    subject = {"kind": "ServiceAccount", "name": "ours", "namespace": "default"}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "ours"}
    release.cluster.create(
        {"kind": "RoleBinding", "metadata": {"name": "ours"}, "subjects": [subject], "roleRef": reference}
    )
    release.install({"serviceAccount": {"coordinator": {"create": False, "name": "ours"}}})
    (bound,) = [r for r in release.cluster.all("rolebinding") if r["metadata"]["name"] != "ours"] or [None]
    if bound:  # the chart's own binding would give it everything
        release.cluster.delete("rolebinding", bound["metadata"]["name"])
    both_say(release, "the coordinator may not", "create pytorchjobs.kubeflow.org", code=77)


# --------------------------------------------------------------------------------------------------- later, in a stage


def test_bad_data_ends_the_run_before_a_gpu_is_asked_for(release: Release) -> None:
    store(release.server, INPUTS).write_bytes(
        "bad/rows.jsonl", b'{"id": "a", "caption": "c", "image": "none.png"}\n' * 3
    )
    source = f"s3://{release.server.bucket}/{INPUTS}/bad"
    release.install({"run": {"prep": {"source": source, "image_folder": source}}})
    said = release.fail()
    words = last_words(release)
    assert (words["error"], words["exit_code"]) == ("DataError", 65)
    assert "prep failed:" in words["reason"]
    assert "the last lines of" in said
    assert release.stages() == ["prep"], "nothing that needs it was created"
    (prep,) = release.children("prep")
    assert [c["reason"] for c in prep["status"]["conditions"] if c["type"] == "Failed"] == ["PodFailurePolicy"]
    assert any("StageFailed" in event for event in release.cluster.events(release.plan))


def test_a_training_that_can_never_succeed_is_not_tried_for_ever(release: Release, copied: Callable[..., str]) -> None:
    release.prefix = release.values["storage"]["prefix"] = copied()
    release.install({"run": {"train": {"max_tokens": 16}}})
    said = release.fail()
    assert last_words(release)["exit_code"] == 65
    (train,) = release.children("train")
    release.cluster.wait_for_condition("pytorchjob", train["metadata"]["name"], "Failed")
    assert json.loads(train["metadata"]["annotations"]["medvl.io/gave-up"])["exit_code"] == 65
    release.cluster.wait("its GPUs are free", lambda: not release.cluster.all("pod", "medvl.io/stage=train"))
    assert "the last lines of" in said

    # the next coordinator knows it, and a higher attempt tries again
    release.upgrade({"coordinator": {"podLabels": {"another": "coordinator"}}})
    assert "train failed" in release.fail()
    assert len(release.children("train")) == 1
    release.upgrade({"attempt": 2})
    release.fail()
    assert len(release.children("train")) == 2


def test_an_image_that_cannot_be_pulled(release: Release, copied: Callable[..., str]) -> None:
    release.prefix = release.values["storage"]["prefix"] = copied("runs/")
    release.cluster.kubelet.unpullable.add("*prep:nowhere*")
    release.install({"coordinator": {"giveUpAfterSeconds": 2}, "images": {"prep": {"tag": "0.1.0"}}})
    release.finish()
    release.cluster.kubelet.unpullable.add("*eval:nowhere*")
    release.upgrade({"images": {"eval": {"tag": "nowhere"}}, "run": {"eval": {"max_new_tokens": 9}}})
    release.wait_to_say("ImagePull")
    release.fail()
    words = last_words(release)
    assert words["exit_code"] == 69
    assert "cannot start: " in words["reason"]
    assert "nowhere" in words["reason"]


def test_pods_that_pod_security_refuses(release: Release, copied: Callable[..., str]) -> None:
    enforced = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    release.cluster.patch("namespace", "default", enforced)
    release.prefix = release.values["storage"]["prefix"] = copied("runs/", "predictions/eval", "adapters/")
    rdma = {"rdma": {"enabled": True, "resource": "rdma/hca", "count": 1}}
    release.install({"train": rdma, "coordinator": {"giveUpAfterSeconds": 8}})
    release.wait_to_say("violates PodSecurity")
    release.fail()
    words = last_words(release)
    assert words["exit_code"] == 69
    assert "train cannot start: " in words["reason"]
    assert "violates PodSecurity" in words["reason"]


def test_more_gpus_than_a_node_has_is_waited_for_and_said(release: Release, copied: Callable[..., str]) -> None:
    release.prefix = release.values["storage"]["prefix"] = copied("runs/", "predictions/", "adapters/")
    release.install({"gpu": {"enabled": True, "count": 16}, "coordinator": {"giveUpAfterSeconds": 1}})
    said = release.wait_to_say("Insufficient nvidia.com/gpu")
    assert "train               waits: Unschedulable: 0/1 nodes are available" in said


def test_kueue_holds_a_stage_back(release: Release, copied: Callable[..., str]) -> None:
    """Kueue suspends what has its label, as its webhook does, until there is room. Here the test is Kueue."""
    release.prefix = release.values["storage"]["prefix"] = copied("runs/")
    release.install({"queue": {"kueue": {"enabled": True, "localQueue": "gpu-queue"}}})
    report = release.wait_for_child("report")
    assert report["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpu-queue"
    coordinator = release.cluster.get("job", release.coordinator)
    assert "kueue.x-k8s.io/queue-name" not in coordinator["metadata"]["labels"]
    release.cluster.patch("job", report["metadata"]["name"], {"spec": {"suspend": True}})
    release.wait_to_say("queued")
    assert release.cluster.find("job", report["metadata"]["name"]) is not None
    release.cluster.patch("job", report["metadata"]["name"], {"spec": {"suspend": False}})
    release.finish()


# --------------------------------------------------------------------------------------------------------- the weather


def test_an_api_server_that_stumbles(release: Release, copied: Callable[..., str]) -> None:
    release.prefix = release.values["storage"]["prefix"] = copied("runs/", "predictions/")
    cluster = release.cluster
    cluster.fail_next(1, "POST", "/jobs", status=500, when="after")  # created, and the answer was lost
    cluster.fail_next(2, "GET", "/pytorchjobs", status=503)
    cluster.fail_next(2, "(PUT|POST)", "/leases", status=409)
    cluster.fail_next(1, "GET", "/pods", status=None)
    cluster.fail_next(1, "POST", "/events", status=500)
    release.install()
    release.wait_for_child("eval-base")
    cluster.forget_old_versions()
    cluster.drop_watches()
    with cluster.api_down():
        release.cluster.wait_for_log(release.running_coordinator(), "looking again in")
    said = release.finish()
    assert "looking again" in said
    assert release.stages() == ["eval-base", "eval-tuned", "eval-tuned-shuffled", "report"]


def test_a_refusal_that_passes_and_a_renewal_whose_answer_is_lost(release: Release, copied: Callable[..., str]) -> None:
    release.prefix = release.values["storage"]["prefix"] = copied("runs/", "predictions/")
    cluster = release.cluster
    release.install({"coordinator": {"extraEnv": [{"name": "MEDVL_CLUSTER__LEASE_SECONDS", "value": "3"}]}})
    release.wait_for_child("eval-tuned")
    cluster.fail_next(1, "GET", "/pods", status=403)  # a server that has just started
    cluster.fail_next(1, "PUT", "/leases", status=None, when="after")
    cluster.fail_next(1, "GET", "/leases", status=403)
    said = release.finish()
    assert "Kubernetes refuses" in said
    assert "looking again in" in said
    assert len(cluster.all("pod", f"job-name={release.coordinator}")) == 1


def test_a_log_that_is_no_text(release: Release, copied: Callable[..., str]) -> None:
    release.prefix = release.values["storage"]["prefix"] = copied("runs/")
    cluster = release.cluster
    release.install({"report": {"backoffLimit": 0}, "coordinator": {"attempts": 1}})
    report = release.wait_for_child("report")
    (pod,) = cluster.wait("its pod", lambda: cluster.names("pod", f"job-name={report['metadata']['name']}"))
    cluster.wait_for_phase(pod, "Running")
    with cluster.launcher.log_file(cluster.get("pod", pod)["metadata"]["uid"], "medvl", 0).open("ab") as log:
        log.write(b"\xff\xfe\n")
    cluster.kill(pod)
    release.fail()
    assert last_words(release)["exit_code"] == 69


def test_a_store_that_is_full(cluster: Cluster, inputs: seaweedfs.SeaweedFS, tmp_path: Path) -> None:
    with seaweedfs.running(megabytes=56) as small:
        upload_inputs(small, build_sample_of(inputs, tmp_path))
        release = Release(cluster, small)
        release.install({"coordinator": {"attempts": 1}, "prep": {"backoffLimit": 1}})
        release.running_coordinator()
        cluster.kubelet.unpullable.add("*prep*")  # until the store is full
        release.wait_to_say("ImagePull")
        fill(release.storage)
        cluster.kubelet.unpullable.clear()
        release.fail()
        words = last_words(release)
    assert words["exit_code"] == 69
    assert "prep failed in 1 attempt, at last: S3 did not do it this time" in words["reason"]
    assert release.stages() == ["prep"]


def build_sample_of(inputs: seaweedfs.SeaweedFS, folder: Path) -> Path:
    """The sample, out of the bucket of all tests."""
    source = store(inputs, INPUTS)
    for key in ("data/medtrinity-sample.parquet", *source.list_keys("base-model/")):
        source.download(key, folder / key.removeprefix("data/"))
    return folder


def fill(storage: Storage) -> None:
    """Write until nothing more goes in."""
    with suppress(TryAgainError):
        for number in range(1000):
            storage.write_bytes(f"junk/{number}", os.urandom(2**20))
        raise AssertionError("it takes anything")
