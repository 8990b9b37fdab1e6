"""`medvl compare`: two finished runs, laid side by side by what their reports say they were made of."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_data import KEYS, World, world

from medvl_jobs import cli
from medvl_jobs.contracts import layout
from medvl_jobs.errors import DataError, MissingInputError, SettingsError
from medvl_jobs.report import job
from medvl_jobs.report.runs import changes_since, find_run
from medvl_jobs.report.two_runs import compare_runs
from medvl_jobs.settings.eval import Variant
from medvl_jobs.settings.keys import StageKeys
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.local import LocalStorage

OTHER = StageKeys("1" * 16, "a" * 16, {v: f"{n}b" * 8 for n, v in enumerate(Variant)}, "f" * 16)
"""Keys of a run on the same prepared dataset."""
ELSEWHERE = replace(OTHER, prep="c" * 16)


def quick(**changes: Any) -> World:
    """A run that is reported in no time."""
    return world(**{"report": {"gallery": 2, "thumbnail_pixels": 32, "resamples": 200}, **changes})


def better(**changes: Any) -> World:
    """A second run whose tuned model is five points better than the first one's."""
    made = quick(name="second", **changes)
    scores = made.scores[Variant.TUNED]
    scores["facts_f1"] = {key: min(100.0, value + 5) for key, value in scores["facts_f1"].items()}
    made.keys = OTHER
    return made


def finish(made: World, root: Path) -> Storage:
    """Store a run with its report, as `medvl run` does."""
    storage = made.store(root)
    prefix = layout.run(made.settings.name, made.keys.report)
    storage.write_bytes(f"{prefix}/{layout.RUN_FILE}", made.settings.model_dump_json().encode())  # JSON is YAML
    job.run(made.settings, storage, made.keys)
    storage.write_bytes(layout.latest(made.settings.name), json.dumps({"key": made.keys.report}).encode())
    return storage


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("two-runs")
    finish(quick(), root)
    finish(better(train={"lora": {"rank": 32}}), root)
    return root


@pytest.fixture
def storage(finished: Path, tmp_path: Path) -> Storage:
    return LocalStorage(shutil.copytree(finished, tmp_path / "store"))


