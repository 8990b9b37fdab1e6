"""The package's own tiny model, and pictures to show it."""

from __future__ import annotations

import io
from importlib import resources

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedModel

from medvl_jobs.model.checkpoint import load_model, load_processor
from medvl_jobs.model.prompts import Encoded, PromptRenderer
from medvl_jobs.settings.model import ModelSettings, PromptSettings

BASE_MODEL = str(resources.files("medvl_jobs.samples") / "base-model")
MODEL = ModelSettings(path=BASE_MODEL, dtype="float32", experts="eager", min_pixels=192 * 192, max_pixels=192 * 192)
CAPTIONS = (
    "The image is an axial computed tomography (CT) slice of the chest.",
    "Coronal T1-weighted magnetic resonance (MR) of the brain. The region of interest is the left frontal lobe.",
    "A short one.",
)


def base_model() -> PreTrainedModel:
    torch.set_num_threads(2)
    return load_model(MODEL)


def renderer() -> PromptRenderer:
    return PromptRenderer(load_processor(MODEL), PromptSettings())


def picture(seed: int, width: int = 192, height: int = 192) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height)).convert("RGB")


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def examples(with_renderer: PromptRenderer) -> list[Encoded]:
    """Three examples of different length and image shape."""
    pictures = (picture(0), picture(1, 256, 128), picture(2, 96, 192))
    return [with_renderer.encode(image, caption) for image, caption in zip(pictures, CAPTIONS, strict=True)]
