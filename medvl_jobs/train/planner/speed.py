"""How long a step takes at best, by a roofline (Williams et al. 2009, doi 10.1145/1498765.1498785), and how long then.

Each part of the model takes the longest of four times: its arithmetic at the GPU's rate, its traffic with the GPU's
memory, and what comes meanwhile: under ZeRO-3 the others' weights over NVLink, and what was offloaded over PCIe. Only
tokens count, no padding. What a real step reaches of that is a setting, ``plan.attained``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from medvl_jobs.settings.train import LoraSettings
from medvl_jobs.train.planner.activations import layer_activations
from medvl_jobs.train.planner.gpus import Gpu
from medvl_jobs.train.planner.memory import head_chunk, logit_bytes
from medvl_jobs.train.planner.setup import FULL, Setup, Zero
from medvl_jobs.train.planner.shape import ModelShape, VisionShape

if TYPE_CHECKING:
    import numpy as np  # a plan needs none

Number = TypeVar("Number", float, "np.ndarray")

BACKWARD_ATTENTION = 2.5
"""Scores are computed again and give four more products, against two in the forward pass (Dao et al. 2022, §3.1)."""
BACKWARD_SCORES = 2
"""The four products alone."""
BACKWARD_ADAPTER = 2
"""An adapter needs the gradient of its weights and of its input."""
BACKWARD_FROZEN = 1
"""A frozen matrix needs the gradient of its input alone: half of what training it would take."""


@dataclass(frozen=True)
class Part:
    """Work of one GPU on one part of the model."""

    flops: float = 0.0
    hbm_bytes: float = 0.0
    link_bytes: float = 0.0
    """Received over NVLink."""
    host_bytes: float = 0.0
    """Received over PCIe, or sent."""

    def seconds(self, gpu: Gpu, flops_per_second: float) -> float:
        """The longest of the four. One direction has half of what NVLink and PCIe count."""
        return max(
            self.flops / flops_per_second,
            self.hbm_bytes / gpu.hbm_bytes_per_second,
            self.link_bytes / (gpu.nvlink_bytes_per_second / 2),
            self.host_bytes / (gpu.pcie_bytes_per_second / 2),
        )


@dataclass(frozen=True)
class Step:
    """One optimiser step, all its micro-batches included."""

    vision: float
    text: float
    head: float
    exchange: float
    """Seconds at best for the adapter's gradients and its optimiser."""
    attained: float

    @property
    def seconds(self) -> float:
        """What is expected: the roofline's time, and what is not attained of it."""
        return (self.vision + self.text + self.head + self.exchange) / self.attained


def step(setup: Setup, gpu: Gpu, zero: Zero, attained: float) -> Step:
    """The time of one optimiser step: forward passes × (vision + text + head) + exchange."""
    rate = gpu.bf16_flops if setup.model.dtype == "bfloat16" else gpu.fp32_flops
    return Step(
        vision=setup.passes * vision(setup, zero).seconds(gpu, rate),
        text=setup.passes * text(setup, zero).seconds(gpu, rate),
        head=setup.passes * head(setup, zero).seconds(gpu, rate),
        exchange=exchange(setup, zero).seconds(gpu, rate),
        attained=attained,
    )


