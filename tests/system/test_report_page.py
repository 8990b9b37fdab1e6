"""The page in a real browser: nothing fails, nothing is fetched, nothing sticks out, at phone and desktop width."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from report_data import world

from medvl_jobs.contracts import layout
from medvl_jobs.report import job
from medvl_jobs.settings.eval import Variant

CHROMIUM = "/usr/bin/chromium"
WIDTHS = (360, 390, 768, 1280, 1400)
CONTRAST_AA = 4.5
CONTRAST_OF_TEXT = """
() => {
  const channel = value => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = colour => colour.match(/\\d+(\\.\\d+)?/g).slice(0, 3).map(Number).map(channel)
    .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const texts = [...document.querySelectorAll('body *:not(title)')].filter(element => [...element.childNodes]
    .some(node => node.nodeType === Node.TEXT_NODE && node.textContent.trim()));
  const ink = element => { const style = getComputedStyle(element);
    return element instanceof SVGElement ? style.fill : style.color; };
  return Math.min(...texts.map(element => { const [low, high] = [light(ink(element)), paper].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05); }));
}
"""


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium. Its sandbox needs a user that is not root, which a container may not have."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(params=WIDTHS)
def page(request: pytest.FixtureRequest, browser: Browser, address: str) -> Iterator[Page]:
    """The page, opened at one width; closing it checks that it asked for nothing and complained of nothing."""
    opened = browser.new_page(viewport={"width": request.param, "height": 844})
    complaints: list[str] = []
    requests: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda asked: requests.append(asked.url))
    opened.goto(address)
    yield opened
    opened.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [address]


def test_nothing_sticks_out(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for details in page.locator("details").all():
        details.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_all_images_are_decoded(page: Page) -> None:
    sizes = page.evaluate(
        "Promise.all([...document.images].map(image => image.decode().then(() => image.naturalWidth)))"
    )
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
    """Letters of at least 9 CSS pixels after scaling."""
    height = "e => parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a"
    assert min(page.evaluate(f"[...document.querySelectorAll('svg text')].map({height})")) >= 9


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(browser: Browser, address: str, scheme: str) -> None:
    """At least 4.5 to 1 for every text (WCAG 2.2 AA), figures included."""
    opened = browser.new_page(color_scheme=scheme)  # type: ignore[arg-type]
    opened.goto(address)
    assert opened.evaluate(CONTRAST_OF_TEXT) >= CONTRAST_AA
    opened.close()


def test_the_keyboard_reaches_what_scrolls(browser: Browser, address: str) -> None:
    opened = browser.new_page(viewport={"width": 390, "height": 844})
    opened.goto(address)
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.className") == "skip"
    unreachable = "e => e.scrollWidth > e.clientWidth && e.tabIndex < 0"
    assert opened.evaluate(f"[...document.querySelectorAll('.scroll')].filter({unreachable}).length") == 0
    opened.close()


def test_it_prints_on_paper(browser: Browser, address: str) -> None:
    opened = browser.new_page(color_scheme="dark")
    opened.goto(address)
    opened.emulate_media(media="print", color_scheme="dark")
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(253, 252, 249)"
    assert opened.pdf(format="A4").startswith(b"%PDF")
    opened.close()
