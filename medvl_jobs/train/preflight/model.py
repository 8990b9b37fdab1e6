"""What of the loaded model is in force: its attention, its experts, and where the adapter sits."""

from __future__ import annotations

import re
from collections import defaultdict
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from medvl_jobs.errors import MedvlError, SchemaMismatchError
from medvl_jobs.model.checkpoint import check_architecture
from medvl_jobs.model.weights import place
from medvl_jobs.settings.model import ModelSettings
from medvl_jobs.settings.train import LoraSettings
from medvl_jobs.train.lora import add_lora
from medvl_jobs.train.loss import AnswerLossModel, whole
from medvl_jobs.train.preflight.findings import Finding

GROUPED, FALLBACK = "aten._grouped_mm", "transformers.grouped_mm_fallback"
"""Names of the operations: torch's kernel, and transformers' loop over experts in its place."""
TOKENS = 64
"""How many the experts are tried with."""
TOLERANCE = {torch.bfloat16: 2e-2, torch.float32: 1e-4}
"""Of the largest value: products of thousands of terms, summed in another order."""


def attention_finding(model: nn.Module, asked: str) -> Finding:
    """The attention of text and vision, as the loaded model has it in its configurations."""
    config: Any = model.config
    found = {
        part: getattr(getattr(config, part), "_attn_implementation", None) for part in ("text_config", "vision_config")
    }
    others = sorted({str(each) for each in found.values() if each != asked})
    if others:
        what = f"{asked} was asked for, {' and '.join(others)} is in force"
        return Finding("attention", what, "refused", "model.attention", f"set model.attention={others[0]}")
    return Finding("attention", f"{asked} in force, in text and vision")


def experts_finding(model: nn.Module, asked: str) -> Finding:
    """Run the first layer's experts on some tokens: which operation comes, and whether it gives what eager gives.

    The configuration alone does not tell. ``grouped_mm`` in it stands for transformers' dispatcher, which asks for the
    kernel at every call and, where there is none, runs its own loop over the experts instead and says nothing.
    """
    where, remedy = "model.experts", "set model.experts=eager, or use torch 2.10 or newer on a GPU of 8.0 or more"
    experts = next((each for each in model.modules() if type(each).__name__.endswith("TextExperts")), None)
    if experts is None:
        return Finding("experts", "the model has none", "refused", "model.path", error=SchemaMismatchError)
    in_force = str(experts.config._experts_implementation)  # type: ignore[union-attr]
    if in_force != asked:
        return Finding("experts", f"{asked} was asked for, {in_force} is in force", "refused", where, remedy)
    operations, difference, tolerance = try_experts(experts)
    if asked == "grouped_mm" and (FALLBACK in operations or GROUPED not in operations):
        what = "grouped_mm was asked for, and transformers falls back to a loop over the experts"
        return Finding("experts", what, "refused", where, remedy)
    if not difference <= tolerance:
        what = f"{asked} differs from eager by {difference:.1e} of the largest value"
        return Finding("experts", what, "refused", where, remedy)
    return Finding("experts", f"{asked} in force, {difference:.0e} from eager on {TOKENS} tokens")


def try_experts(experts: nn.Module) -> tuple[set[str], float, float]:
    """(operations that ran, largest difference from eager as a share of the largest value, what of it is rounding)."""
    module: Any = experts
    random = torch.Generator().manual_seed(0)  # of its own: the training's draws stay what they are
    with ExitStack() as stack, torch.no_grad():
        for parameter in experts.parameters():
            stack.enter_context(whole(parameter))
        weight = module.gate_up_proj
        chosen = min(2, module.num_experts)
        tokens_TH = torch.randn(TOKENS, module.hidden_dim, generator=random).to(weight)
        index_TK = torch.rand(TOKENS, module.num_experts, generator=random).topk(chosen).indices.to(weight.device)
        shares_TK = torch.full((TOKENS, chosen), 1 / chosen).to(weight)
        with _Operations() as ran:
            found_TH = module(tokens_TH, index_TK, shares_TK)
        eager_TH = type(module).forward.__wrapped__(module, tokens_TH, index_TK, shares_TK)
        difference = (found_TH - eager_TH).abs().max() / eager_TH.abs().max()  # nan where all is 0: no weights
    return ran.names, float(difference), TOLERANCE[weight.dtype]


class _Operations(TorchDispatchMode):
    """Writes down which operations run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func).rpartition(".")[0])  # without the overload
        return func(*args, **(kwargs or {}))


def planned_lora_finding(model: ModelSettings, lora: LoraSettings) -> tuple[Finding, int]:
    """Where the adapter would sit, found on a model without weights; also the number of its parameters.

    So an adapter that fits nowhere is refused before 60 GB are loaded.
    """
    path, revision = place(model)
    try:
        check_architecture(model)
        with torch.device("meta"):
            config = AnswerLossModel.config_class.from_pretrained(path, revision=revision)
            adapted = add_lora(AnswerLossModel(config), lora)
    except MedvlError as error:
        return Finding.of("LoRA", error), 0
    return lora_finding(adapted), sum(count for _, _, count in lora_table(adapted))


def lora_finding(model: nn.Module) -> Finding:
    """What is trained, by place. Refused when it is nothing, or anything but an adapter on the text model."""
    rows = lora_table(model)
    trained = sum(count for _, _, count in rows)
    total = sum(_size(each) for each in model.parameters())
    lines = [f"{trained:,} of {total:,} parameters are trained ({trained / max(total, 1):.3%})"]
    lines += [f"{places} × {pattern}: {count:,}" for pattern, places, count in rows]
    strangers = [pattern for pattern, _, _ in rows if "lora_" not in pattern or "visual" in pattern]
    if not rows or strangers:
        what = f"also trained: {', '.join(strangers)}" if strangers else "nothing is trained"
        remedy = "use a Qwen3-VL-MoE checkpoint with the pinned transformers and peft"
        return Finding("LoRA", "\n".join([*lines, what]), "refused", "train.lora", remedy, SchemaMismatchError)
    return Finding("LoRA", "\n".join(lines))


def lora_table(model: nn.Module) -> list[tuple[str, int, int]]:
    """(pattern of names with * for a layer's number, how many there are, their parameters) of all that is trained."""
    sizes: dict[str, list[int]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            sizes[re.sub(r"\.\d+\.", ".*.", _short(name))].append(_size(parameter))
    return [(pattern, len(each), sum(each)) for pattern, each in sizes.items()]


def _short(name: str) -> str:
    for word in ("base_model.model.", "model.language_model.", ".default", ".weight"):
        name = name.replace(word, "", 1)
    return name


def _size(parameter: nn.Parameter) -> int:
    """Of the whole: under ZeRO-3 a process holds a share."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))
