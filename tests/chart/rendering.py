"""Render the chart with a real helm, and look at what comes out as the coordinator and the API server will."""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kube_tools
import yaml

from medvl_jobs.cluster.client import Plan
from medvl_jobs.pipeline.children import Templates
from medvl_jobs.pipeline.stages import Stage, stages
from medvl_jobs.settings.keys import stage_keys
from medvl_jobs.settings.run import load_settings

CHART = Path(__file__).parents[2] / "charts" / "medvl"
CASES = sorted((CHART / "ci").glob("*-values.yaml"))
KUBERNETES = [f"1.{minor}" for minor in range(30, 38)]
HELM_MAJORS = (3, 4)
BUCKET = {"storage": {"bucket": "medvl"}}
"""The only value that has to be set."""

Json = dict[str, Any]


def template(
    values: Json | Path, *, release: str = "medvl-train", kubernetes: str = "1.34", major: int = 4, api: str = "v1"
) -> subprocess.CompletedProcess[str]:
    """Run ``helm template``; a `Path` is a file of values, and a dict has the bucket added."""
    text = values.read_text("utf-8") if isinstance(values, Path) else json.dumps(merged(BUCKET, values))
    return _template(text, release, kubernetes, major, api)


@functools.cache
def _template(values: str, release: str, kubernetes: str, major: int, api: str) -> subprocess.CompletedProcess[str]:
    options = ["--namespace", "ml", "--kube-version", kubernetes, "--api-versions", api, "--values", "-"]
    command = [kube_tools.helm(major), "template", release, CHART, *options]
    return subprocess.run(command, input=values, capture_output=True, text=True, timeout=400, check=False)


def forget() -> None:
    """The next renderings are made anew; until then, the same values give what they gave before."""
    _template.cache_clear()


def refusal(values: Json, **options: Any) -> str:
    """What helm says about values that it must not take, in one line."""
    result = template(values, **options)
    assert result.returncode != 0, "helm took it"
    return " ".join(result.stderr.split())


@dataclass(frozen=True)
class Rendered:
    """All objects of a release."""

    objects: list[Json]

    def all(self, kind: str) -> list[Json]:
        return [each for each in self.objects if each["kind"] == kind]

    def one(self, kind: str) -> Json:
        (found,) = self.all(kind)
        return found

    @property
    def plan(self) -> Json:
        return next(each for each in self.all("ConfigMap") if "run.yaml" in each.get("data", {}))

    @property
    def run(self) -> Json:
        return dict(yaml.safe_load(self.plan["data"]["run.yaml"]))

    def stage(self, name: str) -> Json:
        """The manifest of a stage as it lies in the plan; of the coordinator, its Job."""
        if name == "coordinator":
            return self.one("Job")
        return dict(yaml.load(self.plan["data"][f"{name}.yaml"], yaml.CSafeLoader))

    def pod(self, name: str) -> Json:
        """The pod template of a stage."""
        (found, *_) = pod_templates(self.stage(name))
        return found

    def main(self, name: str) -> Json:
        """The main container of a stage."""
        return dict(self.pod(name)["spec"]["containers"][0])

    def environment(self, name: str) -> dict[str, Any]:
        """The variables of a stage's main container."""
        return {each["name"]: each.get("value", each.get("valueFrom")) for each in self.main(name)["env"]}

    def children(self, folder: Path) -> list[Json]:
        """What the coordinator would create for every stage, made by its own code."""
        config = folder / "run.yaml"
        config.write_text(self.plan["data"]["run.yaml"], "utf-8")
        pinned = ("prep.source_fingerprint=a", "model.fingerprint=b")
        settings = load_settings(config, pinned)
        metadata = self.plan["metadata"]
        plan = Plan(metadata["name"], "uid", metadata["annotations"]["medvl.io/fullname"], self.plan["data"])
        graph = stages(settings, stage_keys(settings))
        fill = [Stage("model", ("model",), "a volume")] if "model.yaml" in plan.data else []
        return [Templates.of(plan, settings).child(stage, attempt=12) for stage in (*fill, *graph)]


def render(values: Json | Path, **options: Any) -> Rendered:
    result = template(values, **options)
    assert result.returncode == 0, result.stderr
    return Rendered([each for each in yaml.load_all(result.stdout, yaml.CSafeLoader) if each])


def pod_templates(manifest: Json) -> Iterator[Json]:
    """The pod templates of a Job, a Deployment or a PyTorchJob, and a Pod itself."""
    if manifest["kind"] == "Pod":
        yield manifest
    elif manifest["kind"] in {"Job", "Deployment"}:
        yield manifest["spec"]["template"]
    elif manifest["kind"] == "PyTorchJob":
        yield from (replica["template"] for replica in manifest["spec"]["pytorchReplicaSpecs"].values())


def merged(below: Json, above: Json) -> Json:
    """Two trees of values over each other."""
    both = {key: merged(below[key], above[key]) for key in below.keys() & above.keys()
            if isinstance(below[key], dict) and isinstance(above[key], dict)}  # fmt: skip
    return {**below, **above, **both}


def nested(name: str, value: Any) -> Json:
    """``a.b`` and 1 as ``{"a": {"b": 1}}``."""
    for part in reversed(name.split(".")):
        value = {part: value}
    return dict(value)
