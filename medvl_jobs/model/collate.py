"""Batches of encoded examples. B: examples. L: longest example. T: labelled tokens of the whole batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import pad

from medvl_jobs.model.prompts import IGNORE, Encoded

Batch = dict[str, torch.Tensor]


def training_batch(examples: Sequence[Encoded], pad_token_id: int) -> Batch:
    """Right-padded batch whose loss runs the vocabulary head on labelled positions only.

    ``logits_to_keep`` [B, L] marks the positions that predict a label; ``labels`` and ``shift_labels`` [T] are those
    labels, already shifted. The loss is the same as over all positions, at a fraction of the memory: with Qwen3-VL's
    151,936 words the full logits of 4 × 512 tokens take 5 GB.
    """
    length = max(len(example) for example in examples)
    batch = _padded(examples, length, pad_token_id, left=False)
    return batch | _labels(torch.stack([pad(_shifted(e), (0, length - len(e)), value=IGNORE) for e in examples]))


def packed_batch(examples: Sequence[Encoded], merge_size: int) -> Batch:
    """One row [1, L] of examples end to end, without padding, with the same labels as `training_batch`.

    The model keeps them apart by ``position_ids`` [4, 1, L]: text positions that begin at 0 with each example, above
    the three of M-RoPE. Three conditions, and each broken one leaks from one example into the next without a word (the
    model then takes the row for one text): all four rows; no ``attention_mask``; ``use_cache=False``.
    ``train.loss.AnswerLossModel`` refuses the first two and sees to the third.
    """
    positions_4L = [torch.cat([torch.arange(len(e))[None], rope_positions(e, merge_size)]) for e in examples]
    return {
        "input_ids": torch.cat([e.input_ids_L for e in examples])[None],
        "mm_token_type_ids": torch.cat([e.mm_token_type_ids_L for e in examples])[None],
        "position_ids": torch.cat(positions_4L, dim=1)[:, None],
        **_images(examples),
        **_labels(torch.cat([_shifted(e) for e in examples])[None]),
    }


def rope_positions(example: Encoded, merge_size: int) -> torch.Tensor:
    """Positions in time, height and width [3, L] of text with one image (Qwen2-VL, arXiv 2409.12191, §2.1).

    Text counts on in all three; the image's tokens count rows and columns from where the text was, and the text after
    it goes on at the larger side. ``merge_size`` patches of each side make one token.
    """
    visual_L = example.mm_token_type_ids_L.bool()
    start, count = int(visual_L.int().argmax()), int(visual_L.sum())
    _, height, width = (example.image_grid_thw[0] // torch.tensor([1, merge_size, merge_size])).tolist()
    image_3N = torch.stack(
        [
            torch.zeros(count, dtype=torch.long),
            torch.arange(height).repeat_interleave(width),
            torch.arange(width).repeat(height),
        ]
    )
    after = torch.arange(len(example) - start - count) + max(height, width)
    return torch.cat([torch.arange(start).expand(3, -1), start + image_3N, start + after.expand(3, -1)], dim=1)


def prompt_batch(examples: Sequence[Encoded], pad_token_id: int) -> Batch:
    """Left-padded batch, so that every answer starts at the same position."""
    return _padded(examples, max(len(example) for example in examples), pad_token_id, left=True)


def _padded(examples: Sequence[Encoded], length: int, pad_token_id: int, *, left: bool) -> Batch:
    def rows(tensors: Sequence[torch.Tensor], value: int) -> torch.Tensor:
        gaps = [length - len(tensor) for tensor in tensors]
        sides = [(gap, 0) if left else (0, gap) for gap in gaps]
        return torch.stack([pad(tensor, side, value=value) for tensor, side in zip(tensors, sides, strict=True)])

    return {
        "input_ids": rows([e.input_ids_L for e in examples], pad_token_id),
        "attention_mask": rows([torch.ones_like(e.input_ids_L) for e in examples], 0),
        "mm_token_type_ids": rows([e.mm_token_type_ids_L for e in examples], 0),
        **_images(examples),
    }


def _images(examples: Sequence[Encoded]) -> Batch:
    return {
        "pixel_values": torch.cat([e.pixel_values_PD for e in examples]),
        "image_grid_thw": torch.cat([e.image_grid_thw for e in examples]),
    }


def _shifted(example: Encoded) -> torch.Tensor:
    """[L]: the label that each position predicts."""
    return pad(example.labels_L, (0, 1), value=IGNORE)[1:]


def _labels(shifted_BL: torch.Tensor) -> Batch:
    keep_BL = shifted_BL != IGNORE
    labels_T = shifted_BL[keep_BL]
    return {"logits_to_keep": keep_BL, "labels": labels_T, "shift_labels": labels_T}
