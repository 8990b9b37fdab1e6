"""The eval stage as a whole, on the tiny model: its controls, its shards, and an image that is broken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_model
from peft import LoraConfig, get_peft_model
from pipeline_runs import results

from medvl_jobs.cli import main
from medvl_jobs.contracts.manifest import Manifest
from medvl_jobs.contracts.records import Prediction, read_predictions
from medvl_jobs.settings.eval import EvalSettings
from medvl_jobs.storage.local import LocalStorage
from medvl_jobs.storage.publish import read_manifest

SMALL = ("eval.max_new_tokens=12", "eval.flush_every=4", "model.threads=1", "prep.workers=1", "live.every_seconds=60")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sample's ``data`` and a ``store`` in which prep is done."""
    folder = tmp_path_factory.mktemp("evaluations")
    assert main(["sample", "--out", str(folder / "data"), "--rows", "80"]) == 0
    assert main(["prep", "--config", str(folder / "data" / "run.yaml"), *SMALL]) == 0
    return folder


@pytest.fixture
def store(prepared: Path, tmp_path: Path) -> Path:
    """A copy of that store."""
    shutil.copytree(prepared / "store", tmp_path / "store")
    return tmp_path / "store"


def evaluate(prepared: Path, store: Path, variant: str, *words: str) -> int:
    config = str(prepared / "data" / "run.yaml")
    return main(["eval", "--config", config, "--variant", variant, f"storage.uri={store}", *SMALL, *words])


def folder(store: Path) -> Path:
    """Of the only variant that was evaluated."""
    [found] = (store / "predictions").iterdir()
    return found


def predictions(store: Path) -> list[Prediction]:
    return [
        prediction
        for path in sorted(folder(store).glob("part-*.jsonl"))
        for prediction in read_predictions(path.read_text("utf-8"))
    ]


def manifest(store: Path) -> Manifest:
    found = read_manifest(LocalStorage(store), f"predictions/{folder(store).name}")
    assert found is not None
    return found


def test_shards_end_with_the_same_bytes(
    prepared: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(store, alone)
    assert evaluate(prepared, alone, "base") == 0
    assert len(list(folder(alone).glob("part-*.jsonl"))) > 2
    assert not list(folder(alone).glob("*.effort.json"))
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    assert evaluate(prepared, store, "base", "eval.shards=2") == 0
    assert not (folder(store) / "manifest.json").exists()
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    assert evaluate(prepared, store, "base", "eval.shards=2") == 0
    once, shared = ({k: v for k, v in results(LocalStorage(s)).items() if "effort" not in k} for s in (alone, store))
    assert shared == once
    assert manifest(store).counts == manifest(alone).counts
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    assert evaluate(prepared, store, "base-formatted", "eval.shards=2") == 64


def test_the_template_is_one_training_caption(prepared: Path, store: Path) -> None:
    assert evaluate(prepared, store, "template", "eval.controls=[template]") == 0
    answered = predictions(store)
    captions = {p.label for p in answered}
    [said] = {p.predict for p in answered}
    source = pq.read_table(prepared / "data" / "medtrinity-sample.parquet")["caption"].to_pylist()
    assert said in set(source) - captions
    made = manifest(store)
    assert made.settings["variant"] == "template"
    assert made.settings["question"] is None
    assert made.gpu_seconds == 0
    assert [uri.uri.split("/")[0] for uri in made.inputs] == ["prepared"]


def test_the_format_question_is_asked(prepared: Path, store: Path) -> None:
    assert evaluate(prepared, store, "base-formatted", "eval.controls=[base-formatted]", "eval.limit=4") == 0
    assert manifest(store).settings["question"] == EvalSettings().format_question
    formatted = [p.predict for p in predictions(store)]
    shutil.rmtree(store / "predictions")
    assert evaluate(prepared, store, "base", "eval.limit=4") == 0
    assert manifest(store).settings["question"] == manifest(store).settings["prompt"]["question"]
    assert [p.predict for p in predictions(store)] != formatted


def test_blank_pictures_of_one_size_get_one_answer(prepared: Path, store: Path, tmp_path: Path) -> None:
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(tiny_model.base_model(), lora).save_pretrained(tmp_path / "adapter")
    words = ("eval.controls=[tuned-blank]", f"eval.adapter={tmp_path / 'adapter'}")
    assert evaluate(prepared, store, "tuned-blank", *words) == 0
    answered = predictions(store)
    assert {p.image_id for p in answered} == {"blank"}
    sizes = {(row["width"], row["height"]) for row in rows(store)}
    assert len({p.predict for p in answered}) <= len(sizes) < len(answered)


def rows(store: Path) -> list[dict]:
    ledgers = (store / "prepared").glob("*/parts/*/ledger.parquet")
    return [row for path in ledgers for row in pq.read_table(path, columns=["width", "height"]).to_pylist()]


def test_a_broken_image_is_a_failed_answer(prepared: Path, store: Path) -> None:
    [listed] = (store / "prepared").glob("*/val.parquet")
    broken = pq.read_table(listed).to_pylist()[1]
    path = listed.parent / "parts" / broken["part"] / "examples.parquet"
    table = pq.read_table(path)
    images = table["image"].to_pylist()
    images[broken["row"]]["bytes"] = images[broken["row"]]["bytes"][:100]
    field = table.schema.get_field_index("image")
    pq.write_table(table.set_column(field, table.schema.field("image"), pa.array(images, table["image"].type)), path)
    assert evaluate(prepared, store, "base") == 0
    [failed] = [p for p in predictions(store) if p.finish == "failed"]
    assert (failed.example_id, failed.predict) == (broken["example_id"], "")
    made = manifest(store)
    assert made.counts["failed"] == 1
    assert made.counts["examples"] == len(predictions(store))
    told = json.loads((folder(store) / "predict_results.json").read_text("utf-8"))
    assert told["predict_failed_share"] == pytest.approx(1 / made.counts["examples"])
