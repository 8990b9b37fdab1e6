"""What the chart renders is what Kubernetes and the training operator take, for every file of values in ci/."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import kube_tools
import kubernetes_validate
import pytest
import yaml
from rendering import CASES, CHART, HELM_MAJORS, KUBERNETES, Json, forget, pod_templates, refusal, render, template

import medvl_jobs
from medvl_jobs.cluster import schema

IMAGE_VOLUMES, BEFORE_IMAGE_VOLUMES = "cache-image-values.yaml", ("1.30", "1.31", "1.32")

every_case = pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem.removesuffix("-values"))


@pytest.mark.parametrize("major", HELM_MAJORS)
def test_helm_lints_every_case(major: int) -> None:
    for case in CASES:
        linted = subprocess.run(
            [kube_tools.helm(major), "lint", "--strict", CHART, "--values", case],
            capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip
        assert linted.returncode == 0, f"{case.name}: {linted.stdout}{linted.stderr}"


@every_case
def test_both_helms_render_the_same_every_time(case: Path) -> None:
    texts = [template(case, major=major).stdout for major in HELM_MAJORS]
    assert list(yaml.safe_load_all(texts[0])) == list(yaml.safe_load_all(texts[1]))
    forget()
    assert [template(case, major=major).stdout for major in HELM_MAJORS] == texts


@every_case
def test_every_kubernetes_takes_everything(case: Path, tmp_path: Path) -> None:
    """The objects of the release, and what the coordinator makes of the manifests in the plan."""
    supported = [each for each in KUBERNETES if not (case.name == IMAGE_VOLUMES and each in BEFORE_IMAGE_VOLUMES)]
    rendered = render(case)
    manifests = [*rendered.objects, *rendered.children(tmp_path)]
    for kubernetes in supported:
        assert template(case, kubernetes=kubernetes).stdout == template(case).stdout
        for manifest in manifests:
            if manifest["kind"] == "PyTorchJob":
                schema.check(manifest, where=case.name)
                for pod in pod_templates(manifest):
                    check({"apiVersion": "v1", "kind": "Pod", **pod}, kubernetes)
            else:
                check(manifest, kubernetes)


@pytest.mark.parametrize("version", BEFORE_IMAGE_VOLUMES)
def test_image_volumes_from_1_33(version: str) -> None:
    """They are older, but only from there on does Pod Security ``restricted`` take them."""
    image = {"modelCache": {"type": "image", "image": {"reference": "registry/model:1"}}}
    assert f"Kubernetes v{version}.0 is too old for image volumes (1.33 and later): take another" in refusal(
        image, kubernetes=f"{version}.0"
    )


def check(manifest: Json, kubernetes: str) -> None:
    try:
        kubernetes_validate.validate(manifest, kubernetes, strict=True)
    except kubernetes_validate.ValidationError as error:
        pytest.fail(f"{manifest['kind']} {manifest['metadata'].get('name')}: {error.message} at {list(error.path)}")


@every_case
def test_children_are_whole(case: Path, tmp_path: Path) -> None:
    """What a schema does not say: each has one command line, and its volumes are there."""
    for child in render(case).children(tmp_path):
        assert len(child["metadata"]["name"]) <= (54 if child["kind"] == "PyTorchJob" else 63)
        for pod in pod_templates(child):
            (main,) = pod["spec"]["containers"]
            assert main["name"] == ("pytorch" if child["kind"] == "PyTorchJob" else "medvl")
            assert main["command"] == ["medvl"]
            assert main["args"][-2:] == ["--config", "/etc/medvl/run.yaml"]
            volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
            assert len(volumes) == len(pod["spec"]["volumes"])
            assert volumes["run"]["configMap"]["items"] == [{"key": "run.yaml", "path": "run.yaml"}]
            for container in (*pod["spec"].get("initContainers", []), main):
                assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys()
                names = [variable["name"] for variable in container["env"]]
                assert len(names) == len(set(names)), "server-side apply takes no variable twice"


def test_rendering_depends_on_nothing_else() -> None:
    """``lookup`` is empty under Argo CD; a random or dated name would be a new run with every sync."""
    for path in (CHART / "templates").rglob("*.*"):
        actions = [action for action in re.findall(r"{{.*?}}", path.read_text(), re.DOTALL) if "/*" not in action]
        called = {word for action in actions for word in re.findall(r"(?<![.$\w\"])[a-zA-Z]\w+", action)}
        assert not called & {
            "lookup",
            "now",
            "randAlphaNum",
            "uuidv4",
            "genCA",
            "genSelfSignedCert",
            "getHostByName",
        }, path


def test_the_charts_version_is_the_programs() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == medvl_jobs.__version__


def test_what_is_packaged(tmp_path: Path) -> None:
    """The files of ``ci/`` are for tests."""
    subprocess.run([kube_tools.helm(4), "package", CHART, "--destination", tmp_path], capture_output=True, check=True)
    (package,) = tmp_path.glob("medvl-*.tgz")
    listed = subprocess.run(["tar", "tzf", package], capture_output=True, text=True, check=True).stdout.split()
    assert {"medvl/README.md", "medvl/values.schema.json", "medvl/templates/tests/dry-run.yaml"} <= set(listed)
    assert not [name for name in listed if "/ci/" in name]