def steps(setup: Setup) -> int:
    """Optimiser steps of all epochs: ⌈epochs × ⌈⌊examples / N⌋ / (batch × accumulation)⌉⌉, see `train.batches`."""
    an_epoch = math.ceil(setup.work.examples // setup.gpus / setup.step_examples)
    return max(1, math.ceil(setup.train.epochs * an_epoch))


def text(setup: Setup, zero: Zero) -> Part:
    """The decoder's layers on one forward pass of n tokens in examples of s.

    Arithmetic of a pass: 2 n (attention + router + k experts) and, for causal scores, 2 n s q (Kaplan et al. 2020,
    arXiv 2001.08361, §2.1, with the half of the scores that a causal mask leaves). Passes: forward, again where
    activations are recomputed, and backward. Traffic: all weights once a pass, for a batch meets every expert, and what
    a layer keeps, written and read. Adapted experts come on top.
    """
    shape, train = setup.shape, setup.train
    tokens = _tokens(setup)
    forward = 2 if train.activation_checkpointing else 1
    frozen = 2 * tokens * shape.active_layer_parameters
    adapter = 2 * tokens * shape.attention_lora(train.lora)
    weights = shape.layers * shape.layer_parameters * setup.element_bytes
    traffic = weights + 2 * shape.layers * tokens * layer_activations(setup)
    arriving = weights + setup.element_bytes * setup.lora_parameters
    flops, copied = _adapted_experts(setup, tokens, forward)
    return Part(
        flops=shape.layers * (frozen * (forward + BACKWARD_FROZEN) + _scores(setup) * (forward + BACKWARD_ATTENTION))
        + adapter * (forward + BACKWARD_ADAPTER)
        + flops,
        hbm_bytes=(forward + 1) * (traffic + copied),
        link_bytes=(forward + 1) * _gathered(arriving, setup, zero),
        host_bytes=(forward + 1) * _from_host(arriving, setup, zero),
    )


def _scores(setup: Setup) -> float:
    """Operations of one layer's attention. The mask of a packed row is no causal one: all n × n scores are computed.

    flash_attention_2 knows where the examples of a row begin, and computes theirs alone.
    """
    tokens, q = _tokens(setup), setup.shape.query_width
    if setup.train.packing and setup.model.attention != "flash_attention_2":
        return 4 * tokens * tokens * q
    return 2 * tokens * setup.work.mean_tokens * q


def _adapted_experts(setup: Setup, tokens: float, forward: int) -> tuple[float, float]:
    """What an adapter on the experts adds: (operations of all passes, bytes of one).

    B A of all experts is 2 r × their weights, in each forward pass and twice in the backward pass; there the experts
    also need the gradient of their weights. W + B A is written and read again, and so is its gradient.
    """
    shape, lora = setup.shape, setup.train.lora
    if lora.experts == "none":
        return 0.0, 0.0
    weights = shape.layers * shape.experts * shape.expert_parameters
    routed = shape.layers * shape.experts_per_token * shape.expert_parameters
    flops = 2 * lora.rank * weights * (forward + BACKWARD_ADAPTER) + 2 * tokens * routed
    return flops, 2 * weights * setup.element_bytes


def vision(setup: Setup, zero: Zero) -> Part:
    """The vision tower: forward alone, over 4 patches for each visual token; its scores are not causal."""
    tower = setup.shape.vision
    tokens = setup.step_examples / setup.passes * setup.work.image_tokens
    weights = tower.parameters * setup.element_bytes
    return Part(
        flops=vision_flops(tower, tokens, setup.work.image_tokens),
        hbm_bytes=weights,
        link_bytes=_gathered(weights, setup, zero),
        host_bytes=_from_host(weights, setup, zero),
    )


def vision_flops(tower: VisionShape, tokens: Number, image_tokens: Number) -> Number:
    """Operations of the vision tower for so many visual tokens, in images of ``image_tokens``."""
    patches = tokens * tower.merge
    scores = 4 * patches * image_tokens * tower.merge * tower.hidden
    blocks = tower.depth * (2 * patches * tower.block_parameters + scores)
    mergers = 2 * tokens * (1 + tower.deepstack) * tower.merger_parameters
    return blocks + mergers + 2 * patches * tower.patch_values * tower.hidden


def head(setup: Setup, zero: Zero) -> Part:
    """The vocabulary head on the answers' tokens, and the loss over its logits, whose gradient follows at once."""
    shape = setup.shape
    answers = setup.step_examples / setup.passes * setup.work.answer_tokens
    weights = shape.head_parameters * setup.element_bytes
    chunks = math.ceil(answers / head_chunk(shape.vocabulary))
    return Part(
        flops=head_flops(shape, answers),
        hbm_bytes=2 * chunks * weights + 2 * 2 * logit_bytes(setup) * answers * shape.vocabulary,
        link_bytes=_gathered(weights, setup, zero),
        host_bytes=_from_host(weights, setup, zero),
    )


def head_flops(shape: ModelShape, labels: Number) -> Number:
    """Operations of the vocabulary head on so many labelled tokens, and for the gradient by its input."""
    return 2 * (1 + BACKWARD_FROZEN) * labels * shape.head_parameters


def exchange(setup: Setup, zero: Zero) -> Part:
    """The adapter's gradients around the ring, 2 (N − 1) / N of them (Patarasu and Yuan 2009), and AdamW over it.

    Offloaded, each pass sends this GPU's share of the gradients to the host, and the new weights come back once.
    """
    gradients = FULL * setup.lora_parameters
    offloaded = setup.offloads_optimizer(zero)
    return Part(
        # Reads weight, gradient, two moments; writes all but the gradient.
        hbm_bytes=0 if offloaded else 7 * gradients / (setup.gpus if zero >= 2 else 1),
        link_bytes=2 * gradients * (setup.gpus - 1) / setup.gpus,
        host_bytes=(setup.passes + 1) * gradients / setup.gpus if offloaded else 0.0,
    )


def _tokens(setup: Setup) -> float:
    """Of a forward pass in the mean."""
    return setup.step_examples * setup.work.mean_tokens / setup.passes


def _gathered(weights: int, setup: Setup, zero: Zero) -> float:
    """Bytes of the others' shares that a GPU gathers in one pass (Rajbhandari et al. 2020, §7.2)."""
    return weights * (setup.gpus - 1) / setup.gpus if zero == 3 else 0.0


def _from_host(weights: int, setup: Setup, zero: Zero) -> float:
    """Bytes of its own share that a GPU fetches in one pass."""
    return weights / setup.gpus if setup.offloads_parameters(zero) else 0.0


def example_flops(
    shape: ModelShape, lora: LoraSettings, tokens_N: np.ndarray, labels_N: np.ndarray, image_tokens_N: np.ndarray
) -> np.ndarray:
    """Operations that the model needs for each of N examples: forward and backward, nothing twice, no padding.

    The formulae of `text`, `vision` and `head` without what an implementation adds: no activation is recomputed
    (`BACKWARD_SCORES`), and an adapted expert multiplies its own tokens with A and B instead of making B A of all.
    """
    tokens_N, images_N, labels_N = 1.0 * tokens_N, 1.0 * image_tokens_N, 1.0 * labels_N  # no overflow of an integer
    adapter = shape.attention_lora(lora) + shape.expert_lora(lora) * shape.experts_per_token / shape.experts
    scores_N = 2 * tokens_N * tokens_N * shape.query_width
    frozen_N = 2 * tokens_N * shape.active_layer_parameters
    text_N = shape.layers * (frozen_N * (1 + BACKWARD_FROZEN) + scores_N * (1 + BACKWARD_SCORES))
    adapter_N = 2 * tokens_N * adapter * (1 + BACKWARD_ADAPTER)
    seen_N = vision_flops(shape.vision, images_N, images_N)
    return text_N + adapter_N + seen_N + head_flops(shape, labels_N)
