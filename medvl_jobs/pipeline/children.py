"""From the manifests of the plan to the Jobs of one run: names, labels, owner, command line, fingerprints. Pure."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from medvl_jobs.cluster import schema
from medvl_jobs.cluster.client import Plan
from medvl_jobs.cluster.schema import Manifest
from medvl_jobs.contracts.fingerprint import short_hash
from medvl_jobs.errors import SettingsError
from medvl_jobs.pipeline.stages import Stage
from medvl_jobs.settings.run import RunSettings

CONFIG = "/etc/medvl/run.yaml"
"""Where the chart mounts the settings of the run, in every pod."""
RUN_VOLUME = "run"
"""The volume with them. The chart cannot name its ConfigMap there: the name holds the hash of what names it."""
REQUIRED = ("prep", "train", "eval", "template", "report")
"""Manifests of every plan."""
MAIN = ("medvl", "pytorch")
"""Name of the container that gets the command line; the training operator asks for ``pytorch``."""
OUTPUT, STAGE, PLAN = "medvl.io/output", "medvl.io/stage", "medvl.io/plan"
GENERATION, ATTEMPT, TRIED = "medvl.io/generation", "medvl.io/attempt", "medvl.io/tried"


@dataclass(frozen=True)
class Templates:
    """The manifests of the plan, and what all of them get for one pinned run."""

    plan: Plan
    manifests: Mapping[str, Manifest]
    """By `Stage.manifest`: `REQUIRED`, and ``model`` for a cache to fill."""
    settings: RunSettings

    @classmethod
    def of(cls, plan: Plan, settings: RunSettings) -> Templates:
        """Raises `SettingsError` when a manifest is missing, or has a field that Kubernetes does not know."""
        lacking = sorted(word for word in REQUIRED if f"{word}.yaml" not in plan.data)
        if lacking:
            raise SettingsError(f"the plan has no manifest for {', '.join(lacking)}", where=plan.name)
        manifests = {}
        for name in sorted({*REQUIRED, "model"}):
            if f"{name}.yaml" in plan.data:
                manifests[name] = _read(plan, f"{name}.yaml")
        return cls(plan, manifests, settings)

    def output(self, stage: Stage) -> str:
        """What the stage makes, and where, as one short word: equal in every release that would make the same."""
        storage = self.settings.storage
        return short_hash([storage.endpoint_url, storage.uri, stage.prefix])

    def name(self, stage: Stage, attempt: int) -> str:
        """``<release>-train-0a1b2c3d``, from the second attempt on with its number."""
        digest = short_hash([self.output(stage), self.manifests[stage.manifest], self.plan.name])[:8]
        return f"{self.plan.fullname}-{stage.name}-{digest}" + (f"-{attempt}" if attempt > 1 else "")

    def child(self, stage: Stage, attempt: int = 1, tried: int = 1) -> Manifest:
        """The object to create: the ``attempt``-th of all, the ``tried``-th of its generation."""
        manifest = copy.deepcopy(self.manifests[stage.manifest])
        labels = {
            "app.kubernetes.io/managed-by": "medvl",
            PLAN: self.plan.name,
            STAGE: stage.name,
            OUTPUT: self.output(stage),
            GENERATION: str(self.settings.cluster.generation),
            ATTEMPT: str(attempt),
            TRIED: str(tried),
        }
        for part in (manifest, *_pod_templates(manifest)):
            metadata = part.setdefault("metadata", {})
            metadata["labels"] = {**(metadata.get("labels") or {}), **labels}
        manifest["metadata"] |= {"name": self.name(stage, attempt), "ownerReferences": [self.plan.reference]}
        for template in _pod_templates(manifest):
            self._complete(template["spec"], stage)
        if stage.manifest == "prep":
            _index(manifest["spec"], self.settings.prep.indexes)
        elif stage.manifest == "eval" and self.settings.eval.shards > 1:
            _index(manifest["spec"], self.settings.eval.shards)
        return manifest

    def _complete(self, pod: dict[str, Any], stage: Stage) -> None:
        for container in (*(pod.get("initContainers") or []), *pod["containers"]):
            container["env"] = [*(container.get("env") or []), *self._fingerprints]
            if container["name"] in MAIN:
                container["args"] = [*stage.words, "--config", CONFIG]
        for volume in pod.get("volumes") or []:
            if volume["name"] == RUN_VOLUME:
                volume["configMap"]["name"] = self.plan.name

    @property
    def _fingerprints(self) -> list[dict[str, str]]:
        """What pinning has found, so that no pod reads the source again to know where its input lies."""
        settings = self.settings
        found = {
            "MEDVL_PREP__SOURCE_FINGERPRINT": settings.prep.source_fingerprint,
            "MEDVL_MODEL__FINGERPRINT": settings.model.fingerprint,
            "MEDVL_EVAL__ADAPTER_FINGERPRINT": settings.eval.adapter_fingerprint,
        }
        return [{"name": name, "value": value} for name, value in found.items() if value is not None]


def _index(spec: dict[str, Any], pods: int) -> None:
    """Make a Job's pods share its work: each knows its number, and is replaced as often as the only one would be."""
    spec |= {"completionMode": "Indexed", "completions": pods, "parallelism": spec.get("parallelism", pods)}
    if "backoffLimit" in spec:
        spec["backoffLimitPerIndex"] = spec.pop("backoffLimit")


def _read(plan: Plan, file: str) -> Manifest:
    where = f"{file} in ConfigMap {plan.name}"
    try:
        manifest = yaml.safe_load(plan.data[file])
    except yaml.YAMLError as error:
        raise SettingsError(f"the manifest is no YAML: {error}", where=where) from error
    if not isinstance(manifest, dict):
        raise SettingsError("the manifest is no mapping", where=where)
    schema.check(manifest, where)
    return manifest


def _pod_templates(manifest: Manifest) -> Iterator[dict[str, Any]]:
    if manifest["kind"] == "Job":
        yield manifest["spec"]["template"]
    else:
        yield from (replica["template"] for replica in manifest["spec"]["pytorchReplicaSpecs"].values())
