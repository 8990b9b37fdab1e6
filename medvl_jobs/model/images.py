"""The form in which an image is stored, trained on and asked about, whoever hands it in.

Every image is really decoded once: a header that looks sound says nothing about the pixels behind it, and a broken
image found after an hour on eight GPUs costs more than all decoding here. Bytes change only where they must: an 8-bit
RGB or grayscale JPEG or PNG that lies upright and is not too large is kept to the last bit. All else becomes PNG,
without further loss.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from medvl_jobs.settings.prep import ImageSettings, Window

MAX_ASPECT = 200
"""Longer side over shorter side; beyond it the model's image processor raises."""

Suffix = Literal["jpg", "png"]

_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "JPEG2000", "PPM")
"""What Pillow may try. A list of our own, since Pillow's holds formats that start other programs (EPS: Ghostscript)."""
_KEPT: dict[str, Suffix] = {"JPEG": "jpg", "PNG": "png"}
_KEPT_MODES = ("RGB", "L")
_PNG_DEPTH = 24
"""Where a PNG says how many bits a channel has."""
_DEEP_MODES = ("RGB", "RGBA", "LA")
"""As what Pillow opens an image of 16 bits in colour or with alpha."""
_DEEP_FORMATS = ("TIFF", "PPM", "JPEG2000")
_SEVERAL_FRAMES = ("GIF", "MPO", "TIFF", "WEBP")


class ImageRefusedError(Exception):
    """An image that no model is shown: ``reason`` is one of `prep.rows.Reason`, ``detail`` says what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(detail)


@dataclass(frozen=True)
class StoredImage:
    """An image in the form in which it is stored."""

    data: bytes
    """The file: what came in, or a PNG."""
    suffix: Suffix
    plain: Image.Image
    """The same pixels, decoded: RGB or L."""
    conversions: tuple[str, ...]
    """What had to change, in order; empty when ``data`` is what came in."""
    came_as: str
    """Format and mode that it came in: ``PNG I;16``."""


def stored_image(data: bytes, settings: ImageSettings) -> StoredImage:
    """Decode ``data`` and make it 8-bit RGB or grayscale, upright, of at most ``settings.max_pixels``.

    Raises `ImageRefusedError`. The size is judged by the header, before memory for the pixels is taken. Not for several
    threads at a time: Pillow's own limit is state of the whole process.
    """
    with _pillow_on_our_terms():
        try:
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                check_size(image.size, settings)
                return _stored_form(data, image, settings)
        except (ImageRefusedError, MemoryError):
            raise
        except UnidentifiedImageError as error:  # whose own words name an address in memory
            detail = f"{len(data)} bytes are none of {', '.join(_FORMATS)}"
            raise ImageRefusedError("undecodable_image", detail) from error
        except Exception as error:  # odd bytes bring out anything: SyntaxError, struct.error, zlib.error, …
            detail = f"{len(data)} bytes do not decode: {type(error).__name__}: {error}"
            raise ImageRefusedError("undecodable_image", detail) from error


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


def check_size(size: tuple[int, int], settings: ImageSettings) -> None:
    """Raises `ImageRefusedError` for a width and height that no model is shown."""
    shorter, longer = sorted(size)
    shown = f"{size[0]} x {size[1]} pixels"
    if shorter * longer > settings.refuse_above_pixels:
        limit = settings.refuse_above_pixels
        raise ImageRefusedError("image_too_large", f"{shown}, more than prep.image.refuse_above_pixels={limit}")
    if shorter < settings.min_side:
        limit = settings.min_side
        raise ImageRefusedError("image_too_small", f"{shown}, a side is shorter than prep.image.min_side={limit}")
    if longer > MAX_ASPECT * shorter:
        raise ImageRefusedError("extreme_aspect", f"{shown}, longer than {MAX_ASPECT}:1")


def _stored_form(data: bytes, image: Image.Image, settings: ImageSettings) -> StoredImage:
    """``data`` itself where nothing has to change, else a PNG of the image made plain."""
    image_format = image.format or "unknown"  # read here: what comes out of a conversion has none
    came_as = f"{image_format} {image.mode}"
    image.load()
    turned, large = _lies_turned(image), math.prod(image.size) > (settings.max_pixels or math.inf)
    deep = _deep_color(data) if image.mode in _DEEP_MODES and _may_be_deep(data, image_format) else None
    if image_format in _KEPT and image.mode in _KEPT_MODES and not (turned or large or deep is not None):
        return StoredImage(data, _KEPT[image_format], image, (), came_as)
    plain, conversions = image, []
    if deep is not None:
        plain = _scaled(deep, settings.window)
        plain.info.update({name: image.info[name] for name in ("exif",) if name in image.info})
        conversions.append(_deep_name(settings.window))
    if image_format in _SEVERAL_FRAMES and getattr(image, "n_frames", 1) > 1:
        conversions.append("first_of_several_frames")
    if turned:
        plain = ImageOps.exif_transpose(plain)
        conversions.append("exif_rotated")
    if plain.mode not in _KEPT_MODES:
        plain, conversion = _plain_mode(plain, settings.window)
        conversions.append(conversion)
    if large:
        plain = _shrunk(plain, settings)
        check_size(plain.size, settings)  # a long and narrow one may not be wide enough any more
        conversions.append(f"resized_{settings.resize_filter}")
    if image_format not in _KEPT:
        conversions.append(f"{image_format.lower()}_to_png")
    return StoredImage(_png(plain), "png", plain, tuple(conversions), came_as)


def _lies_turned(image: Image.Image) -> bool:
    """Whether EXIF says that the pixels must be turned or mirrored to be looked at."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    except Exception:  # noqa: BLE001, a broken EXIF block, for which Pillow has many errors, must not cost the image
        return False


