"""What a training needs of each GPU's memory, term by term.

The terms follow what the train stage does today: frozen weights in ``model.dtype``, an adapter in float32, autocast for
bfloat16, AdamW, the vocabulary head on labelled positions only. What is *saved* for the backward pass is counted tensor
by tensor, and a test compares it with what torch really keeps. Everything is for the largest batch that may come:
``train.batch_size`` examples, each as long as the longest, padded.
"""

from __future__ import annotations

from dataclasses import dataclass

from medvl_jobs.train.planner.setup import FULL, Setup, Zero
from medvl_jobs.train.planner.shape import ModelShape

RUNTIME_BYTES = 2 * 10**9
"""CUDA's context, its libraries' own buffers and NCCL's: an assumption, of the order that nvidia-smi shows."""
FRAGMENTATION = 0.1
"""Share of what comes and goes that lies in gaps of torch's allocator. Guo et al. 2024 (GMLake, arXiv 2401.08156)
measured 10 to 30 % where activations are recomputed; expandable segments avoid most of it."""
LOGIT_COPIES = 3
"""float32 tensors of T × V at the peak of the loss: the kept log-softmax, its gradient, and the gradient under it."""
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

    Weights: P × bytes (÷ N under 3). LoRA: 4 A (÷ N under 3). Gradients: 4 A, moments of AdamW: 8 A (both ÷ N under 2
    and 3), for P parameters of the base and A of the adapter (Rajbhandari et al. 2020, §3.1 and figure 1, with an
    adapter in float32 in the place of the float32 copy of the weights).
    """
    shape, share = setup.shape, setup.gpus
    adapter = FULL * setup.lora_parameters
    states = share if zero >= 2 else 1
    parameters = share if zero == 3 else 1
    largest_batch, answers = setup.largest_batch, setup.train.batch_size * setup.work.longest_answer
    a_layer = round(largest_batch * layer_activations(setup))
    experts = shape.experts_per_token * shape.hidden * setup.element_bytes
    return Memory(
        weights=_share(shape.parameters * setup.element_bytes, parameters),
        lora=_share(adapter, parameters),
        gradients=_share(adapter, states),
        optimiser=_share(2 * adapter, states),
        gathered=_gathered(setup, zero),
        inputs=_inputs(setup),
        activations=round(saved_activations(setup, largest_batch)),
        logits=round(LOGIT_COPIES * FULL * answers * shape.vocabulary),
        layer=EXPERT_TRANSIENTS * experts * largest_batch + (a_layer if setup.train.activation_checkpointing else 0),
    )


def saved_activations(setup: Setup, tokens: int) -> float:
    """Bytes that the forward pass of a batch keeps for the backward pass, the loss apart.

    With checkpointing (Chen et al. 2016, arXiv 1604.06174; Korthikanti et al. 2022, arXiv 2205.05198, §5, "full
    recomputation") that is the input of each layer, L × n × h, and the last norm's in float32. Without, it is what
    `layer_activations` counts, L times: the last norm's input takes the place of the first layer's, which needs no
    gradient. The vision tower is frozen and keeps nothing.
    """
    shape = setup.shape
    if setup.train.activation_checkpointing:
        return tokens * shape.hidden * (shape.layers * setup.element_bytes + FULL)
    return shape.layers * tokens * layer_activations(setup)


def layer_activations(setup: Setup) -> float:
    """Bytes per token that one decoder layer keeps for its backward pass when nothing is recomputed.

    Counted as Korthikanti et al. 2022 (§4.1) do, for this architecture with frozen weights: a frozen matrix keeps no
    input, an adapter's A and B do; a norm keeps its input in float32; attention keeps q, k, v and its output but no
    scores, which flash attention and its kin compute again (Dao et al. 2022, arXiv 2205.14135).
    """
    s, e = setup.shape, setup.element_bytes
    norms = FULL * (2 * s.hidden + s.query_width + s.key_width)
    statistics = FULL * (2 + 2 * s.heads + s.key_heads)
    return norms + statistics + _attention(setup) + _adapters(setup) + _experts(s, e, setup.model.experts)


def _attention(setup: Setup) -> int:
    """q and the output, k and v; as ``eager`` also the scores, twice unless they are float32 from the start.

    Trap: with a padding mask, transformers repeats k and v for each query head before it calls SDPA, and each layer
    keeps a mask of its own, n numbers for a token of n.
    """
    s, e, length = setup.shape, setup.element_bytes, setup.work.longest_tokens
    keys, scores = s.key_width, 0
    if setup.model.attention == "eager":
        keys, scores = s.query_width, s.heads * length * (FULL if e == FULL else FULL + e)
    elif setup.model.attention == "sdpa" and setup.train.batch_size > 1:
        keys, scores = s.query_width, length * e
    return e * (2 * s.query_width + 2 * keys) + scores


def _adapters(setup: Setup) -> int:
    """What an adapter's A and B take in. Autocast and dropout copy A's for each projection; dropout's mask is a byte.

    In float32 without dropout it is the norm's output, once for q, k and v, and attention's output, counted above.
    """
    lora, e = setup.train.lora, setup.element_bytes
    inputs = [width for width, _ in setup.shape.projections(lora)]
    if lora.dropout:
        copies = sum(inputs) * (e + 1)
    elif e < FULL:
        copies = sum(inputs) * e
    else:
        copies = setup.shape.hidden * e if set(lora.modules) - {"o_proj"} else 0
    return copies + len(inputs) * lora.rank * e


def _experts(s: ModelShape, e: int, implementation: str) -> int:
    """For each of k experts: gate and up (2 m), the activated gate (m), the output (h), three indices; and the router.

    The loop of ``eager`` keeps the output twice.
    """
    outputs = 2 if implementation == "eager" else 1
    routed = e * (outputs * s.hidden + 3 * s.expert_width + 1) + 3 * 8
    return s.experts_per_token * (routed + 8 + FULL) + FULL * (s.experts + 1)


def _gathered(setup: Setup, zero: Zero) -> int:
    """Beside the shares: under ZeRO-3 whole layers, without ZeRO the buckets of DDP, which copy all gradients.

    One GPU gathers nothing. DeepSpeed's bucket for ZeRO-2 is h² numbers (``reduce_bucket_size: auto``), or all of them.
    """
    if setup.gpus == 1:
        return 0
    shape, trained = setup.shape, setup.lora_parameters
    bucket = FULL * (trained if zero == 0 else min(trained, shape.hidden**2))
    largest = max(shape.layer_parameters, shape.head_parameters)
    return bucket + (LIVE_LAYERS * largest * setup.element_bytes if zero == 3 else 0)


def _inputs(setup: Setup) -> int:
    """Pixels in float32, and what the vision tower makes of them, once and for each layer of deepstack."""
    vision = setup.shape.vision
    per_token = FULL * vision.merge * vision.patch_values + (1 + vision.deepstack) * vision.out * setup.element_bytes
    return round(setup.train.batch_size * setup.work.image_tokens * per_token)


def _share(whole: int, among: int) -> int:
    return -(-whole // among)
