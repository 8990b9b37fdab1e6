"""The chat in a real browser, with a trained model behind it: what people do, what they get wrong, and how it ends."""

from __future__ import annotations

import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import browser as pages
import numpy as np
import openai_server
import pytest
from PIL import Image
from pipeline_runs import medvl, start
from playwright.sync_api import Browser, Page, Route, expect
from ports import free_port
from prep_data import encode, pixels

MAX_BYTES = 400_000
CONTRAST = """
() => {
  const channel = value => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = colour => colour.match(/\\d+(\\.\\d+)?/g).slice(0, 3).map(Number).map(channel)
    .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
  const paper = element => { for (let at = element; at; at = at.parentElement) {
    const colour = getComputedStyle(at).backgroundColor; if (!/, 0\\)$/.test(colour)) return colour; } };
  return [...document.querySelectorAll('body *')].filter(element => element.checkVisibility() && !element.disabled
    && [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.textContent.trim()))
    .map(element => { const [low, high] = [light(getComputedStyle(element).color), light(paper(element))]
      .sort((a, b) => a - b); return [(high + 0.05) / (low + 0.05), element.textContent.slice(0, 40)]; })
    .sort((a, b) => a[0] - b[0])[0];
}
"""
"""The text with the smallest ratio to what is behind it."""
OUTLINE = """
(at => getComputedStyle(at.id === 'file' ? document.getElementById('drop') : at).outlineStyle)(document.activeElement)
"""
"""Of what has the focus. The field for a file is not seen itself."""
WATCH = """
() => { window.lengths = []; new MutationObserver(() => window.lengths.push(
  document.getElementById('tuned-text').textContent.length)).observe(document.getElementById('tuned-text'),
  {childList: true, characterData: true, subtree: true}); }
"""
STOP = """
() => { const text = document.getElementById('tuned-text'); new MutationObserver((_, watch) => {
  if (text.className === 'said') { watch.disconnect(); document.getElementById('stop').click(); }
}).observe(text, {childList: true, characterData: true, subtree: true}); }
"""
"""Stops the answer at its first word: whoever looks from outside may come after its last one."""


@dataclass
class Server:
    address: str
    process: subprocess.Popen[bytes]
    log: Path


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an adapter that has learned something."""
    folder = tmp_path_factory.mktemp("chat")
    config = Path(medvl("sample", "--out", str(folder / "data"), "--rows", "146").stdout.strip())
    with config.open("a", encoding="utf-8") as stream:
        stream.write(f"train: {{epochs: 3}}\nchat: {{max_upload_bytes: {MAX_BYTES}}}\n")
    medvl("prep", "--config", str(config))
    medvl("train", "--config", str(config))
    return config


@contextmanager
def serve(config: Path, log: Path, *words: str, env: dict[str, str] | None = None) -> Iterator[Server]:
    port = free_port()
    words = (f"chat.port={port}", "model.threads=1", *words)
    process = start("chat", "--config", str(config), *words, log=log, env=env)
    address = f"http://127.0.0.1:{port}/"
    try:
        wait_for(lambda: status(address + "readyz") == 200, log)
        yield Server(address, process, log)
    finally:
        process.terminate()
        assert process.wait(120) == 143, log.read_text()


def status(url: str) -> int:
    try:
        return int(urllib.request.urlopen(url, timeout=20).status)
    except OSError:
        return 0


def wait_for(what: object, log: Path) -> None:
    deadline = time.monotonic() + 400
    while not what():  # type: ignore[operator]
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


@pytest.fixture(scope="module")
def server(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(config, tmp_path_factory.mktemp("log") / "chat.log") as running:
        yield running


@contextmanager
def visit(browser: Browser, server: Server, width: int = 1280) -> Iterator[Page]:
    """The page when the models are ready; at the end it must have asked nobody else, and complained of nothing."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    complaints: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server.address)
    expect(page.get_by_text("Both models answer in this process")).to_be_visible()
    yield page
    page.close()
    assert [url for url in asked if not url.startswith((server.address, "blob:" + server.address, "data:"))] == []
    # Chromium itself writes a line for every answer of 400 and above; the page's words for it are tested.
    assert [text for text in complaints if not text.startswith("Failed to load resource")] == []


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    with visit(browser, server) as opened:
        yield opened


def upload(page: Page, data: bytes, name: str = "scan.png") -> None:
    page.locator("#file").set_input_files({"name": name, "mimeType": "image/png", "buffer": data})


def shown_width(page: Page) -> int:
    expect(page.locator("#preview")).to_be_visible()
    return int(page.evaluate("document.getElementById('preview').decode()"
                             ".then(() => document.getElementById('preview').naturalWidth)"))  # fmt: skip


def ask(page: Page) -> tuple[str, str]:
    page.get_by_role("button", name="Ask both models").click()
    expect(page.get_by_text("Both have answered.")).to_be_visible()
    return page.locator("#base-text").inner_text(), page.locator("#tuned-text").inner_text()


