"""The two models that a training is measured on: Qwen3-VL-MoE with random weights and the real vocabulary."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from benchmarks.vocabulary import write_tokenizer
from medvl_jobs.model.checkpoint import ImageTextProcessor
from medvl_jobs.samples.tiny import save_checkpoint

VOCABULARY = 151_936
"""Rows of embedding and head: 151,669 words and marks, and what Qwen3 fills up with."""
MIN_PIXELS, MAX_PIXELS = 256 * 256, 768 * 768
SEED = 42


@dataclass(frozen=True)
class Shape:
    """The text model's sizes. No expert tensor may be square: the loader tells the two layouts apart by shape."""

    hidden: int
    layers: int
    heads: int
    key_heads: int
    experts: int
    experts_per_token: int
    expert_width: int
    vision_depth: int = 4
    vision_hidden: int = 128


SHAPES = {
    # 88 % of it is embedding and head
    "vocabulary": Shape(256, 6, 8, 2, 16, 4, 96),
    # Embedding and head are under 10 %. The 30B: 2 % of all, and the head is 10 % of what a token goes through.
    "proportions": Shape(64, 16, 4, 2, 32, 8, 1792),
}


def checkpoint(name: str, folder: Path) -> Path:
    """The directory of the model, in ``folder``: made once, float32 weights from a fixed seed in bfloat16's precision.

    In the hub's layout, with its expert tensors, so that both programs load it as they load the 30B.
    """
    shape = SHAPES[name]
    path = folder / f"{name}-{'-'.join(str(value) for value in asdict(shape).values())}"
    if (path / "complete").exists():
        return path
    path.mkdir(parents=True, exist_ok=True)
    write_tokenizer(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=16, merge_size=2, temporal_patch_size=2, image_mean=[0.5] * 3, image_std=[0.5] * 3,
        size={"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
    )  # fmt: skip
    processor = ImageTextProcessor(image_processor, tokenizer, chat_template=tokenizer.chat_template)
    torch.manual_seed(SEED)
    ids = tokenizer.convert_tokens_to_ids
    model = Qwen3VLMoeForConditionalGeneration._from_config(
        configuration(
            shape,
            image_token_id=ids("<|image_pad|>"), video_token_id=ids("<|video_pad|>"),
            vision_start_token_id=ids("<|vision_start|>"), vision_end_token_id=ids("<|vision_end|>"),
            eos_token_id=ids("<|im_end|>"), pad_token_id=ids("<|endoftext|>"),
        ),
        dtype=torch.float32,
    )  # fmt: skip
    save_checkpoint(model, processor, path)
    # The stock processor has a part for videos, and looks for its file.
    video = json.loads((path / "preprocessor_config.json").read_text(encoding="utf-8"))
    video |= {"image_processor_type": None, "video_processor_type": "Qwen3VLVideoProcessor"}
    (path / "video_preprocessor_config.json").write_text(json.dumps(video), encoding="utf-8")
    (path / "complete").touch()
    return path


def configuration(shape: Shape, *, eos_token_id: int, pad_token_id: int, **marks: int) -> Qwen3VLMoeConfig:
    """The 30B's configuration with other sizes."""
    head_dim = shape.hidden // shape.heads
    # The 30B's 24 + 20 + 20 of 64: half a head's size, a little more of it for time
    side = head_dim // 2 * 20 // 64
    return Qwen3VLMoeConfig(
        text_config={
            "vocab_size": VOCABULARY, "hidden_size": shape.hidden, "intermediate_size": 3 * shape.hidden,
            "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.key_heads, "head_dim": head_dim, "moe_intermediate_size": shape.expert_width,
            "num_experts": shape.experts, "num_experts_per_tok": shape.experts_per_token, "norm_topk_prob": True,
            "max_position_embeddings": 4096, "pad_token_id": pad_token_id, "bos_token_id": None,
            "eos_token_id": eos_token_id,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 5e6, "mrope_interleaved": True,
                "mrope_section": [head_dim // 2 - 2 * side, side, side],
            },
        },
        vision_config={
            "depth": shape.vision_depth, "hidden_size": shape.vision_hidden,
            "intermediate_size": 2 * shape.vision_hidden, "num_heads": 4, "patch_size": 16, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "out_hidden_size": shape.hidden, "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [0, 1],
        },
        tie_word_embeddings=False, **marks,
    )  # fmt: skip


def parameters(path: Path) -> dict[str, float]:
    """Parameters of a checkpoint in millions, the share that is embedding and head, and the head's share per token.

    The last is what the loss can save: of the weights that one token goes through, embedding and vision not counted.
    """
    with torch.device("meta"):
        model = Qwen3VLMoeForConditionalGeneration(Qwen3VLMoeConfig.from_pretrained(path))
    text = model.config.text_config
    total = sum(parameter.numel() for parameter in model.parameters())
    head = text.vocab_size * text.hidden_size
    layers = {name: value.numel() for name, value in model.model.language_model.layers.named_parameters()}
    experts = sum(size for name, size in layers.items() if ".experts." in name)
    per_token = head + sum(layers.values()) - experts + experts * text.num_experts_per_tok // text.num_experts
    return {
        "million": round(total / 1e6, 1),
        "embedding_and_head_share": round(2 * head / total, 3),
        "head_share_per_token": round(head / per_token, 3),
    }
