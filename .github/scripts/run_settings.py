"""``helm template … | run_settings.py FOLDER``: what the coordinator of a run has, as ``run.yaml`` and ``image`` there.

Without ``storage.ca_bundle``, which is a path in a pod: outside of one, ``AWS_CA_BUNDLE`` says the same.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml


def run_settings(rendered: str) -> str:
    """``run.yaml`` out of the plan, the one ConfigMap of a rendered chart that has it. Raises ``ValueError``."""
    for document in _documents(rendered):
        if document["kind"] == "ConfigMap" and "run.yaml" in document.get("data", {}):
            settings = yaml.safe_load(document["data"]["run.yaml"])
            settings["storage"].pop("ca_bundle", None)
            return str(yaml.safe_dump(settings, sort_keys=False))
    raise ValueError("there is no ConfigMap with run.yaml in what was rendered")


def image(rendered: str) -> str:
    """The coordinator's image, whose code names the results. Raises ``ValueError``."""
    for document in _documents(rendered):
        labels = document["metadata"].get("labels", {})
        if document["kind"] == "Job" and labels.get("app.kubernetes.io/component") == "coordinator":
            return str(document["spec"]["template"]["spec"]["containers"][0]["image"])
    raise ValueError("there is no coordinator in what was rendered")


def _documents(rendered: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(rendered) if document]


if __name__ == "__main__":
    chart, folder = sys.stdin.read(), Path(sys.argv[1])
    (folder / "run.yaml").write_text(run_settings(chart), encoding="utf-8")
    (folder / "image").write_text(image(chart), encoding="utf-8")
