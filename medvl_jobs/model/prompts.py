"""The one prompt renderer of train and eval.

Text goes through the checkpoint's own chat template, never around it; the token ids are pinned by a golden test.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import torch
from PIL import Image

from medvl_jobs.model.checkpoint import ImageTextProcessor
from medvl_jobs.settings.model import PromptSettings

END_OF_TURN = "<|im_end|>\n"
IGNORE = -100
"""Label of a position that carries no loss."""


@dataclass(frozen=True)
class Encoded:
    """One example as tensors. L: tokens. P: patches of 16 × 16 pixels. D: values of a patch."""

    input_ids_L: torch.Tensor
    labels_L: torch.Tensor
    """The answer's tokens at the answer's positions, `IGNORE` elsewhere."""
    mm_token_type_ids_L: torch.Tensor
    """1 at image tokens. Without it the model silently takes text positions for the image's."""
    pixel_values_PD: torch.Tensor
    image_grid_thw: torch.Tensor
    """Shape [1, 3]: patches in time, height, width."""

    def __len__(self) -> int:
        return len(self.input_ids_L)


class PromptRenderer:
    """Turns (image, question, answer) into tokens."""

    def __init__(self, processor: ImageTextProcessor, prompt: PromptSettings, question: str | None = None) -> None:
        """Render ``question``, or else the prompt's, once; only image and answer differ between examples."""
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.answer_prefix = prompt.answer_prefix
        self.prompt_text = self.render(question or prompt.question, prompt.system)
        self._prompt_ids: list[int] = self.tokenizer(self.prompt_text, add_special_tokens=False)["input_ids"]

    def render(self, question: str, system: str | None = None) -> str:
        """The text of one image and a question, up to where the assistant speaks."""
        messages: list[dict[str, object]] = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]})
        return str(self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def encode(self, image: Image.Image, answer: str | None = None, *, prompt_text: str | None = None) -> Encoded:
        """Tokens of the prompt and, when given, of the answer; only the answer carries labels."""
        batch = self.processor(text=[prompt_text or self.prompt_text], images=[image], return_tensors="pt")
        prompt_ids = batch["input_ids"][0]
        answer_ids = torch.tensor(self.answer_ids(answer) if answer is not None else [], dtype=torch.long)
        return Encoded(
            input_ids_L=torch.cat([prompt_ids, answer_ids]),
            labels_L=torch.cat([torch.full_like(prompt_ids, IGNORE), answer_ids]),
            mm_token_type_ids_L=torch.cat([batch["mm_token_type_ids"][0].long(), torch.zeros_like(answer_ids)]),
            pixel_values_PD=batch["pixel_values"],
            image_grid_thw=batch["image_grid_thw"],
        )

    def answer_ids(self, answer: str) -> list[int]:
        """Tokens of prefix, answer and end of turn, as the chat template would write them after the prompt.

        The answer must not begin with white space: the newline before it would join it into another token.
        """
        text = self.answer_prefix + answer.strip() + END_OF_TURN
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def count_tokens(self, width: int, height: int, answer: str | None = None) -> int:
        """Length of an example, image tokens included, from the image's size alone: nothing is decoded."""
        # The rendered prompt holds one placeholder per image; the processor writes one per merged patch instead.
        prompt = len(self._prompt_ids) - 1 + self.count_image_tokens(width, height)
        return prompt + (len(self.answer_ids(answer)) if answer is not None else 0)

    def count_image_tokens(self, width: int, height: int) -> int:
        """Tokens of an image of this size in pixels."""
        patches: int = self.processor.image_processor.get_number_of_image_patches(height, width, {})
        return patches // self.merge_size**2

    @property
    def merge_size(self) -> int:
        """Patches of each side that make one token."""
        return int(self.processor.image_processor.merge_size)

    def decode(self, ids: torch.Tensor) -> str:
        """The text of generated tokens, without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()


def decode_image(encoded: bytes) -> Image.Image:
    """Encoded bytes to an RGB picture, as train and eval both see it."""
    with Image.open(io.BytesIO(encoded)) as image:
        return image.convert("RGB")
