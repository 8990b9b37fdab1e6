"""Both models in this process, of one load: they take turns, with the adapter off for each token of the base.

So both answers come at the same time, each in the memory of one model.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from medvl_jobs.chat.models import Ending, Finish, Piece, Question, Side, UnansweredError
from medvl_jobs.chat.turns import Turns
from medvl_jobs.model.adapters import attach_adapter
from medvl_jobs.model.checkpoint import best_device, load_model, load_processor, set_threads
from medvl_jobs.model.collate import prompt_batch
from medvl_jobs.model.prompts import PromptRenderer, decode_image
from medvl_jobs.settings.run import RunSettings

UNFINISHED = "\ufffd"
"""What a tokenizer gives for the first bytes of a character whose last are in the next token."""


class InProcessPair:
    """The base model with the adapter beside it, unmerged as in eval, and one question at a time."""

    at_once = 1

    def __init__(self, settings: RunSettings, adapter: Path) -> None:
        """Load the model and the adapter in the folder ``adapter``. Raises what loading raises."""
        set_threads(settings.model)
        self._system = settings.prompt.system
        self._renderer = PromptRenderer(load_processor(settings.model), settings.prompt)
        model = load_model(settings.model, best_device())
        ends = model.generation_config.eos_token_id
        self._ends = set(ends if isinstance(ends, list) else [ends])
        self._model = attach_adapter(model, adapter)
        self._adapters = [module for module in self._model.modules() if isinstance(module, BaseTunerLayer)]
        self._turns = Turns()
        self.where = f"in this process, {settings.model.dtype} on {self._model.device.type.upper()}"

    @torch.inference_mode()
    def answer(self, side: Side, question: Question, say: Callable[[Piece], None], stop: threading.Event) -> Ending:
        """The same tokens as eval's, when greedy. Raises `UnansweredError` when memory runs out."""
        prompt = self._renderer.render(question.text, self._system)
        encoded = self._renderer.encode(decode_image(question.image), prompt_text=prompt)
        batch = prompt_batch([encoded], self._renderer.tokenizer.pad_token_id)
        with self._turns.taken() as pass_on:

            def others_turn() -> None:
                pass_on()
                self._switch(side)

            self._switch(side)
            teller = _Teller(self._renderer, self._ends, say, others_turn)
            try:
                self._model.generate(
                    **{name: value.to(self._model.device) for name, value in batch.items()},
                    **_decoding(question),
                    pad_token_id=self._renderer.tokenizer.pad_token_id,
                    streamer=teller,
                    stopping_criteria=StoppingCriteriaList([_Stop(stop)]),
                )
            except torch.OutOfMemoryError as error:
                torch.cuda.empty_cache()
                raise UnansweredError(
                    "The GPU's memory ran out with this image and question. Take a smaller image or a shorter answer."
                ) from error
        return teller.ending(stopped=stop.is_set())

    def _switch(self, side: Side) -> None:
        """Without the adapter the base's own numbers are left, bit for bit: it was never merged."""
        for adapter in self._adapters:
            adapter.enable_adapters(side == "tuned")

    def close(self) -> None:
        """Memory goes with the process."""


def _decoding(question: Question) -> dict[str, Any]:
    # The checkpoint's own generation_config samples: None, 1 and 0 take its settings out of the way.
    if question.temperature == 0:
        how: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    else:
        how = {"do_sample": True, "temperature": question.temperature, "top_p": 1.0, "top_k": 0}
    return {"max_new_tokens": question.max_new_tokens, **how}


class _Teller(BaseStreamer):
    """Turns tokens into text as they come.

    Each time all of them are decoded anew: a token's text depends on its neighbours, and the last piece must add up to
    what eval decodes at once.
    """

    def __init__(
        self, renderer: PromptRenderer, ends: set[int], say: Callable[[Piece], None], then: Callable[[], None]
    ) -> None:
        self._renderer, self._ends, self._say, self._then = renderer, ends, say, then
        self._prompt_is_next = True
        self._tokens: list[int] = []
        self._ended = False
        self._told = ""

    def put(self, value: torch.Tensor) -> None:
        """First the prompt [1, L], then one token [1] at a time."""
        if self._prompt_is_next:
            self._prompt_is_next = False
            return
        self._add(int(value))
        self._then()

    def _add(self, token: int) -> None:
        if self._ended or token in self._ends:
            self._ended = True
            return
        self._tokens.append(token)
        text = self._text().rstrip(UNFINISHED)
        if text.startswith(self._told) and len(text) > len(self._told):
            self._say(Piece(text[len(self._told) :], len(self._tokens)))
            self._told = text

    def end(self) -> None:
        """Nothing is held back but what `ending` has whole."""

    def ending(self, *, stopped: bool) -> Ending:
        """The whole answer."""
        finish: Finish = "stop" if self._ended else "stopped" if stopped else "length"
        return Ending(self._text(), len(self._tokens), finish)

    def _text(self) -> str:
        return self._renderer.decode(torch.tensor(self._tokens, dtype=torch.long))


class _Stop(StoppingCriteria):
    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **more: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self._stop.is_set(), device=input_ids.device)
