"""What the report says against itself: each caveat where it applies, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from report_data import CARD, World, settings, world

from medvl_jobs.report.languages import script, thinks
from medvl_jobs.settings.eval import Variant

BASE, TUNED = Variant.BASE, Variant.TUNED
ALL = {"controls": ("tuned-shuffled", "tuned-blank", "template", "base-formatted")}
SERVER = {"url": "http://vllm:8000/v1"}


def plain(**changes: Any) -> World:
    """A run that nothing can be said against."""
    return world(**{"groups": 50, "report": {"gallery": 0, "resamples": 100}, **changes})


def caveats(made: World) -> dict[str, str]:
    found = made.report()["caveats"]
    by_name = {each["name"]: each["text"] for each in found}
    assert len(by_name) == len(found), "each is said once"
    return by_name


def chinese(made: World) -> None:
    for example in made.examples[:7]:
        made.answer(BASE, example.example_id, predict="图像显示左肺结节 (CT)，位于图像中央。")


def thinking(made: World) -> None:
    made.answer(TUNED, made.examples[0].example_id, predict="<think>\n\n</think>\n\nA slice.")


def thinking_references(made: World) -> None:
    for variant in made.predictions:
        made.predictions[variant] = [replace(p, label=f"<think></think>{p.label}") for p in made.predictions[variant]]


def failed(made: World) -> None:
    made.answer(TUNED, made.examples[3].example_id, predict="", finish="failed")


def leaking(made: World) -> None:
    made.card = {
        **CARD,
        "duplicates": {"near": {"policy": "keep", "across": 12}, "exact": {"policy": "drop", "across": 3}},
    }


def other_prompt(made: World) -> None:
    made.trained_with = settings(prompt={"question": "What is this?"})


def captions_only(made: World) -> None:
    made.examples[0] = replace(made.examples[0], from_caption=True)


@pytest.mark.parametrize(
    ("change", "name", "text"),
    [
        (chinese, "language mismatch", "Base 7 of 100 examples"),
        (thinking, "think prefix", "Tuned 1 of 100 examples"),
        (thinking_references, "think prefix in references", "100 references begin with a think block"),
        (failed, "failed", "failed for good, counted as wrong: Tuned 1 of 100 examples."),
        (leaking, "near leak", "12 nearly identical pictures in both train and validation"),
        (other_prompt, "another prompt", "(prompt.question differs)"),
        (captions_only, "facts from captions", "Of 1 of 100 images nothing is known"),
    ],
)
def test_it_is_said_when_it_applies(change: Callable[[World], None], name: str, text: str) -> None:
    made = plain()
    assert caveats(made) == {}
    change(made)
    found = caveats(made)
    assert set(found) == {name}
    assert text in found[name]


@pytest.mark.parametrize(
    ("changes", "name", "text"),
    [
        (
            {"prompt": {"question": "请描述这张医学图像。"}},
            "question in another language",
            "Asked in Chinese script about references that are Latin: Base, Tuned, Shuffled;",
        ),
        (
            {"eval": {"engine": "openai", "server": {**SERVER, "canary": 0}}},
            "server unchecked",
            "server.canary is 0); its GPUs are not in the costs.",
        ),
        (
            {"eval": {"engine": "openai", "server": {**SERVER, "canary": 4}}},
            "server",
            "compared on 4 examples beforehand; its GPUs are not in the costs.",
        ),
        ({"eval": {"limit": 98}, "groups": 60}, "limited", "Only 98 of 120 validation images"),
        ({"groups": 25}, "few examples", "fewer than 6 % of all images"),
        ({"groups": 25, "per_group": 1}, "few examples", "fewer than 11 % of all images"),
    ],
)
def test_settings_have_their_caveats(changes: dict[str, Any], name: str, text: str) -> None:
    made = plain(**changes)
    for example in made.examples[made.settings.eval.limit or len(made.examples) :]:
        for variant in made.predictions:
            made.forget(variant, example.example_id)
    found = caveats(made)
    assert name in found
    assert text in found[name]
    assert set(found) <= {name, "few examples"}


def test_code_that_changed_between_the_answers_is_told_beside_what_is_uncommitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manifest = World.manifest

    def dirty(self: World, *args: Any, **kwargs: Any) -> Any:
        sha = ("b" if kwargs.get("variant") is BASE else "a") * 40
        return manifest(self, *args, **kwargs).model_copy(update={"git_sha": f"{sha}-dirty"})

    monkeypatch.setattr(World, "manifest", dirty)
    assert set(caveats(plain())) == {"uncommitted code", "different code"}


def test_sampling_is_told_wherever_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting turns it on today: the caveat is for the one that will."""
    made = plain()
    manifest = World.manifest

    def sampled(self: World, *args: Any, **kwargs: Any) -> Any:
        found = manifest(self, *args, **kwargs)
        inside = {**found.settings.get("eval", {}), "generation": {"temperature": 0.7, "top_p": 0.9}}
        return found.model_copy(update={"settings": {**found.settings, "eval": inside}})

    monkeypatch.setattr(World, "manifest", sampled)
    assert "drawn at random (temperature 0.7)" in caveats(made)["sampling"]


