"""What the pods may do, what they see, and what the coordinator may do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from rendering import CASES, Json, merged, pod_templates, render

from medvl_jobs.cluster.client import NEEDED

STAGES = ("coordinator", "model", "prep", "train", "eval", "template", "report")
PVC = {"modelCache": {"type": "pvc"}}
RESTRICTED_VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "secret", "image"}
"""Of what Pod Security restricted takes; image from Kubernetes 1.33 on, and the chart refuses it before."""
EXCEPTIONS = {
    "cache-hostpath": {"hostPath"},  # the host's directories
    "rdma": {"IPC_LOCK"},  # registered memory is pinned
}
"""Values with which a pod may ask for more than Pod Security restricted allows."""


def every_pod(case: Path, folder: Path) -> Iterator[Json]:
    rendered = render(case)
    for manifest in (*rendered.objects, *rendered.children(folder)):
        yield from (pod["spec"] for pod in pod_templates(manifest))


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem.removesuffix("-values"))
def test_every_pod_is_restricted(case: Path, tmp_path: Path) -> None:
    allowed = EXCEPTIONS.get(case.stem.removesuffix("-values"), set())
    seen = set()
    for spec in every_pod(case, tmp_path):
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert spec["enableServiceLinks"] is False
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (65532, 65532, 65532)
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for volume in spec["volumes"]:
            (kind,) = volume.keys() - {"name"}
            seen |= {kind} - RESTRICTED_VOLUMES
        for container in (*spec.get("initContainers", []), *spec["containers"]):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"]["drop"] == ["ALL"]
            assert security.keys() <= {"allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities"}
            assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}, "a quota asks for both"
            assert "hostPort" not in str(container.get("ports"))
            seen |= set(security["capabilities"].get("add", []))
    assert seen == allowed


def test_only_the_coordinator_and_its_test_have_a_token() -> None:
    rendered = render(PVC)
    for stage in STAGES:
        spec = rendered.pod(stage)["spec"]
        expected = "coordinator" if stage == "coordinator" else "worker"
        assert spec["serviceAccountName"] == f"medvl-train-{expected}"
        assert spec["automountServiceAccountToken"] is (stage == "coordinator")
    assert rendered.one("Pod")["spec"]["serviceAccountName"] == "medvl-train-coordinator"
    assert not any(account["automountServiceAccountToken"] for account in rendered.all("ServiceAccount"))


def test_the_role_is_what_the_coordinator_needs() -> None:
    rendered = render({})
    rules = rendered.one("Role")["rules"]
    (plan,) = [rule for rule in rules if "resourceNames" in rule]
    assert plan == {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"],
                    "resourceNames": [rendered.plan["metadata"]["name"]]}  # fmt: skip
    granted = {
        (group, resource): set(rule["verbs"])
        for rule in rules
        if rule is not plan
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert granted == {(group, resource): set(verbs) for group, resource, verbs in NEEDED}
    assert granted["", "events"] == {"create", "list"}
    assert "delete" not in set().union(*granted.values())
    (subject,) = rendered.one("RoleBinding")["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": "medvl-train-coordinator", "namespace": "ml"}


def test_a_missing_secret_stops_no_pod() -> None:
    """It is medvl's own message then, with exit code 77, and not a pod that never starts."""
    rendered = render(merged(PVC, {"storage": {"existingSecret": "s3", "secretKeys": {"accessKeyId": "id"}}}))
    for stage in STAGES:
        environment = rendered.environment(stage)
        assert environment["AWS_ACCESS_KEY_ID"]["secretKeyRef"] == {"name": "s3", "key": "id", "optional": True}
        assert environment["AWS_SECRET_ACCESS_KEY"]["secretKeyRef"]["optional"] is True
    assert "AWS_ACCESS_KEY_ID" not in render({}).environment("prep"), "workload identity"


