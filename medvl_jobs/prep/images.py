"""Is this an image that a model can be shown, and what is measured on it? What it becomes is in `model.images`."""

from __future__ import annotations

import math

import numpy as np
import simplejpeg

from medvl_jobs.model.images import ImageRefusedError, check_size, stored_image
from medvl_jobs.prep.pixels import measure
from medvl_jobs.prep.rows import CheckedImage, Reason, RefusedError
from medvl_jobs.settings.prep import ImageSettings

_JPEG_START = b"\xff\xd8\xff"
_START_OF_SCAN = b"\xda"
_JPEG_MODES = {"Gray": "L", "YCbCr": "RGB"}
_TURNED_OR_SEVERAL = (b"Exif\0\0", b"MPF\0")
"""How the blocks of a JPEG begin that may say that it lies on its side, or that there are more images."""


def checked_image(data: bytes, settings: ImageSettings) -> CheckedImage:
    """Decode ``data`` and make it 8-bit RGB or grayscale, upright, of at most ``settings.max_pixels``.

    Raises `RefusedError`. The size is judged by the header, before memory for the pixels is taken.
    """
    try:
        if plain := _plain_jpeg(data, settings):
            return plain
        stored = stored_image(data, settings)
    except ImageRefusedError as error:
        raise RefusedError(Reason(error.reason), error.detail) from error
    pixels = measure(np.asarray(stored.plain))
    return CheckedImage(stored.data, stored.suffix, *stored.plain.size, stored.conversions, stored.came_as, pixels)


def _plain_jpeg(data: bytes, settings: ImageSettings) -> CheckedImage | None:
    """The short way for what most images are: a JPEG of which nothing has to change. None: Pillow must look at it.

    simplejpeg is the same libjpeg-turbo as Pillow's with less copying; with Pillow a row takes a quarter longer. It is
    also stricter: whether a JPEG that it does not like is broken, Pillow decides.
    """
    if not data.startswith(_JPEG_START) or any(mark in _jpeg_head(data) for mark in _TURNED_OR_SEVERAL):
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        mode = _JPEG_MODES.get(colorspace)
        if mode is None or width * height > (settings.max_pixels or math.inf):
            return None
        check_size((width, height), settings)
        wanted = "GRAY" if mode == "L" else "RGB"
        pixels_HWC = simplejpeg.decode_jpeg(data, colorspace=wanted, fastdct=False, fastupsample=False)
    except ValueError:
        return None
    pixels = measure(pixels_HWC[..., 0] if mode == "L" else pixels_HWC)
    return CheckedImage(data, "jpg", width, height, (), f"JPEG {mode}", pixels)


def _jpeg_head(data: bytes) -> bytes:
    """What comes before the pixels: blocks of a marker and a length. Where it is malformed, as far as it is not."""
    end = 2
    while data[end : end + 1] == b"\xff" and data[end + 1 : end + 2] != _START_OF_SCAN:
        end += 2 + max(2, int.from_bytes(data[end + 2 : end + 4], "big"))
    return data[:end]
