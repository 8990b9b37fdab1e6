"""How long a step takes at best, by a roofline (Williams et al. 2009, doi 10.1145/1498765.1498785), and how long then.

Each part of the model takes the longest of three times: its arithmetic at the GPU's rate, its traffic with the GPU's
memory, and, under ZeRO-3, the weights that come over NVLink meanwhile. Only tokens count, no padding. What a real step
reaches of that is a setting, ``plan.attained``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from medvl_jobs.train.planner.gpus import Gpu
from medvl_jobs.train.planner.memory import LOGIT_COPIES, layer_activations
from medvl_jobs.train.planner.setup import FULL, Setup, Zero

BACKWARD_ATTENTION = 2.5
"""Scores are computed again and give four more products, against two in the forward pass (Dao et al. 2022, §3.1)."""
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

    def seconds(self, gpu: Gpu, flops_per_second: float) -> float:
        """The longest of the three. A GPU receives on half of what NVLink counts."""
        return max(
            self.flops / flops_per_second,
            self.hbm_bytes / gpu.hbm_bytes_per_second,
            self.link_bytes / (gpu.nvlink_bytes_per_second / 2),
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
    """The time of one optimiser step: micro-batches × (vision + text + head) + exchange."""
    rate = gpu.bf16_flops if setup.model.dtype == "bfloat16" else gpu.fp32_flops
    micro = setup.train.gradient_accumulation
    return Step(
        vision=micro * vision(setup, zero).seconds(gpu, rate),
        text=micro * text(setup, zero).seconds(gpu, rate),
        head=micro * head(setup, zero).seconds(gpu, rate),
        exchange=exchange(setup).seconds(gpu, rate),
        attained=attained,
    )


def steps(setup: Setup) -> int:
    """Optimiser steps of all epochs, as the Trainer counts: ⌈⌈examples / (N × batch)⌉ / accumulation⌉ an epoch."""
    batches = math.ceil(setup.work.examples / (setup.gpus * setup.train.batch_size))
    return math.ceil(setup.train.epochs * math.ceil(batches / setup.train.gradient_accumulation))


def text(setup: Setup, zero: Zero) -> Part:
    """The decoder's layers on one micro-batch of n tokens in examples of s.

    Arithmetic of a pass: 2 n (attention + router + k experts) and, for causal scores, 2 n s q (Kaplan et al. 2020,
    arXiv 2001.08361, §2.1, with the half of the scores that a causal mask leaves). Passes: forward, again where
    activations are recomputed, and backward. Traffic: all weights once a pass, for a batch meets every expert, and what
    a layer keeps, written and read.
    """
    shape, train = setup.shape, setup.train
    tokens = train.batch_size * setup.work.mean_tokens
    forward = 2 if train.activation_checkpointing else 1
    scores = 2 * tokens * setup.work.mean_tokens * shape.query_width
    frozen, adapter = 2 * tokens * shape.active_layer_parameters, 2 * tokens * setup.lora_parameters
    weights = shape.layers * shape.layer_parameters * setup.element_bytes
    traffic = weights + 2 * shape.layers * tokens * layer_activations(setup)
    return Part(
        flops=shape.layers * (frozen * (forward + BACKWARD_FROZEN) + scores * (forward + BACKWARD_ATTENTION))
        + adapter * (forward + BACKWARD_ADAPTER),
        hbm_bytes=(forward + 1) * traffic,
        link_bytes=(forward + 1) * _received(weights, setup, zero),
    )


def vision(setup: Setup, zero: Zero) -> Part:
    """The vision tower: forward alone, over 4 patches for each visual token; its scores are not causal."""
    tower = setup.shape.vision
    tokens = setup.train.batch_size * setup.work.image_tokens
    patches = tokens * tower.merge
    scores = 4 * patches * setup.work.image_tokens * tower.merge * tower.hidden
    blocks = tower.depth * (2 * patches * tower.block_parameters + scores)
    mergers = 2 * tokens * (1 + tower.deepstack) * tower.merger_parameters
    weights = tower.parameters * setup.element_bytes
    return Part(
        flops=blocks + mergers + 2 * patches * tower.patch_values * tower.hidden,
        hbm_bytes=weights,
        link_bytes=_received(weights, setup, zero),
    )


def head(setup: Setup, zero: Zero) -> Part:
    """The vocabulary head on the answers' tokens, forward and backward, and the loss over its logits."""
    shape = setup.shape
    answers = setup.train.batch_size * setup.work.answer_tokens
    weights = shape.head_parameters * setup.element_bytes
    return Part(
        flops=2 * 2 * answers * shape.head_parameters,
        hbm_bytes=2 * weights + 2 * LOGIT_COPIES * FULL * answers * shape.vocabulary,
        link_bytes=2 * _received(weights, setup, zero),
    )


def exchange(setup: Setup) -> Part:
    """The adapter's gradients around the ring, 2 (N − 1) / N of them (Patarasu and Yuan 2009), and AdamW over it."""
    gradients = FULL * setup.lora_parameters
    return Part(
        hbm_bytes=7 * gradients,  # reads weight, gradient, two moments; writes all but the gradient
        link_bytes=2 * gradients * (setup.gpus - 1) / setup.gpus,
    )


def _received(weights: int, setup: Setup, zero: Zero) -> float:
    """Bytes of the others' shares that a GPU gathers in one pass (Rajbhandari et al. 2020, §7.2)."""
    return weights * (setup.gpus - 1) / setup.gpus if zero == 3 else 0.0
