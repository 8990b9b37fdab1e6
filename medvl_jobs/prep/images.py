"""Is this an image that a model can be shown, and does it have to change for that?

Every image is really decoded once: a header that looks sound says nothing about the pixels behind it, and a broken
image found after an hour on eight GPUs costs more than all decoding here. Bytes change only where they must: an 8-bit
RGB or grayscale JPEG or PNG that lies upright is kept to the last bit. All else becomes PNG, without loss.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, ImageOps

from medvl_jobs.prep.rows import Reason, RefusedError, Suffix

MAX_ASPECT = 200
"""Longer side over shorter side; beyond it the model's image processor raises."""

_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "JPEG2000", "PPM")
"""What Pillow may try. A list of our own, since Pillow's holds formats that start other programs (EPS: Ghostscript)."""
_KEPT: dict[str, Suffix] = {"JPEG": "jpg", "PNG": "png"}
_KEPT_MODES = ("RGB", "L")


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """An image that decodes, and the form in which it is stored."""

    data: bytes
    suffix: Suffix
    width: int
    height: int
    conversions: tuple[str, ...]
    """Names that say what was done: ``palette_to_rgb``, ``webp_to_png``; empty when ``data`` is what came in."""


def checked_image(data: bytes, *, min_side: int, max_pixels: int) -> CheckedImage:
    """Decode ``data`` and make it 8-bit RGB or grayscale, upright. ``min_side`` in pixels.

    Raises `RefusedError`. The size is judged by the header, before memory for the pixels is taken.
    """
    with _pillow_on_our_terms():
        try:
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                _check_size(image.size, min_side, max_pixels)
                image.load()
                return _stored_form(data, image)
        except (RefusedError, MemoryError):
            raise
        except Exception as error:  # odd bytes bring out anything: SyntaxError, struct.error, zlib.error, …
            detail = f"{len(data)} bytes do not decode: {type(error).__name__}: {error}"
            raise RefusedError(Reason.UNDECODABLE_IMAGE, detail) from error


@contextmanager
def _pillow_on_our_terms() -> Iterator[None]:
    """Switch off Pillow's own pixel limit, ours is stricter and settable, and its remarks, which name no row.

    Both are state of the whole process: not for several threads.
    """
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _check_size(size: tuple[int, int], min_side: int, max_pixels: int) -> None:
    shorter, longer = sorted(size)
    shown = f"{size[0]} x {size[1]} pixels"
    if shorter * longer > max_pixels:
        raise RefusedError(Reason.IMAGE_TOO_LARGE, f"{shown}, more than prep.max_image_pixels={max_pixels}")
    if shorter < min_side:
        raise RefusedError(Reason.IMAGE_TOO_SMALL, f"{shown}, a side is shorter than prep.min_side={min_side}")
    if longer > MAX_ASPECT * shorter:
        raise RefusedError(Reason.EXTREME_ASPECT, f"{shown}, longer than {MAX_ASPECT}:1")


def _stored_form(data: bytes, image: Image.Image) -> CheckedImage:
    """``data`` itself where nothing has to change, else a PNG of the image made plain."""
    image_format = image.format or "unknown"  # read here: what comes out of a conversion has none
    plain, conversions = image, []
    if _lies_turned(image):
        plain = ImageOps.exif_transpose(plain)
        conversions.append("exif_rotated")
    if plain.mode not in _KEPT_MODES:
        plain, conversion = _plain_mode(plain)
        conversions.append(conversion)
    if image_format not in _KEPT:
        conversions.append(f"{image_format.lower()}_to_png")
    if not conversions:
        return CheckedImage(data, _KEPT[image_format], *image.size, ())
    return CheckedImage(_png(plain), "png", *plain.size, tuple(conversions))


def _lies_turned(image: Image.Image) -> bool:
    """Whether EXIF says that the pixels must be turned or mirrored to be looked at."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    except Exception:  # noqa: BLE001, a broken EXIF block, for which Pillow has many errors, must not cost the image
        return False


def _plain_mode(image: Image.Image) -> tuple[Image.Image, str]:
    """RGB or L, and the name of what was done."""
    match image.mode:
        case "P" | "PA":
            return _on_black(image), "palette_to_rgb"
        case "RGBA" | "RGBa" | "LA" | "La":
            return _on_black(image), "alpha_flattened_onto_black"
        case "1":
            return image.convert("L"), "1_bit_to_gray"
        case "I" | "F" | "I;16" | "I;16L" | "I;16B" | "I;16N":
            return _min_max_scaled(image), "high_bit_depth_min_max_scaled"
        case other:
            return image.convert("RGB"), f"{other.lower()}_to_rgb"


def _on_black(image: Image.Image) -> Image.Image:
    """Black is what surrounds a scan; on white, a cut-out organ would get a halo."""
    pixels = image.convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", pixels.size, (0, 0, 0, 255)), pixels)
    return flat.convert("L" if image.mode in ("LA", "La") else "RGB")


def _min_max_scaled(image: Image.Image) -> Image.Image:
    """The darkest pixel becomes 0, the brightest 255; a flat image becomes black.

    Trap: Pillow's own conversion from 16 to 8 bit clips at 255, which turns nearly every scan white.
    """
    values_HW = np.asarray(image, dtype=np.float64)
    finite = np.isfinite(values_HW)
    if not finite.any():
        raise RefusedError(Reason.UNDECODABLE_IMAGE, "no pixel is a finite number")
    low, high = values_HW[finite].min(), values_HW[finite].max()
    shares_HW = (np.where(finite, values_HW, low) - low) / max(high - low, np.finfo(np.float64).tiny)
    return Image.fromarray(np.rint(shares_HW * 255).astype(np.uint8))


def _png(image: Image.Image) -> bytes:
    # Pillow would carry EXIF (and so the old orientation) and a colour profile of another colour space into the PNG.
    image.info.clear()
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
