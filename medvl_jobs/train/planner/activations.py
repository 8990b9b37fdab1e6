"""What a forward pass keeps for its backward pass, tensor by tensor; a test compares it with what torch keeps."""

from __future__ import annotations

from medvl_jobs.train.planner.setup import FULL, Setup


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
    return shape.layers * (tokens * layer_activations(setup) + expert_copies(setup))


def expert_copies(setup: Setup) -> int:
    """Bytes of the adapted weights of all experts of one layer: W + B A, which PEFT makes anew in each pass.

    They have the weights' dtype, and are kept as long as the layer's activations, with A and B in that dtype.
    """
    s, e = setup.shape, setup.element_bytes
    if setup.train.lora.experts == "none":
        return 0
    factors = s.expert_lora(setup.train.lora) // s.layers
    return e * s.experts * s.expert_parameters + (e * factors if e < FULL else 0)


def layer_activations(setup: Setup) -> float:
    """Bytes per token that one decoder layer keeps for its backward pass when nothing is recomputed.

    Counted as Korthikanti et al. 2022 (§4.1) do, for this architecture with frozen weights: a frozen matrix keeps no
    input, an adapter's A and B do; a norm keeps its input in float32; attention keeps q, k, v and its output but no
    scores, which flash attention and its kin compute again (Dao et al. 2022, arXiv 2205.14135).
    """
    s = setup.shape
    norms = FULL * (2 * s.hidden + s.query_width + s.key_width)
    statistics = FULL * (2 + 2 * s.heads + s.key_heads)
    return norms + statistics + _attention(setup) + _adapters(setup) + _experts(setup)


def _attention(setup: Setup) -> int:
    """q and the output, k and v; as ``eager`` also the scores, twice unless they are float32 from the start.

    Trap: with a mask, transformers repeats k and v for each query head before it calls SDPA, and each layer keeps a
    mask of its own, n numbers for a token in a row of n. A packed row is the whole forward pass.
    """
    s, e, length = setup.shape, setup.element_bytes, setup.longest_row
    keys, scores = s.key_width, 0
    if setup.model.attention == "eager":
        keys, scores = s.query_width, s.heads * length * (FULL if e == FULL else FULL + e)
    elif setup.model.attention == "sdpa" and setup.masked:
        keys, scores = s.query_width, length * e
    return e * (2 * s.query_width + 2 * keys) + scores


def shared_mask(setup: Setup) -> int:
    """Bytes of the mask that the layers' own are made from: a byte for each pair of tokens in a row."""
    if setup.model.attention == "flash_attention_2" or not setup.masked:
        return 0
    return setup.largest_batch * setup.longest_row * (1 if setup.model.attention == "sdpa" else setup.element_bytes)


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


def _experts(setup: Setup) -> int:
    """For each of k experts: gate and up (2 m), the activated gate (m), the output (h), three indices; and the router.

    The loop of ``eager`` keeps the output twice. An adapter on the experts also keeps what the two products take in:
    the token (h) and the gated value (m).
    """
    s, e = setup.shape, setup.element_bytes
    outputs = 2 if setup.model.experts == "eager" else 1
    inputs = 0 if setup.train.lora.experts == "none" else s.hidden + s.expert_width
    routed = e * (outputs * s.hidden + 3 * s.expert_width + inputs + 1) + 3 * 8
    return s.experts_per_token * (routed + 8 + FULL) + FULL * (s.experts + 1)
