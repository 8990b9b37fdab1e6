"""What ``report.json`` says of how it was made: training, data, cost and lineage; see `shape`."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

documented = with_config(ConfigDict(extra="forbid", use_attribute_docstrings=True))
"""Of every part of the report: no field that it does not name, and docstrings in the schema."""


@documented
class Training(TypedDict):
    """The loss curve and the totals."""

    variant: str
    """Whose adapter it made: ``tuned``; in a report of two runs ``base`` is the first one's."""
    steps: list[int]
    loss: list[float]
    """Nats per answer token, mean since the log step before."""
    smoothed: list[float]
    results: dict[str, float]
    """``all_results.json``."""
    counts: dict[str, int]


@documented
class Cost(TypedDict):
    """What one stage took."""

    stage: str
    wall_seconds: float
    gpu_seconds: float
    """Wall seconds times the GPUs held, idle or not."""
    money: float | None
    """``gpu_seconds`` at ``plan.price_per_gpu_hour``; null without a price."""
    examples_per_second: float | None
    """Of an evaluation, scoring included."""
    peak_memory_bytes: int


@documented
class Costs(TypedDict):
    """What the stages took, one by one and together."""

    price_per_gpu_hour: float | None
    stages: list[Cost]
    wall_seconds: float
    gpu_seconds: float
    money: float | None


@documented
class StageLineage(TypedDict):
    """Where one input comes from."""

    stage: str
    key: str
    fingerprint: str
    """sha256 of its manifest, which names the sha256 of each of its files."""
    code_version: str
    git_sha: str | None
    image_digest: str | None
    created_at: str


@documented
class Change(TypedDict):
    """A setting that two runs do not share; null stands for none, and for a setting that one of them did not know."""

    setting: str
    before: Any
    after: Any


@documented
class Changes(TypedDict):
    """The settings of this run beside those of another."""

    against: str
    """``name/key`` of the other run."""
    settings: list[Change]


@documented
class Lineage(TypedDict):
    """All that is needed to make the same report again."""

    stages: list[StageLineage]
    library_versions: dict[str, str]
    """Of the stages together; where two differ, both are named."""
    settings: dict[str, Any]
    changes: Changes | None
    """Null for the first run of a name."""


@documented
class Data(TypedDict):
    """What was compared, and what it is a part of."""

    examples: int
    groups: int
    validation_examples: int
    card: dict[str, Any]
