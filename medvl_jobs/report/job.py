"""The report stage: read everything, compare, draw, write. The manifest comes last."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from pathlib import Path

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.manifest import Manifest, Provenance
from medvl_jobs.report import figures, gallery, markdown, page
from medvl_jobs.report.assemble import assemble
from medvl_jobs.report.inputs import Evidence, read_evidence, read_images
from medvl_jobs.report.shape import Report
from medvl_jobs.settings.environment import read_environment
from medvl_jobs.settings.keys import StageKeys
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.publish import Publication, read_manifest

log = logging.getLogger(__name__)


def run(settings: RunSettings, storage: Storage, keys: StageKeys) -> Manifest:
    """Write the report of a run, unless it is there. Raises `MissingInputError` when an earlier stage is not done."""
    prefix = layout.run(settings.name, keys.report)
    if (done := read_manifest(storage, prefix)) is not None:
        return done
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="medvl-report-") as folder:
        evidence = read_evidence(settings, storage, keys, Path(folder))
        report = assemble(evidence, settings, keys)
        images = read_images(storage, keys.prep, Path(folder), [item["example_id"] for item in report["gallery"]])
    publication = Publication(storage, prefix)
    for file in (layout.RUN_FILE, layout.PLAN):  # `medvl run` left them there; a report made by hand has none
        if storage.exists(f"{prefix}/{file}"):
            publication.adopt(file)
    write(publication, report, images, settings)
    log.info("%s", report["verdict"]["sentence"])
    return publication.finish(provenance(settings, keys, evidence, report, time.monotonic() - started))


def write(publication: Publication, report: Report, images: dict[str, bytes], settings: RunSettings) -> None:
    """Write all files of the report."""
    drawn = figures.draw(report)
    shown = [item["example_id"] for item in report["gallery"]]
    thumbnails = gallery.thumbnails(images, shown, settings.report.thumbnail_pixels)
    files = {
        "index.html": page.render(report, drawn, thumbnails),
        "report.json": json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        "report.md": markdown.render(report),
        **{f"figures/{name}.svg": figures.standalone(svg) for name, svg in drawn.items()},
    }
    for name, text in files.items():
        publication.write_bytes(f"report/{name}", text.encode())


def provenance(
    settings: RunSettings, keys: StageKeys, evidence: Evidence, report: Report, wall_seconds: float
) -> Provenance:
    """What the manifest of the report says of it."""
    environment = read_environment()
    return Provenance(
        stage="report",
        key=keys.report,
        inputs=evidence.inputs,
        settings=settings.model_dump(mode="json", include={"name", "report"}),
        counts={
            "examples": report["overall"]["examples"],
            "groups": report["overall"]["groups"],
            "missing": sum(variant["missing"] for variant in report["variants"]),
            "empty": sum(variant["empty"] for variant in report["variants"]),
            "gallery": len(report["gallery"]),
            "caveats": len(report["caveats"]),
        },
        git_sha=environment.git_sha,
        image_digest=environment.image_digest,
        wall_seconds=wall_seconds,
    )
