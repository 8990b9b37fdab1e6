"""What a training needs of each GPU's memory, term by term.

The terms follow what the train stage does: frozen weights in ``model.dtype``, an adapter in float32, autocast for
bfloat16, AdamW, the vocabulary head on labelled positions only and in chunks. Everything is for the largest forward
pass that may come: examples as long as the longest, as many as ``train.batch_tokens`` or ``train.batch_size`` allows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from medvl_jobs.train.planner.activations import (
    expert_copies,
    layer_activations,
    saved_activations,
    shared_mask,
)
from medvl_jobs.train.planner.setup import FULL, Setup, Zero

RUNTIME_BYTES = 2 * 10**9
"""CUDA's context, its libraries' own buffers and NCCL's: an assumption, of the order that nvidia-smi shows."""
FRAGMENTATION = 0.1
"""Share of what comes and goes that lies in gaps of torch's allocator. Guo et al. 2024 (GMLake, arXiv 2401.08156)
measured 10 to 30 % where activations are recomputed; expandable segments avoid most of it."""
EXPERT_TRANSIENTS = 4
"""Tensors as large as all routed tokens that live for a moment in the experts' backward pass, beside what is saved.
Found with a memory profile, see the tests: between three and four."""
LOGITS_BYTES = 256 * 2**20
"""float32 logits that exist at a time: the loss takes its labelled positions in chunks of so many (`train.loss`)."""
LIVE_LAYERS = 2
"""Layers that are whole on each GPU under ZeRO-3: the one in use, and the next one, fetched ahead."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU."""

    weights: int
    lora: int
    gradients: int
    optimiser: int
    gathered: int
    """Whole layers under ZeRO-3; buffers of the gradients' exchange."""
    inputs: int
    activations: int
    """Saved in the forward pass, without the logits."""
    logits: int
    layer: int
    """A layer recomputed, and what its backward pass needs for a moment. The logits are gone by then."""
    host: int = 0
    """Pinned in the host's memory for this GPU, not on it."""
    runtime: int = RUNTIME_BYTES

    @property
    def fragmentation(self) -> int:
        """Gaps between what comes and goes."""
        return round(FRAGMENTATION * (self.gathered + self.activations + max(self.logits, self.layer)))

    @property
    def total(self) -> int:
        """The peak: of logits and a layer's backward pass the larger one."""
        kept = self.weights + self.lora + self.gradients + self.optimiser + self.gathered + self.inputs
        return kept + self.activations + max(self.logits, self.layer) + self.fragmentation + self.runtime


def head_chunk(vocabulary: int) -> int:
    """Labelled positions whose logits exist at a time: `LOGITS_BYTES` of float32, and one at least."""
    return max(1, LOGITS_BYTES // (FULL * vocabulary))


def memory(setup: Setup, zero: Zero) -> Memory:
    """The memory of one GPU of N under a ZeRO stage.

    For P parameters of the base and A of the adapter (Rajbhandari et al. 2020, §3.1 and figure 1, with an adapter in
    float32 in the place of the float32 copy of the weights): weights P × bytes (÷ N under 3); LoRA 4 A, but under
    2 and 3 as many bytes as a weight (÷ N under 3), a copy that DeepSpeed computes with, and the original's 4 A;
    gradients 4 A, moments of AdamW 8 A (both, and that original, ÷ N under 2 and 3).
    What is offloaded (Ren et al. 2021, arXiv 2101.06840) is pinned in the host's memory instead.
    """
    adapter, states = FULL * setup.lora_parameters, setup.gpus if zero >= 2 else 1
    parameters = setup.gpus if zero == 3 else 1
    weights = _share(setup.shape.parameters * setup.element_bytes, parameters)
    lora = _share(setup.lora_parameters * (setup.element_bytes if zero >= 2 else FULL), parameters)
    gradients, optimiser = _share(adapter, states), _share((3 if zero >= 2 else 2) * adapter, states)
    host = 0
    if setup.offloads_optimizer(zero):
        host, gradients, optimiser = gradients + optimiser, 0, 0
    if setup.offloads_parameters(zero):
        host, weights, lora = host + weights + lora, 0, 0
    return Memory(
        weights=weights,
        lora=lora,
        gradients=gradients,
        optimiser=optimiser,
        gathered=_gathered(setup, zero),
        inputs=_inputs(setup),
        activations=round(saved_activations(setup, setup.largest_batch)) + shared_mask(setup),
        logits=_logits(setup),
        layer=_layer(setup),
        host=host,
    )


def logit_bytes(setup: Setup) -> int:
    """Of one logit at the peak of the loss: its float32, and beside it the product or the gradient in bfloat16."""
    return FULL if setup.element_bytes == FULL else FULL + setup.element_bytes


def _logits(setup: Setup) -> int:
    """One chunk's logits; and the labelled positions' last hidden states with their gradients, of all chunks."""
    labelled = math.ceil(setup.largest_batch * setup.work.longest_answer / setup.work.longest_tokens)
    chunk = min(labelled, head_chunk(setup.shape.vocabulary))
    kept = 2 * labelled * setup.shape.hidden * setup.element_bytes
    return chunk * setup.shape.vocabulary * logit_bytes(setup) + kept


def _layer(setup: Setup) -> int:
    """One layer's backward pass: what it recomputes, and what routed tokens need for a moment, or experts' gradients.

    The gradient of the adapted weights W + B A is as large as they are, but of gate and up, or of down alone: when the
    first is there, the copy of down is gone, which leaves E h m beside both copies at either time. Half of what routed
    tokens need is over by then.
    """
    shape, tokens = setup.shape, setup.largest_batch
    adapted = setup.train.lora.experts == "all"
    copies = EXPERT_TRANSIENTS - adapted  # what goes into the experts is kept for their adapters, and counted there
    routed = copies * shape.experts_per_token * shape.hidden * setup.element_bytes * tokens
    gradients = shape.experts * shape.hidden * shape.expert_width * setup.element_bytes if adapted else 0
    recomputed = tokens * layer_activations(setup) + expert_copies(setup)
    moment = max(routed, routed // 2 + gradients)
    return moment + (round(recomputed) if setup.train.activation_checkpointing else 0)


def _gathered(setup: Setup, zero: Zero) -> int:
    """Beside the shares: under ZeRO-3 whole layers, without ZeRO the buckets of DDP, which copy all gradients.

    One GPU gathers nothing but what was offloaded. DeepSpeed's bucket is h² numbers (``reduce_bucket_size: auto``), or
    all of them.
    """
    if setup.gpus == 1 and not setup.offloads_parameters(zero):
        return 0
    shape, trained = setup.shape, setup.lora_parameters
    bucket = FULL * (trained if zero == 0 else min(trained, shape.hidden**2))
    largest = max(shape.layer_parameters, shape.head_parameters)
    return bucket + (LIVE_LAYERS * largest * setup.element_bytes if zero == 3 else 0)


def _inputs(setup: Setup) -> int:
    """Pixels, in the weights' dtype as they come, and what the vision tower makes of them: output and deepstack."""
    vision = setup.shape.vision
    per_token = vision.merge * vision.patch_values + (1 + vision.deepstack) * vision.out
    return round(setup.most_examples * setup.work.image_tokens * per_token * setup.element_bytes)


def _share(whole: int, among: int) -> int:
    return -(-whole // among)