def test_an_example_gets_two_answers_word_by_word(page: Page) -> None:
    examples = page.get_by_role("button", name=re.compile("^Example "))
    expect(examples).to_have_count(8)
    examples.first.click()
    expect(examples.first).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("heading", name="Reference caption")).to_be_visible()
    assert len(page.locator("#reference-text").inner_text()) > 40
    assert shown_width(page) > 100
    page.evaluate(WATCH)
    base, tuned = ask(page)
    assert base != tuned
    lengths = page.evaluate("window.lengths")
    assert lengths[-1] == len(tuned)
    assert len(set(lengths)) > 5, "it came in pieces"
    assert re.fullmatch(r"\d+ tokens?, [\d.]+ s(, cut off)?", page.locator("#tuned-about").inner_text())
    assert ask(page) == (base, tuned), "greedy: the same each time"
    examples.nth(1).click()
    expect(page.get_by_text("No answer yet.")).to_have_count(2)  # those that were there are of another image


def test_an_upload_is_asked_about(page: Page) -> None:
    upload(page, encode(pixels(160, 120)))
    assert shown_width(page) == 160
    expect(page.locator("#about")).to_have_text("scan.png, 160 × 120")
    page.get_by_label("Question").fill("What is this?")
    page.get_by_label("Longest answer, in tokens").fill("5")
    ask(page)
    assert page.locator("#tuned-about").inner_text().startswith(("5 tokens", "4 tokens", "3 tokens", "2 tokens"))
    expect(page.get_by_role("heading", name="Reference caption")).to_be_hidden()


def test_answers_can_be_sampled(page: Page) -> None:
    page.get_by_role("button", name="Example 1", exact=False).first.click()
    expect(page.get_by_label("Temperature")).to_be_disabled()
    page.get_by_label("Sampled").check()
    page.get_by_label("Temperature").fill("1.5")
    assert len({ask(page)[1] for _ in range(3)}) > 1
    page.get_by_label("Temperature").fill("9")
    page.get_by_role("button", name="Ask both models").click()
    expect(page.get_by_role("alert")).to_have_text("The temperature must be 0, or lie between 0.01 and 1.5.")


@pytest.mark.parametrize(
    ("mode", "kind", "said"),
    [
        ("I;16", "TIFF", "high bit depth min max scaled, tiff to png"),
        ("P", "PNG", "palette to rgb"),
        ("CMYK", "TIFF", "cmyk to rgb, tiff to png"),
        ("RGBA", "PNG", "alpha flattened onto black"),
    ],
)
def test_other_colour_modes_are_shown_as_the_models_see_them(page: Page, mode: str, kind: str, said: str) -> None:
    upload(page, encode(pixels(90, 70, mode), kind), f"scan.{kind.lower()}")
    assert shown_width(page) == 90
    expect(page.locator("#about")).to_contain_text(f"90 × 70; shown as the models see it: {said}")
    ask(page)


def test_what_cannot_be_read_or_asked_is_told(page: Page) -> None:
    alert = page.get_by_role("alert")
    noise = np.random.default_rng(0).integers(0, 256, (500, 500, 3), np.uint8)
    upload(page, encode(Image.fromarray(noise)))
    expect(alert).to_contain_text("The file has 0.8 MB, and at most 0.4 MB are taken.")
    upload(page, b"\x89PNG and then nothing")
    expect(alert).to_contain_text("This is no image that can be read")
    upload(page, encode(pixels(200, 200))[:400])
    expect(alert).to_contain_text("This is no image that can be read: 400 bytes do not decode")
    page.get_by_role("button", name="Ask both models").click()
    expect(alert).to_have_text("There is no image. Choose one, or take an example.")
    page.get_by_role("button", name="Example 1", exact=False).first.click()
    expect(alert).to_be_hidden()
    page.get_by_label("Question").fill("word " * 20_000)
    expect(page.get_by_text("100,000 of 2,000 characters")).to_be_visible()
    page.get_by_role("button", name="Ask both models").click()
    expect(alert).to_contain_text("The question has 100,000 characters, and 2,000 are the most that are taken.")
    page.get_by_label("Question").fill("What is <b>this</b>?")
    ask(page)
    expect(alert).to_be_hidden()


def test_all_of_it_goes_by_keyboard(page: Page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    reached = []
    while "list" not in reached:
        page.keyboard.press("Tab")
        reached.append(page.evaluate("(at => at.id || at.closest('[id]').id)(document.activeElement)"))
        outline = page.evaluate(OUTLINE)
        assert outline == "solid", f"{reached[-1]} shows no focus"
    assert reached == ["file", "question", "form", "tokens", "ask", "list"]
    page.keyboard.press("Enter")
    expect(page.locator("#reference")).to_be_visible()
    page.get_by_label("Question").focus()
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("Both have answered.")).to_be_visible()


def test_an_answer_can_be_stopped_and_another_asked(page: Page) -> None:
    page.get_by_role("button", name="Example 1", exact=False).first.click()
    page.get_by_label("Sampled").check()
    page.get_by_label("Temperature").fill("1.5")
    page.get_by_label("Longest answer, in tokens").fill("1024")
    page.evaluate(STOP)
    page.get_by_role("button", name="Ask both models").click()
    expect(page.get_by_text("Stopped.")).to_be_visible()
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    page.get_by_label("Greedy").check()
    ask(page)


