"""Greedy decoding in a batch that answers leave when they end, and others join.

transformers' ``generate`` holds a batch together until its longest answer has ended, and makes all logits of a step at
once. B: answers under way. T: width of the cache, left-padded. V: vocabulary. D: width of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.functional import linear, pad
from transformers import Cache, PreTrainedModel

from medvl_jobs.eval.engines.cache import empty_cache
from medvl_jobs.model.collate import prompt_batch, rope_positions
from medvl_jobs.model.prompts import Encoded

CHUNK = 8192
"""Words whose logits a CPU makes at once: they stay in its cache, and nothing of 39 MB is allocated in every step."""


@dataclass
class Written:
    """One answer under way."""

    number: int
    """Whose it is, to the caller."""
    ids: list[int] = field(default_factory=list)
    ended: bool = False
    """By itself, and not by the limit. The end's own token is not among ``ids``."""


class RollingBatch:
    """Answers under way: `join` begins some, `step` writes one token of each and returns those that are finished."""

    def __init__(
        self, model: PreTrainedModel, *, pad_token_id: int, end_token_ids: set[int], merge_size: int, limit: int
    ) -> None:
        """``limit``: tokens of an answer at most. ``merge_size``: patches of each side that make one token."""
        self.model, self.end_token_ids, self.limit = model, end_token_ids, limit
        self.pad_token_id, self.merge_size = pad_token_id, merge_size
        self.answers: list[Written] = []
        self._cache = empty_cache()
        self._mask_BT = self._next_B = self._position_B = torch.empty(0, dtype=torch.long, device=model.device)

    def __len__(self) -> int:
        return len(self.answers)

    def width(self, prompt: int = 0) -> int:
        """Tokens in a row of the cache, with all that may be written, when a prompt of so many joins."""
        return max(self._mask_BT.shape[-1] if self.answers else 0, prompt) + self.limit

    @torch.inference_mode()
    def join(self, numbers: Sequence[int], examples: Sequence[Encoded]) -> None:
        """Read the prompts of ``examples``; the first token of each answer comes with the next `step`."""
        batch = prompt_batch(examples, self.pad_token_id)
        length = batch["input_ids"].shape[1]
        rope = [rope_positions(example, self.merge_size) for example in examples]
        positions_3BL = torch.stack([pad(each, (length - each.shape[1], 0)) for each in rope], dim=1)
        del batch["mm_token_type_ids"]  # it is what positions are made from
        batch = {name: value.to(self.model.device) for name, value in batch.items()}
        cache = empty_cache()
        next_B = self._forward(cache, position_ids=positions_3BL.to(self.model.device), **batch)
        position_B = torch.tensor([int(each.max()) + 1 for each in rope], device=self.model.device)
        mask_BT = batch["attention_mask"]
        if self.answers:
            for layer, more in zip(self._cache.layers, cache.layers, strict=True):
                layer.add(more)
            cache, mask_BT = self._cache, _stacked(self._mask_BT, mask_BT)
            next_B, position_B = torch.cat([self._next_B, next_B]), torch.cat([self._position_B, position_B])
        self._cache, self._mask_BT, self._next_B, self._position_B = cache, mask_BT, next_B, position_B
        self.answers += [Written(number) for number in numbers]

    @torch.inference_mode()
    def step(self) -> list[Written]:
        """Write a token of every answer; those that are finished leave the batch."""
        for answer, token in zip(self.answers, self._next_B.tolist(), strict=True):
            answer.ended = token in self.end_token_ids
            if not answer.ended:
                answer.ids.append(token)
        going = [not (answer.ended or len(answer.ids) >= self.limit) for answer in self.answers]
        finished = [answer for answer, on in zip(self.answers, going, strict=True) if not on]
        if finished:
            self._keep([row for row, on in enumerate(going) if on])
        if self.answers:
            self._mask_BT = pad(self._mask_BT, (0, 1), value=1)
            self._next_B = self._forward(
                self._cache,
                input_ids=self._next_B[:, None],
                attention_mask=self._mask_BT,
                position_ids=self._position_B[None, :, None].expand(3, -1, -1),
            )
            self._position_B = self._position_B + 1
        return finished

    def _forward(self, cache: Cache, **batch: torch.Tensor) -> torch.Tensor:
        """The likeliest next token of each row [B]."""
        hidden_BLD = self.model.model(**batch, past_key_values=cache, use_cache=True).last_hidden_state
        return likeliest(self.model.lm_head, hidden_BLD[:, -1])

    def _keep(self, rows: list[int]) -> None:
        """Drop all other rows, and the padding that only they were wide enough for."""
        self.answers = [self.answers[row] for row in rows]
        if not rows:
            self._cache = empty_cache()
            return
        kept = torch.tensor(rows, device=self.model.device)
        mask_BT = self._mask_BT[kept]
        padding = int(mask_BT.argmax(1).min())
        self._mask_BT = mask_BT[:, padding:]
        self._next_B, self._position_B = self._next_B[kept], self._position_B[kept]
        for layer in self._cache.layers:
            layer.keep(kept, padding)


def likeliest(head: nn.Module, hidden_BD: torch.Tensor) -> torch.Tensor:
    """The word of the largest logit [B], the first of equals; the same as of all logits [B, V] at once."""
    if hidden_BD.is_cuda or type(head) is not nn.Linear or head.bias is not None:
        logits_BV: torch.Tensor = head(hidden_BD)
        return logits_BV.argmax(-1)
    best_BC = linear(hidden_BD, head.weight[:CHUNK])
    best_B = best_BC.amax(-1)
    start_B = torch.zeros_like(best_B, dtype=torch.long)
    for start in range(CHUNK, head.out_features, CHUNK):
        logits_BC = linear(hidden_BD, head.weight[start : start + CHUNK])
        value_B = logits_BC.amax(-1)  # ten times as fast as to find its place, which is done once, at the end
        [better] = (value_B > best_B).nonzero(as_tuple=True)
        best_B[better], start_B[better] = value_B[better], start
        best_BC[better] = pad(logits_BC[better], (0, CHUNK - logits_BC.shape[1]), value=-torch.inf)
    return start_B + best_BC.argmax(-1)


def _stacked(one_BT: torch.Tensor, other_BT: torch.Tensor) -> torch.Tensor:
    """One mask's rows above the other's, all padded on the left to the wider."""
    width = max(one_BT.shape[1], other_BT.shape[1])
    return torch.cat([pad(each, (width - each.shape[1], 0)) for each in (one_BT, other_BT)])
