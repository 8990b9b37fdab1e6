"""Settings of the base model and of the question that it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from medvl_jobs.settings.section import Section, added, operational


class ModelSettings(Section):
    """Which vision-language model, and in which form it is run."""

    path: str = operational("Qwen/Qwen3-VL-30B-A3B-Instruct")
    """A directory in Hugging Face's layout, ``s3://bucket/path`` of one, or a model id on the hub."""
    cache: Path | None = operational(None)
    """Directory that ``medvl model`` fetches a model from a bucket or the hub into, and that it is loaded from."""
    revision: str | None = None
    """Commit or tag of a hub model; none means the newest."""
    fingerprint: str | None = None
    """Hash of the weights and configuration. Filled in when a run is planned."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    experts: Literal["grouped_mm", "eager"] = "grouped_mm"
    """How the experts' matrix products run. ``grouped_mm`` computes only the experts that were routed to."""
    min_pixels: Annotated[int, Field(ge=32 * 32)] = 256 * 256
    max_pixels: Annotated[int, Field(ge=32 * 32)] = 768 * 768
    """Images are scaled to lie between these areas. One visual token is 32 × 32 pixels."""
    threads: Annotated[int, Field(ge=0)] = operational(0)
    """CPU threads for torch; 0 leaves torch's own choice."""

    @model_validator(mode="after")
    def _pixels_in_order(self) -> ModelSettings:
        if self.min_pixels > self.max_pixels:
            raise ValueError(
                f"min_pixels {self.min_pixels} is above max_pixels {self.max_pixels}: raise model.max_pixels"
            )
        return self


class PromptSettings(Section):
    """One question for training and for both evaluations, in the language of the captions."""

    question: Annotated[str, Field(min_length=1)] = (
        "Describe this medical image: modality and view, visible anatomy, the region of interest and any finding."
    )
    system: str | None = None
    """System message; Qwen3-VL has none by default."""
    answer_prefix: str = added("", pattern=r"^(\S|$)")
    """Text before every answer that is trained on, and before every reference that answers are compared with."""
