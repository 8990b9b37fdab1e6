"""What is measured on pixels: the same for the same picture, close for a copy, far for another one."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw
from prep_data import encode

from medvl_jobs.prep.images import checked_image
from medvl_jobs.prep.pixels import has_green_box, is_gray, measure, perceptual_hash
from medvl_jobs.samples.views import blocks, render
from medvl_jobs.samples.volumes import brain_mr
from medvl_jobs.settings.prep import DuplicateSettings, ImageSettings


@pytest.fixture(scope="module")
def slices() -> list[Image.Image]:
    """A real slice of each tenth block of the brain, so that no two are neighbours."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(render(block, rng, pixels=300).pixels_HW) for block in blocks(brain_mr())[::10]]


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)


def bits(one: Image.Image, other: Image.Image) -> int:
    hashes = [perceptual_hash(np.asarray(image)) for image in (one, other)]
    return (hashes[0] ^ hashes[1]).bit_count()


def recoded(image: Image.Image, quality: int) -> Image.Image:
    return Image.open(io.BytesIO(encode(image, "JPEG", quality=quality)))


def test_equal_pixels_in_other_files_are_equal() -> None:
    image = Image.fromarray(noise(50, 40))
    forms = [encode(image), encode(image, "PNG", compress_level=1), encode(image, "TIFF"), encode(image.convert("RGB"))]
    found = {checked_image(data, ImageSettings()).pixels for data in forms}
    assert len(found) == 1


def test_other_pixels_or_another_shape_differ() -> None:
    values = noise(40, 30)
    changed = values.copy()
    changed[3, 5] ^= 1
    digests = {measure(each).sha256 for each in (values, changed, values.reshape(40, 30))}
    assert len(digests) == 3


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (300, 400), (512, 512)])
def test_gray_is_found_in_colour_wherever_the_colour_is(height: int, width: int) -> None:
    gray = np.repeat(noise(width, height)[..., None], 3, axis=2)
    assert is_gray(gray)
    for row, column in {(0, 0), (height - 1, width - 1), (height // 2, width // 3)}:
        for channel in range(3):
            colored = gray.copy()
            colored[row, column, channel] ^= 1
            assert not is_gray(colored), (row, column, channel)


def test_the_hash_is_the_one_that_ledgers_hold() -> None:
    """A change here would make all old ledgers strangers to new ones."""
    rows, columns = np.mgrid[-100:100, -128:128]
    waves = 90 * np.sin(columns / 20) * np.cos(rows / 9) + 100 * np.exp(-((rows - 20) ** 2) / 3000)
    picture = np.clip(waves, 0, 255).astype(np.uint8)
    assert f"{perceptual_hash(picture):016x}" == "f5fef4dff5def5df"
    assert perceptual_hash(np.repeat(picture[..., None], 3, axis=2)) == perceptual_hash(picture)


def test_copies_are_near_and_other_slices_are_not(slices: list[Image.Image]) -> None:
    near = DuplicateSettings().near_distance
    for image in slices:
        assert bits(image, recoded(image, 75)) <= near
        assert bits(image, image.convert("RGB")) == 0
        assert bits(image, image.resize((150, 150), Image.Resampling.LANCZOS)) <= near
    pairs = [(one, other) for n, one in enumerate(slices) for other in slices[:n]]
    assert min(bits(one, other) for one, other in pairs) > near


@pytest.mark.parametrize("background", [0, 60, 120, 180, 230])
@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("quality", [75, 92])
def test_a_drawn_box_is_found_through_jpeg(background: int, width: int, quality: int) -> None:
    rng = np.random.default_rng(background)
    tissue = np.clip(rng.normal(background, 10, (389, 389)), 0, 255).astype(np.uint8)
    image = Image.fromarray(tissue).convert("RGB")
    assert not has_green_box(np.asarray(recoded(image, quality)))
    ImageDraw.Draw(image).rectangle((101, 121, 163, 188), outline=(0, 255, 0), width=width)
    assert has_green_box(np.asarray(recoded(image, quality)))


def test_green_that_is_no_box() -> None:
    color = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    assert not has_green_box(color), "noise"
    stripe = np.zeros((100, 100, 3), np.uint8)
    stripe[:, 50, 1] = 255
    assert not has_green_box(stripe), "one line"
    assert not has_green_box(np.zeros((4, 4, 3), np.uint8)), "smaller than a line"
    stained = np.full((100, 100, 3), (120, 160, 110), np.uint8)
    assert not has_green_box(stained), "a greenish stain"
