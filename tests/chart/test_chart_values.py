"""Every value does something, is checked, and means what it says when it is 0, false or empty."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from readme import CHART, read_values, render
from rendering import HELM_MAJORS, Json, merged, nested, refusal, template
from rendering import render as rendered

VALUES = read_values((CHART / "values.yaml").read_text("utf-8"))
STAGES = ("coordinator", "model", "prep", "train", "eval", "report")
WITH_PODS = (*STAGES, "chat")
POD_KEYS = [value.path[1] for value in VALUES if value.path[0] == "pods"]

DIGEST = "sha256:" + "a" * 64
VARIABLE = [{"name": "SITE", "value": "a"}]
LABELS = {"team": "ml"}
TOLERATIONS = [{"key": "batch", "operator": "Exists"}]
AFFINITY = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
EGRESS = [{"ports": [{"port": 3128}]}]

PVC = {"modelCache": {"type": "pvc"}}
IMAGE = {"modelCache": {"type": "image", "image": {"reference": "registry/model:1"}}}
SECRET = {"storage": {"existingSecret": "s3"}}
NETWORK = {"networkPolicy": {"enabled": True}}
KUEUE = {"queue": {"kueue": {"enabled": True, "localQueue": "medvl"}}}
RDMA = {"train": {"rdma": {"enabled": True}}}
CHAT = {"chat": {"enabled": True}}

ALTERNATIVES: dict[str, Any] = {
    "run": {"name": "other"},
    "attempt": 2,
    "fullnameOverride": "other",
    "storage.endpoint": "http://s3:8333",
    "storage.bucket": "other",
    "storage.prefix": "",
    "storage.region": "us-east-1",
    "storage.pathStyle": True,
    "storage.existingSecret": "s3",
    "storage.secretKeys.accessKeyId": "id",
    "storage.secretKeys.secretAccessKey": "secret",
    "storage.caBundle.existingConfigMap": "ca",
    "storage.caBundle.existingSecret": "ca",
    "storage.caBundle.key": "ca.pem",
    "images.registry": "",
    **{f"images.{image}.repository": "other" for image in ("prep", "train", "eval")},
    **{f"images.{image}.tag": "other" for image in ("prep", "train", "eval")},
    **{f"images.{image}.digest": DIGEST for image in ("prep", "train", "eval")},
    **{f"images.{image}.pullPolicy": "Never" for image in ("prep", "train", "eval")},
    "imagePullSecrets": [{"name": "registry"}],
    "modelCache.type": "pvc",
    "modelCache.fill": False,
    "modelCache.size": "1Gi",
    "modelCache.pvc.existingClaim": "weights",
    "modelCache.pvc.storageClass": "fast",
    "modelCache.pvc.accessModes": ["ReadWriteOnce"],
    "modelCache.hostPath.path": "/mnt/other",
    "modelCache.image.reference": "registry/model:2",
    "modelCache.image.pullPolicy": "Always",
    "modelCache.extraEnv": VARIABLE,
    "gpu.enabled": False,
    "gpu.count": 8,
    "gpu.resource": "amd.com/gpu",
    "gpu.nodeSelector": LABELS,
    "gpu.tolerations": [],
    "gpu.affinity": AFFINITY,
    "gpu.runtimeClassName": "nvidia",
    "gpu.shmSize": "1Gi",
    "nccl.nvls": "0",
    "nccl.socketInterface": "eth0",
    "nccl.debug": "",
    "nccl.extraEnv": VARIABLE,
    "queue.kueue.enabled": True,
    "queue.kueue.localQueue": "other",
    "queue.kueue.priorityClass": "high",
    **{f"serviceAccount.{role}.create": False for role in ("coordinator", "worker")},
    **{f"serviceAccount.{role}.name": "other" for role in ("coordinator", "worker")},
    **{f"serviceAccount.{role}.annotations": LABELS for role in ("coordinator", "worker")},
    **{f"serviceAccount.{role}.labels": LABELS for role in ("coordinator", "worker")},
    "pods.podLabels": LABELS,
    "pods.podAnnotations": LABELS,
    "pods.nodeSelector": LABELS,
    "pods.tolerations": TOLERATIONS,
    "pods.affinity": AFFINITY,
    "pods.priorityClassName": "high",
    "pods.extraEnv": VARIABLE,
    "pods.extraEnvFrom": [{"secretRef": {"name": "site"}}],
    "pods.extraVolumes": [{"name": "site", "emptyDir": {}}],
    "pods.extraVolumeMounts": [{"name": "site", "mountPath": "/site"}],
    "pods.scratchSize": "1Gi",
    "coordinator.attempts": 1,
    "coordinator.giveUpAfterSeconds": 1,
    "coordinator.resyncSeconds": 1,
    "prep.parallelism": 1,
    "train.workers": 1,
    "train.threads": 1,
    "train.rdma.enabled": True,
    "train.rdma.resource": "rdma/other",
    "train.rdma.count": 2,
    "train.rdma.ibHca": "mlx5",
    "train.rdma.gidIndex": 0,
    "train.cleanPodPolicy": "All",
    "eval.gpus": 0,
    **{f"{stage}.backoffLimit": 0 for stage in STAGES},
    **{f"{stage}.activeDeadlineSeconds": 60 for stage in STAGES},
    **{f"{stage}.ttlSecondsAfterFinished": 300 for stage in STAGES if stage != "coordinator"},
    **{f"{stage}.terminationGracePeriodSeconds": 0 for stage in STAGES},
    **{f"{stage}.resources": {"requests": {"cpu": "7"}} for stage in STAGES},
    "chat.enabled": True,
    "chat.gpus": 0,
    "chat.password.existingSecret": "other",
    "chat.password.key": "other",
    "chat.service.type": "NodePort",
    "chat.service.port": 8080,
    "chat.service.annotations": LABELS,
    "chat.allowFrom": [{"podSelector": {}}],
    "chat.terminationGracePeriodSeconds": 0,
    "chat.resources": {"requests": {"cpu": "7"}},
    "networkPolicy.enabled": True,
    "networkPolicy.storage.cidrs": ["10.0.0.0/8"],
    "networkPolicy.storage.ports": [8333],
    "networkPolicy.apiServer.cidrs": ["10.0.0.1/32"],
    "networkPolicy.apiServer.ports": [16443],
    "networkPolicy.extraEgress": EGRESS,
    "commonLabels": LABELS,
    "commonAnnotations": LABELS,
    "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}],
}
"""Another value for each; a value without one fails the test."""

CONTEXTS: dict[str, Json] = {
    "storage.secretKeys.": SECRET,
    "storage.caBundle.key": {"storage": {"caBundle": {"existingSecret": "ca"}}},
    "modelCache.pvc.": PVC,
    "modelCache.hostPath.": {"modelCache": {"type": "hostPath", "hostPath": {"path": "/mnt"}}},
    "modelCache.image.": IMAGE,
    "queue.kueue.enabled": {"queue": {"kueue": {"localQueue": "medvl"}}},
    "queue.kueue.localQueue": KUEUE,
    "queue.kueue.priorityClass": KUEUE,
    "serviceAccount.coordinator.create": {"serviceAccount": {"coordinator": {"name": "a"}}},
    "serviceAccount.worker.create": {"serviceAccount": {"worker": {"name": "a"}}},
    "train.rdma.resource": RDMA,
    "train.rdma.count": RDMA,
    "train.rdma.ibHca": RDMA,
    "train.rdma.gidIndex": RDMA,
    "model.": PVC,
    "chat.enabled": {},
    "chat.password.": merged(CHAT, {"chat": {"password": {"existingSecret": "chat"}}}),
    "chat.allowFrom": merged(CHAT, NETWORK),
    "chat.": CHAT,
    "networkPolicy.storage.": NETWORK,
    "networkPolicy.apiServer.": NETWORK,
    "networkPolicy.extraEgress": NETWORK,
}
"""What must be set for a value, or all that start so, to have a meaning."""


def context_of(name: str) -> Json:
    return next((context for prefix, context in CONTEXTS.items() if name.startswith(prefix)), {})


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value.name)
def test_every_value_changes_the_rendering(value: Any) -> None:
    assert value.name in ALTERNATIVES, "add another value for it to ALTERNATIVES"
    context = context_of(value.name)
    before = template(context)
    after = template(merged(context, nested(value.name, ALTERNATIVES[value.name])))
    assert (before.returncode, after.returncode) == (0, 0), before.stderr + after.stderr
    assert before.stdout != after.stdout


def test_no_alternative_is_left_over() -> None:
    assert ALTERNATIVES.keys() == {value.name for value in VALUES}


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value.name)
def test_null_is_empty_or_refused(value: Any) -> None:
    """``count:`` with nothing behind it must not become 0."""
    context = context_of(value.name)
    null = template(merged(context, nested(value.name, None)))
    if null.returncode != 0:
        assert value.path[-1] in null.stderr
        assert "nil pointer" not in null.stderr
    else:
        empty = (
            dict.fromkeys(value.default) if isinstance(value.default, dict) else value.default and type(value.default)()
        )
        assert null.stdout == template(merged(context, nested(value.name, empty))).stdout


@pytest.mark.parametrize("major", HELM_MAJORS)
def test_a_section_without_values_is_refused(major: int) -> None:
    """Helm takes ``gpu:`` with nothing below for a wish to have none of the section's defaults."""
    for section in {value.path[:n] for value in VALUES for n in range(1, len(value.path))} - {("storage",)}:
        assert section[-1] in refusal(nested(".".join(section), None), major=major)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_adds_its_own_to_every_pods(stage: str) -> None:
    """Lists are appended, maps merged, single values replaced; no other stage sees any of it."""
    everywhere = {
        "pods": {"podLabels": {"a": "1", "b": "1"}, "tolerations": [{"key": "a"}], "priorityClassName": "low"}
    }
    own = {key: ALTERNATIVES[f"pods.{key}"] for key in POD_KEYS} | {"podLabels": {"b": "2"}, "priorityClassName": ""}
    one = rendered(merged(PVC, everywhere))
    two = rendered(merged(merged(PVC, everywhere), {stage: own}))
    changed = {other for other in STAGES if one.pod(other) != two.pod(other)}
    # the plan's name is in the coordinator's pod, and changes with every stage
    assert changed == {stage, "coordinator"}
    pod = two.pod(stage)
    assert pod["metadata"]["labels"].items() >= {("a", "1"), ("b", "2")}
    assert pod["metadata"]["annotations"] == LABELS
    spec = pod["spec"]
    assert [each["key"] for each in spec["tolerations"] if each["key"] in "a batch"] == ["a", "batch"]
    assert spec["nodeSelector"] == LABELS
    assert spec["affinity"] == AFFINITY
    assert "priorityClassName" not in spec, "an empty word replaces one"
    container = spec["containers"][0]
    assert VARIABLE[0] in container["env"]
    assert container["envFrom"] == own["extraEnvFrom"]
    assert own["extraVolumes"][0] in spec["volumes"]
    assert own["extraVolumeMounts"][0] in container["volumeMounts"]
    assert {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}} in spec["volumes"]


