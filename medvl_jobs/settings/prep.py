"""Settings of the prep stage."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from medvl_jobs.settings.section import Section, operational


class ColumnSettings(Section):
    """Which columns of the source hold what. MedTrinity's names are the defaults."""

    image: str = "image"
    id: str = "id"
    caption: str = "caption"
    group: str = "group"
    """Rows that must stay on one side of the split (a patient, a volume); may be absent from the source."""
    facts: str = "facts"
    """Known truth about the image (see ``contracts.facts``); may be absent from the source."""


class PrepSettings(Section):
    """From parquet of any quality to a validated, split dataset."""

    source: str = operational("")
    """A parquet file, a directory of them, or ``s3://bucket/path`` of either."""
    source_fingerprint: str | None = None
    """Hash of the source's content. Filled in when a run is planned; set it only to skip hashing."""
    columns: ColumnSettings = ColumnSettings()
    group_pattern: str | None = None
    """Regular expression searched in the id when there is no group column; its first group is the row's group."""
    val_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of *groups* that go to validation, by hash."""
    split_seed: int = 42
    max_bad_share: Annotated[float, Field(ge=0, le=1)] = operational(0.05)
    """The stage fails (exit 65) when a larger share of rows than this is refused."""
    min_side: Annotated[int, Field(ge=1)] = 28
    """Images with a shorter side, in pixels, are refused."""
    max_image_pixels: Annotated[int, Field(ge=1)] = 50_000_000
    """Images with more pixels are refused before they are decoded (decompression bombs)."""
    max_caption_chars: Annotated[int, Field(ge=1)] = 8000
    rows_per_shard: Annotated[int, Field(ge=1)] = 2048
    llamafactory_export: bool = True
    """Also write the dataset in the form that LLaMA-Factory loads."""