def test_the_certificate_authority_is_where_the_settings_say() -> None:
    rendered = render(merged(PVC, {"storage": {"caBundle": {"existingSecret": "ca", "key": "site.pem"}}}))
    path = Path(rendered.run["storage"]["ca_bundle"])
    for stage in STAGES:
        (mount,) = [m for m in rendered.main(stage)["volumeMounts"] if m["mountPath"] == str(path.parent)]
        (volume,) = [v for v in rendered.pod(stage)["spec"]["volumes"] if v["name"] == mount["name"]]
        assert volume["secret"] == {"secretName": "ca", "items": [{"key": "site.pem", "path": path.name}]}


def test_own_labels_cannot_be_replaced() -> None:
    own = {"app.kubernetes.io/name": "x", "app.kubernetes.io/instance": "x", "app.kubernetes.io/component": "x",
           "app.kubernetes.io/managed-by": "x"}  # fmt: skip
    values = {"commonLabels": own, "pods": {"podLabels": own}, "coordinator": {"podLabels": own}}
    values["serviceAccount"] = {"worker": {"labels": own}}
    plain, rendered = render({}), render(values)
    for before, after in zip(plain.objects, rendered.objects, strict=True):
        assert before["metadata"]["labels"].items() <= after["metadata"]["labels"].items()
    for stage in set(STAGES) - {"model"}:
        assert plain.pod(stage)["metadata"]["labels"].items() <= rendered.pod(stage)["metadata"]["labels"].items()


def test_names_are_hashes_of_what_they_name() -> None:
    def names(values: Json, release: str = "medvl-train") -> tuple[str, str]:
        rendered = render(values, release=release)
        plan, job = rendered.plan, rendered.one("Job")
        assert plan["immutable"] is True
        assert job["spec"]["template"]["spec"]["volumes"][0]["configMap"]["name"] == plan["metadata"]["name"]
        assert rendered.environment("coordinator")["MEDVL_CLUSTER__PLAN"] == plan["metadata"]["name"]
        return plan["metadata"]["name"], job["metadata"]["name"]

    plan, coordinator = names({})
    assert plan.startswith("medvl-train-plan-")
    assert coordinator.startswith("medvl-train-coordinator-")
    assert names({}) == (plan, coordinator)
    again = names({"attempt": 2})
    assert again[0] == plan, "another attempt goes on with the same plan"
    assert again[1] != coordinator
    assert names({"coordinator": {"resources": {"limits": {"memory": "2Gi"}}}})[0] == plan
    changed = names({"run": {"train": {"lora": {"rank": 4}}}})
    assert changed[0] != plan
    assert changed[1] != coordinator


def test_two_releases_share_no_name() -> None:
    values = merged(PVC, {"networkPolicy": {"enabled": True}, "train": {"workers": 1}})
    one, two = (
        {(each["kind"], each["metadata"]["name"]) for each in render(values, release=release).objects}
        for release in ("one", "two")
    )
    assert len(one) == len(two) == len(render(values, release="one").objects)
    assert not one & two