def test_terms_of_an_affinity_are_replaced() -> None:
    """Appended, ``nodeSelectorTerms`` would mean "or", and the stage could run where no pod may."""

    def required(zone: str) -> Json:
        terms = [{"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}]
        return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}

    spread = {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
    found = rendered({"pods": {"affinity": required("a") | spread}, "prep": {"affinity": required("b")}})
    assert found.pod("prep")["spec"]["affinity"] == required("b") | spread
    assert found.pod("report")["spec"]["affinity"] == required("a") | spread


def test_every_stage_has_the_keys_of_every_pod_in_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    pods = schema["properties"]["pods"]["properties"]
    for stage in WITH_PODS:
        found = schema["properties"][stage]
        properties = schema["definitions"]["stage"]["properties"] if "$ref" in found else found["properties"]
        assert pods.items() <= properties.items()


def test_the_schema_owns_what_the_values_have() -> None:
    """Every map of the values is closed in the schema, and the schema knows no value that is not there."""
    schema = json.loads((CHART / "values.schema.json").read_text())

    def walk(values: Json, part: Json, path: str) -> None:
        part = schema["definitions"][part["$ref"].rsplit("/")[-1]] if "$ref" in part else part
        assert part["additionalProperties"] is False, path
        extra = set(POD_KEYS) if path in WITH_PODS else {"global"}
        assert part["properties"].keys() - extra == values.keys() - {"global"}, path
        for key, value in values.items():
            if isinstance(value, dict) and f"{path}.{key}".lstrip(".") not in {each.name for each in VALUES}:
                walk(value, part["properties"][key], f"{path}.{key}".lstrip("."))

    walk(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "")


def test_a_variable_of_the_values_replaces_the_charts() -> None:
    values = {"pods": {"extraEnv": [{"name": "OMP_NUM_THREADS", "value": "2"}, {"name": "HOME", "value": "/home"}]},
              "train": {"extraEnv": [{"name": "OMP_NUM_THREADS", "value": "3"}]}}  # fmt: skip
    train = rendered(values).environment("train")
    assert (train["OMP_NUM_THREADS"], train["HOME"]) == ("3", "/home")


@pytest.mark.parametrize("major", HELM_MAJORS)
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"gpus": 1}, ["gpus", "allowed"]),
        ({"train": {"gpus": 1}}, ["train", "gpus", "allowed"]),
        ({"report": {"parallelism": 1}}, ["report", "parallelism", "allowed"]),
        ({"coordinator": {"ttlSecondsAfterFinished": 1}}, ["coordinator", "ttlSecondsAfterFinished", "allowed"]),
        ({"pods": {"extraEnv": [{"name": "A", "val": "1"}]}}, ["pods", "extraEnv", "val", "allowed"]),
        ({"pods": {"extraEnv": [{"name": "A", "value": 1}]}}, ["pods", "extraEnv", "value", "string"]),
        ({"gpu": {"enabled": "yes"}}, ["gpu", "enabled", "boolean", "string"]),
        ({"gpu": {"count": 0}}, ["gpu", "count", "1"]),
        ({"gpu": {"count": "4"}}, ["gpu", "count", "integer", "string"]),
        ({"attempt": 0}, ["attempt", "1"]),
        ({"prep": {"ttlSecondsAfterFinished": 0}}, ["prep", "ttlSecondsAfterFinished", "300"]),
        ({"train": {"ttlSecondsAfterFinished": 299}}, ["train", "ttlSecondsAfterFinished", "300"]),
        ({"report": {"ttlSecondsAfterFinished": 299}}, ["report", "ttlSecondsAfterFinished", "300"]),
        ({"train": {"backoffLimit": 1.5}}, ["train", "backoffLimit", "integer"]),
        ({"modelCache": {"type": "nfs"}}, ["modelCache", "type", "emptyDir", "pvc", "hostPath", "image"]),
        ({"modelCache": {"size": "lots"}}, ["modelCache", "size", "pattern"]),
        ({"nccl": {"nvls": 0}}, ["nccl", "nvls", "auto"]),
        ({"storage": {"bucket": "Bucket"}}, ["storage", "bucket", "pattern"]),
        ({"storage": {"prefix": "/medvl/"}}, ["storage", "prefix", "pattern"]),
        ({"storage": {"endpoint": "s3.example.org"}}, ["storage", "endpoint", "https?://"]),
        ({"run": {"storage": {"uri": "s3://a"}}}, ["run", "not here: set storage at the top level"]),
        ({"run": {"cluster": {"attempts": 1}}}, ["run", "not here: set coordinator and attempt at the top level"]),
        ({"run": {"chat": {"password": "sesame"}}}, ["run", "chat", "password", "set chat.password.existingSecret"]),
        ({"run": {"eval": {"server": {"api_key": "k"}}}}, ["run", "api_key", "in extraEnv, from a Secret"]),
        ({"run": {"name": "Trial"}}, ["run", "name", "[a-z0-9]"]),
        ({"run": {"name": "a" * 41}}, ["run", "name", "{0,38}"]),
        ({"images": {"prep": {"digest": "latest"}}}, ["images", "prep", "digest", "sha256"]),
        ({"storage": {"bucket": ""}}, ["storage.bucket is not set: name the bucket"]),
        ({"storage": {"caBundle": {"existingConfigMap": "a", "existingSecret": "b"}}}, ["leave one of them empty"]),
        ({"queue": {"kueue": {"enabled": True}}}, ["set queue.kueue.localQueue"]),
        ({"modelCache": {"type": "hostPath"}}, ["set modelCache.hostPath.path"]),
        ({"modelCache": {"type": "image"}}, ["set modelCache.image.reference"]),
        ({"serviceAccount": {"worker": {"create": False}}}, ["set serviceAccount.worker.name"]),
    ],
)
def test_a_slip_is_named(values: Json, said: list[str], major: int) -> None:
    message = refusal(values, major=major)
    for word in said:
        assert word in message


