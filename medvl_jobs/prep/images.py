"""Is this an image that a model can be shown, and does it have to change for that?

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

import cv2
import numpy as np
import simplejpeg
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from medvl_jobs.prep.pixels import measure
from medvl_jobs.prep.rows import CheckedImage, Reason, RefusedError, Suffix
from medvl_jobs.settings.prep import ImageSettings, Window

MAX_ASPECT = 200
"""Longer side over shorter side; beyond it the model's image processor raises."""

_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "JPEG2000", "PPM")
"""What Pillow may try. A list of our own, since Pillow's holds formats that start other programs (EPS: Ghostscript)."""
_JPEG_START = b"\xff\xd8\xff"
_START_OF_SCAN = b"\xda"
_JPEG_MODES = {"Gray": "L", "YCbCr": "RGB"}
_TURNED_OR_SEVERAL = (b"Exif\0\0", b"MPF\0")
"""How the blocks of a JPEG begin that may say that it lies on its side, or that there are more images."""
_KEPT: dict[str, Suffix] = {"JPEG": "jpg", "PNG": "png"}
_KEPT_MODES = ("RGB", "L")
_PNG_DEPTH = 24
"""Where a PNG says how many bits a channel has."""
_DEEP_MODES = ("RGB", "RGBA", "LA")
"""As what Pillow opens an image of 16 bits in colour or with alpha."""
_DEEP_FORMATS = ("TIFF", "PPM", "JPEG2000")
_SEVERAL_FRAMES = ("GIF", "MPO", "TIFF", "WEBP")


def checked_image(data: bytes, settings: ImageSettings) -> CheckedImage:
    """Decode ``data`` and make it 8-bit RGB or grayscale, upright, of at most ``settings.max_pixels``.

    Raises `RefusedError`. The size is judged by the header, before memory for the pixels is taken.
    """
    if plain := _plain_jpeg(data, settings):
        return plain
    with _pillow_on_our_terms():
        try:
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                _check_size(image.size, settings)
                return _stored_form(data, image, settings)
        except (RefusedError, MemoryError):
            raise
        except UnidentifiedImageError as error:  # whose own words name an address in memory
            detail = f"{len(data)} bytes are none of {', '.join(_FORMATS)}"
            raise RefusedError(Reason.UNDECODABLE_IMAGE, detail) from error
        except Exception as error:  # odd bytes bring out anything: SyntaxError, struct.error, zlib.error, …
            detail = f"{len(data)} bytes do not decode: {type(error).__name__}: {error}"
            raise RefusedError(Reason.UNDECODABLE_IMAGE, detail) from error


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
        _check_size((width, height), settings)
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


def _check_size(size: tuple[int, int], settings: ImageSettings) -> None:
    shorter, longer = sorted(size)
    shown = f"{size[0]} x {size[1]} pixels"
    if shorter * longer > settings.refuse_above_pixels:
        limit = settings.refuse_above_pixels
        raise RefusedError(Reason.IMAGE_TOO_LARGE, f"{shown}, more than prep.image.refuse_above_pixels={limit}")
    if shorter < settings.min_side:
        limit = settings.min_side
        raise RefusedError(Reason.IMAGE_TOO_SMALL, f"{shown}, a side is shorter than prep.image.min_side={limit}")
    if longer > MAX_ASPECT * shorter:
        raise RefusedError(Reason.EXTREME_ASPECT, f"{shown}, longer than {MAX_ASPECT}:1")


def _stored_form(data: bytes, image: Image.Image, settings: ImageSettings) -> CheckedImage:
    """``data`` itself where nothing has to change, else a PNG of the image made plain."""
    image_format = image.format or "unknown"  # read here: what comes out of a conversion has none
    came_as = f"{image_format} {image.mode}"
    image.load()
    turned, large = _lies_turned(image), math.prod(image.size) > (settings.max_pixels or math.inf)
    deep = _deep_color(data) if image.mode in _DEEP_MODES and _may_be_deep(data, image_format) else None
    if image_format in _KEPT and image.mode in _KEPT_MODES and not (turned or large or deep is not None):
        return CheckedImage(data, _KEPT[image_format], *image.size, (), came_as, measure(np.asarray(image)))
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
        _check_size(plain.size, settings)  # a long and narrow one may not be wide enough any more
        conversions.append(f"resized_{settings.resize_filter}")
    if image_format not in _KEPT:
        conversions.append(f"{image_format.lower()}_to_png")
    pixels = measure(np.asarray(plain))
    return CheckedImage(_png(plain), "png", *plain.size, tuple(conversions), came_as, pixels)


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

    Of these Pillow keeps the upper 8 bits: of a dark image, nothing.
    """
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
        raise RefusedError(Reason.UNDECODABLE_IMAGE, "no pixel is a finite number")
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
