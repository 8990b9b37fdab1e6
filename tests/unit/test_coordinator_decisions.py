"""What the coordinator does next, for every state that a stage can be found in."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from medvl_jobs.cluster.client import Plan
from medvl_jobs.cluster.status import GAVE_UP
from medvl_jobs.errors import DataError, GaveUpError, SchemaMismatchError, SettingsError
from medvl_jobs.pipeline.children import ATTEMPT, GENERATION, OUTPUT, TRIED, Templates
from medvl_jobs.pipeline.decide import Create, Done, Fail, Seen, Wait, decide
from medvl_jobs.pipeline.stages import Stage
from medvl_jobs.settings.cluster import ClusterSettings
from medvl_jobs.settings.eval import EvalSettings
from medvl_jobs.settings.model import ModelSettings
from medvl_jobs.settings.prep import PrepSettings
from medvl_jobs.settings.run import RunSettings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TRAIN = Stage("train", ("train",), "adapters/ab", ("prep",))
SETTINGS = ClusterSettings(attempts=2, give_up_after_seconds=60)


def child(
    name: str,
    *conditions: str,
    kind: str = "Job",
    generation: int = 1,
    noted: Any = None,
    attempt: int = 1,
    tried: int = 1,
) -> dict[str, Any]:
    annotations = {GAVE_UP: json.dumps(noted)} if noted else {}
    labels = {GENERATION: str(generation), ATTEMPT: str(attempt), TRIED: str(tried)}
    return {
        "kind": kind,
        "metadata": {
            "name": name,
            "uid": f"uid-of-{name}",
            "labels": labels,
            "annotations": annotations,
        },
        "status": {"conditions": [{"type": each, "status": "True"} for each in conditions]},
    }


def pod(owner: str, phase: str = "Running", age: float = 10, **status: Any) -> dict[str, Any]:
    bound = (NOW - timedelta(seconds=age)).isoformat()
    metadata = {"name": f"{owner}-0", "ownerReferences": [{"uid": f"uid-of-{owner}"}]}
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": bound}
    return {"metadata": metadata, "status": {"phase": phase, "conditions": [scheduled], **status}}


def ended(owner: str, code: int, reason: str = "why", phase: str = "Failed", state: str = "state") -> dict[str, Any]:
    message = json.dumps({"reason": reason, "exit_code": code, "remedy": "do this"})
    return pod(owner, phase, containerStatuses=[{state: {"terminated": {"exitCode": code, "message": message}}}])


def see(*children: Any, others: Any = (), pods: Any = (), finished: bool = False, **more: Any) -> Seen:
    return Seen(children=children, others=others, pods=pods, finished=finished, now=NOW, **more)


def move(seen: Seen, settings: ClusterSettings = SETTINGS) -> Any:
    return decide(TRAIN, seen, settings)


def test_what_is_in_the_store_is_done_whatever_the_children_say() -> None:
    assert move(see(finished=True)) == Done()
    assert move(see(child("a", "Failed"), finished=True)) == Done()


def test_the_first_child() -> None:
    assert move(see()) == Create(1, 1)


def test_a_child_is_adopted() -> None:
    assert "starts" in move(see(child("a"))).state
    running = move(see(child("a", "Running", kind="PyTorchJob"), pods=[pod("a")]))
    assert isinstance(running, Wait)
    assert running.pod == "a-0"
    assert running.state == "runs (a)"
    assert "queued" in move(see(child("a", "Suspended"))).state


def test_a_restart_in_place_is_told_with_its_reason() -> None:
    restarted = ended("a", 75, "the store was away", phase="Running", state="lastState")
    assert "after: the store was away" in move(see(child("a", "Running", kind="PyTorchJob"), pods=[restarted])).state


def test_a_success_without_a_manifest_is_none() -> None:
    found = move(see(child("a", "Complete"), pods=[pod("a", "Succeeded")]))
    assert isinstance(found, Fail)
    assert isinstance(found.error, SchemaMismatchError)


@pytest.mark.parametrize("code", [1, 75, 137, 143])
def test_what_may_be_cured_is_tried_again_and_not_for_ever(code: int) -> None:
    first = child("a", "Failed")
    assert move(see(first, pods=[ended("a", code)])) == Create(2, 2, "why")
    second = child("b", "Failed", attempt=2, tried=2)
    found = move(see(first, second, pods=[ended("a", code), ended("b", code, "again")]))
    assert isinstance(found, Fail)
    assert isinstance(found.error, GaveUpError)
    assert "2 attempts" in found.error.what
    assert "again" in found.error.what


def test_the_reason_of_a_child_without_pods_is_its_controllers() -> None:
    failed = child("a", "Failed")
    failed["status"]["conditions"][0] |= {"reason": "DeadlineExceeded", "message": "too long"}
    assert move(see(failed)) == Create(2, 2, "DeadlineExceeded: too long")


def test_what_cannot_be_cured_ends_the_run() -> None:
    found = move(see(child("a", "Failed"), pods=[ended("a", 65, "bad rows")]))
    assert isinstance(found, Fail)
    assert type(found.error) is DataError
    assert found.error.what == "train failed: bad rows"
    assert found.error.remedy == "do this"
    assert found.give_up is None, "a Job that has failed is over"


def test_a_pytorchjob_that_would_restart_for_ever_is_given_up() -> None:
    running = child("a", "Running", kind="PyTorchJob")
    found = move(see(running, pods=[ended("a", 65, "bad rows", phase="Running", state="lastState")]))
    assert isinstance(found, Fail)
    assert found.give_up is running
    assert type(found.error) is DataError


def test_a_child_that_was_given_up_stays_so_for_the_next_coordinator() -> None:
    noted = {"exit_code": 65, "reason": "bad rows", "remedy": "mend"}
    found = move(see(child("a", "Suspended", kind="PyTorchJob", noted=noted)))
    assert isinstance(found, Fail)
    assert type(found.error) is DataError
    assert "bad rows" in found.error.what


def test_a_higher_generation_tries_again_what_had_failed() -> None:
    settings = SETTINGS.model_copy(update={"generation": 2})
    failed = child("a", "Failed")
    assert move(see(failed, pods=[ended("a", 65)]), settings=settings) == Create(
        2, 1, "an earlier generation failed: why"
    )
    again = child("b", "Failed", generation=2, attempt=2)
    found = move(see(failed, again, pods=[ended("b", 65)]), settings=settings)
    assert isinstance(found, Fail)
    assert move(see(failed, again, pods=[ended("b", 75)]), settings=settings) == Create(3, 2, "why")


def test_a_pod_that_cannot_start_is_borne_for_a_while() -> None:
    state = {"containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]}
    young, old = pod("a", "Pending", 30, **state), pod("a", "Pending", 90, **state)
    assert move(see(child("a"), pods=[young])) == Wait("waits: ImagePullBackOff: no such image", "a-0")
    found = move(see(child("a"), pods=[old]))
    assert isinstance(found, Fail)
    assert isinstance(found.error, GaveUpError)
    assert found.give_up is not None
    assert "no such image" in found.error.what


def test_an_init_container_that_fails_again_and_again_does_not_hold_its_gpus_for_ever() -> None:
    crashed = {"terminated": {"exitCode": 75, "message": json.dumps({"reason": "no room for the weights"})}}
    child_of_train = child("a", "Created", kind="PyTorchJob")

    def after(restarts: int) -> Any:
        status = {"initContainerStatuses": [{"lastState": crashed, "restartCount": restarts}]}
        return move(see(child_of_train, pods=[pod("a", "Pending", **status)]))

    assert after(2) == Wait("starts (a, after: no room for the weights)")
    found = after(6)
    assert isinstance(found, Fail)
    assert found.give_up is child_of_train
    assert found.error.what == "train cannot start: no room for the weights"


def test_one_pod_that_waits_for_room_hides_none_that_is_stuck() -> None:
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no room"}
    master = pod("a", "Pending", 90, conditions=[unscheduled])
    state = {"containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no image"}}}]}
    young, old = pod("a", "Pending", 30, **state), pod("a", "Pending", 90, **state)
    assert "ImagePullBackOff" in move(see(child("a"), pods=[master, young])).state
    assert isinstance(move(see(child("a"), pods=[master, old])), Fail)


def test_no_room_is_waited_for() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no nvidia.com/gpu"}
    seen = see(child("a"), pods=[pod("a", "Pending", 10**6, conditions=[condition])])
    assert move(seen) == Wait("waits: Unschedulable: no nvidia.com/gpu", "a-0")


def test_what_it_waited_for_a_node_does_not_count() -> None:
    """Hours in the queue, and then one hiccup of the registry."""
    state = {"containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull", "message": "429"}}}]}
    fresh = pod("a", "Pending", 5, **state)
    fresh["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z"
    assert isinstance(move(see(child("a"), pods=[fresh])), Wait)


def test_a_child_whose_pods_are_refused_is_told_and_given_up() -> None:
    refused = "FailedCreate: violates PodSecurity"
    assert move(see(child("a"), podless_seconds=10, warning=refused)) == Wait(f"waits: {refused}")
    found = move(see(child("a"), podless_seconds=61, warning=refused))
    assert isinstance(found, Fail)
    assert found.give_up is not None
    assert found.error.what == f"train cannot start: {refused}"
    assert "makes no pod" in move(see(child("a"), podless_seconds=61)).error.what


def test_attempts_are_numbered_by_their_labels_whatever_was_deleted() -> None:
    only_the_second_is_left = child("b", "Failed", attempt=2, tried=2)
    assert isinstance(move(see(only_the_second_is_left, pods=[ended("b", 75)])), Fail)
    patient = SETTINGS.model_copy(update={"attempts": 9})
    assert move(see(only_the_second_is_left, pods=[ended("b", 75)]), patient) == Create(3, 3, "why")


def test_an_output_that_was_deleted_is_made_again_by_the_next_generation() -> None:
    settings = SETTINGS.model_copy(update={"generation": 2})
    gone = move(see(child("a", "Complete")), settings)
    assert gone == Create(2, 1, "what an earlier generation made is gone")


def test_two_never_write_the_same_output() -> None:
    assert "other has ended" in move(see(others=[child("other")])).state
    assert move(see(others=[child("other", "Failed")])) == Create(1, 1)
    # the object is gone, its pod is still saving a checkpoint
    assert "gone-0 has ended" in move(see(pods=[pod("gone")])).state
    assert move(see(pods=[pod("gone", "Failed")])) == Create(1, 1)
    assert "a-0 has ended" in move(see(child("a", "Failed"), pods=[pod("a")])).state


# ------------------------------------------------------------------------------------------------------ the manifests


def manifest(container: str = "medvl", init: bool = False) -> dict[str, Any]:
    main = {"name": container, "image": "i", "command": ["medvl"], "env": [{"name": "A", "value": "b"}]}
    side = {"name": "side", "image": "s"}
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "containers": [main, side],
        "volumes": [{"name": "run", "configMap": {"name": ""}}, {"name": "tmp", "emptyDir": {}}],
    }
    if init:
        spec["initContainers"] = [{"name": "model-cache", "image": "i", "args": ["model"]}]
    template = {"metadata": {"labels": {"mine": "kept"}}, "spec": spec}
    if container == "medvl":
        return {"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": template}}
    replica = {"replicas": 1, "template": template}
    spec = {"pytorchReplicaSpecs": {"Master": replica, "Worker": json.loads(json.dumps(replica))}}
    return {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "spec": spec}


def plan(**changed: Any) -> Plan:
    stages = {name: manifest() for name in ("prep", "eval", "template", "report")} | {
        "train": manifest("pytorch", init=True)
    }
    data = {f"{name}.yaml": yaml.safe_dump(each) for name, each in (stages | changed).items() if each}
    return Plan("rel-plan-12345678", "plan-uid", "rel", data)


RUN = RunSettings(prep=PrepSettings(source_fingerprint="s" * 16, indexes=3), model=ModelSettings(fingerprint="m" * 16))


def test_a_child_is_the_template_with_its_name_owner_and_command_line() -> None:
    made = Templates.of(plan(), RUN).child(Stage("eval-tuned", ("eval", "--variant", "tuned"), "predictions/cd"), 2)
    metadata = made["metadata"]
    assert metadata["name"].startswith("rel-eval-tuned-")
    assert metadata["name"].endswith("-2")
    (owner,) = metadata["ownerReferences"]
    assert owner["uid"] == "plan-uid"
    assert owner["controller"] is False
    assert owner["blockOwnerDeletion"] is False
    template = made["spec"]["template"]
    assert template["metadata"]["labels"].items() >= {"mine": "kept", "medvl.io/stage": "eval-tuned"}.items()
    assert template["metadata"]["labels"][OUTPUT] == metadata["labels"][OUTPUT]
    main, side = template["spec"]["containers"]
    assert main["args"] == ["eval", "--variant", "tuned", "--config", "/etc/medvl/run.yaml"]
    assert "args" not in side
    assert {e["name"]: e["value"] for e in main["env"]} == {
        "A": "b",
        "MEDVL_PREP__SOURCE_FINGERPRINT": "s" * 16,
        "MEDVL_MODEL__FINGERPRINT": "m" * 16,
    }
    assert template["spec"]["volumes"][0]["configMap"]["name"] == "rel-plan-12345678"
    assert "completions" not in made["spec"]


def test_every_replica_and_the_init_container_get_the_fingerprints() -> None:
    made = Templates.of(plan(), RUN).child(TRAIN, 1)
    for replica in made["spec"]["pytorchReplicaSpecs"].values():
        pod_spec = replica["template"]["spec"]
        assert pod_spec["containers"][0]["args"][0] == "train"
        assert pod_spec["initContainers"][0]["args"] == ["model"]
        assert "MEDVL_MODEL__FINGERPRINT" in json.dumps(pod_spec["initContainers"][0]["env"])


def test_prep_has_as_many_completions_as_indexes() -> None:
    made = Templates.of(plan(), RUN).child(Stage("prep", ("prep",), "prepared/ef"), 1)
    assert (made["spec"]["completions"], made["spec"]["parallelism"]) == (3, 3)
    few = manifest()
    few["spec"]["parallelism"] = 2
    made = Templates.of(plan(prep=few), RUN).child(Stage("prep", ("prep",), "prepared/ef"), 1)
    assert (made["spec"]["completions"], made["spec"]["parallelism"]) == (3, 2)


def test_shards_make_an_evaluation_an_indexed_job() -> None:
    shared = RUN.model_copy(update={"eval": EvalSettings(shards=4)})
    limited = manifest()
    limited["spec"]["backoffLimit"] = 2
    templates = Templates.of(plan(eval=limited, template=limited), shared)
    spec = templates.child(Stage("eval-tuned", ("eval", "--variant", "tuned"), "predictions/cd"))["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
    assert (spec["backoffLimitPerIndex"], spec.get("backoffLimit")) == (2, None)
    spec = templates.child(Stage("eval-template", ("eval", "--variant", "template"), "predictions/ef"))["spec"]
    assert (spec["backoffLimit"], spec.get("completions")) == (2, None)


def test_the_evaluation_without_a_model_has_a_manifest_of_its_own() -> None:
    light = manifest()
    light["metadata"] = {"labels": {"light": "yes"}}
    templates = Templates.of(plan(template=light), RUN)
    children = {
        variant: templates.child(Stage(f"eval-{variant}", ("eval", "--variant", variant), "predictions/cd"))
        for variant in ("base-formatted", "template")
    }
    assert "light" not in children["base-formatted"]["metadata"]["labels"]
    assert children["template"]["metadata"]["labels"]["light"] == "yes"
    assert children["template"]["spec"]["template"]["spec"]["containers"][0]["args"][:3] == [
        "eval", "--variant", "template",
    ]  # fmt: skip


def test_a_name_tells_contents_apart_and_is_short_enough() -> None:
    templates = Templates.of(plan(), RUN)
    names = {templates.name(Stage("train", ("train",), prefix), 1) for prefix in ("adapters/a", "adapters/b")}
    assert len(names) == 2
    longest = Stage("eval-tuned-shuffled", ("eval",), "predictions/x")
    release = Plan("p", "u", "r" * 30, plan().data)
    assert len(Templates.of(release, RUN).name(longest, 99)) <= 63
    assert len(Templates.of(release, RUN).name(TRAIN, 99)) <= 54


def test_the_output_is_equal_in_two_releases_and_differs_between_stores() -> None:
    one = Templates.of(plan(), RUN).output(TRAIN)
    assert Templates.of(Plan("other", "uid", "other", plan().data), RUN).output(TRAIN) == one
    elsewhere = RUN.model_copy(update={"storage": RUN.storage.model_copy(update={"uri": "s3://other"})})
    assert Templates.of(plan(), elsewhere).output(TRAIN) != one


def test_a_plan_that_lacks_a_manifest_or_has_an_unknown_field() -> None:
    with pytest.raises(SettingsError, match="no manifest for train"):
        Templates.of(plan(train=None), RUN)
    with pytest.raises(SettingsError, match="no field 'podFailurePolicies'"):
        Templates.of(plan(eval=manifest() | {"spec": {**manifest()["spec"], "podFailurePolicies": {}}}), RUN)
