"""The chat's greedy answers are eval's, for base and tuned, of one load."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
import tiny_model
import torch

from medvl_jobs.chat.in_process import InProcessPair
from medvl_jobs.chat.models import SIDES, Ending, Piece, Question, Side
from medvl_jobs.eval.engines.in_process import InProcessEngine
from medvl_jobs.settings.model import PromptSettings
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.settings.train import LoraSettings
from medvl_jobs.train.lora import add_lora

QUESTION = PromptSettings().question
NEW_TOKENS = 12
PICTURES = [tiny_model.png(tiny_model.picture(seed, *size)) for seed, size in enumerate([(192, 192), (320, 128)])]


def settings() -> RunSettings:
    made = RunSettings.model_validate({"eval": {"max_new_tokens": NEW_TOKENS}})
    return made.model_copy(update={"model": tiny_model.MODEL})


@pytest.fixture(scope="module", params=["attention", "experts"])
def adapter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes the answers, drawn at random."""
    lora = LoraSettings(rank=4, alpha=32, experts="all" if request.param == "experts" else "none")
    torch.manual_seed(0)
    tuned = add_lora(tiny_model.base_model(), lora)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)
    folder = tmp_path_factory.mktemp("adapter")
    tuned.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pair(adapter: Path) -> InProcessPair:
    return InProcessPair(settings(), adapter)


def ask(pair: InProcessPair, side: Side, image: bytes, **how: float) -> tuple[Ending, list[Piece]]:
    pieces: list[Piece] = []
    new_tokens, temperature = int(how.get("new_tokens", NEW_TOKENS)), how.get("temperature", 0.0)
    question = Question(image, QUESTION, new_tokens, temperature)
    return pair.answer(side, question, pieces.append, threading.Event()), pieces


def test_greedy_answers_are_evals(pair: InProcessPair, adapter: Path) -> None:
    said = {}
    for side in SIDES:
        engine = InProcessEngine(settings(), adapter if side == "tuned" else None, QUESTION)
        expected = dict(engine.answers(PICTURES))
        for number, image in enumerate(PICTURES):
            ending, pieces = ask(pair, side, image)
            assert (ending.text, ending.new_tokens, ending.finish) == (
                expected[number].text, expected[number].new_tokens, expected[number].finish,
            )  # fmt: skip
            assert "".join(piece.text for piece in pieces).strip() == ending.text
            assert len(pieces) > 3, "it came in pieces"
            said[side, number] = ending.text
    assert said["base", 0] != said["tuned", 0], "the adapter does something"


def test_the_order_of_questions_does_not_matter(pair: InProcessPair) -> None:
    """An adapter that stays switched off, or on, would make the second answer another one."""
    before = [ask(pair, side, PICTURES[0])[0].text for side in SIDES]
    after = [ask(pair, side, PICTURES[0])[0].text for side in reversed(SIDES)]
    assert before == after[::-1]


def test_both_at_the_same_time_take_turns_and_say_the_same(pair: InProcessPair) -> None:
    alone = {side: ask(pair, side, PICTURES[1])[0] for side in SIDES}
    order: list[Side] = []

    def said(side: Side) -> None:
        order.append(side)
        while len(order) == 1 and len(pair._turns._ring) < 2:
            time.sleep(0.01)  # the other one has not begun

    def answer(side: Side) -> Ending:
        question = Question(PICTURES[1], QUESTION, NEW_TOKENS, 0.0)
        return pair.answer(side, question, lambda piece: said(side), threading.Event())

    with ThreadPoolExecutor() as threads:
        together = dict(zip(SIDES, threads.map(answer, SIDES), strict=True))
    assert together == alone
    assert sum(one != other for one, other in pairwise(order)) > NEW_TOKENS / 2, "token by token"


def test_sampling_differs_and_length_is_kept(pair: InProcessPair) -> None:
    torch.manual_seed(0)
    sampled = {ask(pair, "tuned", PICTURES[0], temperature=1.5)[0].text for _ in range(3)}
    assert len(sampled) == 3
    ending, _ = ask(pair, "tuned", PICTURES[0], new_tokens=2)
    assert (ending.new_tokens, ending.finish) == (2, "length")


def test_an_answer_is_called_off_within_a_token(pair: InProcessPair) -> None:
    stop, pieces = threading.Event(), []

    def say(piece: Piece) -> None:
        pieces.append(piece)
        stop.set()

    ending = pair.answer("tuned", Question(PICTURES[0], QUESTION, 500, 0.0), say, stop)
    assert ending.finish == "stopped"
    assert ending.new_tokens <= pieces[0].new_tokens + 1  # the first may be of several: some are no whole character
