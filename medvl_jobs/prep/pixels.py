"""What is measured on decoded pixels: what finds duplicates, and boxes that somebody has drawn.

All of it is taken while a row is decoded anyway, so that nothing later has to read an image again.
"""

from __future__ import annotations

import hashlib

import cv2
import numpy as np
from PIL import Image

from medvl_jobs.prep.rows import Pixels

_HASH_SIDE = 32
"""The perceptual hash looks at 32 x 32 pixels."""

cv2.setNumThreads(1)  # prep has a process for each processor

_CHUNK = 3 << 16
_FIRST_TWO_OF_THREE = np.tile(np.array([255, 255, 0], np.uint8), _CHUNK // 3)
"""Chooses, of the differences between neighbouring bytes, those within a pixel."""

GREEN_EXCESS = 80
"""Levels by which green is above red and blue, of 255. A pen of pure green (0, 255, 0) that is one pixel wide keeps 80
to 100 through JPEG, which halves the resolution of colour; what a scanner or a stain makes stays below."""
LINE_PIXELS = 8
"""A line has at least so many pixels in a row."""
_ROW_STEP = 4


def measure(pixels: np.ndarray) -> Pixels:
    """``pixels``: [H, W] or [H, W, 3], 8 bit. Colour that is gray everywhere counts as gray, as most scans have it."""
    pixels = np.ascontiguousarray(pixels)
    if pixels.ndim == 3 and is_gray(pixels):
        pixels = np.ascontiguousarray(pixels[..., 0])
    color = pixels.ndim == 3
    digest = hashlib.sha256(f"{'RGB' if color else 'L'} {pixels.shape[1]}x{pixels.shape[0]}\n".encode())
    digest.update(pixels.data)
    return Pixels(digest.digest(), perceptual_hash(pixels), color and has_green_box(pixels))


def is_gray(pixels_HWC: np.ndarray) -> bool:
    """Whether red, green and blue are equal everywhere. Three times as fast as comparing the three channels."""
    values = pixels_HWC.reshape(-1)
    for start in range(0, len(values), _CHUNK):
        piece = values[start : start + _CHUNK]
        differences = piece[1:] ^ piece[:-1]
        differences &= _FIRST_TWO_OF_THREE[: len(differences)]
        if differences.any():
            return False
    return True


def perceptual_hash(pixels: np.ndarray) -> int:
    """The 64 bits of OpenCV's ``pHash`` of an image [H, W] or [H, W, 3], as a number.

    http://www.hackerfactor.com/blog/index.php?/archives/432-Looks-Like-It.html: which of the lowest frequencies of the
    image, made small and gray, are above their mean.

    Trap: left to itself OpenCV makes it small by looking at one pixel in a hundred, and then noise decides. Pillow
    takes each pixel in; of the ways to do so, this is the fastest that finds a scaled copy (decision 0008).
    """
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if pixels.ndim == 3 else pixels
    side = (_HASH_SIDE, _HASH_SIDE)
    small = Image.fromarray(gray).resize(side, Image.Resampling.BILINEAR, reducing_gap=2.0)
    return int.from_bytes(cv2.img_hash.pHash(np.asarray(small)).tobytes(), "big")


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
