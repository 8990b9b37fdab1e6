"""A real vLLM, on the CPU, started by the eval stage's own code, says what the model in this process says."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import vllm_cpu
import yaml
from pipeline_runs import medvl
from safetensors.torch import load_file, save_file

from medvl_jobs.chat.models import Piece, Question
from medvl_jobs.chat.server import ServerPair
from medvl_jobs.contracts import layout
from medvl_jobs.contracts.records import Prediction, read_predictions
from medvl_jobs.errors import SchemaMismatchError
from medvl_jobs.eval.engines.base import Answer
from medvl_jobs.eval.engines.in_process import InProcessEngine
from medvl_jobs.eval.engines.openai import OpenAIEngine
from medvl_jobs.model.dataset import open_split
from medvl_jobs.samples.build import build_sample
from medvl_jobs.settings.run import RunSettings, load_settings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.open import open_storage

TOLERANCE = 0.001
"""In nats. In float32 the largest difference that was seen is 0.0002."""
SAME = 0.95
"""Share of equal answers: where two tokens are as likely as each other, rounding may choose."""
TRAINED = ("train.epochs=2", "train.batch_size=8", "eval.max_new_tokens=48", "model.threads=2")


class World:
    """Prepared data and an adapter, by the command line.

    The base model is made float32: in its bfloat16 merging rounds, by 0.003 nats in the mean, and the canary sees that.
    """

    def __init__(self, folder: Path) -> None:
        self.config = build_sample(folder / "data", rows=146)
        settings = yaml.safe_load(self.config.read_text())
        settings["storage"] = {"uri": str(folder / "store")}
        self.config.write_text(yaml.safe_dump(settings))
        weights = Path(settings["model"]["path"]) / "model.safetensors"
        wide = {name: value.float() for name, value in load_file(weights).items()}
        weights.unlink()
        save_file(wide, weights, metadata={"format": "pt"})
        for stage in ("prep", "train"):
            medvl(stage, "--config", str(self.config), *TRAINED)

    @property
    def storage(self) -> Storage:
        return open_storage(self.settings().storage)

    def settings(self, *more: str) -> RunSettings:
        return load_settings(self.config, (*TRAINED, *more))

    def adapter(self) -> Path:
        (folder,) = Path(self.storage.uri).glob("adapters/*")
        return folder

    def images(self, scratch: Path) -> list[bytes]:
        (prepared,) = Path(self.storage.uri).glob("prepared/*")
        return [bytes(row["image"]["bytes"]) for row in open_split(self.storage, prepared.name, "val", scratch)]

    def evaluate(self, *more: str) -> tuple[dict[str, Prediction], dict[str, float]]:
        """``medvl eval --variant tuned``: predictions by example, and the numbers."""
        before = set(Path(self.storage.uri).glob("predictions/*"))
        medvl("eval", "--variant", "tuned", "--config", str(self.config), *TRAINED, *more)
        (folder,) = set(Path(self.storage.uri).glob("predictions/*")) - before
        lines = "".join(path.read_text() for path in sorted(folder.glob("part-*.jsonl")))
        numbers = json.loads((folder / layout.PREDICT_RESULTS).read_text())
        return {p.example_id: p for p in read_predictions(lines)}, numbers


def serve(*more: str) -> tuple[str, ...]:
    """Overrides for a vLLM that the job starts."""
    return (
        "eval.engine=openai",
        f"eval.server.command={json.dumps(vllm_cpu.command())}",
        f"eval.server.arguments={json.dumps(vllm_cpu.ARGUMENTS)}",
        f"eval.server.canary_tolerance={TOLERANCE}",
        "eval.server.start_timeout_seconds=1200",
        *more,
    )


def processes() -> list[str]:
    """Command lines of all vLLM processes of our environment."""
    place = str(Path(vllm_cpu.command()[0]).parent)
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if place in words or "VLLM::" in words:
            found.append(words)
    return found


def left() -> list[str]:
    """Of those, what has not ended within a minute: memory of gigabytes takes a while to give back."""
    deadline = time.monotonic() + 60
    while (found := processes()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("vllm"))


@pytest.fixture(scope="module", autouse=True)
def _there() -> None:
    try:
        vllm_cpu.command()
    except vllm_cpu.NoTorchWithoutCudaError as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def _for_cpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in vllm_cpu.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    yield
    assert left() == []


@pytest.mark.timeout(1800)
def test_the_base_model_and_another_one(world: World, tmp_path: Path) -> None:
    """The job's own server answers as this process does; a tuned model is not taken for it."""
    settings = world.settings(*serve())
    images, question = world.images(tmp_path), settings.prompt.question
    own = InProcessEngine(settings, None, question)
    expected = dict(own.answers(images))
    own.close()
    server = OpenAIEngine(settings, None, question)
    try:
        found: dict[int, Answer] = dict(server.answers(images))
        same = sum(found[number] == expected[number] for number in expected)
        assert same >= SAME * len(images)
        assert len(images) >= 20
        assert server.load_seconds > 5

        there = settings.eval.server.model_copy(update={"url": server.url, "tuned_name": "base"})
        other = settings.model_copy(update={"eval": settings.eval.model_copy(update={"server": there})})
        wrong = OpenAIEngine(other, world.adapter(), question)
        with pytest.raises(SchemaMismatchError, match="the server's model is not this run's"):
            next(wrong.answers(images))
        wrong.close()

        chat, pieces = ServerPair(other), list[Piece]()
        asked = Question(images[0], question, settings.eval.max_new_tokens, 0.0)
        said = chat.answer("base", asked, pieces.append, threading.Event())
        chat.close()
        assert (said.text, said.new_tokens, said.finish) == (found[0].text, found[0].new_tokens, found[0].finish)
        assert "".join(piece.text for piece in pieces).strip() == said.text
        assert len(pieces) > 3, "it came in pieces"
    finally:
        server.close()


@pytest.mark.timeout(1800)
def test_a_whole_evaluation_of_the_merged_model(world: World) -> None:
    expected, theirs = world.evaluate()
    assert left() == []
    found, ours = world.evaluate(*serve("eval.server.adapter=merged"))
    assert found.keys() == expected.keys()
    assert len(found) >= 20
    assert sum(found[name] == expected[name] for name in expected) >= SAME * len(expected)
    assert len({each.predict for each in found.values()}) > 5
    assert ours["predict_bleu-4"] == pytest.approx(theirs["predict_bleu-4"], abs=1.0)
    assert ours["predict_facts_f1"] == pytest.approx(theirs["predict_facts_f1"], abs=1.0)
    assert ours["predict_model_load_time"] > 5