def _plain_mode(image: Image.Image, window: Window | None) -> tuple[Image.Image, str]:
    """RGB or L, and the name of what was done."""
    match image.mode:
        case "P" | "PA":
            return _on_black(image), "palette_to_rgb"
        case "RGBA" | "RGBa" | "LA" | "La":
            return _on_black(image), "alpha_flattened_onto_black"
        case "1":
            return image.convert("L"), "1_bit_to_gray"
        case "I" | "F" | "I;16" | "I;16L" | "I;16B" | "I;16N":
            return _scaled(np.asarray(image, np.float64), window), _deep_name(window)
        case other:
            return image.convert("RGB"), f"{other.lower()}_to_rgb"


def _on_black(image: Image.Image) -> Image.Image:
    """Black is what surrounds a scan; on white, a cut-out organ would get a halo."""
    pixels = image.convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", pixels.size, (0, 0, 0, 255)), pixels)
    return flat.convert("L" if image.mode in ("LA", "La") else "RGB")


def _deep_name(window: Window | None) -> str:
    return "high_bit_depth_windowed" if window else "high_bit_depth_min_max_scaled"


def _may_be_deep(data: bytes, image_format: str) -> bool:
    """Whether it is worth decoding once more to see how many bits a channel has; a PNG says so itself."""
    return data[_PNG_DEPTH] == 16 if image_format == "PNG" else image_format in _DEEP_FORMATS


def _deep_color(data: bytes) -> np.ndarray | None:
    """The colours [H, W, 3] of an image of 16 bits a channel, laid onto black; none when it has 8.

    Of these Pillow keeps the upper 8 bits: of a dark image, nothing. OpenCV is 180 MB that only prep has for certain.
    """
    try:
        import cv2
    except ImportError as error:
        detail = "it may have 16 bits a channel, and OpenCV, which reads them, is not installed: save it with 8 bits"
        raise ImageRefusedError("undecodable_image", detail) from error
    channels_HWC = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if channels_HWC is None or channels_HWC.dtype != np.uint16 or channels_HWC.ndim != 3:
        return None
    colors_HWC = channels_HWC[..., 2::-1].astype(np.float64)  # OpenCV has blue first, and alpha last
    if channels_HWC.shape[2] == 4:
        colors_HWC *= channels_HWC[..., 3:] / 65535
    return colors_HWC


def _scaled(values: np.ndarray, window: Window | None) -> Image.Image:
    """The lower end of the window becomes 0 and the upper end 255; without a window, the darkest and brightest pixel.

    A flat image becomes black. Trap: Pillow's own conversion from 16 to 8 bit clips at 255, which turns nearly every
    scan white.
    """
    finite = np.isfinite(values)
    if not finite.any():
        raise ImageRefusedError("undecodable_image", "no pixel is a finite number")
    low, high = window or (values[finite].min(), values[finite].max())
    shares = (np.where(finite, values, low) - low) / max(high - low, np.finfo(np.float64).tiny)
    return Image.fromarray(np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8))


def _shrunk(image: Image.Image, settings: ImageSettings) -> Image.Image:
    """At most ``max_pixels``, with the same aspect as far as whole pixels allow."""
    assert settings.max_pixels is not None
    factor = math.sqrt(settings.max_pixels / math.prod(image.size))
    size = (max(1, math.floor(image.width * factor)), max(1, math.floor(image.height * factor)))
    return image.resize(size, Image.Resampling[settings.resize_filter.upper()])


def _png(image: Image.Image) -> bytes:
    # Pillow would carry EXIF (and so the old orientation) and a colour profile of another colour space into the PNG.
    image.info.clear()
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
