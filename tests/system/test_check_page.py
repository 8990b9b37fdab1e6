"""The page of the dataset check in a real browser, with every fault and every hostile row on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import browser as pages
import pytest
from check_data import CHINESE, HOSTILE_ID, LONG_ID, nasty_settings
from playwright.sync_api import Browser, Page

from medvl_jobs.contracts import layout
from medvl_jobs.errors import DataError
from medvl_jobs.prep.check import job as check
from medvl_jobs.storage.open import open_storage


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A check that fails in every way."""
    settings = nasty_settings(tmp_path_factory.mktemp("check"))
    with pytest.raises(DataError):
        check.run(settings, open_storage(settings.storage), "ab12")
    return (Path(settings.storage.uri) / layout.check("ab12") / layout.PAGE).as_uri()


@pytest.fixture(params=pages.WIDTHS)
def page(request: pytest.FixtureRequest, browser: Browser, address: str) -> Iterator[Page]:
    with pages.visit(browser, address, request.param) as opened:
        yield opened


def test_nothing_sticks_out(page: Page) -> None:
    pages.assert_nothing_sticks_out(page)
    overlong = "e => e.scrollWidth > e.clientWidth + 1"
    assert page.evaluate(f"[...document.querySelectorAll('.rows figure, h1, h3')].filter({overlong}).length") == 0


def test_all_images_are_decoded(page: Page) -> None:
    sizes = pages.widths_of_images(page)
    assert len(sizes) > 50
    assert min(sizes) > 0
    assert page.locator(".frame.empty").count() == 5


def test_the_verdict_is_read_first(page: Page) -> None:
    assert page.locator("h1").inner_text() == "medtrinity"
    assert page.locator(".verdict").inner_text().startswith("Fails 3 gates (refused, green_box, other_language): 13 of")
    assert page.locator("#gates .FAILED").all_inner_texts() == ["FAILED"] * 3


def test_tables_have_their_headers(page: Page) -> None:
    heads = page.locator("#gates thead th").all_inner_texts()
    assert heads == ["Gate", "Found", "Share", "Limit", "Verdict"]
    assert all(table.locator("thead th").count() for table in page.locator("table").all())


def test_hostile_rows_stay_words(page: Page) -> None:
    assert page.title() == "medtrinity: dataset check"
    assert page.locator("script").count() == 0
    assert page.get_by_text("<script>document.title").count() > 0
    assert page.locator("figcaption b", has_text=HOSTILE_ID).count() > 0
    assert page.get_by_text(LONG_ID).count() > 0
    assert page.get_by_text(CHINESE[0]).count() > 0


def test_pairs_stand_side_by_side(page: Page) -> None:
    pair = page.locator(".pair").first
    left, right = (figure.bounding_box() for figure in pair.locator("figure").all())
    assert left
    assert right
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] < right["x"]


def test_figures_can_be_read_on_a_phone(page: Page) -> None:
    pages.assert_figures_can_be_read(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(browser: Browser, address: str, scheme: Literal["light", "dark"]) -> None:
    pages.assert_text_has_contrast(browser, address, scheme)


def test_the_keyboard_reaches_what_scrolls(browser: Browser, address: str) -> None:
    pages.assert_the_keyboard_reaches_what_scrolls(browser, address)


def test_it_prints_on_paper(browser: Browser, address: str) -> None:
    pages.assert_it_prints_on_paper(browser, address)