def test_a_slow_upload_does_not_displace_what_was_chosen_after_it(page: Page) -> None:
    held: list[Route] = []
    page.route("**/image", lambda route: held.append(route) if route.request.method == "POST" else route.continue_())
    upload(page, encode(pixels(160, 120)), "slow.png")
    expect(page.locator("#about")).to_have_text("Reading …")
    while not held:
        page.wait_for_timeout(20)
    page.get_by_role("button", name="Example 1", exact=False).first.click()
    with page.expect_response(lambda response: response.request.method == "POST"):
        held[0].continue_()
    page.wait_for_timeout(300)
    expect(page.locator("#about")).to_contain_text("Example ")
    expect(page.get_by_role("heading", name="Reference caption")).to_be_visible()
    assert shown_width(page) != 160


@pytest.mark.parametrize("width", pages.WIDTHS)
def test_nothing_sticks_out(browser: Browser, server: Server, width: int) -> None:
    with visit(browser, server, width) as page:
        page.get_by_role("button", name="Example 1", exact=False).first.click()
        ask(page)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert min(pages.widths_of_images(page)) > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(browser: Browser, server: Server, scheme: Literal["light", "dark"]) -> None:
    page = browser.new_page(color_scheme=scheme)
    page.goto(server.address)
    expect(page.get_by_text("Both models answer in this process")).to_be_visible()
    page.get_by_role("button", name="Ask both models").click()
    expect(page.get_by_role("alert")).to_be_visible()
    ratio, text = page.evaluate(CONTRAST)
    assert ratio >= pages.CONTRAST_AA, text
    page.close()


def test_the_password_is_asked_for(browser: Browser, config: Path, tmp_path: Path) -> None:
    log = tmp_path / "chat.log"
    with serve(config, log, env={"MEDVL_CHAT__PASSWORD": "open sesame"}) as server:
        page = browser.new_page()
        page.goto(server.address)
        expect(page).to_have_title("demo: sign in")
        assert page.evaluate(CONTRAST)[0] >= pages.CONTRAST_AA
        page.keyboard.type("closed sesame")  # the field has the focus
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("This is not the password. Try again.")
        page.get_by_label("Password").fill("open sesame")
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("button", name="Example 1", exact=False).first.click()
        ask(page)
        page.close()
    assert "sesame" not in log.read_text()


def test_two_names_on_a_server_answer_at_once(browser: Browser, config: Path, tmp_path: Path) -> None:
    def say(model: str, image: bytes) -> str:
        return "" if model == "plain" else "An adapted <b>answer</b>."

    with openai_server.running(models=["plain", "adapted"], say=say) as models:
        names = (f"eval.server.url={models.url}", "eval.server.base_name=plain", "eval.server.tuned_name=adapted")
        with serve(config, tmp_path / "chat.log", "eval.engine=openai", *names) as server:
            page = browser.new_page()
            page.goto(server.address)
            expect(page.get_by_text("Both models answer on a server, as plain and adapted.")).to_be_visible()
            page.get_by_role("button", name="Example 1", exact=False).first.click()
            assert ask(page) == ("It answered nothing.", "An adapted <b>answer</b>.")
            models.faults.extend([lambda: openai_server.error(503, "worn out")] * 2)
            page.get_by_role("button", name="Ask both models").click()
            expect(page.get_by_text("The server answers 503: worn out")).to_have_count(2)
            page.close()


def test_a_server_that_ends_says_so_and_leaves_nothing(browser: Browser, config: Path, tmp_path: Path) -> None:
    """SIGTERM lets an answer end; who asks after it is told."""
    with serve(config, tmp_path / "chat.log") as server:
        page = browser.new_page()
        page.goto(server.address)
        page.get_by_role("button", name="Example 1", exact=False).first.click()
        page.get_by_label("Longest answer, in tokens").fill("12")  # what ten seconds are enough for, anywhere
        with page.expect_response(lambda response: response.url.endswith("/ask")):
            page.get_by_role("button", name="Ask both models").click()
        server.process.terminate()
        expect(page.get_by_text("Both have answered.")).to_be_visible()
        assert server.process.wait(120) == 143
        page.get_by_role("button", name="Ask both models").click()
        expect(page.get_by_role("alert")).to_contain_text("The connection to the server is lost.")
        page.close()
    assert "Traceback" not in server.log.read_text()


def test_it_does_not_start_without_an_adapter(config: Path, tmp_path: Path) -> None:
    refused = medvl("chat", "--config", str(config), "chat.port=0", "train.epochs=7", check=False)
    assert refused.returncode == 66
    assert "the train stage has not finished here" in refused.stderr
    busy = socket.create_server(("127.0.0.1", 0))
    with busy:
        taken = medvl("chat", "--config", str(config), f"chat.port={busy.getsockname()[1]}", check=False)
    assert taken.returncode == 64
    assert "port 0 takes any" in taken.stderr