@pytest.mark.parametrize(
    ("cache", "fetched_first", "by_a_job", "volume"),
    [
        ({}, True, False, {"emptyDir": {"sizeLimit": "80Gi"}}),
        ({"fill": False}, False, False, None),
        ({"type": "pvc"}, False, True, {"persistentVolumeClaim": {"claimName": "medvl-train-models"}}),
        ({"type": "pvc", "fill": False, "pvc": {"existingClaim": "w"}}, False, False,
         {"persistentVolumeClaim": {"claimName": "w"}}),
        ({"type": "hostPath", "hostPath": {"path": "/mnt"}}, True, False,
         {"hostPath": {"path": "/mnt", "type": "Directory"}}),
        ({"type": "hostPath", "fill": False, "hostPath": {"path": "/mnt"}}, False, False,
         {"hostPath": {"path": "/mnt", "type": "Directory"}}),
        ({"type": "image", "image": {"reference": "r/m:1"}}, False, False,
         {"image": {"reference": "r/m:1", "pullPolicy": "IfNotPresent"}}),
    ],
)  # fmt: skip
def test_where_the_weights_come_from(cache: Json, fetched_first: bool, by_a_job: bool, volume: Json | None) -> None:
    token = [{"name": "HF_TOKEN", "value": "x"}]
    rendered = render({"modelCache": cache | {"extraEnv": token}})
    assert ("model.yaml" in rendered.plan["data"]) is by_a_job
    assert len(rendered.all("PersistentVolumeClaim")) == (cache == {"type": "pvc"})
    for stage in ("train", "eval"):
        spec, environment = rendered.pod(stage)["spec"], rendered.environment(stage)
        found = [{k: v for k, v in each.items() if k != "name"} for each in spec["volumes"] if each["name"] == "models"]
        assert found == ([volume] if volume else [])
        mounts = [mount for mount in rendered.main(stage)["volumeMounts"] if mount["mountPath"] == "/models"]
        assert mounts == ([{"name": "models", "mountPath": "/models", "readOnly": True}] if volume else [])
        assert environment.get("MEDVL_MODEL__CACHE") == (None if not volume or "image" in volume else "/models")
        assert environment["HF_HUB_OFFLINE"] == "1"
        assert "HF_TOKEN" not in environment
        assert ("initContainers" in spec) is fetched_first
        if fetched_first:
            (first,) = spec["initContainers"]
            assert first["command"] + first["args"] == ["medvl", "model", "--config", "/etc/medvl/run.yaml"]
            assert {"name": "models", "mountPath": "/models", "readOnly": False} in first["volumeMounts"]
            assert {"name": "MEDVL_MODEL__CACHE", "value": "/models"} in first["env"]
            assert token[0] in first["env"]
            assert "HF_HUB_OFFLINE" not in [each["name"] for each in first["env"]]
            assert first["image"] == rendered.main("prep")["image"]
    if by_a_job:
        environment = rendered.environment("model")
        assert environment["MEDVL_MODEL__CACHE"] == "/models"
        assert environment["HF_TOKEN"] == "x"
        assert "HF_HUB_OFFLINE" not in environment
        assert {"name": "models", "mountPath": "/models", "readOnly": False} in rendered.main("model")["volumeMounts"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_cache_of_the_node_is_filled_on_every_node(workers: int) -> None:
    """A Job would fill the one of the node that it lands on."""
    cache = {"type": "hostPath", "hostPath": {"path": "/mnt"}}
    rendered = render({"modelCache": cache, "train": {"workers": workers}, "gpu": {"nodeSelector": {"pool": "gpu"}}})
    pods = [*pod_templates(rendered.stage("train")), *pod_templates(rendered.stage("eval"))]
    assert len(pods) == workers + 2
    for pod in pods:
        assert [each["args"][0] for each in pod["spec"]["initContainers"]] == ["model"]
        assert pod["spec"]["nodeSelector"] == {"pool": "gpu"}


def test_room_for_the_weights_is_requested() -> None:
    """The scheduler knows no ``sizeLimit``, and a node whose disk is full evicts its pods."""

    def fetches(values: Json) -> Json:
        (first,) = render(values).pod("eval")["spec"]["initContainers"]
        return dict(first["resources"])

    assert fetches({}) == {"requests": {"cpu": "2", "memory": "4Gi", "ephemeral-storage": "80Gi"},
                           "limits": {"memory": "8Gi"}}  # fmt: skip
    assert fetches({"modelCache": {"size": "9Gi"}})["requests"]["ephemeral-storage"] == "9Gi"
    own = {"model": {"resources": {"requests": {"ephemeral-storage": "1Gi"}}}}
    assert fetches(own)["requests"]["ephemeral-storage"] == "1Gi"
    assert fetches({"model": {"resources": {"requests": None}}})["requests"] == {"ephemeral-storage": "80Gi"}
    host = fetches({"modelCache": {"type": "hostPath", "hostPath": {"path": "/mnt"}}})
    assert "ephemeral-storage" not in host["requests"], "what lies on the host is none of the pod's"
    assert "ephemeral-storage" not in render(PVC).main("model")["resources"]["requests"]


def test_training_is_one_pod_with_all_gpus() -> None:
    spec = render({}).stage("train")["spec"]
    assert spec["nprocPerNode"] == "4"
    assert spec["runPolicy"] == {"backoffLimit": 3, "cleanPodPolicy": "Running"}
    (master,) = spec["pytorchReplicaSpecs"].values()
    assert (master["replicas"], master["restartPolicy"]) == (1, "OnFailure")
    resources = render({}).main("train")["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == 4
    assert render({}).main("eval")["resources"]["limits"]["nvidia.com/gpu"] == 1
    train = render({}).pod("train")["spec"]
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "64Gi"}} in train["volumes"]
    assert train["terminationGracePeriodSeconds"] == 600
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in train["tolerations"]


