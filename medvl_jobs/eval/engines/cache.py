"""Keys and values of the answers under way, with room for the tokens to come.

B: answers. H: heads. T: tokens, padding included. D: width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import pad
from transformers import Cache, DynamicLayer

ROOM = 64
"""Tokens that are written behind the others before all are copied."""


class RoomyLayer(DynamicLayer):
    """One layer's keys and values [B, H, T, D], each the front of a longer buffer.

    transformers' own copies them for every token, which took a quarter of the time of 64 answers on two cores.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, **kwargs: Any) -> None:
        """Nothing is held yet."""
        super().__init__(**kwargs)
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the next tokens' [B, H, new, D] behind the others; returns all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        if self._buffers is None or self._buffers[0].shape[2] < end:
            held = (self.keys, self.values) if start else (key_states[:, :, :0], value_states[:, :, :0])
            self._buffers = _roomy(held[0], end + ROOM), _roomy(held[1], end + ROOM)
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = states
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values

    def keep(self, rows_B: torch.Tensor, padding: int) -> None:
        """Only these rows, and of each all but the first ``padding`` tokens."""
        self._hold(self.keys[rows_B, :, padding:], self.values[rows_B, :, padding:])

    def add(self, other: RoomyLayer) -> None:
        """The other's rows below these, all padded on the left to the wider."""
        width = max(self.get_seq_length(), other.get_seq_length())
        self._hold(_stacked(self.keys, other.keys, width), _stacked(self.values, other.values, width))

    def _hold(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys, self.values, self._buffers = keys, values, None


def empty_cache() -> Cache:
    """Of as many layers as come to it."""
    return Cache(layer_class_to_replicate=RoomyLayer)


def _roomy(held: torch.Tensor, tokens: int) -> torch.Tensor:
    buffer = held.new_empty((*held.shape[:2], tokens, held.shape[3]))
    buffer[:, :, : held.shape[2]] = held
    return buffer


def _stacked(one: torch.Tensor, other: torch.Tensor, width: int) -> torch.Tensor:
    return torch.cat([pad(each, (0, 0, width - each.shape[2], 0)) for each in (one, other)])
