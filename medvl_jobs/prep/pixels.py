"""What is measured on decoded pixels: what finds duplicates, and boxes that somebody has drawn.

All of it is taken while a row is decoded anyway, so that nothing later has to read an image again.
"""

from __future__ import annotations

import hashlib

import imagehash
import numpy as np
from PIL import Image

from medvl_jobs.prep.rows import Pixels

_SMALL_SIDE = 64
"""An image is averaged down to this many pixels, at least, before it is hashed: what is left of it after that is all
that the hash looks at, and averaging costs a third of the resampling that it saves."""

GREEN_EXCESS = 80
"""Levels by which green is above red and blue, of 255. A pen of pure green (0, 255, 0) that is one pixel wide keeps 80
to 100 through JPEG, which halves the resolution of colour; what a scanner or a stain makes stays below."""
LINE_PIXELS = 8
"""A line has at least so many pixels in a row."""
_ROW_STEP = 4


def measure(pixels: np.ndarray) -> Pixels:
    """``pixels``: [H, W] or [H, W, 3], 8 bit."""
    pixels = np.ascontiguousarray(pixels)
    color = pixels.ndim == 3
    digest = hashlib.sha256(f"{'RGB' if color else 'L'} {pixels.shape[1]}x{pixels.shape[0]}\n".encode())
    digest.update(pixels.data)
    return Pixels(digest.digest(), perceptual_hash(pixels), color and has_green_box(pixels))


def perceptual_hash(pixels: np.ndarray) -> int:
    """The 64 bits of `imagehash.phash` of an image [H, W] or [H, W, 3], row by row, the first as the highest."""
    image = Image.fromarray(pixels).convert("L")
    factor = min(image.size) // _SMALL_SIDE
    small = image.reduce(factor) if factor > 1 else image
    return int.from_bytes(np.packbits(imagehash.phash(small).hash).tobytes(), "big")


def has_green_box(pixels_HWC: np.ndarray) -> bool:
    """Whether there are straight lines of saturated green, upright and level: the outline of a region of interest.

    MedTrinity's captions were made from images with such boxes, and some images still have theirs (its issue 8).
    """
    # Every fourth row first: the upright sides of a box cross them, and few images have any green at all.
    if not _is_green(pixels_HWC[::_ROW_STEP]).any():
        return False
    green_HW = _is_green(pixels_HWC)
    return _has_line(green_HW) and _has_line(green_HW.T)


def _is_green(pixels_HWC: np.ndarray) -> np.ndarray:
    red, green, blue = pixels_HWC[..., 0], pixels_HWC[..., 1], pixels_HWC[..., 2]
    limit = green - np.uint8(GREEN_EXCESS)
    return (green >= GREEN_EXCESS) & (red <= limit) & (blue <= limit)


def _has_line(mask_HW: np.ndarray) -> bool:
    """Whether `LINE_PIXELS` of one column are set, one below the other."""
    length = len(mask_HW) - LINE_PIXELS + 1
    runs = mask_HW[: max(0, length)].copy()
    for shift in range(1, LINE_PIXELS):
        runs &= mask_HW[shift : shift + len(runs)]
    return bool(runs.any())
