"""Where the adapter goes: exactly the named projections of the text model's attention, and nothing else."""

from __future__ import annotations

import re

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from medvl_jobs.errors import SchemaMismatchError
from medvl_jobs.settings.train import LoraSettings


def target_pattern(lora: LoraSettings) -> str:
    """Full-match pattern of module names. A plain list of suffixes would also match a vision tower that uses them."""
    return rf"model\.language_model\.layers\.\d+\.self_attn\.({'|'.join(lora.modules)})"


def add_lora(model: PreTrainedModel, lora: LoraSettings) -> PeftModel:
    """Freeze the model and add a fresh adapter (B = 0, so the outputs are the base's, bit for bit).

    Raises `SchemaMismatchError` when the pattern meets another number of modules than layers × projections: an adapter
    that silently sits nowhere trains nothing.
    """
    pattern = re.compile(target_pattern(lora))
    matches = sum(pattern.fullmatch(name) is not None for name, _ in model.named_modules())
    expected = model.config.text_config.num_hidden_layers * len(lora.modules)
    if matches != expected:
        raise SchemaMismatchError(
            f"LoRA would sit on {matches} modules, expected {expected}",
            where=pattern.pattern,
            remedy="use a Qwen3-VL-MoE checkpoint with the pinned transformers: this one names its layers differently",
        )
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=pattern.pattern,
    )
    return get_peft_model(model, config)


def trainable_parameters(model: PeftModel) -> tuple[int, int]:
    """(trainable, all) parameters."""
    trainable, total = model.get_nb_trainable_parameters()
    return int(trainable), int(total)