def test_the_evaluation_without_a_model_holds_no_gpu() -> None:
    rendered = render(PVC)
    template, report = rendered.main("template"), rendered.main("report")
    assert template["resources"] == report["resources"]
    assert template["image"] == rendered.main("eval")["image"]
    assert "nvidia" not in yaml.safe_dump(rendered.stage("template"))
    assert "/models" not in yaml.safe_dump(rendered.stage("template"))


def test_workers_are_like_the_master() -> None:
    rdma = {"enabled": True, "ibHca": "mlx5", "gidIndex": 3}
    rendered = render({"gpu": {"count": 8}, "train": {"workers": 3, "rdma": rdma}, "nccl": {"socketInterface": "eth0"}})
    replicas = rendered.stage("train")["spec"]["pytorchReplicaSpecs"]
    assert replicas["Worker"] == replicas["Master"] | {"replicas": 3}
    assert rendered.main("train")["resources"]["limits"]["rdma/hca"] == 1
    environment = rendered.environment("train")
    assert environment.items() >= {("NCCL_IB_HCA", "mlx5"), ("NCCL_IB_GID_INDEX", "3"), ("NCCL_SOCKET_IFNAME", "eth0")}


def test_without_gpus_there_is_nothing_of_gpus() -> None:
    rendered = render(
        {"gpu": {"enabled": False, "count": 2, "nodeSelector": {"gpu": "yes"}, "runtimeClassName": "nvidia"}}
    )
    assert rendered.stage("train")["spec"]["nprocPerNode"] == "2"
    for stage in ("train", "eval"):
        text = yaml.safe_dump(rendered.stage(stage))
        for word in ("nvidia", "NCCL", "gpu"):
            assert word not in text


def test_jobs_stop_where_trying_again_cannot_help() -> None:
    rendered = render(PVC)
    for stage in set(STAGES) - {"train"}:
        spec = rendered.stage(stage)["spec"]
        assert spec["podReplacementPolicy"] == "Failed"
        evicted, failed = spec["podFailurePolicy"]["rules"]
        assert evicted == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
        gave_up = [69] if stage == "coordinator" else []
        assert failed["onExitCodes"] == {"operator": "In", "values": [64, 65, 66, *gave_up, 77, 78]}
        assert rendered.pod(stage)["spec"]["restartPolicy"] == "Never"
    prep = rendered.stage("prep")["spec"]
    assert prep["completionMode"] == "Indexed"
    assert prep["backoffLimitPerIndex"] == 2
    assert not {"completions", "parallelism", "backoffLimit"} & prep.keys()


def test_kueue_gets_the_stages_and_not_the_coordinator() -> None:
    queue = {"queue": {"kueue": {"enabled": True, "localQueue": "medvl", "priorityClass": "batch"}}}
    rendered = render(merged(PVC, queue))
    for stage in STAGES:
        labels = rendered.stage(stage)["metadata"]["labels"]
        found = (labels.get("kueue.x-k8s.io/queue-name"), labels.get("kueue.x-k8s.io/priority-class"))
        assert found == ((None, None) if stage == "coordinator" else ("medvl", "batch"))
        assert not [label for label in rendered.pod(stage)["metadata"]["labels"] if "kueue" in label]