@pytest.mark.parametrize("major", HELM_MAJORS)
def test_a_name_that_no_stage_can_have(major: int) -> None:
    message = refusal({}, release="a-release-name-of-31-characters", major=major)
    assert (
        "has 31 characters, and names of stages leave room for 30: take a shorter one, or set fullnameOverride"
        in message
    )
    assert "a letter first" in refusal({}, release="30b-lora", major=major)
    assert "small letters, digits and dashes" in refusal({"fullnameOverride": "a.b"}, major=major)
    assert template({"fullnameOverride": "short"}, release="a-release-name-of-31-characters").returncode == 0
    assert template({}, release="r" * 30, major=major).returncode == 0


def test_zero_false_and_empty_are_values() -> None:
    zeros = {stage: {"backoffLimit": 0, "terminationGracePeriodSeconds": 0} for stage in STAGES}
    for stage in set(STAGES) - {"coordinator"}:
        zeros[stage] |= {"activeDeadlineSeconds": 0}
    values = merged(PVC, zeros) | {"storage": {"prefix": "", "pathStyle": False}, "images": {"registry": ""}}
    values["train"] |= {"rdma": {"enabled": True, "gidIndex": 0}}
    values["eval"] |= {"gpus": 0}
    values["nccl"] = {"debug": "", "nvls": "0"}
    values["run"] = {"train": {"seed": 0, "lora": {"dropout": 0.0}}, "model": {"revision": "", "threads": 0}}
    found = rendered(values)
    assert found.run["storage"] == {"uri": "s3://medvl", "path_style": False}
    assert found.run["train"] == {"seed": 0, "lora": {"dropout": 0.0}}
    assert found.run["model"] == {"revision": "", "threads": 0}
    for stage in STAGES:
        spec = found.stage(stage)["spec"]
        limits = spec.get("runPolicy", spec)
        assert limits["backoffLimitPerIndex" if stage == "prep" else "backoffLimit"] == 0
        assert found.pod(stage)["spec"]["terminationGracePeriodSeconds"] == 0
        if stage != "coordinator":
            assert limits["activeDeadlineSeconds"] == 0
            assert "ttlSecondsAfterFinished" not in limits
    assert found.main("prep")["image"] == "medvl-prep:0.1.0"
    train = found.environment("train")
    assert (train["NCCL_NVLS_ENABLE"], train["NCCL_IB_GID_INDEX"]) == ("0", "0")
    assert "NCCL_DEBUG" not in train
    assert "nvidia.com/gpu" not in found.main("eval")["resources"]["limits"]


def test_the_run_is_passed_through_as_it_is() -> None:
    run = {
        "name": "trial",
        "prep": {"image": {"refuse_above_pixels": 50_000_000}, "group_pattern": "^([^_]+)_", "language": "no"},
        "prompt": {"question": "Zwei\nZeilen: {{ .Values.storage }} # no comment"},
        "train": {"learning_rate": 1e-5, "epochs": 0.5},
        "anything": {"the_chart": ["does not", None, "know"]},
    }
    found = rendered({"run": run}).run
    assert {key: found[key] for key in run} | {"train": run["train"]} == run
    assert float(found["train"]["learning_rate"]) == 1e-5
    assert found.keys() - run.keys() == {"storage", "cluster"}
    assert found["cluster"] == {"attempts": 2, "give_up_after_seconds": 900, "resync_seconds": 30}


def test_the_readme_is_up_to_date() -> None:
    readme = (CHART / "README.md").read_text("utf-8")
    assert readme == render(readme, (CHART / "values.yaml").read_text("utf-8")), "make chart-readme"


def test_a_value_without_a_comment_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a\.b in values.yaml has no comment"):
        read_values("a:\n  b: 1\n")
