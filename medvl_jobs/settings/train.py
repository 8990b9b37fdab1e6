"""Settings of the train stage."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from medvl_jobs.settings.section import Section, Seed, added, operational


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


class LimitSettings(Section):
    """When a training gives up instead of going on for nothing."""

    hang_minutes: Annotated[float, Field(gt=0)] = operational(30.0)
    """A process that ends no step for so long, or waits so long for the others, ends the job."""
    store_minutes: Annotated[float, Field(ge=0)] = operational(60.0)
    """Training goes on for so long while checkpoints cannot be stored."""
    bad_steps: Annotated[int, Field(ge=1)] = operational(3)
    """Steps in a row whose loss is no finite number. Each is left out; the last of them ends the job; with DeepSpeed
    the first."""


def _number(value: Any) -> Any:
    """A number that came as text, from the environment."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


Zero = Annotated[Literal["auto", 0, 2, 3], BeforeValidator(_number)]


class TrainSettings(Section):
    """Supervised fine-tuning on the answers of the train split."""

    epochs: Annotated[float, Field(gt=0)] = 3.0
    batch_size: Annotated[int, Field(ge=1)] = 8
    gradient_accumulation: Annotated[int, Field(ge=1)] = 1
    """A step sees batch_size × gradient_accumulation × GPUs examples."""
    batch_tokens: Annotated[int, Field(ge=16)] | None = operational(16384)
    """A step's examples go through a GPU in forward passes of like lengths and at most so many tokens, padding
    included; none: in forward passes of batch_size examples, as they are drawn. The gradient is the same."""
    packing: bool = operational(False)
    """Lay the examples of a forward pass end to end in one row, without padding."""
    workers: Annotated[int, Field(ge=0)] | None = operational(None)
    """Processes of each GPU that decode images meanwhile; none: the cores to spare, at most 4; 0: no process."""
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
    zero: Zero = operational("auto")
    """What GPUs share, by DeepSpeed: 0 nothing (DDP), 2 optimiser and gradients, 3 weights too; auto: what the planner
    finds to be the fastest that fits."""
    offload: Literal["none", "optimizer", "parameters"] = operational("none")
    """What lies in the host's memory under DeepSpeed; ``parameters`` (zero 3) are the optimiser's states as well."""
    seed: Seed = 42
    log_every_steps: Annotated[int, Field(ge=1)] = operational(5)
    report_to: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = operational(("tensorboard",))
    """Where the log lines go beside stdout. TensorBoard's files lie beside the adapter; the others' variables, such as
    MLFLOW_TRACKING_URI, say where they send them."""
    save_every_steps: Annotated[int, Field(ge=1)] = operational(50)
    save_every_minutes: Annotated[float, Field(gt=0)] | None = operational(15.0)
    """A checkpoint is also due after so long a time without one."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = operational(2)
    limits: LimitSettings = operational(LimitSettings())
    lora: LoraSettings = LoraSettings()

    @model_validator(mode="after")
    def _passes_hold_an_example(self) -> TrainSettings:
        if self.batch_tokens is not None and self.batch_tokens < self.max_tokens:
            raise ValueError(
                f"an example of {self.max_tokens} tokens does not fit into a forward pass of {self.batch_tokens}: "
                "lower train.max_tokens, or raise train.batch_tokens"
            )
        if self.packing and self.batch_tokens is None:
            raise ValueError("packing fills forward passes of train.batch_tokens: set it")
        if (self.offload == "parameters" and self.zero in {0, 2}) or (self.offload != "none" and self.zero == 0):
            needed = "3" if self.offload == "parameters" else "2 or 3"
            raise ValueError(f"train.offload={self.offload} needs train.zero={needed}, or auto")
        return self
