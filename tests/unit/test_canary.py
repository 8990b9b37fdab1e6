"""The canary: log-probabilities of a server and of this process; and what is started for whom."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fake_vllm
import openai_server
import pytest
import tiny_model
import torch

from medvl_jobs.contracts import layout
from medvl_jobs.errors import GaveUpError, SchemaMismatchError, SettingsError, TryAgainError
from medvl_jobs.eval.engines.open import open_engine
from medvl_jobs.eval.server import canary
from medvl_jobs.eval.server.canary import Said, Verdict, compare, judge
from medvl_jobs.model.checkpoint import load_model
from medvl_jobs.model.merge import IDENTITY
from medvl_jobs.settings.eval import EvalSettings
from medvl_jobs.settings.model import PromptSettings
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.settings.server import ServerSettings
from medvl_jobs.settings.train import LoraSettings
from medvl_jobs.train.lora import add_lora

PICTURES = [tiny_model.png(tiny_model.picture(number)) for number in range(3)]
OURS = Said(7, [5, 6, 2], ["A", " CT", "<|im_end|>"], [-0.5, -0.25, -0.125])
WORDS = {5: "A", 6: " CT", 7: " scan", 2: "<|im_end|>"}


def settings(**server: Any) -> RunSettings:
    asked = {"timeout_seconds": 60.0, "retries": 1, **server}
    return RunSettings(
        model=tiny_model.MODEL.model_copy(update={"threads": 1}),
        eval=EvalSettings(engine="openai", max_new_tokens=8, server=ServerSettings(**asked)),
    )


def steps(chosen: Sequence[tuple[int, float]], rivals: Sequence[dict[int, float]] = (), *, by_id: bool) -> list[Any]:
    """``logprobs.content`` of a chat completion."""

    def name(token: int) -> str:
        return f"token_id:{token}" if by_id else WORDS[token]

    others = [*rivals, *[{}] * (len(chosen) - len(rivals))]
    return [
        {
            "token": name(token),
            "logprob": logprob,
            "top_logprobs": [
                {"token": name(each), "logprob": value} for each, value in {token: logprob, **more}.items()
            ],
        }
        for (token, logprob), more in zip(chosen, others, strict=True)
    ]


def completion(content: list[Any] | None, prompt_tokens: int = 7) -> dict[str, Any]:
    told = openai_server.answer("A CT", logprobs=None if content is None else {"content": content})
    return told | {"usage": {"prompt_tokens": prompt_tokens, "completion_tokens": 3}}


SAME = [(5, -0.5), (6, -0.25), (2, -0.125)]


@pytest.mark.parametrize("by_id", [True, False], ids=["ids", "texts"])
class TestComparison:
    def test_the_same(self, by_id: bool) -> None:
        verdict = compare([OURS, OURS], [completion(steps(SAME, by_id=by_id))] * 2, "x")
        assert verdict == Verdict([0.0] * 6)

    def test_differences_are_absolute(self, by_id: bool) -> None:
        verdict = compare([OURS], [completion(steps([(5, -0.6), (6, -0.2), (2, -0.125)], by_id=by_id))], "x")
        assert verdict.differences == pytest.approx([0.1, 0.05, 0.0])
        assert (verdict.mean, verdict.largest) == pytest.approx((0.05, 0.1))

    def test_where_they_part_our_token_is_looked_up_and_the_rest_is_not_compared(self, by_id: bool) -> None:
        chosen, rivals = [(5, -0.5), (7, -0.24), (2, -9.0)], [{}, {6: -0.26}, {}]
        verdict = compare([OURS], [completion(steps(chosen, rivals, by_id=by_id))], "x")
        assert verdict.differences == pytest.approx([0.0, 0.01])

    def test_a_token_that_is_not_even_considered_is_infinitely_far(self, by_id: bool) -> None:
        assert compare([OURS], [completion(steps([(7, -0.1)], by_id=by_id))], "x").largest == math.inf
        assert compare([OURS], [completion([])], "x").mean == math.inf

    def test_the_prompt_must_be_as_long(self, by_id: bool) -> None:
        with pytest.raises(SchemaMismatchError, match="9 tokens for the server, and 7 in this process") as caught:
            compare([OURS], [completion(steps(SAME, by_id=by_id), prompt_tokens=9)], "x")
        assert "model.min_pixels" in caught.value.remedy


@pytest.mark.parametrize("told", [completion(None), openai_server.answer("A CT"), {"choices": [{"logprobs": [1]}]}])
def test_a_server_that_tells_no_logprobs(told: dict[str, Any]) -> None:
    for usage in (None, [7]):
        with pytest.raises(SettingsError, match="no log-probabilities") as caught:
            compare([OURS], [told | {"usage": usage}], "x")
        assert "canary=0" in caught.value.remedy


@pytest.mark.parametrize(
    ("differences", "fine"),
    [
        ([0.0, 0.1], True),
        ([0.0, 0.3], False),
        ([0.9, *[0.0] * 20], True),
        ([1.1, *[0.0] * 99], False),
        ([math.inf], False),
    ],
)
def test_the_verdict_is_judged_by_its_mean_and_by_each_token(differences: list[float], fine: bool) -> None:
    if fine:
        judge(Verdict(differences), settings(), "x")
        return
    with pytest.raises(
        SchemaMismatchError, match=r"not this run's: \d+ tokens, mean difference .* largest .* nats"
    ) as caught:
        judge(Verdict(differences), settings(), "x")
    assert caught.value.exit_code == 78


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that changes every answer."""
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    tuned = add_lora(load_model(tiny_model.MODEL), LoraSettings(rank=4, alpha=8))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    tuned.save_pretrained(folder)
    return folder


