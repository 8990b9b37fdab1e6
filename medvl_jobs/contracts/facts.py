"""What can be true of a medical image, in one vocabulary.

The sample builder computes these facts from segmentation masks, prep carries them along when a dataset has them, and
eval reads them back out of free text. A dataset without facts works as well: then the reference caption is the truth.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

PLANES = ("axial", "coronal", "sagittal")
POSITIONS = tuple(f"{row}-{column}" for row in ("upper", "middle", "lower") for column in ("left", "center", "right"))
"""Cells of a 3 × 3 grid over the *image* (not the patient), row by row from the top left."""

NORMAL = "normal"
"""The finding of an image with none."""


@dataclass(frozen=True)
class Region:
    """The region of interest of a caption."""

    structure: str
    position: str
    """One of `POSITIONS`: the cell that holds the region's centroid."""
    area_percent: float
    """Share of the image's pixels, in percent."""


@dataclass(frozen=True)
class Facts:
    """The claims that a caption can make about one image; ``None`` and ``()`` mean "not stated"."""

    modality: str | None = None
    """``CT``, ``MR``, ``X-ray``, ``ultrasound``, …"""
    plane: str | None = None
    body_part: str | None = None
    structures: tuple[str, ...] = ()
    """Anatomical structures in view with the *patient's* side: ``left lung``, ``heart``."""
    region: Region | None = None
    finding: str | None = None
    """``nodule``, ``no nodule``, …, or `NORMAL`."""

    def to_json(self) -> str:
        """Canonical JSON, keys sorted."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Facts:
        """The inverse of ``asdict``. Raises ``KeyError``/``TypeError`` when a field is unknown or missing."""
        region = value.get("region")
        return cls(
            **{
                **value,
                "structures": tuple(value.get("structures") or ()),
                "region": Region(**region) if region else None,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Facts:
        """The inverse of `to_json`."""
        return cls.from_dict(json.loads(text))


def grid_position(x: float, y: float) -> str:
    """The 3 × 3 cell of a point given as fractions of the image's width and height, both in [0, 1]."""
    column, row = (min(int(v * 3), 2) for v in (x, y))
    return POSITIONS[row * 3 + column]
