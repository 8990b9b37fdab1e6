"""The split: stable, seeded, and never through a group."""

from __future__ import annotations

import pytest

from medvl_jobs.errors import SettingsError
from medvl_jobs.prep.split import Grouping, ticket, val_tickets

GROUPS = [f"patient{number}" for number in range(5000)]


def is_val(group: str, seed: int, ratio: float) -> bool:
    return ticket(group, seed) < val_tickets(ratio)


def test_the_share_of_groups_is_the_ratio() -> None:
    for ratio in (0.05, 0.2, 0.5):
        share = sum(is_val(group, 42, ratio) for group in GROUPS) / len(GROUPS)
        assert share == pytest.approx(ratio, abs=0.02)


def test_known_values_so_that_old_datasets_can_be_split_again() -> None:
    val = [number for number, group in enumerate(GROUPS[:12]) if is_val(group, 42, 0.2)]
    assert val == [3]


def test_a_larger_ratio_only_moves_groups_into_val() -> None:
    assert {g for g in GROUPS if is_val(g, 1, 0.1)} < {g for g in GROUPS if is_val(g, 1, 0.3)}


def test_the_seed_matters() -> None:
    assert [is_val(group, 1, 0.2) for group in GROUPS] != [is_val(group, 2, 0.2) for group in GROUPS]


def test_the_group_is_the_column_then_the_pattern_then_the_id() -> None:
    grouping = Grouping.from_setting(r"^(.+)_\d+$")
    assert grouping.of("p", "scan_1") == ("p", "column")
    assert grouping.of(None, "scan_1") == ("scan", "pattern")
    assert grouping.of(None, "scan") == ("scan", "id")
    assert Grouping.from_setting(None).of(None, "scan_1") == ("scan_1", "id")
    assert Grouping.from_setting("(x)?").of(None, "scan") == ("scan", "id"), "a group that took part in nothing"


@pytest.mark.parametrize("pattern", ["(", "no group"])
def test_a_pattern_that_cannot_work_is_refused(pattern: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Grouping.from_setting(pattern)
    assert caught.value.where == f"prep.group_pattern={pattern}"
