"""Qwen3-VL-30B-A3B in its real shape, without its weights: on torch's `meta` device, in the class that medvl loads."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from medvl_jobs.errors import SchemaMismatchError
from medvl_jobs.model import checkpoint
from medvl_jobs.settings.train import LoraSettings
from medvl_jobs.train.lora import add_lora, trainable_parameters

CONFIG = Path(__file__).parents[1] / "fixtures" / "qwen3-vl-30b-a3b.json"
"""From a public transcription of the hub's ``config.json`` at commit 1fc78ad, in the values that the classes read."""
LAYERS, EXPERTS, EXPERTS_PER_TOKEN = 48, 128, 8
TOTAL = 31_070_754_032
ATTENTION_AT_RANK_1 = LAYERS * (2 * (2048 + 4096) + 2 * (2048 + 512))
"""r (in + out): q and o between 2,048 and 32 heads of 128, k and v between 2,048 and 4 heads of 128."""
EXPERTS_AT_RANK_1 = LAYERS * EXPERTS * ((2048 + 2 * 768) + (768 + 2048))
"""Gate and up in one matrix of 2 x 768 rows, and down."""


def the_30b() -> PreTrainedModel:
    """The class that `checkpoint.load_model` loads, of the published configuration and in its dtype."""
    architecture = checkpoint.Qwen3VLMoeForConditionalGeneration
    with torch.device("meta"):
        return architecture(architecture.config_class.from_dict(json.loads(CONFIG.read_text()))).bfloat16()


def adapted(lora: LoraSettings) -> PeftModel:
    """With an adapter, which is without weights as well: PEFT would draw those of the experts, 2.5 GB at rank 16."""
    model = the_30b()
    with torch.device("meta"):
        return add_lora(model, lora)


def part(name: str) -> str:
    """Which part of the model a parameter belongs to."""
    words = {
        "visual": "vision", ".experts.": "experts", ".mlp.gate.": "router", "_proj.": "attention",
        "embed_tokens": "embedding", "lm_head": "head", "norm": "norms",
    }  # fmt: skip
    return next(each for word, each in words.items() if word in name)


def test_parameters_in_all_and_for_a_token() -> None:
    """30B-A3B: 31.1 billion with the vision tower; a token meets 3.0 billion of them, and looks up one embedding."""
    sizes: Counter[str] = Counter()
    for name, parameter in the_30b().named_parameters():
        sizes[part(name)] += parameter.numel()
    assert sizes == {
        "experts": 28_991_029_248, "attention": 905_969_664, "vision": 538_631_408, "embedding": 311_164_928,
        "head": 311_164_928, "router": 12_582_912, "norms": 210_944,
    }  # fmt: skip
    assert sizes.total() == TOTAL
    idle = sizes["experts"] * (EXPERTS - EXPERTS_PER_TOKEN) // EXPERTS
    assert TOTAL - sizes["vision"] - idle == 3_353_032_704
    assert TOTAL - sizes["vision"] - idle - sizes["embedding"] == 3_041_867_776


@pytest.mark.parametrize(
    ("lora", "places", "trainable"),
    [
        (LoraSettings(), LAYERS * 4, 6_684_672),
        (LoraSettings(rank=16), LAYERS * 4, 13_369_344),
        (LoraSettings(rank=64), LAYERS * 4, 64 * ATTENTION_AT_RANK_1),
        (LoraSettings(modules=("q_proj", "v_proj")), LAYERS * 2, LAYERS * 8 * ((2048 + 4096) + (2048 + 512))),
        (LoraSettings(experts="all"), LAYERS * 6, 6_684_672 + 314_572_800),
        (LoraSettings(rank=16, experts="all"), LAYERS * 6, 16 * (ATTENTION_AT_RANK_1 + EXPERTS_AT_RANK_1)),
    ],
    ids=lambda value: (
        f"r{value.rank}-{len(value.modules)}-{value.experts}" if isinstance(value, LoraSettings) else None
    ),
)
def test_lora_sits_where_it_should_and_nowhere_else(lora: LoraSettings, places: int, trainable: int) -> None:
    model = adapted(lora)
    assert trainable_parameters(model) == (trainable, TOTAL + trainable)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    attention = rf"self_attn\.({'|'.join(lora.modules)})\.lora_[AB]\.default\.weight"
    # PEFT wraps the module of the experts twice, for one parameter each.
    experts = r"mlp\.experts\.(base_layer\.)?lora_[AB]\.default\.weight" if lora.experts == "all" else r"(?!)"
    own = re.compile(rf"base_model\.model\.model\.language_model\.layers\.\d+\.({attention}|{experts})")
    assert [name for name in trained if not own.fullmatch(name)] == []
    assert len(trained) == 2 * places
    assert {parameter.dtype for parameter in trained.values()} == {torch.float32}


def test_the_vision_tower_stays_frozen() -> None:
    model = adapted(LoraSettings(experts="all"))
    vision = {name: parameter for name, parameter in model.named_parameters() if ".visual." in name}
    assert sum(parameter.numel() for parameter in vision.values()) == 538_631_408
    assert [name for name, parameter in vision.items() if parameter.requires_grad or "lora" in name] == []


def test_experts_that_are_named_otherwise_are_refused() -> None:
    model = the_30b()
    first = model.model.language_model.layers[0].mlp
    first.many_experts = first.experts
    del first.experts
    with pytest.raises(SchemaMismatchError, match=f"on {LAYERS * 6 - 2} places, expected {LAYERS * 6}"):
        add_lora(model, LoraSettings(experts="all"))