def as_server(adapter: Path | None) -> Any:
    """A server with this model: what this process says, told by it."""
    run = settings()
    renderer = tiny_model.renderer()
    memory = {}
    examples = [renderer.encode(tiny_model.picture(number)) for number in range(len(PICTURES))]
    for picture, said in zip(PICTURES, canary.say_in_process(run, renderer, adapter, examples), strict=True):
        told = completion(steps_of(said), said.prompt_tokens)
        memory[picture] = told
    return lambda body: memory[openai_server.picture(body)[1]] if body.get("logprobs") else None


def steps_of(said: Said) -> list[Any]:
    return [
        {"token": f"token_id:{token}", "logprob": logprob, "top_logprobs": []}
        for token, logprob in zip(said.ids, said.logprobs, strict=True)
    ]


@pytest.mark.parametrize(
    ("served", "asked"), [("base", "base"), ("tuned", "tuned"), ("base", "tuned"), ("tuned", "base")]
)
def test_another_model_is_noticed_before_anything_is_asked(served: str, asked: str, adapter: Path) -> None:
    run = settings(canary=2, canary_tolerance=0.001)
    folders = {"base": None, "tuned": adapter}
    with openai_server.running(complete=as_server(folders[served])) as server:
        run = run.model_copy(
            update={
                "eval": run.eval.model_copy(update={"server": run.eval.server.model_copy(update={"url": server.url})})
            }
        )
        engine = open_engine(run, folders[asked], PromptSettings().question)
        if served == asked:
            assert len(list(engine.answers(PICTURES))) == 3
            assert len(server.asked) == 2 + 3
            assert engine.preparation_seconds > 0
        else:
            with pytest.raises(SchemaMismatchError, match="the server's model is not this run's"):
                list(engine.answers(PICTURES))
            assert len(server.asked) == 2
        engine.close()


def test_broken_images_do_not_get_a_server_around_the_check(adapter: Path) -> None:
    with openai_server.running(complete=as_server(adapter)) as server:
        engine = open_engine(
            settings(canary=1, canary_tolerance=0.001, url=server.url), None, PromptSettings().question
        )
        with pytest.raises(SchemaMismatchError, match="the server's model is not this run's"):
            list(engine.answers([b"no image", b"", *PICTURES]))
        engine.close()
        assert len(server.asked) == 1


def test_a_server_that_refuses_the_check_is_no_crash() -> None:
    def refuse(image: bytes) -> openai_server.Reply:
        return openai_server.error(400, "logprobs are not supported")

    with openai_server.running(broken=refuse) as server:
        engine = open_engine(settings(canary=1, url=server.url), None, "What is it?")
        with pytest.raises(SettingsError, match="refuses what it is checked by: 400: logprobs are not") as caught:
            list(engine.answers(PICTURES))
        engine.close()
    assert "canary=0" in caught.value.remedy


FAKE = (sys.executable, str(Path(fake_vllm.__file__)), "serve")


def said_by(run: RunSettings, adapter: Path | None) -> dict[str, Any]:
    engine = open_engine(run, adapter, "What is it?")
    try:
        found = list(engine.answers(PICTURES))
    finally:
        engine.close()
    assert len(found) == 3
    assert engine.load_seconds > 0
    told: dict[str, Any] = json.loads(found[0][1].text)
    return told


def test_the_started_server_gets_the_base_model() -> None:
    told = said_by(settings(canary=0, command=FAKE), None)
    assert (told["model"], told["folder"]) == ("base", tiny_model.BASE_MODEL)


def test_the_started_server_gets_the_adapter(adapter: Path) -> None:
    told = said_by(settings(canary=0, command=FAKE, tuned_name="mine"), adapter)
    assert (told["model"], told["folder"]) == ("mine", str(adapter))
    assert layout.ADAPTER_CONFIG in told["files"]


def test_the_started_server_gets_a_merged_model_that_is_removed_again(adapter: Path) -> None:
    told = said_by(settings(canary=0, command=FAKE, adapter="merged"), adapter)
    assert told["model"] == "tuned"
    assert {IDENTITY, "config.json", "chat_template.jinja", "tokenizer.json", "model.safetensors"} <= set(told["files"])
    assert not Path(told["folder"]).exists()


def test_a_started_server_that_dies_is_named_with_its_last_lines() -> None:
    run = settings(canary=0, command=FAKE, arguments=("--die-after", "1"), concurrency=1, retries=8)
    engine = open_engine(run, None, "What is it?")
    stream = engine.answers(PICTURES)
    next(stream)
    with pytest.raises(TryAgainError, match=r"ended with 7 in the middle(.|\n)*out of patience"):
        list(stream)
    engine.close()


def test_a_started_server_that_does_not_start() -> None:
    engine = open_engine(settings(canary=0, command=(*FAKE[:2], "help")), None, "What is it?")
    with pytest.raises(GaveUpError, match=r"ended with 2 before it was ready(.|\n)*invalid choice"):
        list(engine.answers(PICTURES))
    engine.close()