def test_network_policies_open_only_what_is_needed() -> None:
    values: Json = {"networkPolicy": {"enabled": True, "storage": {"cidrs": ["10.1.0.0/16"], "ports": [9000]}}}
    assert not render({}).all("NetworkPolicy")
    everybody, coordinator = render(values).all("NetworkPolicy")
    assert everybody["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in everybody["spec"]
    names, store = everybody["spec"]["egress"]
    assert {port["port"] for port in names["ports"]} == {53}
    assert store == {"ports": [{"protocol": "TCP", "port": 9000}], "to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}
    assert [port["port"] for rule in coordinator["spec"]["egress"] for port in rule["ports"]] == [443, 6443]
    anywhere = render({"networkPolicy": {"enabled": True}}).all("NetworkPolicy")
    assert not [rule for policy in anywhere for rule in policy["spec"]["egress"] if "to" in rule], "as the README says"
    (who,) = coordinator["spec"]["podSelector"]["matchExpressions"]
    assert who["values"] == ["coordinator", "test"]

    rendered = render(merged(values, {"train": {"workers": 1}}))
    train = rendered.all("NetworkPolicy")[2]["spec"]
    selector = train["podSelector"]
    assert train["ingress"] == [{"from": [{"podSelector": selector}]}]
    assert train["egress"] == [{"to": [{"podSelector": selector}]}]
    assert selector["matchLabels"].items() <= rendered.pod("train")["metadata"]["labels"].items()
    for policy in rendered.all("NetworkPolicy"):
        chosen = policy["spec"]["podSelector"]["matchLabels"].items()
        assert chosen <= {"app.kubernetes.io/component": "train", **rendered.pod("train")["metadata"]["labels"]}.items()


def test_helm_test_is_the_coordinator_without_the_work() -> None:
    rendered = render({})
    pod, job = rendered.one("Pod"), rendered.pod("coordinator")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    container, coordinator = pod["spec"]["containers"][0], job["spec"]["containers"][0]
    assert container == coordinator | {"args": [*coordinator["args"], "--dry-run"]}
    assert pod["metadata"]["labels"]["app.kubernetes.io/component"] == "test"


NOTES = """
apiVersion: v1
kind: Secret
metadata: {name: notes}
stringData:
  text: {{ include (print $.Template.BasePath "/NOTES.txt") . | toJson }}
"""


def notes(values: Json, **options: str) -> str:
    return str(render(values | {"extraObjects": [NOTES]}, **options).one("Secret")["stringData"]["text"])


def test_notes_say_what_to_do_next() -> None:
    values = {"run": {"name": "trial"}, "storage": {"endpoint": "http://s3:8333", "prefix": ""}}
    text = notes(values)
    rendered = render(values | {"extraObjects": [NOTES]})
    assert f"kubectl -n ml logs -f job/{rendered.one('Job')['metadata']['name']}" in text
    assert f"kubectl -n ml logs -f -l medvl.io/plan={rendered.plan['metadata']['name']},medvl.io/stage=train," in text
    assert "aws s3 cp --recursive --endpoint-url http://s3:8333 s3://medvl/runs/trial/ report/" in text
    get = (
        f"kubectl -n ml get configmap {rendered.plan['metadata']['name']} -o jsonpath='{{.data.run\\.yaml}}' > run.yaml"
    )
    assert f"   {get}\n   medvl collect --config run.yaml --out report\n" in text
    own_authority = notes(merged(values, {"storage": {"caBundle": {"existingSecret": "ca", "key": "site.pem"}}}))
    assert "\n   medvl collect --config run.yaml --out report storage.ca_bundle=site.pem\n" in own_authority
    assert "helm -n ml test medvl-train --logs" in text
    assert "s3://medvl/medvl/runs/medvl/" in notes({}), "prefix and name by default"


def test_notes_warn_of_a_cluster_without_pytorchjobs() -> None:
    assert "knows no PyTorchJob" in notes({})
    assert "--set attempt=2" in notes({})
    assert "WARNING" not in notes({}, api="kubeflow.org/v1/PyTorchJob")


def test_extra_objects_may_hold_templates() -> None:
    kind = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "{{ .Release.Name }}-extra"}}
    text = 'apiVersion: v1\nkind: Secret\nmetadata: {name: {{ include "medvl.planName" . }}}'
    rendered = render({"extraObjects": [kind, text]})
    assert [each["metadata"]["name"] for each in rendered.all("Secret")] == [
        "medvl-train-extra",
        rendered.plan["metadata"]["name"],
    ]
