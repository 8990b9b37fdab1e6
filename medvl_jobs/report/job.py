"""The report stage: read everything, compare, draw, write. The manifest comes last."""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.manifest import Manifest, Provenance
from medvl_jobs.report.assemble import assemble
from medvl_jobs.report.files import render
from medvl_jobs.report.frame import frame_of_run, shown_settings
from medvl_jobs.report.inputs import Evidence, ReadFacts, read_evidence, read_images
from medvl_jobs.report.runs import changes_since
from medvl_jobs.report.shape import Report
from medvl_jobs.settings.environment import read_environment
from medvl_jobs.settings.keys import StageKeys
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.publish import Publication, read_manifest

log = logging.getLogger(__name__)


def run(settings: RunSettings, storage: Storage, keys: StageKeys, read_facts: ReadFacts | None = None) -> Manifest:
    """Write the report of a run, unless it is there. ``read_facts`` reads captions of which nothing is known.

    Raises `MissingInputError` when an earlier stage is not done, `DataError` when what one left is spoilt.
    """
    prefix = layout.run(settings.name, keys.report)
    if (done := read_manifest(storage, prefix)) is not None:
        return done
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="medvl-report-") as folder:
        evidence = read_evidence(settings, storage, keys, Path(folder), read_facts)
        changes = changes_since(storage, settings.name, keys.report, shown_settings(settings))
        report = assemble(evidence, frame_of_run(settings, keys, changes))
        images = read_images(storage, keys.prep, Path(folder), [item["example_id"] for item in report["gallery"]])
    publication = Publication(storage, prefix)
    for file in (
        layout.RUN_FILE,
        layout.PLAN,
        layout.PREVIOUS,
    ):  # by hand there is only the last
        if storage.exists(f"{prefix}/{file}"):
            publication.adopt(file)
    for name, text in render(report, images, settings.report.thumbnail_pixels).items():
        publication.write_bytes(f"report/{name}", text.encode())
    log.info("%s", report["verdict"]["sentence"])
    return publication.finish(provenance(settings, keys, evidence, report, time.monotonic() - started))


def provenance(
    settings: RunSettings, keys: StageKeys, evidence: Evidence, report: Report, wall_seconds: float
) -> Provenance:
    """What the manifest of the report says of it."""
    environment = read_environment()
    return Provenance(
        stage="report",
        key=keys.report,
        inputs=tuple(each.ref for each in evidence.inputs),
        settings=settings.model_dump(mode="json", include={"name", "report"}),
        counts={
            "examples": report["overall"]["examples"],
            "groups": report["overall"]["groups"],
            "missing": sum(variant["missing"] for variant in report["variants"]),
            "failed": sum(variant["failed"] for variant in report["variants"]),
            "empty": sum(variant["empty"] for variant in report["variants"]),
            "gallery": len(report["gallery"]),
            "caveats": len(report["caveats"]),
        },
        git_sha=environment.git_sha,
        image_digest=environment.image_digest,
        wall_seconds=wall_seconds,
    )
