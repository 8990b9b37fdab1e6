"""The shape of a Qwen3-VL-MoE model, from its ``config.json`` alone, and how many parameters that makes.

h: hidden size. q: all query heads. kv: all key heads. E: experts. k: experts per token. m: width of an expert.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medvl_jobs.errors import SchemaMismatchError
from medvl_jobs.settings.train import LoraSettings

MODEL_TYPE = "qwen3_vl_moe"


@dataclass(frozen=True)
class VisionShape:
    """The vision tower: frozen, and run once in the forward pass."""

    depth: int
    hidden: int
    intermediate: int
    patch_values: int
    """Numbers in a patch: channels × frames × pixels."""
    merge: int
    """Patches that one visual token stands for: 2 × 2."""
    positions: int
    out: int
    deepstack: int
    """Layers whose features go into the text model as well."""

    @property
    def block_parameters(self) -> int:
        """Attention with biases, two linear layers with biases, two layer norms."""
        h, i = self.hidden, self.intermediate
        return 4 * h * h + 4 * h + 2 * h * i + i + h + 4 * h

    @property
    def merger_parameters(self) -> int:
        """The two linear layers of one merger, with their biases; its norm is counted by `parameters`."""
        wide = self.hidden * self.merge
        return wide * wide + wide + wide * self.out + self.out

    @property
    def parameters(self) -> int:
        """Patches, positions, blocks, and 1 + deepstack mergers, whose norms are 1 and ``merge`` patches wide."""
        embedding = self.patch_values * self.hidden + self.hidden + self.positions * self.hidden
        norms = 2 * self.hidden * (1 + self.deepstack * self.merge)
        return embedding + self.depth * self.block_parameters + (1 + self.deepstack) * self.merger_parameters + norms


@dataclass(frozen=True)
class ModelShape:
    """The text model, every layer of which has experts, and its vision tower."""

    layers: int
    hidden: int
    heads: int
    key_heads: int
    head_width: int
    experts: int
    experts_per_token: int
    expert_width: int
    vocabulary: int
    tied: bool
    vision: VisionShape

    @classmethod
    def from_config(cls, config: Mapping[str, Any], where: str = "config.json") -> ModelShape:
        """Read ``config.json``. Raises `SchemaMismatchError` for another architecture or a value that is missing."""
        if config.get("model_type") != MODEL_TYPE:
            what = f"the base model is of type '{config.get('model_type')}', medvl plans '{MODEL_TYPE}'"
            raise SchemaMismatchError(what, where=where, remedy="set model.path to a Qwen3-VL-MoE checkpoint")
        try:
            text, vision = config["text_config"], config["vision_config"]
            if text.get("mlp_only_layers") or text.get("decoder_sparse_step", 1) != 1:
                raise SchemaMismatchError("some layers have no experts", where=where, remedy="plan it by hand")
            return cls(
                layers=text["num_hidden_layers"],
                hidden=text["hidden_size"],
                heads=text["num_attention_heads"],
                key_heads=text["num_key_value_heads"],
                head_width=text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"],
                # transformers 5 writes the hub's num_experts under another name.
                experts=text["num_experts"] if "num_experts" in text else text["num_local_experts"],
                experts_per_token=text["num_experts_per_tok"],
                expert_width=text["moe_intermediate_size"],
                vocabulary=text["vocab_size"],
                tied=bool(config.get("tie_word_embeddings", False)),
                vision=VisionShape(
                    depth=vision["depth"],
                    hidden=vision["hidden_size"],
                    intermediate=vision["intermediate_size"],
                    patch_values=vision["in_channels"] * vision["temporal_patch_size"] * vision["patch_size"] ** 2,
                    merge=vision["spatial_merge_size"] ** 2,
                    positions=vision["num_position_embeddings"],
                    out=vision["out_hidden_size"],
                    deepstack=len(vision["deepstack_visual_indexes"]),
                ),
            )
        except KeyError as missing:
            raise SchemaMismatchError(
                f"the configuration has no {missing}", where=where, remedy="take config.json from the hub"
            ) from missing

    @property
    def query_width(self) -> int:
        """All query heads side by side: q."""
        return self.heads * self.head_width

    @property
    def key_width(self) -> int:
        """All key heads side by side, and all value heads: kv."""
        return self.key_heads * self.head_width

    @property
    def attention_parameters(self) -> int:
        """Of one layer's four projections: 2 h q + 2 h kv."""
        return 2 * self.hidden * (self.query_width + self.key_width)

    @property
    def expert_parameters(self) -> int:
        """Of one expert: gate, up and down, 3 h m."""
        return 3 * self.hidden * self.expert_width

    @property
    def layer_parameters(self) -> int:
        """Attention, router (E h), experts, two norms of h and two of a head."""
        norms = 2 * self.hidden + 2 * self.head_width
        return (
            self.attention_parameters
            + self.experts * self.hidden
            + self.experts * self.expert_parameters
            + norms
        )  # fmt: skip

    @property
    def active_layer_parameters(self) -> int:
        """Those of one layer that a token is multiplied with: k experts of E."""
        routed = self.experts * self.hidden + self.experts_per_token * self.expert_parameters
        return self.attention_parameters + routed

    @property
    def head_parameters(self) -> int:
        """Of the vocabulary head, and of the embedding: V h each."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All of the base model."""
        heads = self.head_parameters * (1 if self.tied else 2)
        return self.layers * self.layer_parameters + heads + self.hidden + self.vision.parameters

    def projections(self, lora: LoraSettings) -> tuple[tuple[int, int], ...]:
        """Input and output width of every projection of a layer that carries an adapter."""
        h, q, kv = self.hidden, self.query_width, self.key_width
        widths = {"q_proj": (h, q), "k_proj": (h, kv), "v_proj": (h, kv), "o_proj": (q, h)}
        return tuple(widths[name] for name in lora.modules)

    def attention_lora(self, lora: LoraSettings) -> int:
        """Trainable parameters on attention: r (in + out) for a projection (Hu et al. 2021, arXiv 2106.09685, §4.1)."""
        return self.layers * lora.rank * sum(map(sum, self.projections(lora)))

    def expert_lora(self, lora: LoraSettings) -> int:
        """Trainable parameters on experts: r (h + 2 m) for gate and up together and r (m + h) for down, E times."""
        if lora.experts == "none":
            return 0
        return self.layers * lora.rank * self.experts * (2 * self.hidden + 3 * self.expert_width)

    def lora_parameters(self, lora: LoraSettings) -> int:
        """All trainable parameters."""
        return self.attention_lora(lora) + self.expert_lora(lora)
