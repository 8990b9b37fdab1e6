"""The files of a report, from the one dict that they all say. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping

from medvl_jobs.report import figures, gallery, markdown, page
from medvl_jobs.report.shape import Report


def render(report: Report, images: Mapping[str, bytes], thumbnail_pixels: int) -> dict[str, str]:
    """All of them by name: ``index.html``, ``report.json``, ``report.md``, and ``figures/….svg``.

    ``images`` are the encoded images of the gallery by example id. Raises `DataError` for one that is broken.
    """
    drawn = figures.draw(report)
    shown = [item["example_id"] for item in report["gallery"]]
    thumbnails = gallery.thumbnails(images, shown, thumbnail_pixels)
    return {
        "index.html": page.render(report, drawn, thumbnails),
        "report.json": json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        "report.md": markdown.render(report),
        **{f"figures/{name}.svg": figures.standalone(svg) for name, svg in drawn.items()},
    }
