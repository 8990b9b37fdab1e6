"""Pictures of a volume: a plane, a slice, a display window and a square field of view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from medvl_jobs.contracts.facts import PLANES
from medvl_jobs.samples.volumes import Volume

PIXELS = 256
"""Side of every picture, in pixels."""

WINDOWS_HU = {"lung": (-600, 1500), "soft tissue": (40, 400), "bone": (400, 1800)}
"""Display windows of CT as (level, width) in Hounsfield units."""

BLOCK_MM = 6.0
GAP_MM = 3.0
"""Slices are gathered into blocks of `BLOCK_MM` with `GAP_MM` left out between two blocks, since the next slice of one
scan is nearly the same picture. A block is the unit of every split."""

FIELD_OF_VIEW_MM = {"CT": (170.0, 330.0), "MR": (110.0, 190.0)}
"""Smallest and largest side of the square field of view."""

_NORMAL_AXIS = dict(zip(PLANES, (2, 1, 0), strict=True))


@dataclass(frozen=True)
class Block:
    """Neighbouring slices of one plane of one volume."""

    volume: Volume
    plane: str
    number: int
    slices: tuple[int, ...]

    @property
    def group(self) -> str:
        """``LIDC-IDRI-0001/axial/03``."""
        return f"{self.volume.name}/{self.plane}/{self.number:02d}"


def blocks(volume: Volume) -> list[Block]:
    """All blocks of a volume, over the slices that hold labels."""
    found = []
    for plane, axis in _NORMAL_AXIS.items():
        labelled = np.flatnonzero(volume.labels_XYZ.any(axis=tuple(a for a in range(3) if a != axis)))
        positions_mm = (labelled - labelled[0]) * volume.spacing_mm[axis]
        numbers, offsets_mm = np.divmod(positions_mm, BLOCK_MM + GAP_MM)
        for number in range(int(numbers[-1]) + 1):
            slices = labelled[(numbers == number) & (offsets_mm < BLOCK_MM)]
            found.append(Block(volume, plane, number, tuple(int(index) for index in slices)))
    return found


@dataclass(frozen=True)
class View:
    """One picture and the labels under it, both `PIXELS` × `PIXELS`, in radiological convention.

    Axial and coronal: the image's left is the patient's right. Sagittal: anterior is on the image's left.
    """

    volume: Volume
    plane: str
    window: str | None
    pixels_HW: np.ndarray
    labels_HW: np.ndarray


def render(block: Block, rng: np.random.Generator, *, pixels: int = PIXELS) -> View:
    """A random slice of the block with a random window and field of view."""
    volume, axis = block.volume, _NORMAL_AXIS[block.plane]
    index = int(rng.choice(block.slices))
    # With axes towards Right, Anterior, Superior this gives the radiological view of any plane.
    cut = (slice(None),) * axis + (index,)  # not np.take, which copies the whole volume first
    scan, labels = (array[cut].T[::-1, ::-1] for array in (volume.voxels_XYZ, volume.labels_XYZ))
    column_mm, row_mm = (spacing for a, spacing in enumerate(volume.spacing_mm) if a != axis)
    rows, columns = np.nonzero(labels)
    side_mm = rng.uniform(*FIELD_OF_VIEW_MM[volume.modality])
    jitter_mm = rng.uniform(-0.22, 0.22, 2) * side_mm
    center_row = (rows.min() + rows.max()) / 2 + jitter_mm[0] / row_mm
    center_column = (columns.min() + columns.max()) / 2 + jitter_mm[1] / column_mm
    half_rows, half_columns = side_mm / row_mm / 2, side_mm / column_mm / 2
    box = (center_column - half_columns, center_row - half_rows, center_column + half_columns, center_row + half_rows)
    window = str(rng.choice(list(WINDOWS_HU))) if volume.modality == "CT" else None
    gray = _resample(_to_gray(scan, window), box, pixels, Image.Resampling.BILINEAR)
    return View(volume, block.plane, window, gray, _resample(labels, box, pixels, Image.Resampling.NEAREST))


def _to_gray(scan_HW: np.ndarray, window: str | None) -> np.ndarray:
    """Map intensities to 0..255: CT through its window, MR as it is (the template is 8-bit)."""
    if window is None:
        return scan_HW.astype(np.uint8)
    level, width = WINDOWS_HU[window]
    return np.clip((scan_HW.astype(np.float32) - level + width / 2) * (255 / width), 0, 255).astype(np.uint8)


def _resample(array_HW: np.ndarray, box: tuple[float, ...], pixels: int, resampling: Image.Resampling) -> np.ndarray:
    """Cut ``box`` (left, top, right, bottom, in array indices, may reach outside) and scale it to a square."""
    margin = int(np.ceil(max(0.0, -min(box), box[2] - array_HW.shape[1], box[3] - array_HW.shape[0])))
    padded = Image.fromarray(np.ascontiguousarray(np.pad(array_HW, margin)))
    left, top, right, bottom = (edge + margin for edge in box)
    return np.asarray(padded.resize((pixels, pixels), resampling, box=(left, top, right, bottom)))
