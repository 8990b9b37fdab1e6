"""The shell: what the stage writes, and when it does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from report_data import KEYS, world

from medvl_jobs.contracts import layout
from medvl_jobs.errors import MissingInputError
from medvl_jobs.report import job
from medvl_jobs.storage.publish import read_manifest


def test_a_report_is_written_listed_and_reused(tmp_path: Path) -> None:
    made = world()
    storage = made.store(tmp_path)
    prefix = layout.run(made.settings.name, made.keys.report)
    storage.write_bytes(f"{prefix}/{layout.RUN_FILE}", b"name: made-up\n")
    manifest = job.run(made.settings, storage, made.keys)
    assert [entry.path for entry in manifest.files] == [
        "previous.json", "report/figures/by-body-part.svg", "report/figures/by-length.svg",
        "report/figures/by-modality.svg", "report/figures/lengths.svg", "report/figures/looking.svg",
        "report/figures/loss.svg", "report/figures/scores.svg", "report/index.html", "report/report.json",
        "report/report.md", "run.yaml",
    ]  # fmt: skip
    assert manifest.stage == "report"
    assert manifest.counts["examples"] == 48
    assert len(manifest.inputs) == 5
    page = layout.report_file(made.settings.name, made.keys.report, "index.html")
    assert len(storage.read_bytes(page)) < 3_000_000
    report = json.loads(storage.read_bytes(layout.report_file(made.settings.name, made.keys.report, "report.json")))
    assert report["verdict"]["learned"] == "better"
    storage.delete(page)
    assert job.run(made.settings, storage, made.keys) == manifest
    assert not storage.exists(page)


def test_a_given_adapter_without_a_log_gives_a_report_without_a_curve(tmp_path: Path) -> None:
    made = world(eval={"adapter": str(tmp_path), "adapter_fingerprint": "feedfacefeedface"})
    made.log = None
    manifest = job.run(made.settings, made.store(tmp_path / "store"), made.keys)
    assert not any(entry.path.endswith("loss.svg") for entry in manifest.files)


def test_a_given_adapter_in_the_store_keeps_its_curve(tmp_path: Path) -> None:
    made = world(eval={"adapter": layout.adapter(KEYS.adapter), "adapter_fingerprint": KEYS.adapter})
    manifest = job.run(made.settings, made.store(tmp_path), made.keys)
    assert any(entry.path.endswith("loss.svg") for entry in manifest.files)


def test_nothing_is_written_before_the_stages_are_done(tmp_path: Path) -> None:
    made = world()
    storage = made.store(tmp_path)
    storage.delete(layout.manifest(layout.adapter(made.keys.adapter)))
    with pytest.raises(MissingInputError, match="the train stage has not finished"):
        job.run(made.settings, storage, made.keys)
    assert read_manifest(storage, layout.run(made.settings.name, made.keys.report)) is None
    assert not list(storage.list_keys("runs/"))


def test_the_report_needs_neither_torch_nor_matplotlib() -> None:
    heavy = {"torch", "matplotlib", "transformers", "boto3", "medvl_jobs.eval", "medvl_jobs.train", "medvl_jobs.prep"}
    code = f"import sys, medvl_jobs.report.job; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
