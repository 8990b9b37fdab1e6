"""Does the server answer with this run's model? A few greedy answers' log-probabilities, there and in this process.

In this process first, so that the model has left the memory before a server wants it. The two are compared token by
token as long as they say the same; where they part, the server is asked what it makes of this process's token. Behind
that the contexts differ, and nothing can be compared.
"""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medvl_jobs.errors import SchemaMismatchError, SettingsError
from medvl_jobs.model.adapters import attach_adapter
from medvl_jobs.model.checkpoint import best_device, load_model, set_threads
from medvl_jobs.model.collate import prompt_batch
from medvl_jobs.model.prompts import Encoded, PromptRenderer
from medvl_jobs.settings.run import RunSettings

log = logging.getLogger(__name__)

TOKENS = 32
"""Of each answer that are compared, at most."""
RIVALS = 5
"""``top_logprobs``: what the server tells of tokens that it did not choose."""
ONE_TOKEN = 10.0
"""How many times the tolerance a single token may be off: in bfloat16 an expert more or less makes that."""


@dataclass(frozen=True)
class Said:
    """A greedy answer, one entry per token, the end of turn included."""

    prompt_tokens: int
    """Image tokens included."""
    ids: list[int]
    tokens: list[str]
    """What each id stands for."""
    logprobs: list[float]
    """Natural logarithms."""


@dataclass(frozen=True)
class Verdict:
    """The differences of all tokens that were compared, in nats."""

    differences: list[float]
    """Absolute; infinite where the server does not even consider this process's token."""

    @property
    def mean(self) -> float:
        """Over all tokens."""
        return sum(self.differences) / len(self.differences)

    @property
    def largest(self) -> float:
        """Of any token."""
        return max(self.differences)

    def __str__(self) -> str:
        return f"{len(self.differences)} tokens, mean difference {self.mean:.4f}, largest {self.largest:.4f} nats"


def say_in_process(
    settings: RunSettings, renderer: PromptRenderer, adapter: Path | None, examples: Sequence[Encoded]
) -> list[Said]:
    """The model's greedy answers to ``examples``, one at a time. Loads it, and frees it again."""
    set_threads(settings.model)
    model: torch.nn.Module = load_model(settings.model, best_device())
    if adapter is not None:
        model = attach_adapter(model, adapter)
    try:
        return [_say(model, renderer, example, settings.eval.max_new_tokens) for example in examples]
    finally:
        del model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@torch.inference_mode()
def _say(model: Any, renderer: PromptRenderer, example: Encoded, max_new_tokens: int) -> Said:
    batch = prompt_batch([example], renderer.tokenizer.pad_token_id)
    made = model.generate(
        **{name: value.to(model.device) for name, value in batch.items()},
        max_new_tokens=min(TOKENS, max_new_tokens),
        do_sample=False, temperature=None, top_p=None, top_k=None,
        pad_token_id=renderer.tokenizer.pad_token_id,
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    ids = made.sequences[0, batch["input_ids"].shape[1] :].tolist()
    logprobs_TV = torch.stack(made.logits, dim=0)[:, 0].float().log_softmax(dim=-1)
    tokens = [str(renderer.tokenizer.decode([each])) for each in ids]
    return Said(len(example), ids, tokens, [float(row[each]) for row, each in zip(logprobs_TV, ids, strict=True)])


def wishes(settings: RunSettings) -> dict[str, Any]:
    """What a request for a greedy answer has besides, to be told log-probabilities.

    The last one is vLLM's own: tokens come as ``token_id:42``. Half a Chinese character is no text to compare.
    """
    tokens = min(TOKENS, settings.eval.max_new_tokens)
    return {"logprobs": True, "top_logprobs": RIVALS, "max_tokens": tokens, "return_tokens_as_token_ids": True}


def compare(said: Sequence[Said], replies: Sequence[Mapping[str, Any]], where: str) -> Verdict:
    """This process's answers with the server's chat completions of the same examples.

    Raises `SchemaMismatchError` where the prompt has another length there, `SettingsError` when the server tells no
    log-probabilities.
    """
    differences: list[float] = []
    for ours, reply in zip(said, replies, strict=True):
        usage = reply.get("usage")
        theirs = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        if theirs is not None and theirs != ours.prompt_tokens:
            raise SchemaMismatchError(
                f"image and question are {theirs} tokens for the server, and {ours.prompt_tokens} in this process",
                where=where,
                remedy="give the server this run's checkpoint with its chat template, and as --mm-processor-kwargs "
                "the image areas model.min_pixels and model.max_pixels",
            )
        differences += _differences(ours, reply, where)
    return Verdict(differences)


def _differences(ours: Said, reply: Mapping[str, Any], where: str) -> list[float]:
    try:
        steps = reply["choices"][0]["logprobs"]["content"]
        theirs = [{each["token"]: float(each["logprob"]) for each in [*step["top_logprobs"], step]} for step in steps]
        chosen = [str(step["token"]) for step in steps]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        what = "the server tells no log-probabilities to check it by"
        remedy = "set eval.server.canary=0: its answers are then taken as they are"
        raise SettingsError(what, where=where, remedy=remedy) from error
    by_id = bool(chosen) and chosen[0].startswith("token_id:")
    names = [f"token_id:{each}" for each in ours.ids] if by_id else ours.tokens
    found = []
    for token, logprob, step, said in zip(names, ours.logprobs, theirs, chosen, strict=False):
        found.append(abs(step.get(token, -math.inf) - logprob))
        if said != token:
            break
    return found or [math.inf]


def judge(verdict: Verdict, settings: RunSettings, where: str) -> None:
    """Raises `SchemaMismatchError` for a server whose model is not this run's."""
    tolerance = settings.eval.server.canary_tolerance
    if verdict.mean <= tolerance and verdict.largest <= ONE_TOKEN * tolerance:
        log.info("the server's model is this run's: %s", verdict)
        return
    raise SchemaMismatchError(
        f"the server's model is not this run's: {verdict}; eval.server.canary_tolerance is {tolerance:g}, and "
        f"{ONE_TOKEN * tolerance:g} for one token",
        where=where,
        remedy="serve this base model, and this adapter under eval.server.tuned_name; where only rounding differs "
        "(quantised weights, a merged model), raise the tolerance",
    )
