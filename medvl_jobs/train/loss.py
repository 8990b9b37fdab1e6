"""The loss: the vocabulary head on labelled positions only, a chunk of them at a time.

Legend: B examples, L tokens, H hidden size, V vocabulary, T labelled positions of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd.function import FunctionCtx
from transformers import Qwen3VLMoeForConditionalGeneration

from medvl_jobs.train.planner.memory import head_chunk


class AnswerLossModel(Qwen3VLMoeForConditionalGeneration):
    """Qwen3-VL-MoE whose forward pass gives, for a batch of `model.collate`, the *sum* of the answer's losses.

    A sum, because only who knows all micro-batches of a step can divide it by their labelled tokens.
    """

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        """As the stock class: transformers looks for a decorator in the source of a class's module, which is this one.

        Else it refuses to load with ``grouped_mm``.
        """
        return bool(Qwen3VLMoeForConditionalGeneration._can_set_experts_implementation())

    def forward(self, shift_labels: torch.Tensor | None = None, **inputs: Any) -> Any:
        """Sum over T of −log p(label), in nats, float32; without ``shift_labels`` [T], what the stock model gives.

        ``logits_to_keep`` [B, L] marks the T positions that predict them. Raises ``ValueError`` for a packed batch that
        would attend across its examples.
        """
        if shift_labels is None:
            return super().forward(**inputs)
        labelled_BL = inputs.pop("logits_to_keep")
        inputs = {name: value for name, value in inputs.items() if value is not None and name != "labels"}
        if "position_ids" in inputs:
            _check_packed(inputs)
        hidden_BLH = self.model(**inputs, use_cache=False)[0]  # with a cache, packed examples would see each other
        with whole(self.lm_head.weight) as weight_VH:
            return answer_loss(hidden_BLH[labelled_BL], weight_VH, shift_labels)


def answer_loss(hidden_TH: torch.Tensor, weight_VH: torch.Tensor, labels_T: torch.Tensor) -> torch.Tensor:
    """Sum of the cross-entropy of ``hidden · weightᵀ`` against the labels: a float32 scalar, in nats.

    The same as over full logits, as which 151,936 words would take 0.6 GB for 1,000 tokens, three times over. Here a
    chunk's logits become its part of the loss and of the gradient by ``hidden`` and are gone: that gradient is all that
    is kept for the backward pass, as Liger's fused linear cross-entropy does (Hsu et al. 2024, arXiv 2410.10989, §3.2).
    It needs the head to be frozen; raises ``ValueError`` when it is not.
    """
    if weight_VH.requires_grad:
        raise ValueError("the vocabulary head is trained: this loss gives it no gradient")
    with torch.autocast(hidden_TH.device.type, enabled=False):
        total: torch.Tensor = _ChunkedLoss.apply(  # type: ignore[no-untyped-call]
            hidden_TH.to(weight_VH.dtype), weight_VH, labels_T
        )
    return total


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_TH: torch.Tensor, weight_VH: torch.Tensor, labels_T: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden_TH.device)
        wanted = ctx.needs_input_grad[0]
        gradient_TH = torch.empty_like(hidden_TH) if wanted else None
        chunk = head_chunk(len(weight_VH))
        for start in range(0, len(hidden_TH), chunk):
            rows = slice(start, start + chunk)
            loss, probabilities_CV = _chunk(hidden_TH[rows] @ weight_VH.T, labels_T[rows])
            total += loss
            if gradient_TH is not None:
                # d loss / d logits is softmax − onehot
                probabilities_CV.scatter_add_(
                    1, labels_T[rows, None], probabilities_CV.new_full((len(probabilities_CV), 1), -1.0)
                )
                torch.mm(probabilities_CV.to(weight_VH.dtype), weight_VH, out=gradient_TH[rows])
            del probabilities_CV  # or it would still be there beside the next chunk's logits
        if gradient_TH is not None:
            ctx.save_for_backward(gradient_TH)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient_TH,) = ctx.saved_tensors  # type: ignore[attr-defined]
        # In float32: the scale of a step, rounded to bfloat16, would scale its whole gradient by up to 0.4 %.
        return (gradient_TH.float() * gradients[0]).to(gradient_TH.dtype), None, None


def _chunk(logits_CV: torch.Tensor, labels_C: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and probabilities, the latter where the logits were: in float32, whatever the product was made in."""
    logits_CV = logits_CV.float()
    labelled_C1 = logits_CV.gather(1, labels_C[:, None])
    highest_C1 = logits_CV.amax(dim=1, keepdim=True)
    exponentials_CV = logits_CV.sub_(highest_C1).exp_()
    sums_C1 = exponentials_CV.sum(dim=1, keepdim=True)
    return (sums_C1.log() + highest_C1 - labelled_C1).sum(), exponentials_CV.div_(sums_C1)


@contextmanager
def whole(parameter: torch.nn.Parameter) -> Iterator[torch.nn.Parameter]:
    """A parameter with all its values, also under ZeRO-3, where each process holds a share of it.

    DeepSpeed remembers who asked for it: from the second forward pass on it brings it itself, and takes it away again
    after the pass. Taking it away here as well would be an error.
    """
    if not hasattr(parameter, "ds_status") or getattr(parameter, "ds_active_sub_modules", None):
        yield parameter
        return
    # Here and not above: it takes three seconds, and only who trains with ZeRO-3 has such parameters.
    from deepspeed import zero  # noqa: PLC0415

    with zero.GatheredParameters([parameter]):
        yield parameter


def _check_packed(inputs: dict[str, Any]) -> None:
    """Each of these leaks silently from one example into the next: see `model.collate.packed_batch`."""
    if len(inputs["position_ids"]) != 4:
        raise ValueError("a packed batch needs text positions above those of the image: position_ids [4, 1, L]")
    if "attention_mask" in inputs:
        raise ValueError("a packed batch has no attention_mask: with one, its examples attend to each other")
