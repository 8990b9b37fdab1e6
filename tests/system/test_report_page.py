"""The report in a real browser: nothing fails, nothing is fetched, nothing sticks out, at phone and desktop width."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Literal

import browser as pages
import pytest
from playwright.sync_api import Browser, Page
from report_data import mark_claims, world

from medvl_jobs.contracts import layout
from medvl_jobs.report import job
from medvl_jobs.report.answers import Claim
from medvl_jobs.settings.eval import Variant


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report with everything in it: long, empty, hostile and foreign answers."""
    root: Path = tmp_path_factory.mktemp("store")
    gates = {"facts_f1": ">= base + 5", "rouge-l": "> 99", "nonsense": "> 1"}
    controls = ("tuned-shuffled", "tuned-blank", "template", "base-formatted")
    made = world(report={"gallery": 48, "gates": gates}, eval={"controls": controls}, plan={"price_per_gpu_hour": 2.5})
    mark_claims(made)
    ids = [example.example_id for example in made.examples]
    made.answer(Variant.BASE, ids[0], predict="")
    hostile = "<script>document.title = 'hostile'</script><img src=http://127.0.0.1:9/x>"
    made.answer(Variant.TUNED, ids[1], predict=hostile)
    hostile_claim = Claim(0, len(hostile), "structure", '"><script>alert(1)</script>', right=False)
    made.claims[Variant.TUNED] |= {ids[1]: [hostile_claim], ids[2]: []}
    made.answer(Variant.TUNED, ids[2], predict="word" * 400, finish="length")
    made.answer(Variant.BASE, ids[3], predict="图像显示左肺结节，位于图像中央。")
    made.forget(Variant.BASE, ids[4])
    job.run(made.settings, made.store(root), made.keys)
    return (root / layout.report_file(made.settings.name, made.keys.report, "index.html")).as_uri()


@pytest.fixture(params=pages.WIDTHS)
def page(request: pytest.FixtureRequest, browser: Browser, address: str) -> Iterator[Page]:
    with pages.visit(browser, address, request.param) as opened:
        yield opened


def test_nothing_sticks_out(page: Page) -> None:
    pages.assert_nothing_sticks_out(page)


def test_all_images_are_decoded(page: Page) -> None:
    sizes = pages.widths_of_images(page)
    assert len(sizes) == 48
    assert min(sizes) > 0


def test_tables_have_their_headers(page: Page) -> None:
    heads = page.locator("#comparison .scores thead th").all_inner_texts()
    variants = ["Base", "Tuned", "Shuffled", "Blank", "Template", "Format"]
    assert [head.split()[0] for head in heads] == ["Score", *variants, "Tuned"]
    assert page.get_by_role("rowheader", name="ROUGE-L").count() == 1 + 1 + 6  # the gate, all, and six parts
    assert all(table.locator("thead th").count() for table in page.locator("table").all())


def test_hostile_answers_stay_words(page: Page) -> None:
    assert page.title() == "made-up: base against tuned"
    assert page.locator("script").count() == 1
    assert page.get_by_text("<script>document.title").count() == 1


def test_figures_can_be_read_on_a_phone(page: Page) -> None:
    pages.assert_figures_can_be_read(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(browser: Browser, address: str, scheme: Literal["light", "dark"]) -> None:
    pages.assert_text_has_contrast(browser, address, scheme)


def test_the_keyboard_reaches_what_scrolls(browser: Browser, address: str) -> None:
    pages.assert_the_keyboard_reaches_what_scrolls(browser, address)


def test_it_prints_on_paper(browser: Browser, address: str) -> None:
    pages.assert_it_prints_on_paper(browser, address)


SHOWN = "[...document.querySelectorAll('.cases > li')].filter(item => item.getClientRects().length).length"


def test_the_gallery_is_filtered(page: Page) -> None:
    assert page.evaluate(SHOWN) == 48
    page.get_by_role("combobox", name="Modality").select_option("CT")
    assert page.evaluate(SHOWN) == 24
    assert page.get_by_role("status").inner_text() == "24 of 48 images shown"
    page.get_by_role("combobox", name="Tuned errs in").select_option(label="position")
    assert 0 < page.evaluate(SHOWN) < 24
    assert page.locator(".cases > li:visible mark.wrong").count() == page.evaluate(SHOWN)
    page.get_by_role("combobox", name="Tuned is").select_option("worse")
    assert page.evaluate(SHOWN) == 0
    page.get_by_role("button", name="Show all").click()
    page.wait_for_function(f"{SHOWN} === 48")


def test_the_filter_works_by_keyboard(browser: Browser, address: str) -> None:
    opened = browser.new_page()
    opened.goto(address)
    opened.get_by_role("combobox", name="Modality").focus()
    opened.keyboard.press("ArrowDown")
    assert opened.evaluate(SHOWN) == 24
    for name in ("outcome", "error"):
        opened.keyboard.press("Tab")
        assert opened.evaluate("document.activeElement.name") == name
    opened.keyboard.press("Tab")
    opened.keyboard.press("Enter")
    opened.wait_for_function(f"{SHOWN} === 48")
    opened.close()


def test_without_its_script_the_page_is_whole(browser: Browser, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto(address)
    assert not opened.locator("#filter").is_visible()
    assert opened.locator(".cases > li:visible").count() == 48
    context.close()


def test_claims_are_told_apart_without_colour(page: Page) -> None:
    style = "e => getComputedStyle(e).textDecorationStyle"
    assert page.locator("mark.right").last.evaluate(style) == "solid"
    assert page.locator("mark.wrong").last.evaluate(style) == "wavy"
    assert "[wrong, position: middle-left]" in page.locator("mark.wrong").last.inner_text()


def test_headings_go_down_one_level_at_a_time(page: Page) -> None:
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(e => Number(e.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
