"""What a server is sent is, for it, what the in-process engine sees."""

from __future__ import annotations

import base64
import io

import pytest
import tiny_model
import torch
from PIL import Image

from medvl_jobs.model.checkpoint import ImageTextProcessor, load_processor
from medvl_jobs.model.prompts import decode_image
from medvl_jobs.model.request import data_uri

WIDE = tiny_model.MODEL.model_copy(update={"min_pixels": 128 * 128, "max_pixels": 256 * 256})


@pytest.fixture(scope="module")
def processor() -> ImageTextProcessor:
    return load_processor(WIDE)


def encoded(image: Image.Image, form: str = "PNG", **more: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **more)
    return buffer.getvalue()


def sent(stored: bytes, processor: ImageTextProcessor) -> tuple[str, bytes]:
    head, data = data_uri(stored, processor.image_processor).split(",", 1)
    return head, base64.b64decode(data)


def as_vllm_reads(data: bytes) -> Image.Image:
    """vLLM's ``convert_image_mode``: transparency over white."""
    with Image.open(io.BytesIO(data)) as image:
        if image.mode == "RGBA":
            white = Image.new("RGB", image.size, (255, 255, 255))
            white.paste(image, mask=image.getchannel("A"))
            return white
        return image.convert("RGB")


def patches(image: Image.Image, processor: ImageTextProcessor) -> torch.Tensor:
    return processor.image_processor(images=[image], return_tensors="pt")["pixel_values"]


PICTURE = tiny_model.picture(3, 192, 160)
TURNED = Image.Exif()
TURNED[0x0112] = 6
ODD = {
    "RGBA": encoded(Image.merge("RGBA", (*PICTURE.split(), PICTURE.getchannel("R")))),
    "LA": encoded(Image.merge("LA", (PICTURE.getchannel("R"), PICTURE.getchannel("G")))),
    "palette": encoded(PICTURE.convert("P")),
    "transparent palette": encoded(PICTURE.convert("P"), transparency=3),
    "transparent colour": encoded(PICTURE, transparency=(0, 0, 0)),
    "1 bit": encoded(PICTURE.convert("1")),
    "16 bit": encoded(PICTURE.convert("I;16")),
    "CMYK": encoded(PICTURE.convert("CMYK"), "JPEG"),
    "turned": encoded(PICTURE, "JPEG", exif=TURNED),
    "GIF": encoded(PICTURE, "GIF"),
    "WEBP": encoded(PICTURE, "WEBP"),
    "too small": encoded(tiny_model.picture(4, 40, 72)),
    "too large": encoded(tiny_model.picture(5, 640, 500), "JPEG"),
    "no multiple of 32": encoded(tiny_model.picture(6, 150, 170)),
}


@pytest.mark.parametrize("stored", ODD.values(), ids=ODD)
def test_what_a_server_could_read_otherwise_becomes_png(stored: bytes, processor: ImageTextProcessor) -> None:
    head, data = sent(stored, processor)
    assert head == "data:image/png;base64"
    assert data != stored
    seen = as_vllm_reads(data)
    assert torch.equal(patches(seen, processor), patches(decode_image(stored), processor))
    assert seen.width % 32 == seen.height % 32 == 0
    assert 128 * 128 <= seen.width * seen.height <= 256 * 256


@pytest.mark.parametrize(("form", "mime"), [("PNG", "image/png"), ("JPEG", "image/jpeg")])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_stored_bytes_are_sent_as_they_are(form: str, mime: str, mode: str, processor: ImageTextProcessor) -> None:
    stored = encoded(PICTURE.convert(mode), form)
    assert sent(stored, processor) == (f"data:{mime};base64", stored)


def test_an_image_that_would_be_scaled_twice_is_scaled_by_the_server() -> None:
    """With one area allowed, 256 × 128 becomes 288 × 160, which is too large, and would become 256 × 128."""
    narrow = load_processor(tiny_model.MODEL)
    stored = encoded(tiny_model.picture(7, 256, 128))
    assert sent(stored, narrow)[1] == stored


@pytest.mark.parametrize("data", [b"", b"no image", encoded(PICTURE)[:200]])
def test_broken_bytes_raise(data: bytes, processor: ImageTextProcessor) -> None:
    with pytest.raises((OSError, ValueError, SyntaxError)):
        data_uri(data, processor.image_processor)
