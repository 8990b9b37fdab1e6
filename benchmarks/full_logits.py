"""`medvl` with the vocabulary head over all positions and the loss over full logits, for comparison."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.nn import functional as F
from transformers import Qwen3VLMoeForConditionalGeneration

from medvl_jobs import cli
from medvl_jobs.model.prompts import IGNORE
from medvl_jobs.train.loss import AnswerLossModel


def _forward(self: AnswerLossModel, shift_labels: torch.Tensor | None = None, **inputs: Any) -> Any:
    if shift_labels is None:
        return Qwen3VLMoeForConditionalGeneration.forward(self, **inputs)
    labelled_BL = inputs.pop("logits_to_keep")
    inputs = {name: value for name, value in inputs.items() if name != "labels"}
    logits_BLV = self.lm_head(self.model(**inputs, use_cache=False)[0]).float()
    labels_BL = torch.full_like(labelled_BL, IGNORE, dtype=torch.long)
    labels_BL[labelled_BL] = shift_labels
    return F.cross_entropy(logits_BLV.flatten(0, 1), labels_BL.flatten(), ignore_index=IGNORE, reduction="sum")


if __name__ == "__main__":
    AnswerLossModel.forward = _forward  # type: ignore[method-assign]
    sys.exit(cli.main())
