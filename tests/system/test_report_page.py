"""The report in a real browser: nothing fails, nothing is fetched, nothing sticks out, at phone and desktop width."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import browser as pages
import pytest
from playwright.sync_api import Browser, Page
from report_data import world

from medvl_jobs.contracts import layout
from medvl_jobs.report import job
from medvl_jobs.settings.eval import Variant


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report with everything in it: long, empty, hostile and foreign answers."""
    root: Path = tmp_path_factory.mktemp("store")
    made = world(report={"gallery": 48})
    ids = [example.example_id for example in made.examples]
    made.answer(Variant.BASE, ids[0], predict="")
    hostile = "<script>document.title = 'hostile'</script><img src=http://127.0.0.1:9/x>"
    made.answer(Variant.TUNED, ids[1], predict=hostile)
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
    heads = page.locator("#comparison thead th").all_inner_texts()
    assert [head.split()[0] for head in heads] == ["Score", "Base", "Tuned", "Shuffled", "Tuned"]
    assert page.get_by_role("rowheader", name="ROUGE-L").count() == 3
    assert all(table.locator("thead th").count() for table in page.locator("table").all())


def test_hostile_answers_stay_words(page: Page) -> None:
    assert page.title() == "made-up: base against tuned"
    assert page.locator("script").count() == 0
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
