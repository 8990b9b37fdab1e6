"""Real helm, of both majors, against the fake: the life of a small release."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.fakekube import Cluster

MAJORS = pytest.mark.parametrize("major", [3, 4])
CHART = """\
apiVersion: v2
name: small
version: 0.1.0
"""
OBJECTS = """\
apiVersion: v1
kind: ServiceAccount
metadata: {name: "{{ .Release.Name }}"}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: "{{ .Release.Name }}-{{ .Values.word }}"
immutable: true
data: {word: {{ .Values.word | quote }}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: "{{ .Release.Name }}-{{ .Values.word }}"}
spec:
  template:
    spec:
      restartPolicy: Never
      serviceAccountName: "{{ .Release.Name }}"
      containers:
        - {name: medvl, image: "image:1", command: [sh, -c, "echo {{ .Values.word }}; sleep {{ .Values.seconds }}"]}
"""
TEST_POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: "{{ .Release.Name }}-test"
  annotations: {helm.sh/hook: test, helm.sh/hook-delete-policy: before-hook-creation}
spec:
  restartPolicy: Never
  containers:
    - {name: medvl, image: "image:1", command: [sh, -c, "echo tested; exit {{ .Values.testExit }}"]}
"""


@pytest.fixture
def chart(tmp_path: Path) -> str:
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text(CHART)
    (tmp_path / "values.yaml").write_text("word: one\nseconds: 0\ntestExit: 0\n")
    (tmp_path / "templates" / "objects.yaml").write_text(OBJECTS)
    (tmp_path / "templates" / "test.yaml").write_text(TEST_POD)
    return str(tmp_path)


@MAJORS
def test_the_life_of_a_release(cluster: Cluster, chart: str, major: int) -> None:
    cluster.helm("install", "r", chart, major=major)
    first = cluster.wait_for_condition("job", "r-one", "Complete")
    version = cluster.get("cm", "r-one")["metadata"]["resourceVersion"]
    cluster.helm("upgrade", "r", chart, major=major)
    assert cluster.get("job", "r-one")["metadata"]["uid"] == first["metadata"]["uid"]
    assert cluster.get("cm", "r-one")["metadata"]["resourceVersion"] == version
    cluster.helm("upgrade", "r", chart, "--set", "word=two", major=major)
    cluster.wait_gone("job", "r-one")
    cluster.wait_for_condition("job", "r-two", "Complete")
    assert cluster.names("cm") == ["r-two"]
    cluster.helm("rollback", "r", "1", major=major)
    again = cluster.wait_for_condition("job", "r-one", "Complete")
    assert again["metadata"]["uid"] != first["metadata"]["uid"]
    history = json.loads(cluster.helm("history", "r", "-o", "json", major=major).stdout)
    assert [each["status"] for each in history] == ["superseded"] * 3 + ["deployed"]
    cluster.helm("uninstall", "r", major=major)
    for kind in ("job", "cm", "pod", "secret"):
        cluster.wait(f"no {kind}", lambda kind=kind: not cluster.names(kind))
    assert cluster.names("sa") == ["default"]


@MAJORS
def test_uninstall_ends_what_runs(cluster: Cluster, chart: str, major: int) -> None:
    cluster.helm("install", "r", chart, "--set", "seconds=60", major=major)
    (pod,) = cluster.wait("a pod", lambda: cluster.names("pod"))
    cluster.wait_for_log(pod, "one")
    cluster.helm("uninstall", "r", "--wait", major=major)
    cluster.wait_gone("pod", pod)


@MAJORS
def test_helm_test(cluster: Cluster, chart: str, major: int) -> None:
    cluster.helm("install", "r", chart, "--wait", major=major)
    assert "tested" in cluster.helm("test", "r", "--logs", major=major).stdout
    cluster.helm("upgrade", "r", chart, "--set", "testExit=64", major=major)
    failed = cluster.helm("test", "r", "--logs", major=major, check=False)
    assert failed.returncode != 0
    assert "tested" in failed.stdout + failed.stderr


@MAJORS
def test_a_release_in_a_new_namespace_and_installed_twice(cluster: Cluster, chart: str, major: int) -> None:
    there = ["--namespace", "team", "--create-namespace"]
    cluster.helm("install", "r", chart, *there, major=major)
    cluster.wait_for_condition("job", "r-one", "Complete", namespace="team")
    twice = cluster.helm("install", "r", chart, *there, major=major, check=False)
    assert "cannot" in twice.stderr
    assert "in use" in twice.stderr
    foreign = cluster.helm("install", "other", chart, *there, "--set", "fullnameOverride=r", major=major)
    assert foreign.returncode == 0


@MAJORS
def test_helm_waits_for_jobs(cluster: Cluster, chart: str, major: int) -> None:
    cluster.helm("install", "r", chart, "--wait", "--wait-for-jobs", "--set", "seconds=1", major=major)
    assert cluster.get("job", "r-one")["status"]["succeeded"] == 1
