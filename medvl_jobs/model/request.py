"""What an OpenAI-compatible server is asked, in a form in which it can only see what this process would."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import ExifTags, Image
from transformers.image_transforms import convert_to_rgb
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from medvl_jobs.model.prompts import decode_image

_PLAIN = {"PNG": "image/png", "JPEG": "image/jpeg"}


def messages(image: bytes, question: str, system: str | None, image_processor: Any) -> list[dict[str, Any]]:
    """Of a chat completion: as `prompts.PromptRenderer` renders it, image first, then the question.

    Raises what `data_uri` raises.
    """
    picture = {"type": "image_url", "image_url": {"url": data_uri(image, image_processor)}}
    user = {"role": "user", "content": [picture, {"type": "text", "text": question}]}
    return [{"role": "system", "content": system}, user] if system else [user]


def data_uri(encoded: bytes, image_processor: Any) -> str:
    """``data:image/…;base64,…`` of the stored bytes, or of a PNG where a server could make something else of them.

    - It has 8-bit RGB or grey pixels that lie upright, and no transparency, which everybody lays over something else.
    - It is as large as ``image_processor`` makes it, so that nobody scales it again: a server does it with torchvision,
      whose pixels differ by up to two grey levels. But where the two limits of the area lie so close that the result is
      outside of them, a server would scale that again, and so it gets the image as it was.

    Raises what decoding raises: ``OSError``, ``ValueError``, …
    """
    mime = _mime(encoded)
    pixels_CHW = convert_to_rgb(decode_image(encoded), return_numpy=True).transpose(2, 0, 1)
    height, width = _scaled(pixels_CHW.shape[1], pixels_CHW.shape[2], image_processor)
    if (height, width) != pixels_CHW.shape[1:] and _scaled(height, width, image_processor) == (height, width):
        mime = None
        pixels_CHW = image_processor.resize(
            pixels_CHW,
            size=image_processor.size,
            resample=image_processor.resample,
            factor=_factor(image_processor),
        )
    if mime is None:
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels_CHW.transpose(1, 2, 0))).save(buffer, "PNG", compress_level=1)
        mime, encoded = _PLAIN["PNG"], buffer.getvalue()
    return f"data:{mime};base64,{base64.b64encode(encoded).decode()}"


def _scaled(height: int, width: int, image_processor: Any) -> tuple[int, int]:
    size = image_processor.size
    limits = {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    scaled: tuple[int, int] = smart_resize(height, width, factor=_factor(image_processor), **limits)
    return scaled


def _factor(image_processor: Any) -> int:
    """Pixels of a side of a visual token."""
    return int(image_processor.patch_size * image_processor.merge_size)


def _mime(encoded: bytes) -> str | None:
    """The type of an image that everybody reads alike; none of any other."""
    with Image.open(io.BytesIO(encoded)) as image:
        plain = image.mode in {"RGB", "L"} and "transparency" not in image.info
        upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        return _PLAIN.get(image.format or "") if plain and upright else None
