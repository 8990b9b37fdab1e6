"""The files of a report, from the one dict that they all say. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping

from medvl_jobs.page.pictures import THUMBNAIL_BUDGET_BYTES
from medvl_jobs.report import figures, gallery, markdown, page
from medvl_jobs.report.shape import Report

PAGE_BYTES = 2_900_000
"""Up to which the page takes in images: its texts come first, and 3 MB is the promise."""


def render(report: Report, images: Mapping[str, bytes], thumbnail_pixels: int) -> dict[str, str]:
    """All of them by name: ``index.html``, ``report.json``, ``report.md``, and ``figures/….svg``.

    ``images`` are the encoded images of the gallery by example id. Raises `DataError` for one that is broken.
    """
    drawn = figures.draw(report)
    shown = [item["example_id"] for item in report["gallery"]]
    without_images = page.render(report, drawn, {})
    left = PAGE_BYTES - len(without_images.encode())
    thumbnails = gallery.thumbnails(images, shown, thumbnail_pixels, min(THUMBNAIL_BUDGET_BYTES, left))
    return {
        "index.html": page.render(report, drawn, thumbnails),
        "report.json": json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        "report.md": markdown.render(report),
        **{f"figures/{name}.svg": figures.standalone(svg) for name, svg in drawn.items()},
    }
