"""Settings of the eval stage."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from medvl_jobs.settings.section import Section, Seed, added, operational
from medvl_jobs.settings.server import ServerSettings


class Variant(StrEnum):
    """What is evaluated. All variants run the same code on the same examples."""

    BASE = "base"
    TUNED = "tuned"
    TUNED_SHUFFLED = "tuned-shuffled"
    """The tuned model, each question with another example's image: what it scores without looking."""
    TUNED_BLANK = "tuned-blank"
    """The tuned model, each question with an even grey picture of the image's size."""
    TEMPLATE = "template"
    """No model: the one training caption that is most like the others, said of every image."""
    BASE_FORMATTED = "base-formatted"
    """The base model, with ``eval.format_question``: told how to answer, what is missing to the tuned one."""

    @property
    def has_adapter(self) -> bool:
        """Whether it is about the tuned model."""
        return self in {Variant.TUNED, Variant.TUNED_SHUFFLED, Variant.TUNED_BLANK}

    @property
    def has_model(self) -> bool:
        """Whether it is about a model at all."""
        return self is not Variant.TEMPLATE


Control = Literal[Variant.TUNED_SHUFFLED, Variant.TUNED_BLANK, Variant.TEMPLATE, Variant.BASE_FORMATTED]


class EvalSettings(Section):
    """Greedy answers to the validation split, and their scores."""

    engine: Literal["transformers", "openai"] = added("transformers")
    """``transformers`` generates in this process; ``openai`` asks a server, see `server`."""
    server: ServerSettings = operational(ServerSettings())
    shards: Annotated[int, Field(ge=1)] = operational(1)
    """Pods that share the examples of a variant, on a cluster."""
    batch_size: Annotated[int, Field(ge=1)] = operational(16)
    """At most so many examples at a time, in this process."""
    batch_tokens: Annotated[int, Field(ge=1)] | None = operational(16_384)
    """At most so many tokens at a time, padding and the longest answer included; none sets no limit."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 512
    limit: Annotated[int, Field(ge=1)] | None = None
    """Only the first so many validation examples; none means all."""
    adapter: str | None = operational(None)
    """Evaluate this adapter instead of training one: a directory, or a prefix in the store (``adapters/<key>``)."""
    adapter_fingerprint: str | None = operational(None)
    """Hash of that adapter. Filled in when a run is planned."""
    controls: tuple[Control, ...] = operational((Variant.TUNED_SHUFFLED,))
    """Variants beyond base and tuned."""
    format_question: Annotated[str, Field(min_length=1)] = operational(
        "Describe this medical image in one paragraph of plain English, without lists or headings: first the modality"
        " and the view, then the visible anatomical structures with the patient's side, then where in the image the"
        " region of interest lies and how many percent of the image it covers, last the finding, or that there is none."
    )
    """What the control ``base-formatted`` is asked in place of ``prompt.question``; part of that control's key only."""
    shuffle_seed: Seed = operational(42)
    """Which other image a shuffled example gets."""
    flush_every: Annotated[int, Field(ge=1)] = operational(64)
    """Finished predictions are stored at least this often; a killed eval loses no more than these."""

    @property
    def merges(self) -> bool:
        """Whether base and adapter become one model, whose sums are rounded: other answers than of the two apart."""
        return self.engine == "openai" and self.server.url is None and self.server.adapter == "merged"
