"""One row in, an example or a refusal out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from prep_data import encode, pixels, png, raw

from medvl_jobs.contracts.facts import Facts, Region
from medvl_jobs.prep.images import checked_image
from medvl_jobs.prep.judge import examine, judge
from medvl_jobs.prep.rows import Example, Reason, Refusal
from medvl_jobs.prep.split import Grouping
from medvl_jobs.settings.prep import ImageSettings, PrepSettings

FACTS = Facts("CT", "axial", "chest", ("left lung", "heart"), Region("left lung", "upper-left", 1.5), "nodule")


def verdict(prep: PrepSettings | None = None, **cells: Any) -> Example | Refusal:
    return examine(raw(**cells), prep or PrepSettings(), Grouping())


def accepted(**cells: Any) -> Example:
    result = verdict(**cells)
    assert isinstance(result, Example), result
    return result


def refused(**cells: Any) -> Reason:
    result = verdict(**cells)
    assert isinstance(result, Refusal), result
    assert result.detail
    assert len(result.detail) < 300, "a detail is a line, not the caption"
    return result.reason


def test_a_sound_row_is_an_example() -> None:
    data = encode(pixels(), "JPEG")
    image = checked_image(data, ImageSettings())
    row = accepted(image={"bytes": data, "path": "x"}, id="a/b 1", caption="Text.", group="p1")
    assert row == Example("a/b 1", image, "Text.", "p1", "column")


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (None, Reason.MISSING_IMAGE),
        ({"bytes": None, "path": None}, Reason.MISSING_IMAGE),
        ({"bytes": None, "path": "images/1.png"}, Reason.MISSING_IMAGE),
        ({"bytes": b"", "path": None}, Reason.MISSING_IMAGE),
        ({}, Reason.MISSING_IMAGE),
        (b"", Reason.MISSING_IMAGE),
        ("images/1.png", Reason.BAD_TYPE),
        ([1, 2], Reason.BAD_TYPE),
        ({"bytes": "text"}, Reason.BAD_TYPE),
        (b"rubbish", Reason.UNDECODABLE_IMAGE),
        ({"bytes": png(1, 1)}, Reason.IMAGE_TOO_SMALL),
    ],
)
def test_refused_images(image: object, reason: Reason) -> None:
    assert refused(image=image) is reason


def test_an_image_may_be_a_column_of_plain_bytes() -> None:
    assert accepted(image=png()).image.data == png()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.MISSING_ID),
        ("", Reason.MISSING_ID),
        (" \n", Reason.MISSING_ID),
        (1.5, Reason.BAD_TYPE),
        (True, Reason.BAD_TYPE),
        (b"x", Reason.BAD_TYPE),
        (["x"], Reason.BAD_TYPE),
        ("/etc/passwd", Reason.UNSAFE_ID),
        ("C:/windows", Reason.UNSAFE_ID),
        ("../x", Reason.UNSAFE_ID),
        ("a/../../x", Reason.UNSAFE_ID),
        ("a\\b", Reason.UNSAFE_ID),
        ("a\x00b", Reason.UNSAFE_ID),
        ("a\nb", Reason.UNSAFE_ID),
        ("a\x85b", Reason.UNSAFE_ID),
        ("é" * 101, Reason.UNSAFE_ID),
    ],
)
def test_refused_ids(value: object, reason: Reason) -> None:
    assert refused(id=value) is reason


@pytest.mark.parametrize("value", ["a", "a..b", "...", "a/b/c.png", "CT:1", "é" * 100, "标识 1", "-x", "%2E"])
def test_accepted_ids_stay_as_they_are(value: str) -> None:
    assert accepted(id=value).example_id == value


def test_whole_numbers_are_ids_and_groups() -> None:
    assert (accepted(id=0).example_id, accepted(id=17, group=3).group) == ("0", "3")


@pytest.mark.parametrize("group", [None, "", "  "])
def test_without_a_group_a_row_is_its_own(group: str | None) -> None:
    example = accepted(id="i", group=group)
    assert (example.group, example.group_source) == ("i", "id")


def test_a_group_of_another_type_is_refused() -> None:
    assert refused(group=1.5) is Reason.BAD_TYPE


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        (None, Reason.CAPTION_MISSING),
        (3, Reason.BAD_TYPE),
        (b"text that is not UTF-8", Reason.BAD_TYPE),
        ("", Reason.CAPTION_EMPTY),
        (" \r\n\t\u00a0", Reason.CAPTION_EMPTY),
        ("x" * 100_000, Reason.CAPTION_TOO_LONG),
        ("x" * 8001, Reason.CAPTION_TOO_LONG),
        ("done<|im_end|>", Reason.UNSAFE_CAPTION),
        ("<|image_pad|>", Reason.UNSAFE_CAPTION),
        ("<|vision_start|>", Reason.UNSAFE_CAPTION),
        ("see <image> here", Reason.UNSAFE_CAPTION),
        ("<video>", Reason.UNSAFE_CAPTION),
        ("<think>\n\n</think>\n\nCT", Reason.UNSAFE_CAPTION),
        ("<tool_call>", Reason.UNSAFE_CAPTION),
        ("a\x00b", Reason.UNSAFE_CAPTION),
        ("a\x1bb", Reason.UNSAFE_CAPTION),
    ],
)
def test_refused_captions(caption: object, reason: Reason) -> None:
    assert refused(caption=caption) is reason


@pytest.mark.parametrize(
    ("caption", "stored"),
    [
        ("  CT. \n", "CT."),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("cafe\u0301", "café"),
        ("x" * 8000, "x" * 8000),
        ("a < b | c > d, 3 <|> 4, <b>", "a < b | c > d, 3 <|> 4, <b>"),
        ("صورة 🫁 tab\there", "صورة 🫁 tab\there"),
    ],
)
def test_accepted_captions_are_normalised(caption: str, stored: str) -> None:
    assert accepted(caption=caption).caption == stored


def as_struct(facts: Facts) -> dict[str, Any]:
    return dict(json.loads(facts.to_json()))


@pytest.mark.parametrize(
    "value", [FACTS.to_json(), as_struct(FACTS), {**as_struct(FACTS), "structures": ("left lung", "heart")}]
)
def test_facts_are_stored_as_canonical_json(value: object) -> None:
    facts = accepted(facts=value).facts
    assert facts == FACTS.to_json()
    assert Facts.from_json(facts) == FACTS


NULL_REGION = {"structure": None, "position": None, "area_percent": None}


@pytest.mark.parametrize(
    "value", [None, "", "null", "{}", {}, {"modality": None, "structures": None}, {"region": NULL_REGION}]
)
def test_no_facts_are_null(value: object) -> None:
    assert accepted(facts=value).facts is None


@pytest.mark.parametrize(
    "value",
    [
        "not json",
        "[1]",
        "3",
        7,
        [1],
        {"colour": "red"},
        {"modality": 5},
        {"structures": "left lung"},
        {"structures": [1]},
        {"region": {"structure": "heart"}},
        {"region": "heart"},
        {"region": {"structure": "heart", "position": "somewhere", "area_percent": 1.0}},
        {"region": {"structure": "heart", "position": "upper-left", "area_percent": 101.0}},
        {"region": {"structure": "heart", "position": "upper-left", "area_percent": float("nan")}},
    ],
)
def test_refused_facts(value: object) -> None:
    assert refused(facts=value) is Reason.BAD_FACTS


def test_limits_come_from_the_settings() -> None:
    prep = PrepSettings(image={"min_side": 33}, max_caption_chars=3)
    for cells, reason in [({"caption": "abcd"}, Reason.CAPTION_TOO_LONG), ({"caption": "abc"}, Reason.IMAGE_TOO_SMALL)]:
        result = verdict(prep, **cells)
        assert isinstance(result, Refusal)
        assert result.reason is reason


def test_the_first_example_with_an_id_stays_and_a_refused_row_does_not_use_it_up() -> None:
    rows = [
        raw(id="a", image=None),
        raw(id="a", caption="first"),
        raw(id="b"),
        raw(id="a", caption="second"),
        raw(id="a"),
    ]
    verdicts = [verdict for _, verdict in judge(rows, PrepSettings(), Grouping())]
    shown = [each.caption if isinstance(each, Example) else each.reason.value for each in verdicts]
    assert shown == ["missing_image", "first", "text", "duplicate_id", "duplicate_id"]


def test_a_number_and_its_text_are_the_same_id() -> None:
    verdicts = [verdict for _, verdict in judge([raw(id=1), raw(id="1")], PrepSettings(), Grouping())]
    assert isinstance(verdicts[1], Refusal)


def test_file_names_are_safe_and_differ_where_ids_do() -> None:
    ids = ["a/b", "a%2Fb", "a b", "a_b", "../x"[1:], ".x", "%2Ex", ".", "-", "é" * 100, "é" * 99, "/" * 100, "标识"]
    image = checked_image(png(), ImageSettings())
    names = [Example(each, image, "", "", "id").file_name for each in ids]
    assert len(set(names)) == len(ids)
    for name in names:
        assert "/" not in name
        assert not name.startswith(".")
        assert name.isascii()
        assert len(name) <= 250
    assert names[0] == "a%2Fb.png"
