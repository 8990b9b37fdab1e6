"""The fake's API through the real Python client: objects, versions, watches, rights, failures."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import kubernetes.client
import pytest
from kubernetes import watch
from kubernetes.client.exceptions import ApiException

from cluster.fakekube import Cluster, running_cluster
from cluster.manifests import job, pod, pytorch_job

DEFAULT = "default"


@pytest.fixture
def core(cluster: Cluster) -> Iterator[kubernetes.client.CoreV1Api]:
    with cluster.client() as client:
        yield kubernetes.client.CoreV1Api(client)


def config_map(name: str, labels: dict[str, str] | None = None, **data: str) -> dict:
    return {"metadata": {"name": name, "labels": labels or {}}, "data": data}


def refused(code: int) -> pytest.RaisesContext[ApiException]:
    return pytest.raises(ApiException, match=rf"^\({code}\)")


def test_an_object_has_a_life(core: kubernetes.client.CoreV1Api) -> None:
    made = core.create_namespaced_config_map(DEFAULT, config_map("a", k="1"))
    assert made.metadata.uid
    assert made.metadata.creation_timestamp
    with refused(409):
        core.create_namespaced_config_map(DEFAULT, config_map("a"))
    changed = core.patch_namespaced_config_map("a", DEFAULT, {"data": {"k": None, "l": "2"}})
    assert changed.data == {"l": "2"}
    assert int(changed.metadata.resource_version) > int(made.metadata.resource_version)
    made.data = {"stale": "yes"}
    with refused(409):
        core.replace_namespaced_config_map("a", DEFAULT, made)
    same = core.patch_namespaced_config_map("a", DEFAULT, {"data": {"l": "2"}})
    assert same.metadata.resource_version == changed.metadata.resource_version
    core.delete_namespaced_config_map("a", DEFAULT)
    with refused(404):
        core.read_namespaced_config_map("a", DEFAULT)
    generated = core.create_namespaced_config_map(DEFAULT, {"metadata": {"generateName": "x-"}})
    assert generated.metadata.name.startswith("x-")
    with refused(422):
        core.create_namespaced_config_map(DEFAULT, config_map("Capital"))
    with refused(404):
        core.create_namespaced_config_map("nowhere", config_map("a"))


def test_an_immutable_config_map(core: kubernetes.client.CoreV1Api) -> None:
    core.create_namespaced_config_map(DEFAULT, {**config_map("plan", k="1"), "immutable": True})
    core.patch_namespaced_config_map("plan", DEFAULT, {"metadata": {"labels": {"a": "b"}}})
    with refused(422):
        core.patch_namespaced_config_map("plan", DEFAULT, {"data": {"k": "2"}})


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("app=x", ["a", "b"]),
        ("app=x,tier!=db", ["a"]),
        ("tier in (db,web)", ["a", "b"]),
        ("tier notin (db)", ["a", "c"]),
        ("tier", ["a", "b"]),
        ("!tier", ["c"]),
    ],
)
def test_label_selectors(core: kubernetes.client.CoreV1Api, selector: str, names: list[str]) -> None:
    every = {"a": {"app": "x", "tier": "web"}, "b": {"app": "x", "tier": "db"}, "c": {"app": "y"}}
    for name, labels in every.items():
        core.create_namespaced_config_map(DEFAULT, config_map(name, labels))
    found = core.list_namespaced_config_map(DEFAULT, label_selector=selector)
    assert [item.metadata.name for item in found.items] == names


def test_field_selectors(cluster: Cluster, core: kubernetes.client.CoreV1Api) -> None:
    cluster.create(pod("a", "true"))
    cluster.create(pod("b", "sleep 60"))
    cluster.wait_for_phase("a", "Succeeded")
    cluster.wait_for_phase("b", "Running")
    found = core.list_namespaced_pod(DEFAULT, field_selector="status.phase!=Running")
    assert [item.metadata.name for item in found.items] == ["a"]
    events = core.list_namespaced_event(DEFAULT, field_selector="involvedObject.name=a")
    assert {event.involved_object.name for event in events.items} == {"a"}
    with refused(400):
        core.list_namespaced_pod(DEFAULT, field_selector="spec.volumes=x")


def test_a_watch_sees_what_its_selector_sees(core: kubernetes.client.CoreV1Api) -> None:
    core.create_namespaced_config_map(DEFAULT, config_map("before", {"app": "x"}))
    listed = core.list_namespaced_config_map(DEFAULT)
    core.create_namespaced_config_map(DEFAULT, config_map("other", {"app": "y"}))
    core.create_namespaced_config_map(DEFAULT, config_map("a", {"app": "x"}, k="1"))
    core.patch_namespaced_config_map("a", DEFAULT, {"data": {"k": "2"}})
    core.patch_namespaced_config_map("a", DEFAULT, {"metadata": {"labels": {"app": "z"}}})
    core.delete_namespaced_config_map("before", DEFAULT)
    start = listed.metadata.resource_version
    stream = watch.Watch().stream(
        core.list_namespaced_config_map, DEFAULT, label_selector="app=x", resource_version=start, timeout_seconds=1
    )
    seen = [(event["type"], event["object"].metadata.name) for event in stream]
    assert seen == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a"), ("DELETED", "before")]


def test_a_watch_without_a_version_starts_with_what_is_there(core: kubernetes.client.CoreV1Api) -> None:
    core.create_namespaced_config_map(DEFAULT, config_map("a"))
    started = time.monotonic()
    stream = watch.Watch().stream(core.list_namespaced_config_map, DEFAULT, timeout_seconds=1)
    assert [(event["type"], event["object"].metadata.name) for event in stream] == [("ADDED", "a")]
    assert time.monotonic() - started > 0.9


def test_an_old_version_is_gone(cluster: Cluster, core: kubernetes.client.CoreV1Api) -> None:
    version = core.list_namespaced_config_map(DEFAULT).metadata.resource_version
    core.create_namespaced_config_map(DEFAULT, config_map("a"))
    cluster.forget_old_versions()
    with refused(410):
        list(
            watch.Watch().stream(core.list_namespaced_config_map, DEFAULT, resource_version=version, timeout_seconds=5)
        )


def test_watches_can_be_dropped(cluster: Cluster, core: kubernetes.client.CoreV1Api) -> None:
    answered = threading.Event()

    def drop() -> None:
        while not answered.wait(0.1):  # again and again: it may be dropped before it has begun
            cluster.drop_watches()

    dropping = threading.Thread(target=drop, daemon=True)
    dropping.start()
    started = time.monotonic()
    with cluster.client() as client:
        api = kubernetes.client.CoreV1Api(client)
        answer = api.list_namespaced_config_map(DEFAULT, watch=True, timeout_seconds=300, _preload_content=False)
        assert answer.read() == b""
    answered.set()
    dropping.join()
    assert time.monotonic() - started < 200


def test_a_lease_needs_the_version_that_was_read(cluster: Cluster) -> None:
    with cluster.client() as client:
        api = kubernetes.client.CoordinationV1Api(client)
        spec = {"holderIdentity": "one", "leaseDurationSeconds": 15}
        made = api.create_namespaced_lease(DEFAULT, {"metadata": {"name": "l"}, "spec": spec})
        with refused(422):
            api.replace_namespaced_lease("l", DEFAULT, {"metadata": {"name": "l"}, "spec": spec})
        made.spec.holder_identity = "two"
        api.replace_namespaced_lease("l", DEFAULT, made)
        with refused(409):
            api.replace_namespaced_lease("l", DEFAULT, made)


def test_dependents_of_a_deleted_owner_go(cluster: Cluster, core: kubernetes.client.CoreV1Api) -> None:
    owner = core.create_namespaced_config_map(DEFAULT, config_map("plan"))
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "plan", "uid": owner.metadata.uid}
    for made in (job("j", "echo up; sleep 60"), pytorch_job("t", "echo up; sleep 60")):
        cluster.create({**made, "metadata": {**made["metadata"], "ownerReferences": [reference]}})
    (name,) = cluster.wait("the Job's pod", lambda: cluster.names("pods", "job-name=j"))
    cluster.wait_for_log(name, "up")
    core.delete_namespaced_config_map("plan", DEFAULT)
    for kind in ("job", "pytorchjob", "pod", "service"):
        cluster.wait(f"no {kind}", lambda kind=kind: not cluster.names(kind))


def test_how_a_job_is_deleted(cluster: Cluster) -> None:
    with cluster.client() as client:
        api = kubernetes.client.BatchV1Api(client)
        for name, policy in (("orphan", None), ("fore", "Foreground"), ("back", "Background")):
            cluster.create(job(name, "true"))
            cluster.wait_for_condition("job", name, "Complete")
            api.delete_namespaced_job(name, DEFAULT, propagation_policy=policy)
            cluster.wait_gone("job", name)
            if policy is not None:
                cluster.wait("no pods", lambda name=name: not cluster.names("pods", f"job-name={name}"))
        assert len(cluster.names("pods", "job-name=orphan")) == 1


def test_logs(cluster: Cluster, core: kubernetes.client.CoreV1Api, tmp_path: Path) -> None:
    cluster.create(pod("p", f"seq 5; until test -e {tmp_path}/go; do sleep 0.1; done; echo end"))
    cluster.wait_for_log("p", "5")
    followed = core.read_namespaced_pod_log("p", DEFAULT, follow=True, tail_lines=2, _preload_content=False).stream()
    assert next(followed) == b"4\n5\n"
    (tmp_path / "go").touch()
    assert b"".join(followed) == b"end\n"
    with refused(400):
        core.read_namespaced_pod_log("p", DEFAULT, previous=True)
    with refused(400):
        core.read_namespaced_pod_log("p", DEFAULT, container="other")


def test_an_absent_custom_resource() -> None:
    with running_cluster(pytorch_jobs=False) as cluster, cluster.client() as client:
        api = kubernetes.client.CustomObjectsApi(client)
        with refused(404):
            api.list_namespaced_custom_object("kubeflow.org", "v1", DEFAULT, "pytorchjobs")
        with refused(404):
            api.get_api_resources("kubeflow.org", "v1")
        cluster.resources.pytorch_jobs = True
        assert api.list_namespaced_custom_object("kubeflow.org", "v1", DEFAULT, "pytorchjobs")["items"] == []


def test_a_service_account_may_do_what_its_roles_say(cluster: Cluster) -> None:
    rules = [
        {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"], "resourceNames": ["plan"]},
    ]
    cluster.create({"kind": "Role", "metadata": {"name": "r"}, "rules": rules})
    subject = {"kind": "ServiceAccount", "name": "worker", "namespace": DEFAULT}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}
    cluster.create({"kind": "RoleBinding", "metadata": {"name": "b"}, "subjects": [subject], "roleRef": reference})
    cluster.create({"kind": "ConfigMap", **config_map("plan")})
    cluster.create({"kind": "ConfigMap", **config_map("other")})
    with cluster.client(cluster.token("worker")) as client:
        core = kubernetes.client.CoreV1Api(client)
        assert core.list_namespaced_pod(DEFAULT).items == []
        core.read_namespaced_config_map("plan", DEFAULT)
        with pytest.raises(ApiException) as error:
            core.read_namespaced_config_map("other", DEFAULT)
        assert error.value.status == 403
        words = (
            'User \\"system:serviceaccount:default:worker\\" cannot get resource \\"configmaps\\" in API group \\"\\"'
        )
        assert words in error.value.body
        with refused(403):
            core.list_namespaced_pod("kube-system")
        with refused(403):
            core.delete_namespaced_pod("p", DEFAULT)
        asked = {"namespace": DEFAULT, "verb": "get", "resource": "pods", "subresource": "log"}
        review = kubernetes.client.AuthorizationV1Api(client).create_self_subject_access_review
        assert review({"spec": {"resourceAttributes": asked}}).status.allowed
        assert not review({"spec": {"resourceAttributes": {**asked, "verb": "delete"}}}).status.allowed
    with cluster.client("nobody's token") as client, refused(401):
        kubernetes.client.CoreV1Api(client).list_namespaced_pod(DEFAULT)


def test_a_pod_uses_the_api_as_its_service_account(cluster: Cluster) -> None:
    script = (
        "import kubernetes as k; k.config.load_kube_config()\n"
        "try: k.client.CoreV1Api().list_namespaced_pod('default')\n"
        "except k.client.ApiException as e: print(e.status)"
    )
    command = ["python", "-c", script]
    cluster.create(pod("with", "", main={"command": command}))
    cluster.create(pod("without", "env", automountServiceAccountToken=False))
    cluster.wait_for_phase("with", "Succeeded")
    assert cluster.logs("with") == "403\n"
    cluster.wait_for_phase("without", "Succeeded")
    assert "KUBECONFIG" not in cluster.logs("without")
    assert any(served.user == "system:serviceaccount:default:default" for served in cluster.faults.served)


def test_failures_on_demand(cluster: Cluster, core: kubernetes.client.CoreV1Api) -> None:
    cluster.fail_next(2, "POST", "/configmaps", status=503)
    for _ in range(2):
        with refused(503):
            core.create_namespaced_config_map(DEFAULT, config_map("a"))
    core.list_namespaced_config_map(DEFAULT)
    core.api_client.configuration.retries = False
    with cluster.client() as client:
        client.rest_client.pool_manager.connection_pool_kw["retries"] = False
        api = kubernetes.client.CoreV1Api(client)
        cluster.fail_next(1, "POST", "/configmaps", status=None, when="after")
        with pytest.raises(Exception, match="aborted"):
            api.create_namespaced_config_map(DEFAULT, config_map("a"))
        assert api.read_namespaced_config_map("a", DEFAULT)
        with cluster.api_down(), pytest.raises(Exception, match="aborted"):
            api.list_namespaced_config_map(DEFAULT)
        api.list_namespaced_config_map(DEFAULT)


def test_a_namespace_goes_with_all_that_is_in_it(cluster: Cluster, core: kubernetes.client.CoreV1Api) -> None:
    core.create_namespace({"metadata": {"name": "other"}})
    cluster.wait("its account", lambda: cluster.names("sa", namespace="other"))
    cluster.create(pod("p", "echo up; sleep 60"), "other")
    cluster.wait_for_phase("p", "Running", namespace="other")
    core.delete_namespace("other")
    cluster.wait_gone("namespace", "other")
    assert cluster.names("pods", namespace="other") == []
