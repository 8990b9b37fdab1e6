"""Open a Qwen3-VL-MoE checkpoint: the 30B and the demo's tiny one through the same code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedModel,
    ProcessorMixin,
    Qwen3VLMoeForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from medvl_jobs.errors import MissingInputError, SchemaMismatchError
from medvl_jobs.settings.model import ModelSettings

MODEL_TYPE = "qwen3_vl_moe"


class ImageTextProcessor(Qwen3VLProcessor):
    """Qwen3-VL's processor for images and text, without the video part.

    The stock class needs torchvision for its *video* processor alone. The image processor is always the Pillow one: the
    torchvision one differs by up to two grey levels, and train and eval must see the same pixels on every machine.
    """

    # ProcessorMixin derives its parts from this signature, so leaving out video_processor removes it.
    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.vision_start_token, self.vision_end_token = "<|vision_start|>", "<|vision_end|>"
        for name in ("image", "video", "vision_start", "vision_end"):
            setattr(self, f"{name}_token_id", tokenizer.convert_tokens_to_ids(getattr(self, f"{name}_token")))
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


def load_processor(model: ModelSettings) -> ImageTextProcessor:
    """Tokenizer, chat template and image processor of a checkpoint, with the settings' image area.

    Raises `MissingInputError` when the checkpoint, or its tokenizer, is not there.
    """
    source = _source(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model.path, revision=model.revision)
        # The size is always passed: what a checkpoint's own file says allows 16,384 tokens for one image.
        size = {"shortest_edge": model.min_pixels, "longest_edge": model.max_pixels}
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(model.path, revision=model.revision, size=size)
    except OSError as error:
        raise _not_found(source, error) from error
    return ImageTextProcessor(image_processor, tokenizer, chat_template=tokenizer.chat_template)


def load_model(model: ModelSettings, device: torch.device | str = "cpu") -> PreTrainedModel:
    """The model with frozen-ready weights in the settings' dtype, in eval mode.

    Raises `MissingInputError` when the checkpoint is not there, `SchemaMismatchError` when it is another architecture.
    """
    source = _source(model)
    try:
        config = AutoConfig.from_pretrained(model.path, revision=model.revision)
    except OSError as error:
        raise _not_found(source, error) from error
    if config.model_type != MODEL_TYPE:
        raise SchemaMismatchError(
            f"the base model is a '{config.model_type}', medvl trains '{MODEL_TYPE}'",
            where=source,
            remedy="set model.path to Qwen3-VL-30B-A3B-Instruct or another Qwen3-VL-MoE checkpoint",
        )
    try:
        loaded = Qwen3VLMoeForConditionalGeneration.from_pretrained(
            model.path,
            revision=model.revision,
            dtype=getattr(torch, model.dtype),
            attn_implementation=model.attention,
            experts_implementation=model.experts,
            device_map={"": device},
        )
    except OSError as error:
        raise _not_found(source, error) from error
    return loaded.eval()


def best_device() -> torch.device:
    """This process's GPU when there is one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def set_threads(model: ModelSettings) -> None:
    """Apply ``model.threads`` to torch."""
    if model.threads:
        torch.set_num_threads(model.threads)


def _source(model: ModelSettings) -> str:
    return f"{model.path}@{model.revision}" if model.revision else model.path


def _not_found(source: str, error: OSError) -> MissingInputError:
    reason = (
        "it has no config.json" if Path(source).is_dir() else "there is no such directory, and the hub did not have it"
    )
    return MissingInputError(
        f"the base model cannot be loaded: {reason} ({type(error).__name__})",
        where=source,
        remedy="set model.path to a directory in Hugging Face's layout, or check the hub id and the network",
    )
