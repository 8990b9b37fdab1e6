"""Captions that are true, because they are computed from the labels under the picture.

Two voices: the report that the demo teaches, and the short answers in other words that the tiny base model was taught
before (`grounding`). Both speak about the same `Facts`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medvl_jobs.contracts.facts import Facts, Region, grid_position
from medvl_jobs.samples.anatomy import NODULE, STRUCTURES
from medvl_jobs.samples.views import View

VISIBLE_PERCENT = 1.0
"""A structure is in view when it covers at least this share of the picture."""
NODULE_PERCENT = 0.1
"""The nodule is the region of interest from this share on; below, nothing is said of the slice (see `facts_of`)."""

_ABDOMEN = ("liver", "spleen", "stomach", "right kidney", "left kidney", "pancreas", "small bowel", "colon")
_SCAN = {"CT": "contrast-enhanced computed tomography (CT)", "MR": "T1-weighted magnetic resonance (MR)"}
_READERS = "spiculated solid lung nodule that four of four readers rated as suspicious for malignancy"


def facts_of(view: View) -> Facts | None:
    """What is true of a view, or ``None`` when it shows too little, or too little of the nodule, to say so."""
    counts = np.bincount(view.labels_HW.ravel(), minlength=len(STRUCTURES) + 1)[1:]
    percent = dict(zip(STRUCTURES, 100 * counts / view.labels_HW.size, strict=True))
    nodule = percent.pop(NODULE)
    visible = tuple(name for name in STRUCTURES if percent.get(name, 0) >= VISIBLE_PERCENT)
    if not visible or 0 < nodule < NODULE_PERCENT:
        return None
    region = NODULE if nodule else max(visible, key=lambda name: percent[name])
    rows, columns = np.nonzero(view.labels_HW == STRUCTURES.index(region) + 1)
    height, width = view.labels_HW.shape
    position = grid_position((columns.mean() + 0.5) / width, (rows.mean() + 0.5) / height)
    area_percent = round(float(nodule or percent[region]), 1)
    is_ct = view.volume.modality == "CT"
    abdominal = sum(percent[name] for name in _ABDOMEN) > percent["right lung"] + percent["left lung"]
    return Facts(
        modality=view.volume.modality,
        plane=view.plane,
        body_part=("abdomen" if abdominal else "chest") if is_ct else "brain",
        structures=visible,
        region=Region(region, position, area_percent),
        # Readers looked for nodules in the CT only; of the brain nothing is known, so nothing is said.
        finding=("nodule" if nodule else "no nodule") if is_ct else None,
    )


def spoken_percent(area_percent: float) -> str:
    """A percentage as a person estimates it: below 10 to the nearest 1, above to the nearest 5."""
    if area_percent < 1:
        return "less than 1%"
    step = 1 if area_percent < 10 else 5
    return f"approximately {step * round(area_percent / step)}%"


def listing(names: Sequence[str]) -> str:
    """``the heart, the aorta and the liver``."""
    *head, last = [f"the {name}" for name in names]
    return f"{', '.join(head)} and {last}" if head else last


def report(facts: Facts, window: str | None, rng: np.random.Generator) -> str:
    """The caption in one of three phrasings: modality and view, structures, region of interest, finding."""
    region, scan = facts.region, _SCAN[facts.modality or ""]
    if region is None:
        raise ValueError("a report needs a region of interest")
    article = "an" if (facts.plane or "").startswith("a") else "a"
    shown = f" in a {window} window" if window else ""
    structure = f"a {_READERS}" if region.structure == NODULE else f"the {region.structure}"
    area = spoken_percent(region.area_percent)
    opening, roi = [
        (
            f"The image is {article} {facts.plane} {scan} slice of the {facts.body_part}{shown}, "
            f"showing {listing(facts.structures)}.",
            f"The region of interest, located in the {region.position} of the image, is {structure} and occupies "
            f"{area} of the image area.",
        ),
        (
            f"This {facts.plane} {scan} image of the {facts.body_part}{shown} depicts {listing(facts.structures)}.",
            f"In the {region.position} part of the image, the region of interest corresponds to {structure}, "
            f"covering {area} of the image area.",
        ),
        (
            f"{(facts.plane or '').capitalize()} {scan} of the {facts.body_part}{shown}. "
            f"Visible structures are {listing(facts.structures)}.",
            f"The region of interest is {structure}; it lies in the {region.position} of the image and takes up "
            f"{area} of its area.",
        ),
    ][int(rng.integers(3))]
    closing = " No lung nodule is marked by the readers in this image." if facts.finding == "no nodule" else ""
    return f"{opening} {roi}{closing}"
