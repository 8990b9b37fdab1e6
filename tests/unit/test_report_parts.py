"""The parts of a report: slices of the examples, distribution and lengths, marks in answers, gates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from report_data import World, mark_claims, world

from medvl_jobs.contracts.facts import Facts
from medvl_jobs.report import markdown, page
from medvl_jobs.report.compare import pair
from medvl_jobs.report.figures import draw
from medvl_jobs.report.gates import gates_now
from medvl_jobs.report.inputs import Example
from medvl_jobs.report.marks import marked
from medvl_jobs.report.metrics import describe, in_order
from medvl_jobs.report.profile import lengths
from medvl_jobs.report.shape import ClaimMark
from medvl_jobs.report.slices import MOST_PARTS, OTHERS, divisions, words
from medvl_jobs.settings.eval import Variant

BASE, TUNED = Variant.BASE, Variant.TUNED


def example(number: int, modality: str | None = "CT", part: str | None = "chest", caption: str = "A slice.") -> Example:
    return Example(str(number), caption, f"g{number}", Facts(modality=modality, body_part=part))


class TestDivisions:
    def test_every_example_is_in_one_part(self) -> None:
        examples = world(groups=9, per_group=3).examples
        found = {each.by: each for each in divisions(examples)}
        assert set(found) == {"modality", "body part", "length"}
        for each in found.values():
            assert set(each.part_of) == {e.example_id for e in examples}
            assert set(each.part_of.values()) == set(each.names)

    def test_what_does_not_divide_is_none(self) -> None:
        assert divisions([example(n) for n in range(5)]) == []

    def test_rare_values_are_taken_together(self) -> None:
        examples = [example(10 * n + m, part=f"part {n}") for n in range(12) for m in range(12 - n)]
        (found,) = divisions(examples)
        assert found.names == (*(f"part {n}" for n in range(MOST_PARTS - 1)), OTHERS)
        assert list(found.part_of.values()).count(OTHERS) == 5 + 4 + 3 + 2 + 1

    def test_thirds_by_length(self) -> None:
        (found,) = divisions([example(n, caption="word " * (n + 1)) for n in range(30)])
        assert found.names == ("1 to 10 words", "11 to 20 words", "21 to 30 words")

    def test_equal_lengths_stay_together(self) -> None:
        captions = ["one"] * 8 + ["one two"]
        (found,) = divisions([example(n, caption=caption) for n, caption in enumerate(captions)])
        assert found.names == ("1 word", "2 words")

    def test_unknown_is_a_value(self) -> None:
        examples = [example(1), example(2, None, None), replace(example(3), facts=None)]
        assert {each.by: each.names for each in divisions(examples)} == {
            "modality": ("unknown", "CT"), "body part": ("unknown", "chest"),
        }  # fmt: skip

    @pytest.mark.parametrize(("text", "count"), [("", 0), ("T1-weighted MR, 12 %", 4), ("左肺 CT 图像", 5)])
    def test_words(self, text: str, count: int) -> None:
        assert words(text) == count


def test_parts_are_weighed_means_of_the_whole() -> None:
    report = world(groups=12, per_group=3).report()
    whole = report["overall"]["headline"]
    for slicing in report["slicings"]:
        weights = [part["examples"] for part in slicing["slices"]]
        for variant in ("base", "tuned", "tuned-shuffled"):
            means = [part["headline"]["variants"][variant]["value"] for part in slicing["slices"]]
            assert np.average(means, weights=weights) == pytest.approx(whole["variants"][variant]["value"], abs=1e-3)
        for part in slicing["slices"]:
            gain = part["headline"]["gain"]
            assert gain["low"] is not None
            assert gain["high"] is not None
            assert gain["low"] < gain["value"] < gain["high"]


class TestThinkBlocks:
    """A score without the think block is computed where there is one; elsewhere it is the score itself."""

    def world(self) -> World:
        made = world(groups=4)
        first = made.examples[0].example_id
        made.scores[TUNED]["rouge-l_without_think"] = {first: 90.0}
        return made

    def test_a_variant_that_does_not_think_keeps_its_score(self) -> None:
        made = self.world()
        (found,) = (each for each in pair(made.examples, made.evidence().answers) if each.metric.endswith("_think"))
        assert found.examples == tuple(made.examples)  # those with a thought alone would be chosen by the model
        assert found.values[BASE].tolist() == list(made.scores[BASE]["rouge-l"].values())
        assert found.values[TUNED].tolist() == [90.0, *list(made.scores[TUNED]["rouge-l"].values())[1:]]

    def test_who_did_not_answer_has_neither(self) -> None:
        made = self.world()
        made.forget(BASE, made.examples[0].example_id)
        (found,) = (each for each in pair(made.examples, made.evidence().answers) if each.metric.endswith("_think"))
        assert (found.values[BASE][0], found.values[TUNED][0]) == (0, 90)

    def test_it_stands_beside_the_other(self) -> None:
        assert in_order({"rouge-l_without_think", "sentence_bleu", "rouge-l", "zzz"}) == [
            "rouge-l", "rouge-l_without_think", "sentence_bleu", "zzz",
        ]  # fmt: skip
        assert (describe("rouge-l_without_think").label, describe("rouge-l_without_think").family) == (
            "ROUGE-L", "thinkless",
        )  # fmt: skip


class TestProfile:
    def test_every_answer_is_in_the_distribution(self) -> None:
        made = world()
        made.scores[TUNED]["facts_f1"] = {e.example_id: 100.0 for e in made.examples}
        made.forget(TUNED, made.examples[0].example_id)
        found = made.report()["distribution"]
        assert (found["counts"]["tuned"][0], found["counts"]["tuned"][-1]) == (1, 47)
        assert sum(found["counts"]["base"]) == 48

    def test_lengths_of_answers_by_length_of_references(self) -> None:
        made = world(groups=6)
        for number, each in enumerate(made.examples):
            made.examples[number] = replace(each, caption="word " * (10 + number))
            made.answer(TUNED, each.example_id, predict="word " * 2 * (10 + number))
            made.answer(BASE, each.example_id, predict="")
        found = lengths(made.examples, made.evidence().answers)
        assert sum(each["examples"] for each in found) == 12
        assert len(found) == 6
        for part in found:
            assert part["answers"]["tuned"]["median"] == 2 * part["median"]
            assert part["answers"]["base"] == {"low": 0, "median": 0, "high": 0}

    def test_references_of_one_length(self) -> None:
        made = world(groups=2)
        made.examples[:] = [replace(each, caption="three words here") for each in made.examples]
        (only,) = lengths(made.examples, made.evidence().answers)
        assert (only["shortest"], only["longest"], only["examples"]) == (3, 3, 4)


def claim(start: int, end: int, right: bool, field: str = "structure", value: str = "heart") -> ClaimMark:
    return {"start": start, "end": end, "field": field, "value": value, "right": right}


class TestMarks:
    text = "the left lung and the heart"

    def test_pieces_are_the_text(self) -> None:
        claims = [claim(4, 13, False, value="left lung"), claim(9, 20, True), claim(22, 27, True)]
        pieces = marked(self.text, claims)
        assert "".join(each.text for each in pieces) == self.text
        assert [(each.text, each.right) for each in pieces] == [
            ("the ", None), ("left ", False), ("lung", False), (" and th", True), ("e ", None), ("heart", True),
        ]  # fmt: skip
        assert pieces[2].claims == "structure: left lung"

    def test_a_text_without_claims_is_one_piece(self) -> None:
        assert [each.text for each in marked(self.text, [])] == [self.text]
        assert marked("", []) == []

    def test_the_page_says_it_without_colour(self) -> None:
        made = world(report={"gallery": 48})
        mark_claims(made)
        report = made.report()
        text = page.render(report, draw(report), {})
        assert '<mark class="right" title="plane: axial, right">axial</mark>' in text
        wrong = '<mark class="wrong" title="position: middle-left, wrong">middle-left<span class="unseen"> [wrong, '
        assert f"{wrong}position: middle-left]</span></mark>" in text
        assert {"position"} < {error for item in report["gallery"] for error in item["errors"]}


GATES = {"facts_f1": ">= base + 5", "rouge-l": "> 99", "nonsense": "> 1", "bleu-4": "> tuned-blank"}


class TestGates:
    def test_they_are_judged_and_one_that_cannot_be_is_shown(self) -> None:
        gates = gates_now(world(report={"gates": GATES}).report()["overall"], GATES)
        assert [each["passed"] for each in gates] == [True, False, None, None]
        assert [each["note"] for each in gates][2:] == [
            "the report has no score 'nonsense'", "the report has no variant 'tuned-blank'",
        ]  # fmt: skip

    def test_page_and_markdown_show_them(self) -> None:
        report = world(report={"gates": GATES}).report()
        text = page.render(report, draw(report), {})
        assert [text.count(word) for word in ("✓ passed", "✗ missed", "cannot be judged")] == [1, 1, 2]
        assert "❌ **missed**" in markdown.render(report)
        assert "gate" not in markdown.render(world().report())


def test_the_markdown_says_of_how_many_images_a_score_is() -> None:
    made = world()
    for scores in made.scores.values():
        scores["facts_f1"] = dict(list(scores["facts_f1"].items())[:24])
    lines = markdown.render(made.report()).splitlines()
    assert any(line.startswith("| Facts F1 ↑ (n = 24) |") for line in lines)
    assert any(line.startswith("| modality: CT, Facts F1 | 12 |") for line in lines)
    assert any(line.startswith("| ROUGE-L ↑ |") for line in lines)


def test_the_markdown_fits_into_a_pull_request() -> None:
    made = world(eval={"controls": ("tuned-shuffled", "tuned-blank", "template", "base-formatted")})
    assert len(markdown.render(made.report()).splitlines()) < 60


def test_money_is_gpu_time_at_its_price() -> None:
    made = world(plan={"price_per_gpu_hour": 3.0})
    made.gpus = 4
    costs = made.report()["costs"]
    train = next(each for each in costs["stages"] if each["stage"] == "train")
    assert train["money"] == pytest.approx(4 * 141.7 / 3600 * 3, abs=1e-4)
    assert costs["money"] == pytest.approx(4 * (141.7 + 3 * 32.5) / 3600 * 3, abs=1e-4)
    assert [each["examples_per_second"] is not None for each in costs["stages"]] == [False, False, True, True, True]
    assert world().report()["costs"]["money"] is None
