"""The page over HTTP: what is served, to whom, and in which words it refuses."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

import httpx2
import pytest
from chat_pair import Told
from prep_data import png

from medvl_jobs.chat import app
from medvl_jobs.chat.app import Page
from medvl_jobs.chat.examples import Example
from medvl_jobs.chat.job import Server, with_source
from medvl_jobs.chat.loading import Loading
from medvl_jobs.errors import MissingInputError
from medvl_jobs.settings.keys import stage_keys
from medvl_jobs.settings.run import RunSettings

EXAMPLE = Example("row-1", "A caption.", png(64, 64), png(32, 32))
FORM = {"question": "What is it?", "new_tokens": "10", "temperature": "0"}


@dataclass
class Served:
    pair: Told
    http: httpx2.Client
    load: threading.Event
    """Set, or the models are never loaded."""
    server: Server

    def ask(self, image: bytes | None = None, **changed: str) -> httpx2.Response:
        files = {"image": ("a.png", png() if image is None else image)}
        return self.http.post("/ask", data=FORM | changed, files=files)


@contextmanager
def serve(loaded: bool = True, **chat: Any) -> Iterator[Served]:
    """The page on a real server, in a thread."""
    pair, load = Told(), threading.Event()
    pair.go.set()
    if loaded:
        load.set()

    def loader(show: Any) -> Told:
        show([EXAMPLE])
        load.wait()
        return pair

    settings = RunSettings.model_validate({"name": "trial", "chat": chat})
    loading = Loading(loader, lambda: None)
    server = Server(Page(settings, loading), finish_seconds=0.3)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=120) as http:
            while loaded and http.get("/readyz").status_code != 200:
                time.sleep(0.01)
            yield Served(pair, http, load, server)
    finally:
        load.set()
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve() as page:
        yield page


def words(response: httpx2.Response) -> str:
    return str(response.json()["words"])


def test_the_page_fetches_nothing_from_elsewhere(served: Served) -> None:
    for path in ("/", "/chat.css", "/chat.js"):
        response = served.http.get(path)
        assert response.status_code == 200
        assert "//" not in response.text.replace("// ", "")
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert response.headers["cache-control"] == "no-store"
    assert "What is it" not in served.http.get("/").text


def test_a_question_is_answered_line_by_line(served: Served) -> None:
    image = png(mode="I;16")
    lines = [json.loads(line) for line in served.ask(image).text.splitlines()]
    ends = {line["side"]: line["text"] for line in lines if line["event"] == "end"}
    assert ends == {"base": "grey thing", "tuned": "a chest CT"}
    (_, question) = served.pair.asked[-1]
    assert question.text == FORM["question"]
    assert question.image.startswith(b"\x89PNG")
    assert question.image != image, "as prep would have stored it"


def test_an_example_is_asked_about_by_its_number(served: Served) -> None:
    assert served.http.get("/state").json()["examples"] == [{"id": "row-1", "caption": "A caption."}]
    assert served.http.get("/examples/0/image").content == EXAMPLE.image
    assert served.http.get("/examples/0/thumbnail").content == EXAMPLE.thumbnail
    assert served.http.get("/examples/1/image").status_code == 404
    assert served.http.get("/examples/0/other").status_code == 404
    assert served.http.post("/ask", data=FORM | {"example": "0"}).status_code == 200
    assert served.pair.asked[-1][1].image == EXAMPLE.image
    assert served.http.post("/ask", data=FORM | {"example": "1"}).status_code == 422
    assert served.http.post("/ask", data=FORM | {"example": "9" * 5000}).status_code == 422
    assert served.http.get(f"/examples/{'9' * 5000}/image").status_code == 404
    assert served.http.get("/examples/-1/image").status_code == 404


def test_an_upload_comes_back_as_the_models_see_it(served: Served) -> None:
    response = served.http.post("/image", content=png(50, 40, "RGBA"))
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-image-changes"] == "alpha flattened onto black"
    assert response.headers["x-image-size"] == "50 x 40"


def test_refusals_are_words(served: Served) -> None:
    assert "This is no image" in words(served.ask(b"no image"))
    assert "100,000 characters" in words(served.ask(question="a" * 100_000))
    assert "3,000,000 characters" in words(served.ask(question="a" * 3_000_000))
    assert "There is no image" in words(served.http.post("/ask", data=FORM))
    assert "There is no question" in words(served.ask(question=""))
    assert served.http.post("/ask", content=b"x", headers={"content-type": "multipart/form-data"}).status_code == 400
    assert served.http.post("/ask", content=b"\xff", headers={"content-type": "text/plain"}).status_code == 422
    assert served.http.get("/nothing").json() == {"words": "Not Found"}


def test_a_large_file_is_refused_before_it_is_read() -> None:
    with serve(max_upload_bytes=2000) as page:
        assert (
            words(page.http.post("/image", content=b"x" * 2001))
            == "The file has 0.002 MB, and at most 0.002 MB are taken."
        )
        assert "at most 0.002 MB" in words(page.ask(b"x" * 2001))

        def endless() -> Iterator[bytes]:
            for _ in range(100):
                yield b"x" * 100_000

        for content in (b"x" * 2_000_000, endless()):
            try:
                response = page.http.post("/image", content=content)
            except httpx2.HTTPError:
                continue  # it hangs up on who goes on sending
            assert response.status_code == 413
            assert "which is the most that is taken" in words(response)
        assert page.http.get("/livez").status_code == 200


def test_it_lives_before_it_is_ready() -> None:
    with serve(loaded=False) as page:
        assert page.http.get("/livez").status_code == 200
        assert page.http.get("/readyz").status_code == 503
        assert page.http.get("/state").json()["ready"] is False
        assert words(page.ask()) == "The models are still being loaded. Ask again in a minute."


def test_a_full_line_is_told_at_once() -> None:
    with serve(queue=0) as page:
        page.pair.go.clear()
        first = threading.Thread(target=page.ask)
        first.start()
        while not page.pair.under_way:
            time.sleep(0.01)
        busy = page.ask()
        page.pair.go.set()
        first.join()
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "30")
        assert words(busy) == "1 questions are being answered or wait. Ask again in a minute."


def test_an_answer_that_outlasts_the_server_ends_in_words(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    answered: list[httpx2.Response] = []
    with serve() as page:
        page.pair.go.clear()
        asking = threading.Thread(target=lambda: answered.append(page.ask()))
        asking.start()
        while page.pair.under_way < 2:
            time.sleep(0.01)
        page.server.should_exit = True
        asking.join()
    ends = [event for event in map(json.loads, answered[0].iter_lines()) if event["event"] == "end"]
    assert [event["finish"] for event in ends] == ["stopped", "stopped"]
    assert not caplog.records


@contextmanager
def half_sent(page: Served) -> Iterator[HTTPConnection]:
    """A file of which the rest does not come."""
    connection = HTTPConnection(page.http.base_url.host, page.http.base_url.port, timeout=120)
    connection.putrequest("POST", "/image")
    connection.putheader("Content-Length", "1000")
    connection.endheaders(b"x")
    with closing(connection):
        yield connection


def test_more_files_than_there_are_places_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "UPLOADS", 1)
    with serve() as page:
        with half_sent(page):
            while (refused := page.http.post("/image", content=png())).status_code == 200:
                time.sleep(0.01)  # the server has not begun to read the other one
            assert (refused.status_code, words(refused)) == (503, "1 files are being sent. Try again in a minute.")
        while page.http.post("/image", content=png()).status_code != 200:
            time.sleep(0.01)  # whoever hangs up gives the place back


def test_a_file_that_does_not_arrive_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "UPLOAD_SECONDS", 0.3)
    with serve() as page, half_sent(page) as connection:
        response = connection.getresponse()
        assert response.status == 408
        assert "took too long to arrive" in json.loads(response.read())["words"]


def test_nothing_without_the_password_but_signs_of_life() -> None:
    with serve(password="rösti 7") as page:
        for path in ("/state", "/chat.js", "/examples/0/image", "/examples/0/thumbnail"):
            assert page.http.get(path).status_code == 401, path
        assert page.ask().status_code == 401
        assert page.http.post("/image", content=png()).status_code == 401
        assert page.http.get("/").headers["location"] == "login"
        assert page.http.get("/readyz").status_code == 200
        for wrong in ("", "rösti", "rösti 77"):
            refused = page.http.post("/login", data={"password": wrong})
            assert refused.status_code == 401
            assert "This is not the password" in refused.text
            assert "set-cookie" not in refused.headers
        page.http.cookies.set("medvl_chat", "guess")
        assert page.ask().status_code == 401
        page.http.cookies.clear()
        welcome = page.http.post("/login", data={"password": "rösti 7"})
        assert welcome.headers["location"] == "."
        assert {"httponly", "samesite=strict"} <= set(welcome.headers["set-cookie"].lower().split("; "))
        assert page.ask().status_code == 200


def test_guesses_go_one_by_one() -> None:
    """However many connections somebody has who guesses, and whatever is sent in place of a password."""
    with serve(password="open sesame") as page:
        said: list[int] = []
        began = time.monotonic()

        def guess() -> None:
            said.append(
                httpx2.post(page.http.base_url.join("/login"), data={"password": "guess"}, timeout=120).status_code
            )

        threads = [threading.Thread(target=guess) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert said == [401] * 3
        assert time.monotonic() - began > 2.9
        assert page.http.post("/login", content=b"a&" * 10_000).status_code == 413


def test_other_sites_are_kept_out(served: Served) -> None:
    here = str(served.http.base_url).rstrip("/")
    for headers, status in (
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),  # another port of this machine
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": here}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://behind.a.proxy"}, 200),
        ({}, 200),
    ):
        assert served.http.post("/image", content=png(), headers=headers).status_code == status, headers
    assert served.http.get("/state", headers={"Host": "evil.example"}).status_code == 400


def test_an_adapter_of_ones_own_needs_no_data() -> None:
    model = {"model": {"fingerprint": "a"}}
    with pytest.raises(ValueError, match="not pinned"):
        stage_keys(with_source(RunSettings.model_validate(model)))
    named = model | {"eval": {"adapter": "adapters/1", "adapter_fingerprint": "1"}}
    assert stage_keys(with_source(RunSettings.model_validate(named))).adapter == "1"
    assert stage_keys(with_source(RunSettings.model_validate(model | {"eval": {"engine": "openai"}})))
    own = RunSettings.model_validate(named | {"prep": {"source": "data.parquet"}})
    assert with_source(own) == own


def test_a_load_that_fails_is_kept_for_whoever_serves() -> None:
    failed = threading.Event()

    def loader(show: Any) -> Told:
        raise MissingInputError("no adapter")

    loading = Loading(loader, failed.set)
    loading.start()
    assert failed.wait(120)
    assert isinstance(loading.error, MissingInputError)
    assert loading.pair is None


def test_the_password_is_in_nothing_that_is_stored() -> None:
    settings = RunSettings.model_validate({"chat": {"password": "open sesame", "queue": 3}})
    assert settings.model_dump(mode="json")["chat"]["queue"] == 3
    assert "sesame" not in repr(settings) + settings.model_dump_json()
    assert "password" not in settings.model_dump_json()
    for empty in ("", "\n"):
        with pytest.raises(ValueError, match="it is empty"):
            RunSettings.model_validate({"chat": {"password": empty}})