def test_a_foreign_adapter_whose_training_is_known_is_asked_about_its_prompt() -> None:
    made = plain(eval={"adapter": "adapters/feedfacefeedface"})
    other_prompt(made)
    assert set(caveats(made)) == {"foreign adapter", "another prompt"}
    made.log = None
    assert set(caveats(made)) == {"foreign adapter", "prompt unknown"}


def test_a_gain_in_the_headline_hides_no_mistakes() -> None:
    made = plain()
    for variant in made.scores:
        made.scores[variant]["contradiction_errors"] = {each.example_id: 0.0 for each in made.examples}
    made.scores[TUNED]["contradiction_errors"] = {each.example_id: 3.0 for each in made.examples}
    made.scores[TUNED]["facts_precision"] = {each.example_id: 5.0 for each in made.examples}
    assert made.report()["verdict"]["learned"] == "better"
    found = caveats(made)
    assert set(found) == {"contradictions", "facts precision"}
    assert "than of the base model, per image: 3.00 against 0.00." in found["contradictions"]
    assert "in percent: 5.0 against 2" in found["facts precision"]


def test_one_kind_of_mistake_does_not_hide_behind_the_others() -> None:
    made = plain()
    for variant, laterality, all_kinds in ((BASE, 0.0, 5.0), (TUNED, 1.0, 2.0), (Variant.TUNED_SHUFFLED, 1.0, 5.0)):
        made.scores[variant]["laterality_errors"] = {each.example_id: laterality for each in made.examples}
        made.scores[variant]["contradiction_errors"] = {each.example_id: all_kinds for each in made.examples}
    found = caveats(made)
    assert set(found) == {"left/right confused"}
    assert found["left/right confused"].endswith("of the base model, per image: 1.00 against 0.00.")
    made.scores[BASE]["contradiction_errors"] = {each.example_id: 1.0 for each in made.examples}
    assert set(caveats(made)) == {"contradictions"}


@pytest.mark.parametrize("count", [1, 2])
def test_a_fault_cannot_show_in_more_than_all_images(count: int) -> None:
    found = caveats(plain(groups=1, per_group=count))["few examples"]
    assert f"fewer than {95 if count == 1 else 78} % of all images" in found


@pytest.mark.parametrize(
    ("control", "meaning"),
    [
        (Variant.TUNED_BLANK, "a grey image would do as well"),
        (Variant.TEMPLATE, "how captions are worded"),
        (Variant.BASE_FORMATTED, "the form of an answer"),
    ],
)
def test_a_control_that_scores_as_well_is_told(control: Variant, meaning: str) -> None:
    made = plain(eval=ALL)
    made.scores[control]["facts_f1"] = made.scores[TUNED]["facts_f1"]
    found = caveats(made)
    assert set(found) == {f"no better than {control}"}
    assert meaning in found[f"no better than {control}"]
    assert "(0.0 points, 95 % interval 0.0 to 0.0)" in found[f"no better than {control}"]
    made.scores[control]["facts_f1"] = {key: value + 1 for key, value in made.scores[TUNED]["facts_f1"].items()}
    assert caveats(made)[f"no better than {control}"].startswith("The tuned model does worse than ")


def test_all_controls_say_nothing_by_themselves() -> None:
    made = plain(eval=ALL)
    assert caveats(made) == {}
    controls = made.report()["overall"]["headline"]["controls"]
    assert [each["variant"] for each in controls] == list(ALL["controls"])
    assert all(each["difference"]["value"] > 0 for each in controls)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The image shows the heart.", "Latin"),
        ("这是一张CT图像。", "Chinese"),
        ("Снимок", "Cyrillic"),
        ("12 % …", None),
        ("", None),
        ("ꦲꦏ꧀ꦱꦫ", "another"),
    ],
)
def test_scripts(text: str, found: str | None) -> None:
    assert script(text) == found


def test_think_blocks_are_those_that_lead() -> None:
    assert thinks("<think>\n\n</think>\nA slice.")
    assert thinks(" \n<think>never closed")
    assert not thinks("A slice. <think></think>")
