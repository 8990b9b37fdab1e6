"""``helm template … | run_settings.py > run.yaml``: the settings of a run, as its coordinator will read them.

Without ``storage.ca_bundle``, which is a path in a pod: outside of one, ``AWS_CA_BUNDLE`` says the same.
"""

from __future__ import annotations

import sys

import yaml


def run_settings(rendered: str) -> str:
    """``run.yaml`` out of the plan, the one ConfigMap of a rendered chart that has it. Raises ``ValueError``."""
    for document in yaml.safe_load_all(rendered):
        if document and document["kind"] == "ConfigMap" and "run.yaml" in document.get("data", {}):
            settings = yaml.safe_load(document["data"]["run.yaml"])
            settings["storage"].pop("ca_bundle", None)
            return str(yaml.safe_dump(settings, sort_keys=False))
    raise ValueError("there is no ConfigMap with run.yaml in what was rendered")


if __name__ == "__main__":
    sys.stdout.write(run_settings(sys.stdin.read()))
