"""How the experts' weights lie in a file: as on the hub, or as transformers 5 holds and saves them.

    E experts, H hidden size, I intermediate size     hub (transformers 4)    in memory (transformers 5)
    mlp.experts.gate_up_proj                          [E, H, 2I]              [E, 2I, H]
    mlp.experts.down_proj                             [E, I, H]               [E, H, I]

transformers 5 loads both: it turns a tensor round whose shape is not the parameter's. Nothing in a file says which of
the two it is, so it is the shapes that must tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers.core_model_loading import Transpose

from medvl_jobs.errors import SchemaMismatchError

EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
"""What the weights of all experts of a layer are in: two parameters [experts, out, in], and no module of its own."""


def refuse_square_experts(config: Mapping[str, Any], where: str) -> None:
    """Raises `SchemaMismatchError` for a ``config.json`` with H = 2I or H = I: its two layouts have one shape.

    transformers would take such a tensor as it is, and a checkpoint from the hub would be loaded wrong, in silence.
    """
    text = config.get("text_config", {})
    hidden, intermediate = text.get("hidden_size"), text.get("moe_intermediate_size")
    if None not in (hidden, intermediate) and hidden in {intermediate, 2 * intermediate}:
        raise SchemaMismatchError(
            f"with hidden_size {hidden} and moe_intermediate_size {intermediate} the experts' weights are square: "
            "which way round they lie cannot be told",
            where=where,
            remedy="use a checkpoint whose hidden_size is neither moe_intermediate_size nor twice that",
        )


@contextmanager
def comparing_whole_shapes() -> Iterator[None]:
    """While it is open, transformers compares a tensor of a file with the *whole* parameter, under ZeRO-3 as well.

    The trap: ZeRO-3 leaves an empty tensor where a parameter was and keeps the shape in ``ds_shape``. transformers 5.23
    compares with the empty one, finds that nothing fits, and turns every expert round: right for the hub's layout,
    "size mismatch" for its own. Without ZeRO-3 this changes nothing.
    """
    original = Transpose.convert

    def convert(self: Transpose, input_dict: dict[str, Any], **context: Any) -> dict[str, torch.Tensor]:
        if not self.check_dims:
            return original(self, input_dict, **context)
        parameter = context["model"].get_parameter(context["full_layer_name"])
        given = next(iter(input_dict.values()))
        given = given[0] if isinstance(given, list) else given
        target = self.get_target_pattern(input_dict, context["source_patterns"], context["target_patterns"])
        if tuple(given.shape) == tuple(getattr(parameter, "ds_shape", parameter.shape)):
            return {target: given}
        return original(self, input_dict, **context)

    Transpose.convert = convert
    try:
        yield
    finally:
        Transpose.convert = original


def is_expert(name: str) -> bool:
    """Whether a weight of that name is of all experts of a layer."""
    return name.endswith(tuple(f".{each}" for each in EXPERTS))


def to_hub_layout(name: str, weight: torch.Tensor, config: Mapping[str, Any]) -> torch.Tensor:
    """``weight`` as the hub's file has it: experts turned round if need be, everything else as it is."""
    if not is_expert(name):
        return weight
    text = config["text_config"]
    hidden, intermediate = text["hidden_size"], text["moe_intermediate_size"]
    hub = (hidden, 2 * intermediate) if name.endswith("gate_up_proj") else (intermediate, hidden)
    return weight if tuple(weight.shape[1:]) == hub else weight.transpose(1, 2).contiguous()
