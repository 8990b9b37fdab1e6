"""The train split as examples for the Trainer."""

from __future__ import annotations

import logging
from collections.abc import Callable

import datasets
from torch.utils.data import Dataset

from medvl_jobs.errors import DataError
from medvl_jobs.model.collate import Batch, training_batch
from medvl_jobs.model.prompts import Encoded, PromptRenderer, decode_image

log = logging.getLogger(__name__)


class TrainingExamples(Dataset[Encoded]):
    """Rows that fit into ``max_tokens``, encoded when they are asked for.

    A longer row is left out and counted rather than cut: cutting image tokens breaks the model, and cutting the answer
    teaches it to stop in mid-sentence. Raises `DataError` when no row fits.
    """

    def __init__(self, rows: datasets.Dataset, renderer: PromptRenderer, max_tokens: int) -> None:
        """Count the tokens of every row; no image is decoded for it."""
        self.renderer = renderer
        sizes = rows.remove_columns([name for name in rows.column_names if name not in {"width", "height", "caption"}])
        lengths = [renderer.count_tokens(row["width"], row["height"], row["caption"]) for row in sizes]
        kept = [index for index, length in enumerate(lengths) if length <= max_tokens]
        if not kept:
            raise DataError(
                f"none of {len(lengths)} examples fits into {max_tokens} tokens; the shortest has {min(lengths)}",
                where="train.max_tokens",
                remedy="raise train.max_tokens or lower model.max_pixels",
            )
        self.left_out = len(lengths) - len(kept)
        if self.left_out:
            log.warning(
                "%d of %d examples are longer than %d tokens and left out", self.left_out, len(lengths), max_tokens
            )
        self.rows = rows.select(kept)
        self.tokens = sum(lengths[index] for index in kept)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Encoded:
        row = self.rows[index]
        return self.renderer.encode(decode_image(row["image"]["bytes"]), row["caption"])

    def collator(self) -> Callable[[list[Encoded]], Batch]:
        """The batch builder that goes with these examples."""
        pad_token_id: int = self.renderer.tokenizer.pad_token_id
        return lambda examples: training_batch(examples, pad_token_id)
