"""The profile of the tutorial, and the document that says how it differs from the defaults."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from medvl_jobs.settings.run import RunSettings, load_settings

DOCUMENT = Path(__file__).parents[2] / "docs" / "tutorial-parity.md"
TABLE = "| setting | `tutorial` | default | why the default differs |"
PROFILES = resources.files("medvl_jobs.settings") / "profiles"


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("MEDVL_")]:
        monkeypatch.delenv(name)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"train": {"seed": 1}}`` -> ``{"train.seed": 1}``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def resolved(*words: str) -> dict[str, Any]:
    return flat(load_settings(None, words).model_dump(mode="json"))


def documented() -> dict[str, tuple[Any, Any]]:
    """(tutorial's, default) by setting, as the table says; every row has a reason."""
    lines = DOCUMENT.read_text(encoding="utf-8").split(TABLE)[1].strip().split("\n\n")[0].splitlines()[1:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert all(len(row) == 4 and row[3] for row in rows)
    found = {row[0].strip("`"): (value(row[1]), value(row[2])) for row in rows}
    assert len(found) == len(rows)
    return found


def value(cell: str) -> Any:
    """A cell's word as the settings read it; YAML takes ``5e-05`` for a text, and ``a: b`` for a mapping."""
    text = cell.strip("`")
    if text[:1] == '"' or text in {"true", "false", "null"}:
        return yaml.safe_load(text)
    try:
        return float(text)
    except ValueError:
        return text


def test_the_table_is_every_difference() -> None:
    tutorial, default = resolved("profile=tutorial"), resolved()
    differ = {name: (tutorial[name], default[name]) for name in default if tutorial[name] != default[name]}
    assert differ.pop("profile") == ("tutorial", None)
    assert documented() == differ


def test_the_protocol_stays_when_a_default_moves() -> None:
    """What decides a figure stands in the profile itself, not in a default that may improve."""
    pinned = set(flat(yaml.safe_load((PROFILES / "tutorial.yaml").read_text(encoding="utf-8"))))
    decisive = {f"train.{name}" for name in flat(RunSettings().train.semantic())}
    assert decisive <= pinned
    assert {name for name in resolved() if name.startswith("prompt.")} <= pinned


def test_a_step_is_the_tutorials() -> None:
    """12,931 examples, three epochs and four GPUs: 39 steps, as its log says."""
    train = load_settings(None, ("profile=tutorial",)).train
    micro_steps = -(-12_931 // (train.batch_size * 4))
    assert train.epochs * -(-micro_steps // train.gradient_accumulation) == 39


def test_every_profile_loads_and_is_named() -> None:
    names = {entry.name.removesuffix(".yaml") for entry in PROFILES.iterdir()}
    assert names == {"demo", "tutorial"}
    for name in names:
        assert load_settings(None, (f"profile={name}",)).profile == name
        assert f"``{name}``" in str(RunSettings.model_fields["profile"].description)
