"""The life of a release: install, upgrade, rollback, uninstall, on real helm, with real stages and a real S3 server."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pyarrow.parquet as pq
import pytest
import seaweedfs

from cluster.fakekube import Cluster
from cluster.release import INPUTS, Release, loss_lines, planned, store
from medvl_jobs.pipeline.logs import read_log
from medvl_jobs.pipeline.runs import find_run
from medvl_jobs.pipeline.status import look
from medvl_jobs.settings.run import load_settings

pytestmark = pytest.mark.timeout(1800)
STAGES = ["eval-base", "eval-tuned", "eval-tuned-shuffled", "prep", "report", "train"]


def test_from_install_to_the_report(finished: Release) -> None:
    assert finished.stages() == STAGES
    said = finished.said()
    assert planned(said) == dict.fromkeys(STAGES, "run")
    latest = json.loads(finished.storage.read_bytes("runs/demo/latest.json"))
    assert f"report: {finished.storage.uri}/{latest['report']}" in said
    report = json.loads(finished.storage.read_bytes(latest["report"].replace("index.html", "report.json")))
    assert [variant["variant"] for variant in report["variants"]] == ["base", "tuned", "tuned-shuffled"]


def test_two_processes_train_and_kubectl_logs_shows_the_loss(finished: Release) -> None:
    (train,) = finished.children("train")
    name = train["metadata"]["name"]
    assert name.startswith("medvl-train-train-")
    assert train["spec"]["pytorchReplicaSpecs"]["Master"]["restartPolicy"] == "OnFailure"
    log = finished.cluster.kubectl("logs", f"{name}-master-0").stdout
    assert "starting 2 processes" in log
    lines = list(loss_lines(log))
    assert lines[-1]["step"] == lines[-1]["total_steps"] == len(lines), "one process speaks for both"


def test_medvl_status_reads_the_store_alone(finished: Release) -> None:
    run = find_run(finished.storage, load_settings(None, ("name=demo",)))
    looks = {each.stage.name: each for each in look(finished.storage, run, datetime.now(UTC))}
    assert {name: each.state for name, each in looks.items()} == dict.fromkeys(STAGES, "done")
    train = looks["train"].status
    assert train is not None
    assert (train.processes, train.done, train.unit) == (2, train.total, "steps")
    assert list(loss_lines(read_log(finished.storage, run, "train")))[-1]["step"] == train.total


def test_every_child_belongs_to_the_plan_and_to_no_controller(finished: Release) -> None:
    plan = finished.cluster.get("configmap", finished.plan)
    for child in finished.children():
        (owner,) = child["metadata"]["ownerReferences"]
        assert owner["uid"] == plan["metadata"]["uid"]
        assert owner["controller"] is False
        assert owner["blockOwnerDeletion"] is False


def test_events_tell_the_story(finished: Release) -> None:
    events = "\n".join(finished.cluster.events(finished.plan))
    for stage in STAGES:
        assert f"StageCreated: {stage} created {finished.name}-{stage}-" in events
        assert f"StageDone: {stage} done" in events


def test_helm_test_and_the_lease(finished: Release) -> None:
    ran = finished.cluster.helm("test", finished.name, "--logs")
    assert planned(ran.stdout) == dict.fromkeys(STAGES, "reuse")
    leases = {lease["metadata"]["name"]: lease for lease in finished.cluster.all("lease")}
    (run,) = [lease for name, lease in leases.items() if name.startswith("medvl-run-")]
    assert run["spec"]["holderIdentity"] == "", "it was given back"
    claims = [lease for name, lease in leases.items() if name.startswith("medvl-output-")]
    assert [claim["spec"]["holderIdentity"] for claim in claims] == [finished.plan] * len(STAGES)
    for lease in leases.values():
        assert [owner["name"] for owner in lease["metadata"]["ownerReferences"]] == [finished.plan]


@pytest.mark.parametrize("helm", [3, 4])
def test_an_upgrade_with_the_same_values_does_nothing(
    helm: int, cluster: Cluster, inputs: seaweedfs.SeaweedFS, copied: Callable[..., str]
) -> None:
    release = Release(cluster, inputs, prefix=copied(), helm=helm)
    release.install()
    assert planned(release.finish()) == dict.fromkeys(STAGES, "reuse")
    kinds = ("job", "pytorchjob", "configmap", "pod")
    before = {kind: cluster.all(kind) for kind in kinds}
    release.upgrade()
    time.sleep(1)
    assert {kind: [o["metadata"]["uid"] for o in cluster.all(kind)] for kind in kinds} == {
        kind: [o["metadata"]["uid"] for o in objects] for kind, objects in before.items()
    }
    assert release.children() == []


def test_another_rank_reuses_prep_and_base_and_a_rollback_reuses_all(
    cluster: Cluster, inputs: seaweedfs.SeaweedFS, copied: Callable[..., str]
) -> None:
    release = Release(cluster, inputs, prefix=copied())
    release.install()
    release.finish()
    first_plan, first_coordinator = release.plan, release.coordinator
    release.upgrade({"run": {"train": {"lora": {"rank": 4}}}})
    assert (release.plan == first_plan, release.coordinator == first_coordinator) == (False, False)
    actions = planned(release.finish())
    assert {stage for stage, action in actions.items() if action == "reuse"} == {"prep", "eval-base"}
    assert release.stages() == ["eval-tuned", "eval-tuned-shuffled", "report", "train"]
    assert len(list(release.storage.list_keys("runs/demo/"))) > 0

    cluster.helm("rollback", release.name, "1")
    assert (release.plan, release.coordinator) == (first_plan, first_coordinator)
    assert planned(release.finish()) == dict.fromkeys(STAGES, "reuse")
    assert cluster.all("pytorchjob") == [], "the children of the other plan went with it"


def test_other_data_makes_all_anew_and_an_uninstall_leaves_the_store(
    cluster: Cluster, inputs: seaweedfs.SeaweedFS, copied: Callable[..., str]
) -> None:
    prefix = copied()
    before = set(store(inputs, prefix).list_keys(""))
    data = store(inputs, INPUTS)
    fewer = pq.read_table(io.BytesIO(data.read_bytes("data/medtrinity-sample.parquet"))).slice(0, 40)
    stream = io.BytesIO()
    pq.write_table(fewer, stream)
    data.write_bytes("other-data/sample.parquet", stream.getvalue())

    release = Release(cluster, inputs, prefix=prefix, helm=3)
    release.install({"run": {"train": {"epochs": 40}}})
    release.wait_to_say("train")
    release.upgrade({"run": {"prep": {"source": f"s3://{inputs.bucket}/{INPUTS}/other-data"}}})
    said = release.wait_to_say("prep ")
    assert planned(said) == dict.fromkeys(STAGES, "run")

    pod = f"{release.wait_for_child('train')['metadata']['name']}-master-0"
    cluster.wait_for_log(pod, '{"step": 3')
    kubectl = cluster.start_kubectl("logs", "-f", pod)
    assert kubectl.stdout is not None
    assert kubectl.stdout.readline(), "it follows"
    cluster.helm("uninstall", release.name, major=3)
    log, _ = kubectl.communicate(timeout=400)
    assert "stopped by SIGTERM at step" in log
    for kind in ("job", "pytorchjob", "pod", "configmap", "lease"):
        cluster.wait(f"no {kind}", lambda kind=kind: not cluster.all(kind))  # type: ignore[misc]
    left = set(release.storage.list_keys(""))
    assert before <= left
    assert any("/checkpoints/" in key for key in left - before)

    release.install(command="install")
    pod = f"{release.wait_for_child('train')['metadata']['name']}-master-0"
    assert "resuming from the checkpoint" in cluster.wait_for_log(pod, '{"step": ')
    cluster.helm("uninstall", release.name, major=3)


def test_a_coordinator_that_is_killed_at_every_stage_and_a_training_that_is_evicted(
    cluster: Cluster, inputs: seaweedfs.SeaweedFS
) -> None:
    release = Release(cluster, inputs)
    release.install({"run": {"train": {"epochs": 3}}})
    for number, stage in enumerate(("prep", "eval-base", "train", "eval-tuned", "eval-tuned-shuffled", "report")):
        child = release.wait_for_child(stage)
        end = cluster.drain if number % 2 else cluster.kill
        end(release.running_coordinator())
        if stage == "train":
            master = f"{child['metadata']['name']}-master-0"
            cluster.wait_for_log(master, '{"step": 4')
            cluster.evict(master)
            cluster.wait_for_log(master, "resuming from the checkpoint")
    release.finish()
    assert release.stages() == STAGES, "no stage was made twice"
    (train,) = release.children("train")
    log = cluster.logs(f"{train['metadata']['name']}-master-0")
    steps = [line["step"] for line in loss_lines(log)]
    assert steps[0] > 4, "it went on where the other had stopped"
    assert steps == list(range(steps[0], steps[-1] + 1))
    assert steps[-1] == next(loss_lines(log))["total_steps"]


def installed_together(
    cluster: Cluster, server: seaweedfs.SeaweedFS, prefix: str, second: dict[str, Any] | None = None
) -> tuple[Release, Release]:
    """Two releases on one store; ``second``: what the second one has different."""
    one, two = (Release(cluster, server, name=name, prefix=prefix) for name in ("one", "two"))
    one.install()
    two.install(second)
    return one, two


def test_two_releases_of_one_run_take_turns(
    cluster: Cluster, inputs: seaweedfs.SeaweedFS, copied: Callable[..., str]
) -> None:
    one, two = installed_together(cluster, inputs, copied("runs/", "predictions/"))
    said = {release.name: release.finish() for release in (one, two)}
    waited = [name for name, text in said.items() if "another coordinator has this run" in text]
    assert len(waited) == 1, said
    children = {release.name: release.stages() for release in (one, two)}
    assert children.pop(waited[0]) == []
    (made,) = children.values()
    assert made == [stage for stage in STAGES if stage.startswith(("eval", "report"))]


def test_two_runs_that_share_a_stage_make_it_once(
    cluster: Cluster, inputs: seaweedfs.SeaweedFS, copied: Callable[..., str]
) -> None:
    one, two = installed_together(cluster, inputs, copied("runs/", "predictions/"), {"run": {"name": "another"}})
    for release in (one, two):
        release.finish()
    evaluated = [stage for release in (one, two) for stage in release.stages() if stage.startswith("eval")]
    assert sorted(evaluated) == ["eval-base", "eval-tuned", "eval-tuned-shuffled"]
    assert all("report" in release.stages() for release in (one, two)), "a report is each run's own"


def test_pods_share_an_evaluation_and_make_the_same(
    finished: Release, cluster: Cluster, inputs: seaweedfs.SeaweedFS, copied: Callable[..., str]
) -> None:
    release = Release(cluster, inputs, prefix=copied("runs/", "predictions/"))
    release.install({"run": {"eval": {"shards": 2, "flush_every": 4, "controls": ["template"]}}})
    release.finish()
    assert release.stages() == ["eval-base", "eval-template", "eval-tuned", "report"]
    for stage in ("eval-base", "eval-tuned"):
        [job] = release.children(stage)
        assert (job["spec"]["completionMode"], job["status"]["succeeded"]) == ("Indexed", 2)
    [template] = release.children("eval-template")
    assert template["spec"]["completionMode"] == "NonIndexed"
    for key in finished.storage.list_keys("predictions/"):  # of whole runs, but for the third variant of each
        if key.endswith("scores.parquet") and release.storage.exists(key):
            assert release.storage.read_bytes(key) == finished.storage.read_bytes(key)
    shared = {key for key in release.storage.list_keys("predictions/") if key.endswith("scores.parquet")}
    assert len(shared & set(finished.storage.list_keys("predictions/"))) == 2


def test_kubectl_get_shows_what_a_person_asks_for(finished: Release) -> None:
    """The commands of docs/operations.md, as they stand there."""
    labels = f"app.kubernetes.io/instance={finished.name}"
    shown = finished.cluster.kubectl("get", "jobs,pytorchjobs", "-l", labels, "-o", "name").stdout
    assert all(f"{finished.name}-{stage}-" in shown for stage in STAGES)
    coordinator = f"{labels},app.kubernetes.io/component=coordinator"
    log = finished.cluster.kubectl("logs", "-l", coordinator, "--tail=-1").stdout
    assert "report done" in " ".join(log.split())
