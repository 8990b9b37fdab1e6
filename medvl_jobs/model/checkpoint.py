"""Open a Qwen3-VL-MoE checkpoint: the 30B and the demo's tiny one through the same code."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
    Qwen3VLMoeForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils.logging import disable_progress_bar

from medvl_jobs.errors import MissingInputError, SchemaMismatchError, SettingsError, TryAgainError
from medvl_jobs.model.layouts import comparing_whole_shapes, refuse_square_experts
from medvl_jobs.model.weights import place
from medvl_jobs.settings.model import ModelSettings

# PEFT 0.21 asks transformers 5.23 by a name that is going away; nobody who trains can do anything about it.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
disable_progress_bar()  # its bars break up the log lines of a job

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
    check_architecture(model)
    path, revision = place(model)
    # The size is always passed: what a checkpoint's own file says allows 16,384 tokens for one image.
    size = {"shortest_edge": model.min_pixels, "longest_edge": model.max_pixels}
    with _loading(model):
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(path, revision=revision, size=size)
    lacking = [token for token in ("<|im_end|>", "<|image_pad|>") if token not in tokenizer.get_vocab()]
    if lacking or not tokenizer.chat_template:
        raise MissingInputError(
            f"the base model has no {' and '.join(lacking) or 'chat template'} in its tokenizer",
            where=model.path,
            remedy="copy tokenizer.json, tokenizer_config.json and chat_template.jinja from the original checkpoint",
        )
    return ImageTextProcessor(image_processor, tokenizer, chat_template=tokenizer.chat_template)


def load_model(
    model: ModelSettings,
    device: torch.device | str | None = "cpu",
    *,
    kind: type[PreTrainedModel] = Qwen3VLMoeForConditionalGeneration,
) -> PreTrainedModel:
    """The model in the settings' dtype, in eval mode, its experts in either of the two `layouts`.

    ``device`` none: where DeepSpeed puts it, for ZeRO-3, which deals out each weight while it is loaded.
    Raises `MissingInputError` when the checkpoint, or one of its weights, is not there, `SchemaMismatchError` when it
    is another architecture.
    """
    check_architecture(model)
    path, revision = place(model)
    with _loading(model), comparing_whole_shapes():
        loaded, found = kind.from_pretrained(
            path,
            revision=revision,
            dtype=getattr(torch, model.dtype),
            attn_implementation=model.attention,
            experts_implementation=model.experts,
            device_map=None if device is None else {"": device},
            output_loading_info=True,
        )
    if found["missing_keys"]:  # transformers draws them at random, and says so in a log line
        raise MissingInputError(
            f"the base model lacks {len(found['missing_keys'])} of its weights, such as {min(found['missing_keys'])}",
            where=model.path,
            remedy="set model.path to a whole checkpoint",
        )
    return loaded.eval()


def check_architecture(model: ModelSettings) -> None:
    """Read the configuration alone, so that a wrong checkpoint is refused before 60 GB of it are loaded."""
    path, revision = place(model)
    with _loading(model):
        values, _ = PretrainedConfig.get_config_dict(path, revision=revision)
    found = values.get("model_type")
    if not found:
        raise MissingInputError(
            "there is no config.json", where=model.path, remedy="set model.path to a whole checkpoint"
        )
    if found != MODEL_TYPE:
        raise SchemaMismatchError(
            f"the base model is of type '{found}', medvl trains '{MODEL_TYPE}'",
            where=model.path,
            remedy="set model.path to Qwen3-VL-30B-A3B-Instruct or another Qwen3-VL-MoE checkpoint",
        )
    refuse_square_experts(values, model.path)


@contextmanager
def _loading(model: ModelSettings) -> Iterator[None]:
    """Turn what transformers raises for a checkpoint that is not there, or not whole, into our error."""
    try:
        yield
    except ImportError as error:  # flash-attn, for one
        what = f"model.attention={model.attention} needs a package: {_first_line(error)}"
        raise SettingsError(what, remedy="install it, or set model.attention=sdpa") from error
    except ConnectionError as error:
        raise TryAgainError(f"the hub did not answer: {_first_line(error)}", where=model.path) from error
    except (OSError, ValueError, SafetensorError) as error:
        raise MissingInputError(
            f"the base model cannot be loaded: {_first_line(error)}",
            where=f"{model.path}@{model.revision}" if model.revision else model.path,
            remedy="set model.path to a directory in Hugging Face's layout, or check the hub id and the network",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def best_device() -> torch.device:
    """This process's GPU when there is one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def set_threads(model: ModelSettings) -> None:
    """Apply ``model.threads`` to torch."""
    if model.threads:
        torch.set_num_threads(model.threads)
