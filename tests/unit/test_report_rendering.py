"""What a reader sees: the page, its figures and gallery, and the Markdown."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import report_data
from PIL import Image
from report_data import World, world

from medvl_jobs.contracts.curve import smooth
from medvl_jobs.errors import DataError
from medvl_jobs.page.words import quantity
from medvl_jobs.report import figures, gallery, markdown, page, plots, words
from medvl_jobs.report.files import render
from medvl_jobs.report.inputs import Example
from medvl_jobs.report.shape import Report
from medvl_jobs.settings.eval import Variant
from medvl_jobs.settings.report import ReportSettings

GOLDEN = Path(__file__).parents[1] / "golden" / "report.md"
HOSTILE = """\x0b<script>alert("x")</script><img src=x onerror=alert(1)> | `*_[a](http://b)_*` </p></details>"""


def report_of(made: World) -> Report:
    return made.report()


def rendered(made: World) -> str:
    report = report_of(made)
    images = {item["example_id"]: report_data.phantom(0) for item in report["gallery"]}
    thumbnails = gallery.thumbnails(images, list(images), 64, 10**6)
    return page.render(report, figures.draw(report), thumbnails)


class Elements(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def hostile_world() -> World:
    made = world(model={"path": f"/models/{HOSTILE.replace('/', '')}", "fingerprint": "0" * 16}, report={"gallery": 48})
    first = made.examples[0]
    assert first.facts is not None
    facts = replace(first.facts, modality=HOSTILE)
    made.examples[0] = Example(first.example_id, HOSTILE * 20, HOSTILE, facts)
    made.answer(Variant.TUNED, first.example_id, predict=HOSTILE)
    return made


def test_nothing_from_data_becomes_markup() -> None:
    clean, hostile = Elements(rendered(world(report={"gallery": 48}))), Elements(rendered(hostile_world()))
    assert len(hostile.all("script")) == len(clean.all("script")) == 1
    assert len(hostile.all("img")) == len(clean.all("img")) == 48
    assert not any(name.startswith("on") for _, attributes in hostile.found for name in attributes)
    assert all((image["src"] or "").startswith("data:image/webp;base64,") for image in hostile.all("img"))


def test_figures_with_hostile_names_are_whole_xml() -> None:
    for svg in figures.draw(report_of(hostile_world())).values():
        tags = {element.tag.split("}")[1] for element in ElementTree.fromstring(figures.standalone(svg)).iter()}
        assert tags <= {"svg", "title", "style", "line", "rect", "path", "text"}


def test_a_long_name_of_a_part_stays_inside_its_figure() -> None:
    made = world()
    made.examples[:] = [
        replace(e, facts=replace(e.facts, body_part=f"{e.body_part} {'wide ' * 20}")) for e in made.examples
    ]
    report = report_of(made)
    headings = re.findall('class="heading"[^>]*>([^<]*)<', figures.draw(report)["by-body-part"])
    assert len(headings) == 2
    assert all(len(heading) <= 50 and "…" in heading for heading in headings)
    assert ("wide " * 20).strip() in markdown.render(report)


def test_markdown_with_hostile_names_keeps_its_tables() -> None:
    text = markdown.render(report_of(hostile_world()))
    assert "<script>" not in text.replace("\\<script\\>", "")


def test_the_page_fetches_nothing() -> None:
    elements = Elements(rendered(world()))
    assert "default-src 'none'" in (elements.all("meta")[1]["content"] or "")
    for _, attributes in elements.found:
        for name in {"src", "href"} & set(attributes):
            assert (attributes[name] or "").startswith(("data:", "#"))


def test_every_image_has_a_description_and_every_table_headers() -> None:
    text = rendered(world())
    elements = Elements(text)
    assert all(image["alt"] for image in elements.all("img"))
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in elements.all("svg"))
    assert text.count("<thead>") == text.count("<table") == text.count("<caption")
    assert all(head.get("scope") for head in elements.all("th"))
    targets = {attributes["id"] for _, attributes in elements.found if attributes.get("id")}
    assert all((link["href"] or "").removeprefix("#") in targets for link in elements.all("a"))


def test_what_is_missing_is_said_not_left_blank() -> None:
    made = world(report={"gallery": 48}, eval={"controls": (), "adapter": "adapters/feed"})
    made.log = None
    made.forget(Variant.TUNED, made.examples[0].example_id)
    made.answer(Variant.BASE, made.examples[1].example_id, predict="")
    text = rendered(made)
    assert text.count("(no answer: counts as wrong)") == 2
    assert "there is no loss curve to show" in text
    assert "Shuffled" not in text


def test_a_page_of_one_group_has_no_intervals() -> None:
    text = rendered(world(groups=1, per_group=4))
    assert "whisker" not in text.split("</style>")[1]


def test_a_very_long_answer_is_folded_but_whole() -> None:
    made = world(report={"gallery": 48})
    answer = "the lung " * 500
    made.answer(Variant.TUNED, made.examples[0].example_id, predict=answer)
    text = rendered(made)
    assert answer in text
    assert "(4,500 characters, show all)" in text


def golden_markdown() -> str:
    made = world(groups=12)
    made.forget(Variant.BASE, made.examples[0].example_id)
    return markdown.render(report_of(made))


def test_the_golden_markdown() -> None:
    """Read the difference; if it is meant: ``PYTHONPATH=.:tests python tests/unit/test_report_rendering.py``."""
    assert golden_markdown() == GOLDEN.read_text(encoding="utf-8")


def test_the_gallery_is_spread_over_modalities_and_groups() -> None:
    examples = world(groups=6, per_group=5).examples
    chosen = gallery.choose(examples, ReportSettings(gallery=6))
    assert [example.modality for example in chosen] == ["CT", "MR"] * 3
    assert len({example.group for example in chosen}) == 6
    assert chosen == gallery.choose(examples[::-1], ReportSettings(gallery=6))
    assert gallery.choose(examples, ReportSettings(gallery=0)) == []
    assert len(gallery.choose(examples, ReportSettings(gallery=999))) == 30


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA", "CMYK"])
def test_thumbnails_of_every_colour_mode(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (300, 200)).save(buffer, "TIFF")
    with Image.open(io.BytesIO(base64.b64decode(gallery.thumbnail(buffer.getvalue(), 64).split(",")[1]))) as small:
        assert (small.format, small.size) == ("WEBP", (64, 43))


def test_thumbnails_stop_at_the_budget() -> None:
    image = report_data.phantom(0)
    one = len(gallery.thumbnail(image, 64))
    assert list(gallery.thumbnails(dict.fromkeys("abcd", image), "abcd", 64, 2 * one + 1)) == ["a", "b"]


def test_images_make_room_for_long_answers() -> None:
    """48 images with two answers of about 2,000 tokens, and noise for pictures: they do not get smaller."""
    made = world(groups=48, per_group=1, report={"gallery": 48, "resamples": 100})
    for variant in (Variant.BASE, Variant.TUNED):
        for each in made.examples:
            made.answer(variant, each.example_id, predict='<region> & "left" lung, ' * 400)
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (448, 448), dtype=np.uint8)).save(buffer, "PNG")
    report = report_of(made)
    found = render(report, {each["example_id"]: buffer.getvalue() for each in report["gallery"]}, 448)["index.html"]
    assert 2_500_000 < len(found.encode()) < 3_000_000
    assert 0 < found.count("data:image/webp") < 48


def test_a_broken_image_names_its_example() -> None:
    with pytest.raises(DataError) as caught:
        gallery.thumbnails({"x": b"not an image"}, ["x"], 64, 10**6)
    assert caught.value.where == "x"


@pytest.mark.parametrize("losses", [[1.0], [0.0, 0.0], [1e-5, 3e-5], [2.0, 900.0]])
def test_loss_curves_of_odd_scales(losses: list[float]) -> None:
    steps = list(range(1, len(losses) + 1))
    one: Any = {"variant": "tuned", "steps": steps, "loss": losses, "smoothed": smooth(losses)}
    svg = plots.loss_curves([one], {"tuned": "Tuned"})
    assert ElementTree.fromstring(svg)
    assert not {"nan", "inf"} & set(re.findall("[a-z]+", svg))


def test_smoothing_is_a_moving_average() -> None:
    assert smooth([2.0] * 9) == [2.0] * 9
    assert smooth([]) == []
    first, second = smooth([1.0, 0.0])
    assert first == 1
    assert 0 < second < 1


def test_numbers_read_well() -> None:
    assert [words.signed(value) for value in (4.25, -1.0, -0.01, 0.04)] == ["+4.2", "−1.0", "0.0", "0.0"]
    assert [words.duration(s) for s in (0.04, 59.96, 200, 3599.7, 7500)] == [
        "0.0 s", "1 min 00 s", "3 min 20 s", "1 h 00 min", "2 h 05 min",
    ]  # fmt: skip
    assert [quantity(n, "image") for n in (1, 3232)] == ["1 image", "3,232 images"]
    assert [words.probability(p) for p in (1.0, 0.973, 0.0)] == ["more than 99.9 %", "97.3 %", "less than 0.1 %"]


def test_an_interval_that_leaves_out_zero_is_seen_to() -> None:
    def between(low: float, high: float) -> str:
        return words.interval({"value": 1.0, "low": low, "high": high})

    assert between(0.03, 3.21) == "0.03 to 3.2"
    assert between(-1.0, -0.0004) == "−1.0 to −0.0004"
    assert between(0.0, 2.0) == "0.0 to 2.0"
    assert [words.exact(value) for value in (45.0, 44.9967, -0.5, 1200.0)] == ["45", "44.9967", "−0.5", "1,200"]


if __name__ == "__main__":
    GOLDEN.write_text(golden_markdown(), encoding="utf-8")
