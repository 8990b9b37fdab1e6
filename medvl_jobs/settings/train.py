"""Settings of the train stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from medvl_jobs.settings.section import Section, added, operational


class LoraSettings(Section):
    """The low-rank adapter (Hu et al. 2021, arXiv 2106.09685) on the text model's attention, on request its experts."""

    rank: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[int, Field(ge=1)] = 16
    """The update is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    modules: tuple[Literal["q_proj", "k_proj", "v_proj", "o_proj"], ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    """Projections of the text model's attention; the vision tower stays frozen."""
    experts: Literal["none", "all"] = added("none")
    """``all``: every expert gets an adapter of the same rank. At rank 8 the 30B then trains 321 M numbers, not 7 M."""

    @model_validator(mode="after")
    def _experts_without_dropout(self) -> LoraSettings:
        if self.experts == "all" and self.dropout:
            raise ValueError(
                "the experts' adapters have no dropout: set train.lora.dropout=0, or train.lora.experts=none"
            )
        return self


class TrainSettings(Section):
    """Supervised fine-tuning on the answers of the train split."""

    epochs: Annotated[float, Field(gt=0)] = 3.0
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Examples per device and step."""
    gradient_accumulation: Annotated[int, Field(ge=1)] = 1
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    scheduler: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Share of all steps over which the learning rate rises to its peak."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    max_tokens: Annotated[int, Field(ge=16)] = 2048
    """Examples that are longer, image tokens included, are left out and counted; none is cut."""
    activation_checkpointing: bool = True
    """Recompute activations in the backward pass: a third more time for a fraction of the memory."""
    seed: int = 42
    log_every_steps: Annotated[int, Field(ge=1)] = operational(5)
    save_every_steps: Annotated[int, Field(ge=1)] = operational(50)
    keep_checkpoints: Annotated[int, Field(ge=1)] = operational(2)
    lora: LoraSettings = LoraSettings()
