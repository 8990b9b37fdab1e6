"""Keys and values are what transformers' own layer holds, and are not copied for every token."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicLayer

from medvl_jobs.eval.engines import cache
from medvl_jobs.eval.engines.cache import RoomyLayer


def states(tokens: int, rows: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values [rows, 3, tokens, 4]."""
    return torch.randn(rows, 3, tokens, 4), torch.randn(rows, 3, tokens, 4)


def filled(tokens: int, rows: int = 2) -> RoomyLayer:
    layer = RoomyLayer()
    layer.update(*states(tokens, rows))
    return layer


def test_it_holds_what_transformers_own_holds() -> None:
    ours, theirs = RoomyLayer(), DynamicLayer()
    for tokens in (5, *[1] * (cache.ROOM + 3), 7, 2 * cache.ROOM):
        new = states(tokens)
        for held, expected in zip(ours.update(*new), theirs.update(*new), strict=True):
            assert torch.equal(held, expected)
        assert ours.get_seq_length() == theirs.get_seq_length()


def test_all_is_copied_only_when_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "ROOM", 4)
    layer = filled(5)
    places = [layer.update(*states(1))[0].data_ptr() for _ in range(10)]
    assert len(set(places)) == 3, "four tokens, five with the one that had no room, and the last"


def test_rows_leave_with_the_padding_that_nobody_needs() -> None:
    layer = filled(5, rows=3)
    before = layer.keys
    layer.keep(torch.tensor([2, 0]), padding=1)
    assert torch.equal(layer.keys, before[[2, 0], :, 1:])
    new = states(1)
    assert torch.equal(layer.update(*new)[1][:, :, -1:], new[1])
    assert layer.get_seq_length() == 5


@pytest.mark.parametrize("others", [3, 8])
def test_rows_join_padded_on_the_left(others: int) -> None:
    layer, other = filled(5), filled(others, rows=1)
    mine, theirs = layer.values, other.values
    layer.add(other)
    assert layer.values.shape == (3, 3, max(5, others), 4)
    assert torch.equal(layer.values[:2, :, -5:], mine)
    assert torch.equal(layer.values[2:, :, -others:], theirs)
    assert not layer.values[:2, :, :-5].any()
