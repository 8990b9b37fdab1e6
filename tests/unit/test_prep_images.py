"""Which images are refused, which change, and that all others keep every bit."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from prep_data import encode, pixels, png, png_header_only
from pydantic import ValidationError

from medvl_jobs.prep.images import checked_image
from medvl_jobs.prep.rows import CheckedImage, Reason, RefusedError
from medvl_jobs.settings.prep import ImageSettings

ORIENTATION = 0x0112


def check(data: bytes, **settings: Any) -> CheckedImage:
    return checked_image(data, ImageSettings(**settings))


def refusal_of(data: bytes, **limits: Any) -> tuple[Reason, str]:
    with pytest.raises(RefusedError) as caught:
        check(data, **limits)
    return caught.value.refusal.reason, caught.value.refusal.detail


def opened(image: CheckedImage) -> Image.Image:
    result = Image.open(io.BytesIO(image.data))
    result.load()
    return result


def same_pixels(one: Image.Image, other: Image.Image) -> bool:
    return np.array_equal(np.asarray(one), np.asarray(other))


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


@pytest.mark.parametrize(
    "data",
    [
        png(mode="RGB"),
        png(mode="L"),
        encode(pixels(), "JPEG", quality=70),
        encode(pixels(mode="L"), "JPEG"),
        encode(pixels(), "JPEG", exif=exif(1)),
        encode(pixels(), "JPEG", exif=b"Exif\0\0rubbish"),
    ],
    ids=["png rgb", "png gray", "jpeg rgb", "jpeg gray", "jpeg upright by exif", "jpeg with broken exif"],
)
def test_a_plain_upright_png_or_jpeg_keeps_its_bytes(data: bytes) -> None:
    image = check(data)
    assert image.data is data
    assert (image.width, image.height, image.conversions) == (40, 32, ())
    assert image.suffix == ("png" if data.startswith(b"\x89PNG") else "jpg")


@pytest.mark.parametrize(
    ("data", "conversions"),
    [
        (png(mode="P"), ("palette_to_rgb",)),
        (png(mode="RGBA"), ("alpha_flattened_onto_black",)),
        (png(mode="LA"), ("alpha_flattened_onto_black",)),
        (png(mode="1"), ("1_bit_to_gray",)),
        (png(mode="I;16"), ("high_bit_depth_min_max_scaled",)),
        (encode(pixels(mode="F"), "TIFF"), ("high_bit_depth_min_max_scaled", "tiff_to_png")),
        (encode(pixels(mode="CMYK"), "JPEG"), ("cmyk_to_rgb",)),
        (encode(pixels(mode="YCbCr"), "TIFF"), ("ycbcr_to_rgb", "tiff_to_png")),
        (encode(pixels(), "BMP"), ("bmp_to_png",)),
        (encode(pixels(), "TIFF"), ("tiff_to_png",)),
        (encode(pixels(), "WEBP", lossless=True), ("webp_to_png",)),
        (encode(pixels(mode="L"), "GIF"), ("palette_to_rgb", "gif_to_png")),
        (
            encode(pixels(), "MPO", save_all=True, append_images=[pixels(seed=1)]),
            ("first_of_several_frames", "mpo_to_png"),
        ),
        (encode(pixels(), "JPEG2000"), ("jpeg2000_to_png",)),
        (encode(pixels(), "JPEG", exif=exif(6)), ("exif_rotated",)),
        (encode(pixels(), "PNG", exif=exif(3)), ("exif_rotated",)),
    ],
)
def test_everything_else_becomes_a_plain_png_and_says_why(data: bytes, conversions: tuple[str, ...]) -> None:
    image = check(data)
    result = opened(image)
    assert image.conversions == conversions
    assert (result.format, image.suffix, result.size) == ("PNG", "png", (image.width, image.height))
    assert result.mode in ("RGB", "L")
    assert check(image.data).data is image.data, "what was converted once is kept the next time"


@pytest.mark.parametrize("image_format", ["BMP", "TIFF", "WEBP"])
def test_another_format_loses_no_pixel(image_format: str) -> None:
    source = pixels()
    options = {"lossless": True} if image_format == "WEBP" else {}
    assert same_pixels(opened(check(encode(source, image_format, **options))), source)


def test_a_palette_image_with_transparency_shows_black_there() -> None:
    source = Image.new("P", (40, 32), 0)
    source.putpalette([200, 10, 20, 30, 40, 50])
    source.paste(1, (0, 0, 20, 32))
    result = opened(check(encode(source, "PNG", transparency=0)))
    assert result.getpixel((5, 5)) == (30, 40, 50)
    assert result.getpixel((30, 5)) == (0, 0, 0)


def test_alpha_is_laid_onto_black() -> None:
    half_red = Image.new("RGBA", (40, 32), (255, 0, 0, 128))
    assert opened(check(encode(half_red))).getpixel((0, 0)) == (128, 0, 0)
    gray = opened(check(encode(Image.new("LA", (40, 32), (200, 0)))))
    assert (gray.mode, gray.getpixel((0, 0))) == ("L", 0)


def test_16_bit_is_scaled_from_its_darkest_to_its_brightest_pixel() -> None:
    values = np.full((32, 40), 1000, dtype=np.uint16)
    values[0, 0], values[0, 1] = 500, 2500
    result = np.asarray(opened(check(encode(Image.fromarray(values)))))
    assert (result[0, 0], result[0, 1], result[5, 5]) == (0, 255, 64)


def test_16_bit_is_cut_to_the_window_when_there_is_one() -> None:
    values = np.full((32, 40), 1000, dtype=np.uint16)
    values[0, :4] = 0, 900, 1100, 60_000
    image = check(encode(Image.fromarray(values)), window=(900, 1100))
    assert image.conversions == ("high_bit_depth_windowed",)
    result = np.asarray(opened(image))
    assert [*result[0, :4], result[5, 5]] == [0, 0, 255, 255, 128]
    assert check(png(), window=(0, 1)).conversions == (), "8-bit images are not windowed"


def test_16_bit_colour_is_not_cut_to_its_upper_half() -> None:
    """Pillow would: all below 256 of 65,535 would be black, and the image counted as kept."""
    values = np.random.default_rng(0).integers(100, 250, (32, 40, 3), np.uint16)
    image = check(cv2.imencode(".png", values)[1].tobytes())
    assert image.conversions == ("high_bit_depth_min_max_scaled",)
    expected = np.rint((values[..., ::-1] - values.min()) / (values.max() - values.min()) * 255)
    assert np.array_equal(np.asarray(opened(image)), expected.astype(np.uint8))
    for ending in (".tiff", ".ppm", ".jp2"):
        other = check(cv2.imencode(ending, values)[1].tobytes())
        assert other.conversions[0] == "high_bit_depth_min_max_scaled", ending
        assert np.asarray(opened(other)).max() == 255, ending
    clear = np.dstack([values, np.zeros((32, 40, 1), np.uint16)])
    assert np.asarray(opened(check(cv2.imencode(".png", clear)[1].tobytes()))).max() == 0
    assert check(cv2.imencode(".png", values)[1].tobytes(), window=(0, 65535)).conversions == (
        "high_bit_depth_windowed",
    )


@pytest.mark.parametrize("window", [[5, 5], [9, 1], [1], ["a", "b"]])
def test_a_window_is_a_range(window: list[object]) -> None:
    with pytest.raises(ValidationError):
        ImageSettings(window=window)  # type: ignore[arg-type]


def test_a_large_image_is_made_smaller_with_the_named_filter() -> None:
    data = encode(pixels(100, 60), "JPEG")
    assert check(data, max_pixels=6000).data is data
    image = check(data, max_pixels=2000, resize_filter="bicubic")
    assert (image.width, image.height, image.conversions) == (57, 34, ("resized_bicubic",))
    with Image.open(io.BytesIO(data)) as source:
        assert same_pixels(opened(image), source.resize((57, 34), Image.Resampling.BICUBIC))
    gray = check(encode(pixels(100, 60, mode="LA")), max_pixels=1024, min_side=20)
    assert gray.conversions == ("alpha_flattened_onto_black", "resized_lanczos")
    assert check(gray.data, max_pixels=1024, min_side=20).data is gray.data


def test_a_narrow_image_that_would_be_too_small_is_refused() -> None:
    reason, detail = refusal_of(encode(pixels(4000, 28)), max_pixels=1024)
    assert reason is Reason.IMAGE_TOO_SMALL
    assert detail.startswith("382 x 2 pixels")


@pytest.mark.parametrize(
    ("data", "came_as"),
    [
        (encode(pixels(mode="L"), "JPEG"), "JPEG L"),
        (png(mode="P"), "PNG P"),
        (encode(pixels(mode="CMYK"), "JPEG"), "JPEG CMYK"),
    ],
)
def test_what_came_in_is_remembered(data: bytes, came_as: str) -> None:
    assert check(data).came_as == came_as


def test_a_jpeg_decodes_to_pillows_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """simplejpeg is the fast way, Pillow the judge: both must see the same picture, chroma subsampling or not."""
    for number, options in enumerate(({"quality": 92}, {"quality": 75, "subsampling": 0}, {"progressive": True})):
        for mode in ("RGB", "L"):
            data = encode(pixels(101, 67, mode, seed=number), "JPEG", **options)
            fast = check(data).pixels
            with monkeypatch.context() as patch:
                patch.setattr("simplejpeg.decode_jpeg", _refuse)
                assert check(data).pixels == fast


def _refuse(*_: object, **__: object) -> None:
    raise ValueError("no")


def test_a_jpeg_with_rubbish_behind_its_end_is_kept() -> None:
    data = encode(pixels(), "JPEG") + b"rubbish" * 10
    assert check(data).data is data


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_a_flat_image_becomes_black(dtype: type[np.generic]) -> None:
    data = encode(Image.fromarray(np.full((32, 40), 700, dtype=dtype)), "TIFF")
    assert np.asarray(opened(check(data))).max() == 0


def test_pixels_that_are_no_number_count_as_the_darkest() -> None:
    values = np.linspace(0, 1, 32 * 40, dtype=np.float32).reshape(32, 40)
    values[0, 0], values[0, 1] = np.nan, np.inf
    result = np.asarray(opened(check(encode(Image.fromarray(values), "TIFF"))))
    assert (result[0, 0], result[0, 1], result[-1, -1]) == (0, 0, 255)
    all_nan = encode(Image.fromarray(np.full((32, 40), np.nan, dtype=np.float32)), "TIFF")
    assert refusal_of(all_nan)[0] is Reason.UNDECODABLE_IMAGE


def test_an_image_that_lies_on_its_side_is_turned_once_and_for_all() -> None:
    source = pixels()
    image = check(encode(source, "PNG", exif=exif(6)))
    assert (image.width, image.height) == (32, 40)
    assert same_pixels(opened(image), source.transpose(Image.Transpose.ROTATE_270))
    assert ORIENTATION not in opened(image).getexif()


def test_the_first_frame_of_an_animation_is_the_image() -> None:
    first, second = pixels(mode="L", seed=1), pixels(mode="L", seed=2)
    data = encode(first, "GIF", save_all=True, append_images=[second])
    assert same_pixels(opened(check(data)).convert("L"), first)


@pytest.mark.parametrize(
    "data",
    [
        b"not an image",
        png()[:-300],
        png()[:60],
        encode(pixels(400, 400), "JPEG")[:5000],
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n",
        b"\xff\xd8\xff\xe0" + bytes(100),
    ],
    ids=["text", "cut png", "png header", "cut jpeg", "postscript", "jpeg start"],
)
def test_what_does_not_decode_is_refused(data: bytes) -> None:
    reason, detail = refusal_of(data)
    assert reason is Reason.UNDECODABLE_IMAGE
    assert detail.startswith(f"{len(data)} bytes ")
    assert "0x" not in detail, "an address in memory would make the quarantine differ from run to run"


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    reason, detail = refusal_of(png_header_only(20_000, 20_000))
    assert reason is Reason.IMAGE_TOO_LARGE
    assert "20000 x 20000 pixels, more than prep.image.refuse_above_pixels=50000000" in detail


def test_the_settings_limit_counts_and_not_the_one_of_pillow() -> None:
    before = Image.MAX_IMAGE_PIXELS
    assert refusal_of(png_header_only(20_000, 20_000), refuse_above_pixels=10**9)[0] is Reason.UNDECODABLE_IMAGE
    assert before == Image.MAX_IMAGE_PIXELS
    assert refusal_of(png(), refuse_above_pixels=40 * 32 - 1)[0] is Reason.IMAGE_TOO_LARGE
    assert check(png(), refuse_above_pixels=40 * 32).width == 40


def test_small_and_narrow_images_are_refused() -> None:
    assert refusal_of(png(1, 1))[0] is Reason.IMAGE_TOO_SMALL
    assert refusal_of(png(27, 100))[0] is Reason.IMAGE_TOO_SMALL
    assert check(png(28, 100)).width == 28
    assert refusal_of(png(5601, 28))[0] is Reason.EXTREME_ASPECT
    assert check(png(28, 5600)).height == 5600
