"""Where the adapter goes: the named projections of the text model's attention, its experts on request, nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from medvl_jobs.errors import SchemaMismatchError
from medvl_jobs.model.layouts import EXPERTS
from medvl_jobs.settings.train import LoraSettings


def target_pattern(lora: LoraSettings) -> str:
    """Full-match pattern of module names. A plain list of suffixes would also match a vision tower that uses them."""
    return rf"model\.language_model\.layers\.\d+\.self_attn\.({'|'.join(lora.modules)})"


def add_lora(model: PreTrainedModel, lora: LoraSettings) -> PeftModel:
    """Freeze the model and add a fresh adapter (B = 0, so the outputs are the base's, bit for bit).

    A and B are in float32, whatever the weights are in; in the weights' dtype where DeepSpeed has dealt these out: it
    keeps float32 ones itself then, and casts nothing, so the adapter would compute in float32, for want of autocast.

    Raises `SchemaMismatchError` when the adapter would sit on other places than layers × projections (and × `EXPERTS`):
    one that silently sits nowhere trains nothing.

    An expert's adapter has no forward pass of its own: PEFT adds scale · B · A to the weights while a layer runs.

    - That is a copy of all the layer's experts, kept as long as its activations: 1.2 GB for a layer of the 30B. With
      ``train.activation_checkpointing`` it is one layer's at a time.
    - The sum has the weights' dtype. In bfloat16 an update of 0.1 % of a weight is half lost, one of 1 % is all there;
      A and B are float32 and collect what is lost meanwhile, as in any mixed-precision training.
    """
    places = sorted(_places(model, lora))
    expected = model.config.text_config.num_hidden_layers * (
        len(lora.modules) + (len(EXPERTS) if lora.experts == "all" else 0)
    )
    if len(places) != expected:
        raise SchemaMismatchError(
            f"LoRA would sit on {len(places)} places, expected {expected}",
            where=target_pattern(lora),
            remedy="use a Qwen3-VL-MoE checkpoint with the pinned transformers: this one names its layers differently",
        )
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=target_pattern(lora),
        target_parameters=list(EXPERTS) if lora.experts == "all" else None,
    )
    dealt_out = any(hasattr(each, "ds_id") for each in model.parameters())
    return get_peft_model(model, config, autocast_adapter_dtype=not dealt_out)


def _places(model: nn.Module, lora: LoraSettings) -> Iterator[str]:
    pattern = re.compile(target_pattern(lora))
    yield from (name for name, _ in model.named_modules() if pattern.fullmatch(name))
    if lora.experts == "all":
        yield from (name for name, parameter in model.named_parameters() if name.endswith(EXPERTS))


def trainable_parameters(model: PeftModel) -> tuple[int, int]:
    """(trainable, all) parameters."""
    trainable, total = model.get_nb_trainable_parameters()
    return int(trainable), int(total)
