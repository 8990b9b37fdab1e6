"""Settings of the prep stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from medvl_jobs.settings.section import Section, Seed, operational

Policy = Literal["move", "drop", "keep"]
Window = tuple[float, float]
Share = Annotated[float, Field(ge=0, le=1)]


class ColumnSettings(Section):
    """Which columns of the source hold what. MedTrinity's names are the defaults."""

    image: str = "image"
    """The image file's bytes, or its path in `prep.image_folder`, or its name in one of `prep.archives`."""
    id: str = "id"
    caption: str = "caption"
    group: str = "group"
    """Rows that must stay on one side of the split (a patient, a volume); may be absent from the source."""
    facts: str = "facts"
    """Known truth about the image (see ``contracts.facts``); may be absent from the source."""


class ImageSettings(Section):
    """Which images are let in, and what becomes of those that no model reads as they are."""

    min_side: Annotated[int, Field(ge=1)] = 28
    """Images with a shorter side, in pixels, are refused."""
    refuse_above_pixels: Annotated[int, Field(ge=1)] = 50_000_000
    """Images with more pixels are refused before they are decoded (decompression bombs)."""
    max_pixels: Annotated[int, Field(ge=1024)] | None = None
    """Images with more pixels are made smaller, to PNG; by default none is. A visual token is 32 x 32 pixels."""
    resize_filter: Literal["lanczos", "bicubic", "bilinear", "hamming", "box"] = "lanczos"
    """Pillow's name of the resampling filter."""
    window: Window | None = None
    """Intensities of a 16-bit or float image that become black and white; each image's own extremes when not set."""

    @model_validator(mode="after")
    def _window_is_a_range(self) -> ImageSettings:
        if self.window and self.window[0] >= self.window[1]:
            raise ValueError(f"window {list(self.window)}: the first number must be the smaller one")
        return self


class DuplicateSettings(Section):
    """What is done about the same picture on both sides of the split.

    ``move``: all groups that share the picture go to one side, so no row is lost. ``drop``: the train side's rows are
    left out, so validation stays as it is. ``keep``: they are counted, and stay.
    """

    exact: Policy = "move"
    """Equal pixels. With ``keep``, what is like a picture that stays on both sides stays as well."""
    near: Policy = "drop"
    """Perceptual hashes that differ in at most `near_distance` bits."""
    near_distance: Annotated[int, Field(ge=0, le=4)] = 2
    """Of 64 bits. Copies that were compressed or scaled differ in 0 to 2, see decision 0008."""


class GateSettings(Section):
    """The largest share of rows, 0 to 1, that may have a fault; above it the stage fails (exit 65). Null: any share."""

    refused: Share | None = 0.05
    """Rows that cannot be used."""
    green_box: Share | None = 0.05
    """Images with a box drawn in saturated green, which gives the region of interest away."""
    duplicate: Share | None = None
    """Images that have come before, pixel by pixel."""
    boilerplate: Share | None = 0.05
    """Captions that say nothing of their image: placeholders, and apologies of the model that was to write them."""
    other_language: Share | None = 0.05
    """Captions in another language than `prep.language`. Only the dataset check looks."""


class PrepSettings(Section):
    """From data of any quality to a validated, split dataset."""

    source: str = operational("")
    """A parquet or JSONL file, a directory of them, or ``s3://bucket/path`` of either."""
    image_folder: str | None = operational(None)
    """Directory or ``s3://bucket/path`` that the paths in the image column start from."""
    archives: str | None = operational(None)
    """Directory or ``s3://bucket/path`` of ``*.tar``, ``*.tar.zst`` or ``*.tar.gz`` with the images that the image
    column names."""
    source_fingerprint: str | None = None
    """Hash of the source's content. Filled in when a run is planned; set it only to skip hashing."""
    columns: ColumnSettings = ColumnSettings()
    image: ImageSettings = ImageSettings()
    duplicates: DuplicateSettings = DuplicateSettings()
    gates: GateSettings = operational(GateSettings())
    group_pattern: str | None = None
    """Regular expression searched in the id when there is no group column; its first group is the row's group."""
    val_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of *groups* that go to validation, by hash."""
    split_seed: Seed = 42
    language: Annotated[str, Field(pattern="^[a-z]{2}$")] = operational("en")
    """ISO 639-1 code of the language that the captions should be in."""
    max_caption_chars: Annotated[int, Field(ge=1)] = 8000
    rows_per_part: Annotated[int, Field(ge=1)] = 1024
    """Rows that are made, and made again after a crash, as one; a row group of the source is never cut."""
    workers: int | None = operational(None, ge=1)
    """Processes; as many as there are processors when it is not set."""
    indexes: int = operational(1, ge=1)
    """Pods of an Indexed Job that share the parts; each finds its number in ``JOB_COMPLETION_INDEX``."""
    llamafactory_export: bool = False
    """Also write the dataset in the form that LLaMA-Factory loads, each image as a file of its own."""
