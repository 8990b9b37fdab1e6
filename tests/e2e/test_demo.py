"""The README's promise: real images in, a report out, and a model that looks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from pipeline_runs import medvl

from medvl_jobs.contracts.fingerprint import sha256_file
from medvl_jobs.storage.local import LocalStorage
from medvl_jobs.storage.publish import read_manifest


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole demo: ``data`` and ``store``."""
    folder = tmp_path_factory.mktemp("demo")
    config = medvl("sample", "--out", str(folder / "data")).stdout.strip()
    ran = medvl("run", "--config", config)
    page = ran.stdout.strip().splitlines()[-1].removeprefix("report: ")
    assert Path(page).is_file()
    assert Path(page).name == "index.html"
    return folder


def report(demo: Path) -> dict:
    latest = json.loads((demo / "store" / "runs" / "demo" / "latest.json").read_text())
    return json.loads((demo / "store" / latest["report"]).with_name("report.json").read_text())


@pytest.mark.timeout(1800)
def test_the_tuned_model_learns_and_looks(demo: Path) -> None:
    """Tuned beats base on facts, falls without the right image or any, and beats a caption that fits all of them."""
    made = report(demo)
    assert made["verdict"]["learned"] == "better"
    assert made["verdict"]["looks"] == "yes"
    f1 = {name: each["value"] for name, each in made["overall"]["headline"]["variants"].items()}
    assert f1["tuned"] > f1["base"] + 10
    for control in ("tuned-shuffled", "tuned-blank", "template", "base-formatted"):
        assert f1["tuned"] > f1[control] + 15


@pytest.mark.timeout(1800)
def test_the_report_keeps_to_its_schema_and_marks_claims(demo: Path) -> None:
    made = report(demo)
    schema = json.loads((Path(__file__).parents[2] / "docs" / "report.schema.json").read_text())
    assert [error.message for error in Draft202012Validator(schema).iter_errors(made)] == []
    told = [answer for item in made["gallery"] for answer in item["answers"] if answer["variant"] == "tuned"]
    assert all(answer["claims"] for answer in told)
    assert {claim["right"] for answer in told for claim in answer["claims"]} == {True, False}
    assert {each["by"] for each in made["slicings"]} == {"modality", "body part", "length"}


@pytest.mark.timeout(1800)
def test_a_run_beside_itself_is_a_tie(demo: Path, tmp_path: Path) -> None:
    store = f"storage.uri={demo / 'store'}"
    ran = medvl("compare", "--out", str(tmp_path), "demo", "demo/latest", store, "report.resamples=1000")
    assert "no difference between run B" in ran.stdout
    made = json.loads((tmp_path / "report.json").read_text())
    assert {row["difference"]["value"] for row in made["overall"]["metrics"]} == {0}
    assert made["overall"]["examples"] == 130
    assert made["lineage"]["changes"]["settings"] == []


@pytest.mark.timeout(1800)
def test_every_manifest_names_files_that_are_there(demo: Path) -> None:
    storage = LocalStorage(demo / "store")
    prefixes = [key.removesuffix("/manifest.json") for key in storage.list_keys("") if key.endswith("/manifest.json")]
    assert {prefix.split("/")[0] for prefix in prefixes} == {"prepared", "adapters", "predictions", "runs"}
    for prefix in prefixes:
        manifest = read_manifest(storage, prefix)
        assert manifest is not None
        for entry in manifest.files:
            path = demo / "store" / prefix / entry.path
            assert (path.stat().st_size, sha256_file(path)) == (entry.bytes, entry.sha256)


@pytest.mark.timeout(1800)
def test_the_adapter_has_what_the_tutorial_makes(demo: Path) -> None:
    (folder,) = (demo / "store" / "adapters").iterdir()
    names = {path.name for path in folder.iterdir()}
    assert {
        "adapter_config.json", "adapter_model.safetensors", "README.md", "trainer_log.jsonl", "training_loss.png",
        "all_results.json",
    } <= names  # fmt: skip
    losses = [json.loads(line)["loss"] for line in (folder / "trainer_log.jsonl").read_text().splitlines()]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) / 3


@pytest.mark.timeout(1800)
def test_predictions_are_scored_with_the_incumbents_keys(demo: Path) -> None:
    for folder in (demo / "store" / "predictions").iterdir():
        made = json.loads((folder / "predict_results.json").read_text())
        assert {
            "predict_bleu-4", "predict_rouge-1", "predict_rouge-2", "predict_rouge-l", "predict_runtime",
            "predict_samples_per_second", "predict_steps_per_second", "predict_model_preparation_time",
            "predict_facts_f1",
        } <= set(made)  # fmt: skip
        assert not list(folder.glob("*.effort.json"))


@pytest.mark.timeout(1800)
def test_every_stage_has_said_how_it_was(demo: Path) -> None:
    """`medvl status` and `medvl logs` know the store and the name of the run, and nothing else."""
    where = (f"storage.uri={demo / 'store'}", "name=demo")
    told = json.loads(medvl("status", "--json", *where).stdout)
    assert {each["state"] for each in told["stages"]} == {"done"}
    assert Path(told["report"]).is_file()
    said = {each["stage"]: each["status"] for each in told["stages"]}
    assert all(each["error"] is None and each["attempt"] == 1 for each in said.values())
    (log,) = (demo / "store" / "adapters").glob("*/trainer_log.jsonl")
    last = json.loads(log.read_text().splitlines()[-1])
    train = said["train"]
    assert (train["done"], train["total"], train["unit"]) == (last["total_steps"], last["total_steps"], "steps")
    assert train["loss"] == pytest.approx(last["loss"], rel=1e-4)
    assert train["rate"] > 0
    answered = {(each["done"], each["total"]) for name, each in said.items() if name.startswith("eval")}
    assert answered == {(report(demo)["overall"]["examples"],) * 2}
    assert (
        f'"step": {last["total_steps"]}, "total_steps": {last["total_steps"]}' in medvl("logs", "train", *where).stdout
    )


@pytest.mark.timeout(1800)
def test_a_second_run_has_nothing_to_do(demo: Path) -> None:
    config = str(demo / "data" / "run.yaml")
    plan = medvl("run", "--config", config, "--dry-run").stdout.splitlines()
    assert {line.split()[0] for line in plan} == {"reuse"}
    ranked = medvl("run", "--config", config, "--dry-run", "train.lora.rank=4").stdout.splitlines()
    assert {line.split()[1]: line.split()[0] for line in ranked} == {
        "prep": "reuse", "train": "run", "eval-base": "reuse", "eval-tuned": "run", "eval-tuned-shuffled": "run",
        "eval-tuned-blank": "run", "eval-template": "reuse", "eval-base-formatted": "reuse", "report": "run",
    }  # fmt: skip
    before = {path: path.stat().st_mtime_ns for path in (demo / "store").rglob("manifest.json")}
    medvl("run", "--config", config)
    assert {path: path.stat().st_mtime_ns for path in (demo / "store").rglob("manifest.json")} == before


@pytest.mark.timeout(1800)
def test_an_adapter_of_another_base_is_refused(demo: Path, tmp_path: Path) -> None:
    """The same shape, other weights: PEFT would load it without a word."""
    (folder,) = (demo / "store" / "adapters").iterdir()
    for adapter in (f"adapters/{folder.name}", str(folder)):
        words = ("--config", str(demo / "data" / "run.yaml"), "model.fingerprint=another", f"eval.adapter={adapter}")
        refused = medvl("eval", "--variant", "tuned", *words, check=False)
        assert refused.returncode == 78
        assert "the adapter was trained on base model" in refused.stderr
        assert "remedy" in refused.stderr
