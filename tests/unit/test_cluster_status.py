"""What the coordinator reads out of objects in the API's JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from medvl_jobs.cluster.schema import check
from medvl_jobs.cluster.status import (
    GAVE_UP,
    Phase,
    failure_of,
    last_words,
    phase,
    seconds_ready_to_start,
    trouble,
)
from medvl_jobs.errors import SettingsError


def child(kind: str, *conditions: str, annotations: dict[str, str] | None = None, **status: Any) -> dict[str, Any]:
    listed = [{"type": name.lstrip("!"), "status": "False" if name.startswith("!") else "True"} for name in conditions]
    metadata = {"name": "c", "annotations": annotations or {}}
    return {"kind": kind, "metadata": metadata, "status": {"conditions": listed, **status}}


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        ({"kind": "Job", "metadata": {}}, Phase.WAITING),
        (child("Job", active=1), Phase.WAITING),
        (child("Job", active=1, ready=1), Phase.RUNNING),
        (child("Job", "Suspended"), Phase.QUEUED),
        (child("Job", "!Suspended", ready=1), Phase.RUNNING),
        (child("Job", "SuccessCriteriaMet", "Complete"), Phase.SUCCEEDED),
        (child("Job", "FailureTarget"), Phase.WAITING),
        (child("Job", "FailureTarget", "Failed"), Phase.FAILED),
        (child("Job", "Suspended", annotations={GAVE_UP: "{}"}), Phase.FAILED),
        (child("PyTorchJob", "Created"), Phase.WAITING),
        (child("PyTorchJob", "Created", "Running"), Phase.RUNNING),
        (child("PyTorchJob", "Created", "!Running", "Restarting"), Phase.WAITING),
        (child("PyTorchJob", "Created", "Suspended"), Phase.QUEUED),
        (child("PyTorchJob", "Created", "!Running", "Succeeded"), Phase.SUCCEEDED),
        (child("PyTorchJob", "Created", "!Running", "Failed"), Phase.FAILED),
        (child("PyTorchJob", "Suspended", annotations={GAVE_UP: "{}"}), Phase.FAILED),
        (child("PyTorchJob", "Succeeded", annotations={GAVE_UP: "{}"}), Phase.SUCCEEDED),
    ],
)
def test_phase(obj: dict[str, Any], expected: Phase) -> None:
    assert phase(obj) is expected


def ended(code: int, message: str = "", reason: str = "Error", at: str = "2026-01-01T00:00:00Z") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "message": message, "reason": reason, "finishedAt": at}}


def pod(
    *states: dict[str, Any],
    init: tuple[dict[str, Any], ...] = (),
    phase: str = "Failed",
    name: str = "p",
    **status: Any,
) -> dict[str, Any]:
    containers = {"containerStatuses": list(states), "initContainerStatuses": list(init)}
    return {"metadata": {"name": name}, "status": {"phase": phase, **containers, **status}}


def test_last_words_are_the_jobs_own() -> None:
    said = {"error": "DataError", "exit_code": 65, "reason": "it is bad", "where": "row 3", "remedy": "mend it"}
    words = last_words([pod({"state": ended(65, "noise\n" + json.dumps(said))})])
    assert words is not None
    assert (words.exit_code, words.reason, words.remedy, words.permanent) == (65, "it is bad (row 3)", "mend it", True)


def test_last_words_of_a_container_that_said_nothing() -> None:
    words = last_words([pod({"state": ended(137, reason="OOMKilled")})])
    assert words is not None
    assert "memory" in words.reason
    assert "limits" in words.remedy
    assert not words.permanent
    words = last_words([pod({"state": ended(1, "Traceback\nValueError")})])
    assert words is not None
    assert "ValueError" in words.reason
    words = last_words([pod({"state": ended(1, "[1]")})])
    assert words is not None
    assert words.reason == "[1]"
    assert last_words([pod({"state": ended(0)}, phase="Succeeded"), {"metadata": {}}]) is None


def test_the_last_to_end_has_the_last_word() -> None:
    early, late = ended(75, "early", at="2026-01-01T00:00:00Z"), ended(143, "late", at="2026-01-01T00:00:09Z")
    words = last_words([pod({"state": late}), pod({"state": early})])
    assert words is not None
    assert words.reason == "late"
    # restarted in place: it runs now, and what it said before counts
    words = last_words([pod({"state": {"running": {}}, "lastState": early}, phase="Running")])
    assert words is not None
    assert words.exit_code == 75
    words = last_words([pod(init=({"state": late},))])
    assert words is not None
    assert words.exit_code == 143


def test_the_one_that_cannot_be_cured_has_the_word_before_all_others() -> None:
    bad, crashed = {"state": ended(65, "bad rows")}, {"state": ended(70, "a peer is gone", at="2026-01-01T00:00:09Z")}
    words = last_words([pod(bad, name="worker-1"), pod(crashed, name="master-0")])
    assert words is not None
    assert (words.exit_code, words.pod) == (65, "worker-1")


def test_words_that_no_program_of_ours_wrote() -> None:
    words = last_words([pod({"state": ended(1, "[" * 4000)})])
    assert words is not None
    assert words.exit_code == 1


def test_a_pod_is_ready_to_start_when_it_has_its_node_and_its_weights() -> None:
    bound = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    fetched = {"state": {"terminated": {"exitCode": 0, "finishedAt": "2026-01-01T01:00:00Z"}}}
    now = datetime(2026, 1, 1, 1, 0, 30, tzinfo=UTC)
    assert seconds_ready_to_start(pod(conditions=[bound]), now) == 3630
    assert seconds_ready_to_start(pod(init=(fetched,), conditions=[bound]), now) == 30
    ran_before = {"state": {"waiting": {"reason": "ErrImagePull"}}, "lastState": ended(75, at="2026-01-01T01:00:20Z")}
    assert seconds_ready_to_start(pod(ran_before, conditions=[bound]), now) == 10
    assert seconds_ready_to_start(pod(conditions=[{**bound, "status": "False"}]), now) == 0
    assert seconds_ready_to_start({"status": None}, now) == 0


@pytest.mark.parametrize(
    ("waiting", "stuck"),
    [("ImagePullBackOff", True), ("CreateContainerConfigError", True), ("InvalidImageName", True), ("Strange", False)],
)
def test_trouble_of_a_container(waiting: str, stuck: bool) -> None:
    found = trouble(pod({"state": {"waiting": {"reason": waiting, "message": "why"}}}, phase="Pending"))
    assert found is not None
    assert str(found) == f"{waiting}: why"
    assert found.stuck is stuck


def test_no_trouble_in_the_order_of_things() -> None:
    for reason in ("ContainerCreating", "PodInitializing"):
        assert trouble(pod({"state": {"waiting": {"reason": reason}}}, phase="Pending")) is None
    assert trouble(pod({"state": {"running": {}}}, phase="Running")) is None
    assert trouble({"status": {}}) is None
    assert trouble(pod({"state": {"waiting": {"message": "no reason is given"}}}, phase="Pending")) is None


def test_no_room_is_no_reason_to_give_up() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    found = trouble({"status": {"phase": "Pending", "conditions": [condition]}})
    assert found is not None
    assert not found.stuck
    assert "0/1 nodes" in str(found)


def test_failure_of() -> None:
    failed = child("Job")
    failed["status"]["conditions"] = [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]
    assert failure_of(failed) == "DeadlineExceeded"
    assert failure_of(child("Job")) == "Failed"


def job() -> dict[str, Any]:
    container = {"name": "medvl", "image": "x", "resources": {"limits": {"cpu": 1, "memory": "1Gi"}}}
    template = {"spec": {"containers": [container], "restartPolicy": "Never"}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"labels": {"a": "b"}}, "spec": {"template": template}}


def test_a_manifest_that_fits() -> None:
    check(job(), "here")
    replica = {"replicas": 1, "restartPolicy": "OnFailure", "template": job()["spec"]["template"]}
    spec = {"nprocPerNode": "4", "pytorchReplicaSpecs": {"Master": replica}, "runPolicy": {"backoffLimit": 3}}
    check({"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {}, "spec": spec}, "here")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("spec.ttl", 3, "spec has no field 'ttl'"),
        ("spec.template.spec.containers.0.env", {"A": "b"}, "containers.0.env is no list"),
        ("spec.template.spec.hostNetwork", "yes", "hostNetwork is 'yes', no bool"),
        ("spec.backoffLimit", True, "spec.backoffLimit is True, no int"),
        ("kind", "Deployment", "not a Deployment"),
    ],
)
def test_a_manifest_that_does_not_fit(path: str, value: object, said: str) -> None:
    manifest: Any = job()
    place = manifest
    *parents, last = path.split(".")
    for name in parents:
        place = place[int(name)] if name.isdecimal() else place[name]
    place[last] = value
    with pytest.raises(SettingsError) as refused:
        check(manifest, "train.yaml in ConfigMap p")
    assert said in str(refused.value)
    assert "train.yaml" in str(refused.value)
