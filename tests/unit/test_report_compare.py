"""The comparison: nothing is dropped, nothing is claimed that the numbers do not show."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import report_data
from report_data import World, world

from medvl_jobs.errors import DataError, MissingInputError
from medvl_jobs.report.assemble import assemble
from medvl_jobs.report.compare import pair
from medvl_jobs.report.figures import part_bars
from medvl_jobs.report.frame import frame_of_run
from medvl_jobs.report.inputs import UNKNOWN, read_evidence
from medvl_jobs.report.metrics import NAMES
from medvl_jobs.report.shape import MetricRow, Report
from medvl_jobs.settings.eval import Variant

BASE, TUNED, SHUFFLED = Variant.BASE, Variant.TUNED, Variant.TUNED_SHUFFLED
SHORTS = {variant.value: naming.short for variant, naming in NAMES.items()}


def report_of(made: World) -> Report:
    return made.report()


def row(report: Report, metric: str) -> MetricRow:
    return next(each for each in report["overall"]["metrics"] if each["metric"] == metric)


def names(report: Report) -> set[str]:
    return {caveat["name"] for caveat in report["caveats"]}


def shift(made: World, variant: Variant, to: Variant, by: float) -> None:
    """Give one variant the headline scores of another, moved."""
    made.scores[variant]["facts_f1"] = {key: value + by for key, value in made.scores[to]["facts_f1"].items()}


def test_the_same_evidence_gives_the_same_file() -> None:
    first, second = (json.dumps(report_of(world()), allow_nan=False) for _ in range(2))
    assert first == second


def test_means_and_differences_are_those_of_the_scores() -> None:
    made = world()
    found = row(report_of(made), "rouge-l")
    base, tuned = (np.mean(list(made.scores[variant]["rouge-l"].values())) for variant in (BASE, TUNED))
    assert found["means"]["base"] == pytest.approx(base, abs=1e-4)
    assert found["difference"]["value"] == pytest.approx(tuned - base, abs=2e-4)
    assert found["difference"]["low"] < found["difference"]["value"] < found["difference"]["high"]  # type: ignore[operator]


def test_a_missing_prediction_counts_as_wrong_and_is_counted() -> None:
    made, whole = world(), world()
    lost = made.examples[0].example_id
    made.forget(TUNED, lost)
    report = report_of(made)
    found, before = row(report, "facts_f1"), row(report_of(whole), "facts_f1")
    assert found["examples"] == before["examples"] == len(made.examples)
    expected = before["means"]["tuned"] - whole.scores[TUNED]["facts_f1"][lost] / len(made.examples)
    assert found["means"]["tuned"] == pytest.approx(expected, abs=1e-3)
    assert report["variants"][1]["missing"] == 1
    assert "missing" in names(report)


def test_an_example_that_nobody_answered_stays_in_every_score() -> None:
    made = world()
    for variant in made.predictions:
        made.forget(variant, made.examples[1].example_id)
    found = {each.metric: each for each in pair(made.examples, made.evidence().answers)}
    assert len(found["facts_f1"].examples) == len(made.examples)
    assert found["facts_f1"].values[TUNED][1] == 0


def test_empty_and_cut_off_answers_are_counted() -> None:
    made = world()
    made.answer(BASE, made.examples[0].example_id, predict=" \n")
    made.answer(TUNED, made.examples[0].example_id, finish="length")
    report = report_of(made)
    assert [(v["empty"], v["cut_off"]) for v in report["variants"]] == [(1, 0), (0, 1), (0, 0)]
    assert {"empty", "cut off"} <= names(report)


def test_a_score_that_does_not_apply_leaves_its_example_out_for_all() -> None:
    made = world()
    stated = sum(example.facts is not None and example.facts.finding is not None for example in made.examples)
    assert row(report_of(made), "fact_finding")["examples"] == stated == 24


def test_a_score_that_counts_mistakes_is_better_when_it_falls() -> None:
    found = row(report_of(world()), "laterality_errors")
    assert not found["higher_is_better"]
    assert found["difference"]["value"] < 0
    assert found["difference"]["probability_better"] == 1


@pytest.mark.parametrize(
    ("gain", "drop", "learned", "looks", "words"),
    [
        (30, 20, "better", "yes", "beats the base model"),
        (30, 0, "better", "not shown", "but it is not shown to look"),
        (-30, 20, "worse", "yes", "is worse than the base"),
        (0, 0, "no difference shown", "not shown", "no difference between tuned and base is shown"),
    ],
)
def test_the_verdict_claims_what_the_intervals_show(
    gain: float, drop: float, learned: str, looks: str, words: str
) -> None:
    made = world()
    rng = np.random.default_rng(3)
    for variant, level in ((BASE, 50), (TUNED, 50 + gain), (SHUFFLED, 50 + gain - drop)):
        made.scores[variant]["facts_f1"] = {e.example_id: level + rng.normal() for e in made.examples}
    verdict = report_of(made)["verdict"]
    assert (verdict["learned"], verdict["looks"]) == (learned, looks)
    assert words in verdict["sentence"]


def test_a_gain_without_looking_is_not_hidden() -> None:
    made = world()
    shift(made, SHUFFLED, TUNED, +1)
    sentence = report_of(made)["verdict"]["sentence"]
    assert "but it is not shown to look at the image: shown another example's image, it gains 1.0 points" in sentence


def test_a_control_that_changes_nothing_is_told_in_plain_words() -> None:
    made = world()
    shift(made, SHUFFLED, TUNED, 0)
    assert "shown another example's image, it scores the same (95 %" in report_of(made)["verdict"]["sentence"]


@pytest.mark.parametrize("groups", [1, 5])
def test_few_groups_give_no_interval_and_no_claim(groups: int) -> None:
    """All of five groups in one direction: no resample leaves it, and chance does that in 6 % of cases."""
    report = report_of(world(groups=groups, per_group=6))
    assert report["verdict"]["learned"] == report["verdict"]["looks"] == "undetermined"
    gain = report["overall"]["headline"]["gain"]
    assert (gain["low"], gain["high"], gain["probability_better"]) == (None, None, None)
    assert "too few groups" in names(report)


def test_a_few_known_facts_do_not_speak_for_all_images() -> None:
    made = world()

    def keep(known: int) -> Report:
        for scores in made.scores.values():
            scores["facts_f1"] = dict(list(scores["facts_f1"].items())[:known])
        return report_of(made)

    found = keep(24)
    assert found["verdict"]["sentence"].startswith("On 24 of 48 validation images in 12 groups, the tuned")
    assert (found["overall"]["headline"]["examples"], found["overall"]["headline"]["groups"]) == (24, 12)
    few = "The images that the verdict is about come from 12 groups only"
    assert any(each["text"].startswith(few) for each in found["caveats"])
    assert keep(23)["overall"]["headline"]["metric"] == "rouge-l"
    assert report_of(made)["verdict"]["sentence"].startswith("On 48 validation images in 24 groups, the tuned")
    (modalities,) = (each for each in report_of(made)["slicings"] if each["by"] == "modality")
    bars = part_bars(modalities, "ROUGE-L", SHORTS)
    assert "CT (n = 12, Facts F1)" in bars
    assert "MR (n = 24)" in bars


def test_without_the_control_the_question_stays_open() -> None:
    report = report_of(world(eval={"controls": ()}))
    assert report["overall"]["headline"]["drop"] is None
    assert report["verdict"]["looks"] == "not tested"
    assert "no control" in names(report)


def test_without_facts_the_verdict_is_about_text() -> None:
    made = world()
    for scores in made.scores.values():
        for metric in [name for name in scores if name.startswith(("fact", "laterality"))]:
            del scores[metric]
    report = report_of(made)
    assert report["overall"]["headline"]["metric"] == "rouge-l"
    assert "in ROUGE-L" in report["verdict"]["sentence"]


def test_a_score_that_one_variant_was_never_given_is_no_zero() -> None:
    """As when an older medvl has scored it, which did not know that score."""
    made = world()
    del made.scores[BASE]["laterality_errors"]
    report = report_of(made)
    assert "laterality_errors" not in {each["metric"] for each in report["overall"]["metrics"]}
    (told,) = (each["text"] for each in report["caveats"] if each["name"] == "scores left out")
    assert told == "Not computed for every variant, and so left out: Left/right confused."


def test_an_answer_without_its_score_is_refused() -> None:
    made = world()
    del made.scores[TUNED]["rouge-l"][made.examples[3].example_id]
    with pytest.raises(
        DataError, match=f"1 answers of tuned have no rouge-l, such as that to '{made.examples[3].example_id}'"
    ):
        report_of(made)


def test_without_any_headline_score_there_is_no_report() -> None:
    made = world()
    for variant in made.scores:
        made.scores[variant] = {"distinct-1": {e.example_id: 1.0 for e in made.examples}}
    with pytest.raises(DataError, match="none of the scores"):
        report_of(made)


def test_images_without_facts_form_their_own_modality() -> None:
    made = world()
    made.examples[:4] = [replace(example, facts=None, from_caption=True) for example in made.examples[:4]]
    report = report_of(made)
    (modalities,) = (each["slices"] for each in report["slicings"] if each["by"] == "modality")
    assert {each["name"]: each["examples"] for each in modalities} == {"MR": 22, "CT": 22, UNKNOWN: 4}
    assert "facts from captions" in names(report)


def test_caveats_come_from_the_numbers() -> None:
    assert report_of(world(groups=50))["caveats"] == []
    assert names(report_of(world(groups=10))) == {"few groups", "few examples"}
    made = world(eval={"adapter": "adapters/feedfacefeedface"}, groups=50)
    made.log, made.git_sha = None, "c0ffee-dirty"
    made.answer(SHUFFLED, made.examples[0].example_id, image_id=made.examples[1].example_id)
    made.answer(SHUFFLED, made.examples[5].example_id, image_id=made.examples[5].example_id)
    report = report_of(made)
    assert names(report) == {
        "control shows related images", "control shows the same image", "foreign adapter", "prompt unknown",
        "uncommitted code",
    }  # fmt: skip
    assert report["trainings"] == []


@pytest.mark.parametrize("loss", [float("nan"), None])
def test_a_diverged_training_is_told_and_its_curve_still_drawn(loss: float | None) -> None:
    made = world()
    assert made.log is not None
    made.log[-1]["loss"] = loss
    report = report_of(made)
    assert "training diverged" in names(report)
    assert len(report["trainings"][0]["steps"]) == 119


def test_limited_evaluations_say_so() -> None:
    made = world(eval={"limit": 40})
    for example in made.examples[40:]:
        for variant in made.predictions:
            made.forget(variant, example.example_id)
    report = report_of(made)
    assert report["overall"]["examples"] == 40
    assert "limited" in names(report)


class TestReading:
    """What lies in the store may be nonsense."""

    def read(self, made: World, root: Path) -> None:
        storage = made.store(root / "store")
        read_evidence(made.settings, storage, made.keys, root / "scratch")

    def test_an_answer_to_a_stranger(self, tmp_path: Path) -> None:
        made = world(groups=2)
        made.answer(TUNED, made.examples[0].example_id, example_id="stranger")
        with pytest.raises(DataError, match="such as 'stranger'"):
            self.read(made, tmp_path)

    def test_two_answers_to_one_example(self, tmp_path: Path) -> None:
        made = world(groups=2)
        made.predictions[BASE].append(made.predictions[BASE][0])
        with pytest.raises(DataError, match="predicted twice"):
            self.read(made, tmp_path)

    def test_a_score_that_is_no_number(self, tmp_path: Path) -> None:
        made = world(groups=2)
        made.scores[BASE]["rouge-l"][made.examples[0].example_id] = float("nan")
        with pytest.raises(DataError, match=r"rouge-l .* is nan"):
            self.read(made, tmp_path)

    def test_no_answers_at_all(self, tmp_path: Path) -> None:
        made = world(groups=2)
        made.predictions[TUNED], made.scores[TUNED] = [], {}
        with pytest.raises(DataError, match="not one prediction"):
            self.read(made, tmp_path)

    def test_a_torn_line(self, tmp_path: Path) -> None:
        made = world(groups=2)
        storage = made.store(tmp_path / "store")
        key = f"predictions/{made.keys.eval[BASE]}/part-00000.jsonl"
        storage.write_bytes(key, storage.read_bytes(key)[:-20])
        with pytest.raises(DataError, match="not a prediction"):
            read_evidence(made.settings, storage, made.keys, tmp_path / "scratch")

    def test_a_variant_that_has_not_finished(self, tmp_path: Path) -> None:
        made = world(groups=2)
        storage = made.store(tmp_path / "store")
        storage.delete(f"predictions/{made.keys.eval[TUNED]}/manifest.json")
        with pytest.raises(MissingInputError, match="eval stage has not finished"):
            read_evidence(made.settings, storage, made.keys, tmp_path / "scratch")

    def test_what_is_read_is_what_was_written(self, tmp_path: Path) -> None:
        made = world()
        storage = made.store(tmp_path / "store")
        evidence = read_evidence(made.settings, storage, made.keys, tmp_path / "scratch")
        assert evidence.examples == tuple(made.examples)
        assert report_data.by_id(made.predictions[TUNED]) == evidence.answers[TUNED].predictions
        assert [each.prefix.split("/")[0] for each in evidence.inputs] == ["prepared", "adapters", *["predictions"] * 3]
        assert assemble(evidence, frame_of_run(made.settings, made.keys))["overall"] == report_of(made)["overall"]
