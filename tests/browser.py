"""Pages in a real browser: what must hold for every page that medvl writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = "/usr/bin/chromium"
WIDTHS = (360, 390, 768, 1280, 1400)
CONTRAST_AA = 4.5
LETTER_PIXELS = 9
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
"""Of all texts the smallest ratio to the paper, figures included."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium. Its sandbox needs a user that is not root, which a container may not have."""
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@contextmanager
def visit(browser: Browser, address: str, width: int) -> Iterator[Page]:
    """The page, opened at one width; at the end it must have asked for nothing and complained of nothing."""
    opened = browser.new_page(viewport={"width": width, "height": 844})
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


def assert_nothing_sticks_out(page: Page) -> None:
    """Not even when everything is unfolded."""
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for details in page.locator("details").all():
        details.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def widths_of_images(page: Page) -> list[int]:
    """Of each image as the browser has decoded it, in pixels."""
    decoded = "Promise.all([...document.images].map(image => image.decode().then(() => image.naturalWidth)))"
    return list(page.evaluate(decoded))


def assert_figures_can_be_read(page: Page) -> None:
    """Letters of at least 9 CSS pixels after scaling, on a phone as well."""
    height = "e => parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a"
    assert min(page.evaluate(f"[...document.querySelectorAll('svg text')].map({height})")) >= LETTER_PIXELS


def assert_text_has_contrast(browser: Browser, address: str, scheme: Literal["light", "dark"]) -> None:
    """At least 4.5 to 1 for every text (WCAG 2.2 AA), figures included."""
    opened = browser.new_page(color_scheme=scheme)
    opened.goto(address)
    assert opened.evaluate(CONTRAST_OF_TEXT) >= CONTRAST_AA
    opened.close()


def assert_the_keyboard_reaches_what_scrolls(browser: Browser, address: str) -> None:
    """The first key goes to the skip link, and no region scrolls by mouse alone."""
    opened = browser.new_page(viewport={"width": 390, "height": 844})
    opened.goto(address)
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.className") == "skip"
    unreachable = "e => e.scrollWidth > e.clientWidth && e.tabIndex < 0"
    assert opened.evaluate(f"[...document.querySelectorAll('.scroll')].filter({unreachable}).length") == 0
    opened.close()


def assert_it_prints_on_paper(browser: Browser, address: str) -> None:
    """Ink on paper, however dark the screen is."""
    opened = browser.new_page(color_scheme="dark")
    opened.goto(address)
    opened.emulate_media(media="print", color_scheme="dark")
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(253, 252, 249)"
    assert opened.pdf(format="A4").startswith(b"%PDF")
    opened.close()
