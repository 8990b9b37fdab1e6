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
    labels_BL = torch.stack([pad(e.labels_L, (0, length - len(e)), value=IGNORE) for e in examples])
    shifted_BL = pad(labels_BL, (0, 1), value=IGNORE)[:, 1:]
    keep_BL = shifted_BL != IGNORE
    labels_T = shifted_BL[keep_BL]
    return batch | {"logits_to_keep": keep_BL, "labels": labels_T, "shift_labels": labels_T}


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
        "pixel_values": torch.cat([e.pixel_values_PD for e in examples]),
        "image_grid_thw": torch.cat([e.image_grid_thw for e in examples]),
    }