def test_two_runs_are_reported_like_one(storage: Storage, tmp_path: Path) -> None:
    report = compare_runs(storage, ("made-up", f"second/{OTHER.report}"), quick().settings, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["index.html", "report.json", "report.md"]
    assert json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8")) == report
    assert report["kind"] == "runs"
    assert report["overall"]["headline"]["gain"]["value"] == pytest.approx(5, abs=1)
    assert "run B (second/ffffffff) beats run A (made-up/99999999) in facts F1" in report["verdict"]["sentence"]
    assert "looks at the image" not in report["verdict"]["sentence"]
    assert [each["label"] for each in report["variants"]] == ["A: made-up/99999999", "B: second/ffffffff"]
    changes = report["lineage"]["changes"]
    assert changes is not None
    assert changes["against"] == f"made-up/{KEYS.report}"
    assert {each["setting"]: (each["before"], each["after"]) for each in changes["settings"]} == {
        "name": ("made-up", "second"), "train.lora.rank": (8, 32),
    }  # fmt: skip
    stages = [each["stage"] for each in report["lineage"]["stages"]]
    assert stages == ["A prep", "A train", "A eval-tuned", "B train", "B eval-tuned"]
    assert [(each["variant"], len(each["steps"])) for each in report["trainings"]] == [("base", 120), ("tuned", 120)]
    assert "Run B, " in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert not {"same answers", "no control", "foreign adapter", "limited"} & {
        each["name"] for each in report["caveats"]
    }


def test_a_run_beside_itself_has_the_same_answers(storage: Storage, tmp_path: Path) -> None:
    report = compare_runs(storage, ("second", "second/latest"), quick().settings, tmp_path / "out")
    assert (report["verdict"]["learned"], report["overall"]["headline"]["gain"]["value"]) == ("no difference shown", 0)
    assert "same answers" in {each["name"] for each in report["caveats"]}
    assert report["lineage"]["changes"] is not None
    assert report["lineage"]["changes"]["settings"] == []


def test_the_command(storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = [f"storage.uri={storage.uri}", "report.resamples=100"]
    assert cli.main(["compare", "--out", str(tmp_path / "out"), "made-up", "second/latest", *where]) == 0
    assert "beats run A" in capsys.readouterr().out
    assert cli.main(["compare", "--out", str(tmp_path / "no"), "made-up", "third", *where]) == 66
    assert "finished are runs of: made-up, second" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_only_what_both_were_asked_is_compared(tmp_path: Path) -> None:
    finish(quick(eval={"limit": 40}, groups=20), tmp_path / "store")
    made = better(groups=24)
    made.keys = ELSEWHERE
    made.examples[0] = replace(made.examples[0], caption="Another caption for the same id.")
    storage = finish(made, tmp_path / "store")
    report = compare_runs(storage, ("made-up", "second"), quick().settings, tmp_path / "out")
    assert report["overall"]["examples"] == 39
    assert "Only 39 of 48 validation images are compared." in [each["text"] for each in report["caveats"]]
    assert report["variants"][1]["predicted"] == 39
    assert {each["name"] for each in report["caveats"]} >= {"different data", "limited"}
    assert not any("predict_sacrebleu" in each["results"] for each in report["variants"]), (
        "it is of other answers as well"
    )
    assert all("predict_runtime" in each["results"] for each in report["variants"])


def test_scores_against_another_truth_are_not_compared(tmp_path: Path) -> None:
    finish(quick(), tmp_path / "store")
    made = better()
    made.keys = ELSEWHERE
    first = made.examples[0]
    assert first.facts is not None
    made.examples[0] = replace(first, facts=replace(first.facts, plane="oblique"))
    report = compare_runs(finish(made, tmp_path / "store"), ("made-up", "second"), quick().settings, tmp_path / "out")
    assert report["overall"]["examples"] == 47


def test_a_score_may_apply_to_nothing_that_they_have_in_common(tmp_path: Path) -> None:
    finish(quick(), tmp_path / "store")
    made = better()
    made.keys = ELSEWHERE
    made.examples[:] = [replace(each, caption="New.") if each.modality == "CT" else each for each in made.examples]
    report = compare_runs(finish(made, tmp_path / "store"), ("made-up", "second"), quick().settings, tmp_path / "out")
    assert "fact_finding" not in {each["metric"] for each in report["overall"]["metrics"]}, "the brain has none"
    assert "scores left out" not in {each["name"] for each in report["caveats"]}


def test_a_limit_that_both_share_is_told(tmp_path: Path) -> None:
    for made in (quick(eval={"limit": 40}), better(eval={"limit": 40})):
        for example in made.examples[40:]:
            for variant in made.predictions:
                made.forget(variant, example.example_id)
        storage = finish(made, tmp_path / "store")
    report = compare_runs(storage, ("made-up", "second"), quick().settings, tmp_path / "out")
    assert report["data"]["validation_examples"] == 48
    assert "limited" in [each["name"] for each in report["caveats"]]
    assert all("predict_sacrebleu" in each["results"] for each in report["variants"])


def test_what_speaks_against_either_run_is_told(tmp_path: Path) -> None:
    first, second = (
        quick(),
        better(eval={"adapter": layout.adapter(OTHER.adapter), "adapter_fingerprint": OTHER.adapter}),
    )
    first.card = {**first.card, "duplicates": {"exact": {"policy": "keep", "across": 3}}}
    second.keys = ELSEWHERE
    for made in (first, second):
        storage = finish(made, tmp_path / "store")
    report = compare_runs(storage, ("made-up", "second"), quick().settings, tmp_path / "out")
    found = {each["name"]: each["text"] for each in report["caveats"]}
    assert "3 identical pictures in both train and validation of run A (made-up/99999999)" in found["exact leak"]
    assert found["foreign adapter"].startswith("The adapter of run B (second/ffffffff) was given")


def test_runs_without_an_example_in_common(tmp_path: Path) -> None:
    finish(quick(), tmp_path / "store")
    made = better()
    made.keys = ELSEWHERE
    made.examples[:] = [replace(example, caption=f"{example.caption} New.") for example in made.examples]
    storage = finish(made, tmp_path / "store")
    with pytest.raises(DataError, match="not asked about one example in common"):
        compare_runs(storage, ("made-up", "second"), quick().settings, tmp_path / "out")


def test_a_question_that_changed_is_told(tmp_path: Path) -> None:
    finish(quick(), tmp_path / "store")
    storage = finish(better(prompt={"question": "What is this?"}), tmp_path / "store")
    report = compare_runs(storage, ("made-up", "second"), quick().settings, tmp_path / "out")
    assert "different prompts" in [each["name"] for each in report["caveats"]]


@pytest.mark.parametrize("word", ["", "/", "a/b/c"])
def test_words_that_name_no_run(word: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="names no run"):
        find_run(LocalStorage(tmp_path), word)


def test_a_run_that_is_not_finished(storage: Storage) -> None:
    storage.delete(layout.manifest(layout.run("second", OTHER.report)))
    for word in ("second", f"second/{OTHER.report}"):
        with pytest.raises(MissingInputError, match=f"no finished run '{word}'"):
            find_run(storage, word)


def test_a_report_that_does_not_say_what_it_was_made_of(storage: Storage) -> None:
    storage.write_bytes(layout.report_file("second", OTHER.report, "report.json"), b'{"verdict": 1}')
    with pytest.raises(DataError, match="no lineage"):
        find_run(storage, "second")


class TestTheRunBefore:
    """What a report says of the run before it."""

    settings = quick().settings.model_dump(mode="json")

    def test_the_first_has_none(self, tmp_path: Path) -> None:
        storage = finish(quick(), tmp_path)
        assert changes_since(storage, "made-up", KEYS.report, self.settings) is None

    def test_it_stays_the_same_when_the_report_is_made_again(self, tmp_path: Path) -> None:
        first, second = quick(report={"gallery": 1, "resamples": 100}), quick()
        second.keys = replace(KEYS, report="e" * 16)
        finish(first, tmp_path)
        storage = finish(second, tmp_path)
        page = layout.report_file("made-up", "e" * 16, "report.json")
        before = storage.read_bytes(page)
        found = json.loads(before)["lineage"]["changes"]
        assert found["against"] == f"made-up/{KEYS.report}"
        assert {each["setting"] for each in found["settings"]} >= {"report.gallery", "report.resamples"}
        storage.delete(layout.manifest(layout.run("made-up", "e" * 16)))
        job.run(second.settings, storage, second.keys)
        assert storage.read_bytes(page) == before

    def test_it_is_what_was_recorded_that_is_compared(self, tmp_path: Path) -> None:
        first, second = quick(), quick()
        second.keys = replace(KEYS, report="e" * 16)
        finish(first, tmp_path)
        own = f"{layout.run('made-up', 'e' * 16)}/{layout.RUN_FILE}"
        storage = LocalStorage(tmp_path)
        storage.write_bytes(own, storage.read_bytes(f"{layout.run('made-up', KEYS.report)}/{layout.RUN_FILE}"))
        for_the_stages = quick(prep={"indexes": 7}).settings.model_dump(mode="json")
        found = changes_since(storage, "made-up", "e" * 16, for_the_stages)
        assert found == {"against": f"made-up/{KEYS.report}", "settings": []}

    def test_settings_that_were_deleted(self, tmp_path: Path) -> None:
        storage = finish(quick(), tmp_path)
        storage.delete(f"{layout.run('made-up', KEYS.report)}/{layout.RUN_FILE}")
        assert changes_since(storage, "made-up", "e" * 16, self.settings) is None

    @pytest.mark.parametrize("text", [b"[1", b"[1]", b"\xff"])
    def test_settings_that_are_none(self, text: bytes, tmp_path: Path) -> None:
        storage = finish(quick(), tmp_path)
        storage.write_bytes(f"{layout.run('made-up', KEYS.report)}/{layout.RUN_FILE}", text)
        with pytest.raises(DataError, match="the settings of the run are no"):
            changes_since(storage, "made-up", "e" * 16, self.settings)

    def test_a_pointer_that_points_nowhere(self, tmp_path: Path) -> None:
        LocalStorage(tmp_path).write_bytes(layout.latest("made-up"), b"{}")
        with pytest.raises(DataError, match="does not say which run"):
            changes_since(LocalStorage(tmp_path), "made-up", "e" * 16, self.settings)
