"""A Qwen3-VL-MoE that fits a laptop: every part of the 30B, each a few hundred times smaller.

Vision tower with deepstack, M-RoPE, router and fused experts, QK-norm, untied head; a byte-level BPE trained on the
sample's own captions, with Qwen3-VL's special tokens. Saved in Hugging Face's layout with the hub's (transposed) expert
tensors, so that the code that loads the 30B loads it unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from medvl_jobs.model.checkpoint import ImageTextProcessor

VOCABULARY = 1024
IMAGE_PIXELS = 192 * 192
"""Area at which the tiny model looks at an image: 36 visual tokens."""

SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
"""Qwen3-VL's, in the order of its ids."""
WORD_TOKENS = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>",
    "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip
"""Qwen3-VL's added tokens that ``skip_special_tokens`` does not remove."""

STOCK = "Qwen3VLProcessor"

_QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def build_tokenizer(corpus: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE with Qwen's normalisation, word splitting and added tokens, and this module's chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL_TOKENS) - len(WORD_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in WORD_TOKENS])
    template = (resources.files("medvl_jobs.samples") / "chat_template.jinja").read_text(encoding="utf-8")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=template,
        model_max_length=4096,
    )  # fmt: skip


def build_processor(tokenizer: PreTrainedTokenizerFast) -> ImageTextProcessor:
    """Qwen3-VL's image processing at the tiny model's image area."""
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=16,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": IMAGE_PIXELS, "longest_edge": IMAGE_PIXELS},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return ImageTextProcessor(image_processor, tokenizer, chat_template=tokenizer.chat_template)


def build_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLMoeConfig:
    """The 30B's configuration, shrunk. No expert tensor is square: the loader tells the two layouts apart by shape."""
    ids = tokenizer.convert_tokens_to_ids
    return Qwen3VLMoeConfig(
        text_config={
            "vocab_size": VOCABULARY, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "moe_intermediate_size": 48,
            "num_experts": 8, "num_experts_per_tok": 2, "norm_topk_prob": True, "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 5e6, "mrope_section": [6, 5, 5], "mrope_interleaved": True
            },
            "initializer_range": 0.15, "pad_token_id": ids("<|endoftext|>"), "bos_token_id": None,
            "eos_token_id": ids("<|im_end|>"),
        },
        vision_config={
            "depth": 3, "hidden_size": 96, "intermediate_size": 192, "num_heads": 4, "patch_size": 16,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 128, "num_position_embeddings": 144,
            "deepstack_visual_indexes": [0, 1], "initializer_range": 0.1,
        },
        image_token_id=ids("<|image_pad|>"), video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"), vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=False,
    )  # fmt: skip


def save_checkpoint(model: Qwen3VLMoeForConditionalGeneration, processor: ImageTextProcessor, folder: Path) -> None:
    """Write a directory in the layout of the hub's: its file names, its sampling defaults, its expert tensors."""
    model.generation_config.update(
        do_sample=True, temperature=0.7, top_p=0.8, top_k=20,
        eos_token_id=model.config.text_config.eos_token_id, pad_token_id=model.config.text_config.pad_token_id,
    )  # fmt: skip
    model.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    # The hub's checkpoint names the stock classes, which other tools know.
    _set_in(
        folder / "preprocessor_config.json", processor_class=STOCK, image_processor_type="Qwen2VLImageProcessorFast"
    )
    _set_in(folder / "tokenizer_config.json", processor_class=STOCK)
    weights_file = folder / "model.safetensors"
    weights = {name: value.to(torch.bfloat16) for name, value in load_file(weights_file).items()}
    # transformers writes experts as they lie in memory; the hub's files have the last two axes the other way round.
    hub = {
        name: value.transpose(1, 2).contiguous() if ".mlp.experts." in name else value
        for name, value in weights.items()
    }
    save_file(hub, weights_file, metadata={"format": "pt"})
    weights_file.chmod(0o644)  # safetensors writes for the owner only; an image runs it as somebody else


def _set_in(file: Path, **values: str) -> None:
    settings = json.loads(file.read_text(encoding="utf-8")) | values
    file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
