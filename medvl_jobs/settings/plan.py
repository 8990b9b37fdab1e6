"""Settings of `medvl plan`: the machine that a training is planned for, and what is known of its data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from medvl_jobs.settings.section import Section, operational


class PlanSettings(Section):
    """What the planner cannot know from the other settings. Nothing here changes a result."""

    gpu: Literal["A100", "H100", "H200", "H800"] = operational("H800")
    gpus: Annotated[int, Field(ge=1)] = operational(4)
    price_per_gpu_hour: Annotated[float, Field(ge=0)] | None = operational(None)
    """In any currency; none leaves the cost out."""
    attained: Annotated[float, Field(gt=0, le=1)] = operational(0.25)
    """Share of the data sheets' figures that a real step reaches: assumed, until a training's log says it better."""
    examples: Annotated[int, Field(ge=1)] | None = operational(None)
    """Rows of the train split; none reads the prepared dataset's card."""
    mean_tokens: Annotated[int, Field(ge=1)] | None = operational(None)
    """Tokens of an average example, image and question included; none estimates them from the card."""
    answer_tokens: Annotated[int, Field(ge=1)] | None = operational(None)
    """Those of them that are the answer's; none estimates them from the card."""
    longest_tokens: Annotated[int, Field(ge=1)] | None = operational(None)
    """Tokens of the longest example; none estimates them from the card, or takes ``train.max_tokens`` without one."""

    @property
    def knows_the_data(self) -> bool:
        """Whether nothing is left to be read from the card."""
        return None not in (self.examples, self.mean_tokens, self.answer_tokens)

    @model_validator(mode="after")
    def _tokens_in_order(self) -> PlanSettings:
        mean = self.mean_tokens
        if mean is not None and self.answer_tokens is not None and self.answer_tokens >= mean:
            raise ValueError(f"an answer of {self.answer_tokens} tokens leaves none for the image: raise mean_tokens")
        if mean is not None and self.longest_tokens is not None and self.longest_tokens < mean:
            raise ValueError(f"the longest example is shorter than the mean of {mean}: raise longest_tokens")
        return self
