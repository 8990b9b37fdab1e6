"""The fake's Job controller and kubelet: what they do to real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.fakekube import ApiError, Cluster
from cluster.manifests import job

EXIT_CODES = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [64, 77]}}
DISRUPTION = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


def condition(obj: dict, kind: str) -> dict:
    return next(each for each in obj["status"]["conditions"] if each["type"] == kind)


def test_a_job_runs_its_container_and_completes(cluster: Cluster) -> None:
    cluster.create(job("j", "echo hello from $HOSTNAME"))
    done = cluster.wait_for_condition("job", "j", "Complete")
    assert done["status"]["succeeded"] == 1
    assert "completionTime" in done["status"]
    (pod,) = cluster.all("pods", "job-name=j")
    assert pod["status"]["phase"] == "Succeeded"
    assert pod["metadata"]["ownerReferences"][0]["uid"] == done["metadata"]["uid"]
    assert cluster.logs(pod["metadata"]["name"]) == f"hello from {pod['metadata']['name']}\n"


def test_a_failed_pod_is_replaced_until_the_limit(cluster: Cluster) -> None:
    cluster.create(job("j", "echo because > /dev/termination-log; exit 3", backoffLimit=1))
    failed = cluster.wait_for_condition("job", "j", "Failed")
    assert failed["status"]["failed"] == 2
    assert condition(failed, "Failed")["reason"] == "BackoffLimitExceeded"
    for pod in cluster.all("pods"):
        ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
        assert (ended["exitCode"], ended["reason"], ended["message"]) == (3, "Error", "because\n")


def test_an_exit_code_can_fail_the_whole_job(cluster: Cluster) -> None:
    cluster.create(job("j", "exit 77", podFailurePolicy={"rules": [DISRUPTION, EXIT_CODES]}))
    failed = cluster.wait_for_condition("job", "j", "Failed")
    (pod,) = cluster.names("pods")
    assert condition(failed, "Failed")["reason"] == "PodFailurePolicy"
    expected = f"Container medvl for pod default/{pod} failed with exit code 77 matching FailJob rule at index 1"
    assert condition(failed, "Failed")["message"] == expected


def test_an_eviction_does_not_count(cluster: Cluster) -> None:
    script = "trap 'echo terminated; exit 143' TERM; echo started; sleep 60 & wait"
    cluster.create(job("j", script, backoffLimit=0, podFailurePolicy={"rules": [DISRUPTION, EXIT_CODES]}))
    (first,) = cluster.wait("a pod", lambda: cluster.names("pods"))
    cluster.wait_for_log(first, "started")
    cluster.evict(first)
    evicted = cluster.wait_for_phase(first, "Failed")
    assert evicted["status"]["reason"] == "Evicted"
    assert evicted["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 143
    assert "terminated" in cluster.logs(first)
    second = cluster.wait("a second pod", lambda: set(cluster.names("pods")) - {first}).pop()
    cluster.wait_for_log(second, "started")
    assert "failed" not in cluster.get("job", "j")["status"]


def test_the_indexes_of_an_indexed_job_have_their_own_limits(cluster: Cluster) -> None:
    spec = {"completionMode": "Indexed", "completions": 3, "parallelism": 2, "backoffLimitPerIndex": 1}
    cluster.create(job("j", 'echo "$JOB_COMPLETION_INDEX"; test "$JOB_COMPLETION_INDEX" != 1', **spec))
    failed = cluster.wait_for_condition("job", "j", "Failed")
    assert condition(failed, "Failed")["reason"] == "FailedIndexes"
    assert (failed["status"]["completedIndexes"], failed["status"]["failedIndexes"]) == ("0,2", "1")
    assert failed["status"]["failed"] == 2
    said = {cluster.logs(name).strip() for name in cluster.names("pods")}
    assert said == {"0", "1", "2"}


def test_a_suspended_job_has_no_pods_until_it_is_resumed(cluster: Cluster) -> None:
    cluster.create(job("j", "sleep 60", suspend=True))
    cluster.wait_for_condition("job", "j", "Suspended")
    assert cluster.names("pods") == []
    cluster.patch("job", "j", {"spec": {"suspend": False}})
    (pod,) = cluster.wait("a pod", lambda: cluster.names("pods"))
    cluster.wait_for_phase(pod, "Running")
    cluster.patch("job", "j", {"spec": {"suspend": True}})
    cluster.wait_gone("pod", pod)
    assert "failed" not in cluster.get("job", "j")["status"]


def test_a_deadline_and_a_time_to_live(cluster: Cluster) -> None:
    cluster.create(job("slow", "sleep 60", activeDeadlineSeconds=1, pod={"terminationGracePeriodSeconds": 1}))
    failed = cluster.wait_for_condition("job", "slow", "Failed")
    assert condition(failed, "Failed")["reason"] == "DeadlineExceeded"
    cluster.create(job("short", "true", ttlSecondsAfterFinished=1))
    cluster.wait_for_condition("job", "short", "Complete")
    cluster.wait_gone("job", "short")
    assert cluster.names("pods", "job-name=short") == []


def test_no_second_pod_while_the_first_one_ends(cluster: Cluster, tmp_path: Path) -> None:
    """podReplacementPolicy Failed: two coordinators never run at a time."""
    script = f"trap 'until test -e {tmp_path}/go; do sleep 0.1; done; exit 1' TERM; echo up; sleep 600 & wait"
    cluster.create(job("j", script, podReplacementPolicy="Failed", backoffLimit=3))
    (first,) = cluster.wait("a pod", lambda: cluster.names("pods"))
    cluster.wait_for_log(first, "up")
    cluster.delete("pod", first)
    cluster.wait("the status counts it", lambda: cluster.get("job", "j")["status"].get("terminating"))
    assert cluster.names("pods") == [first]
    (tmp_path / "go").touch()
    cluster.wait_gone("pod", first)
    cluster.wait("a second pod", lambda: cluster.names("pods"))


def test_what_may_not_change_in_a_job(cluster: Cluster) -> None:
    cluster.create(job("j", "true"))
    with pytest.raises(ApiError, match="field is immutable") as error:
        cluster.patch("job", "j", {"spec": {"template": {"metadata": {"labels": {"a": "b"}}}}})
    assert error.value.code == 422


def test_a_missing_service_account_is_an_event(cluster: Cluster) -> None:
    cluster.create(job("j", "true", pod={"serviceAccountName": "nobody"}))
    cluster.wait("the event", lambda: [line for line in cluster.events("j") if "FailedCreate" in line])
    cluster.create({"kind": "ServiceAccount", "metadata": {"name": "nobody"}})
    cluster.wait_for_condition("job", "j", "Complete")
