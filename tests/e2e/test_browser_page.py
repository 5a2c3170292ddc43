"""The page of a server, and results in a notebook, in a real browser; a small server stands in for the engine."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from tests.denoise_server import EVIL, MASK, WORDS, Server, events_of, serving, start_of
from tests.e2e.test_browser_player import BROWSER, TEXT
from tests.extras import library

import unmask
from unmask.results import Generation
from unmask.trace.events import from_jsonl, position_texts, replay, to_jsonl
from unmask.trace.page import live_page

playwright = library("playwright.sync_api", "browser")
library("axe_playwright_python", "browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.extras,
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine: apt-get install chromium"),
]

TEMPLATE = "To be [9] or not"
Opened = Callable[..., AbstractContextManager[Any]]
WORDS_SHOWN = "player.views[{}].cells.map(cell => cell.ink.querySelector('.ghost') ? null : cell.ink.textContent)"


@pytest.fixture(scope="module")
def browser() -> Generator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def server() -> Generator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def opened(browser: Any) -> Opened:
    """The page at an address; a message of its console, an error and a request to another place fail the test."""

    @contextmanager
    def page_at(address: str, width: int = 1280, complaints: tuple[str, ...] = (), **options: Any) -> Generator[Any]:
        with browser.new_context(viewport={"width": width, "height": 900}, **options) as context:
            page, messages = context.new_page(), list[str]()
            page.set_default_timeout(60_000)
            page.on("console", lambda message: messages.append(message.text))
            page.on("pageerror", lambda error: messages.append(str(error)))
            page.on("request", lambda request: messages.append(request.url) if outside(request.url, address) else None)
            page.goto(address)
            if address.startswith("http"):
                until(page, "models.length || document.getElementById('ask').open")
            yield page
            assert [text for text in messages if not any(part in text for part in complaints)] == []

    return page_at


def until(page: Any, expression: str) -> None:
    """Wait until an expression is true; the page's policy forbids what Playwright's own waiting evaluates."""
    end = time.monotonic() + 60
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        time.sleep(0.02)


def outside(url: str, address: str) -> bool:
    """Whether a request goes elsewhere than to the page's own server."""
    return not url.startswith((address, "data:", "blob:", "about:"))


def write(page: Any, **fields: str) -> None:
    """Fill the form, press Write and wait for the end."""
    for name, value in fields.items():
        page.fill(f"#{name}", value)
    page.click("#write")
    until(page, "work === null && player.views.length > 0 && !player.live")


def final(server: Server, request: dict[str, Any]) -> list[str]:
    """A request -> the text at each position after its last pass."""
    names = {number: word for word, number in server.words.items()}
    tokens = start_of(server, request)
    for events in events_of(tokens, request):
        for event in events:
            tokens[event.position] = MASK if event.change == "remasked" else event.token
    return [names.get(token) or WORDS[token] for token in tokens]


def shown(page: Any, view: int = 0) -> list[str | None]:
    """What stands at each position, None where it is masked."""
    return page.evaluate(WORDS_SHOWN.format(view))


def bare(texts: list[str]) -> list[str]:
    """Texts as the page shows them: the spaces around a word stand outside its box."""
    return ["↵" if text == "\n" else text.strip() for text in texts]


def test_a_text_appears_and_nothing_moves_while_it_is_written(server: Server, opened: Opened) -> None:
    boxes = "player.views[0].cells.map(cell => { const box = cell.ink.getBoundingClientRect(); "
    boxes += "return [box.left, box.top + scrollY, box.width].map(Math.round).join(); })"
    with opened(server.address, width=700) as page:
        server.gate = threading.Semaphore(0)
        page.fill("#text", "To be [30] or not")
        page.fill("#policy", "random")
        page.click("#write")
        until(page, "player.views.length")
        page.wait_for_timeout(100)
        places, counts = [page.evaluate(boxes)], [shown(page).count(None)]
        for number in range(1, 10):
            server.gate.release()
            until(page, f"player.views[0].shown === {number}")
            places.append(page.evaluate(boxes))
            counts.append(shown(page).count(None))
        assert counts == list(range(30, 0, -3))
        assert all(each == places[0] for each in places)
        server.gate.release(9)
        until(page, "work === null")
        # The control: set as a text, words of these lengths are elsewhere.
        assert page.evaluate(boxes) != places[0]
        assert shown(page) == bare(final(server, server.asked[0]))
        assert page.locator("img").count() == 0
        assert EVIL in page.locator(".stage, [role=listbox]").inner_text().replace("\n", "")
        until(page, "$('status').innerText.startsWith('Finished')")  # a change is announced after a while
        assert page.locator("#status").inner_text().startswith("Finished after 10 passes, 0.25 seconds. To be")


def test_a_burst_of_passes_is_drawn_in_few_frames(server: Server, opened: Opened) -> None:
    with opened(server.address) as page:
        page.evaluate("player.started = performance.now(), player.told = 0")
        page.evaluate("new MutationObserver(() => player.told++).observe($('status'), { childList: true })")
        write(page, text="To [400] be", policy="left-to-right")
        draws, seconds = page.evaluate("[player.draws, (performance.now() - player.started) / 1000]")
        assert draws <= 30 * seconds + 2
        assert draws < 200
        assert page.evaluate("player.views[0].steps.length") == 401  # no pass is lost
        until(page, "$('status').textContent.startsWith('Finished after 400 passes')")
        assert page.evaluate("player.told") <= 1 + seconds / 5  # nor is a screen reader told of each


@contextmanager
def real_server() -> Generator[str]:
    """The address of `unmask serve` with the bundled model, which is stopped at the end."""
    library("uvicorn", "serve")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "unmask", "serve", "wordnet", "--port", str(port)]
    process = subprocess.Popen([*words, "--threads", "1", "--dtype", "float32"], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert "Serving wordnet" in process.stderr.readline()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def test_what_the_real_server_writes_is_what_the_library_writes(opened: Opened) -> None:
    template, policy = "river: a[8] stream of[4]", "confidence:steps=4"
    model = unmask.load("wordnet", device="cpu", dtype="float32")
    results = [model.fill(template, policy=rule, seed=3, trace=True) for rule in (policy, "left-to-right")]
    with real_server() as address, opened(address) as page:
        page.check("#race")
        write(page, text=template, policy=policy, seed="3")
        traces = [from_jsonl(text) for text in page.evaluate("player.views.map(view => jsonl(view.trace))")]
        # Temperature and top-p are those of the model where the reader gives none, as in the library.
        assert page.evaluate("player.views.map(whole)") == [result.texts[0] for result in results]
    for trace, result in zip(traces, results, strict=True):
        assert result.trace is not None
        assert trace.events == result.trace.events
        assert replay(trace) == replay(result.trace)
        assert trace.header.rows[0].passes == result.passes[0]
    assert traces[0].events != traces[1].events  # the control


def test_two_policies_race_on_one_seed(server: Server, opened: Opened) -> None:
    with opened(server.address) as page:
        page.check("#race")
        write(page, text=TEMPLATE, policy="confidence", seed="5")
        own, foil = sorted(server.asked, key=lambda body: body["unmask"]["policy"])
        assert (own["unmask"]["policy"], foil["unmask"]["policy"]) == ("confidence", "left-to-right")
        assert own["seed"] == foil["seed"] == 5
        figures = page.locator(".figures").all_inner_texts()
        assert ["passes 3 / 3" in figures[0], "passes 9 / 9" in figures[1]] == [True, True]
        assert all("seconds 0.25" in text for text in figures)
        page.keyboard.press("Home")
        for step in range(10):
            left = [shown(page, view).count(None) for view in (0, 1)]
            assert left == [max(0, 9 - 3 * step), 9 - step]
            page.keyboard.press("ArrowRight")
        page.uncheck("#race")
        write(page)
        assert page.evaluate("player.views.length") == 1


def test_a_hidden_token_is_written_again_and_the_rest_stays(server: Server, opened: Opened) -> None:
    with opened(server.address) as page:
        write(page, text=TEMPLATE, seed="1")
        first = final(server, server.asked[0])
        assert page.locator("#go-on").is_disabled()
        page.locator("[data-at='3']").click()
        page.locator("[data-at='0']").click()  # of the template
        page.locator("[data-at='5']").focus()
        page.keyboard.press("Delete")
        page.locator("[data-at='0']").click()  # taken back
        assert page.locator("[aria-selected=true]").count() == 2
        page.fill("#seed", "2")
        page.click("#go-on")
        until(page, "work === null && player.views[0].header.seed === 2")
        body = server.asked[1]
        assert [at for at, token in enumerate(body["tokens"]) if token is None] == [3, 5]
        assert "template" not in body
        second = bare(final(server, body))
        assert shown(page) == second
        assert [at for at in range(len(second)) if second[at] != bare(first)[at]] == [3, 5]


def test_it_goes_on_from_any_step(server: Server, opened: Opened) -> None:
    with opened(server.address) as page:
        write(page, text=TEMPLATE)
        page.keyboard.press("ArrowLeft")
        masked = [at for at, text in enumerate(shown(page)) if text is None]
        assert len(masked) == 3
        page.click("#go-on")
        until(page, "work === null")
        assert [at for at, token in enumerate(server.asked[1]["tokens"]) if token is None] == masked


def test_the_dial_writes_again_and_shows_passes(server: Server, opened: Opened) -> None:
    with opened(server.address) as page:
        write(page, text=TEMPLATE)
        for value, passes in (("0", 9), ("1", 2)):
            page.fill("#dial", value)
            until(page, f"work === null && player.views[0].row.passes === {passes}")
        assert [body["unmask"]["dial"] for body in server.asked] == [0.5, 0, 1]
        assert page.locator("#dial-passes").inner_text() == "1: 2 passes (0: 9, 0.5: 3, 1: 2)"
        page.select_option("#model", "plain")
        assert page.locator("#dial-field").is_hidden()
        write(page)
        assert server.asked[-1]["unmask"]["dial"] is None


def test_a_saved_trace_is_that_of_the_library_and_opens_again(server: Server, opened: Opened, tmp_path: Path) -> None:
    with opened(server.address) as page:
        write(page, text=TEMPLATE, policy="restless", seed="3")
        with page.expect_download() as download:
            page.click("#save")
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        trace = from_jsonl(path.read_text())
        passes = events_of(start_of(server, server.asked[0]), server.asked[0])
        assert list(trace.events) == [event for events in passes for event in events]
        assert (trace.header.rows[0].passes, trace.header.policy, trace.header.seed) == (len(passes), "restless", 3)
        texts = position_texts(trace.header, replay(trace))
        assert bare(texts) == shown(page)
        (tmp_path / "other.jsonl").write_text(to_jsonl(TEXT))
        page.set_input_files("#file", tmp_path / "other.jsonl")
        until(page, "player.views[0].header.seed === 7")
        assert "".join(text or "" for text in shown(page)).startswith("Tobe</script>")
        assert page.locator("select[aria-label=row] option").count() == 2
        for content, sentence in (
            ("{}", "bad.jsonl is not a trace; give"),
            ('{"unmask_trace": 9}', "bad.jsonl has trace format 9, and this page reads 1; give"),
            (to_jsonl(TEXT).replace('"position": 3', '"position": 30'), "bad.jsonl is damaged in line 3; give"),
        ):
            (tmp_path / "bad.jsonl").write_text(content)
            page.set_input_files("#file", tmp_path / "bad.jsonl")
            until(page, f"document.getElementById('error').textContent.startsWith({json.dumps(sentence)})")


def test_the_text_is_copied(server: Server, opened: Opened) -> None:
    with opened(server.address, permissions=["clipboard-read", "clipboard-write"]) as page:
        write(page, text=TEMPLATE)
        page.click("#copy")
        until(page, "document.getElementById('said').textContent === 'Copied.'")
        assert page.evaluate("navigator.clipboard.readText()") == "".join(final(server, server.asked[0]))
        page.evaluate("copyBySelection('another way')")
        assert page.evaluate("navigator.clipboard.readText()") == "another way"


def test_stop_keeps_what_is_written_and_frees_the_server(server: Server, opened: Opened) -> None:
    with opened(server.address) as page:
        server.gate = threading.Semaphore(2)
        page.fill("#text", TEMPLATE)
        page.click("#write")
        until(page, "player.views[0]?.shown === 2")
        page.click("#stop")
        until(page, "work === null && !player.live")
        assert shown(page).count(None) == 3
        assert server.gone.wait(60)
        assert page.locator("#error").inner_text() == ""
        assert page.locator("#go-on").is_enabled()


def test_errors_are_shown_as_the_server_says_them(server: Server, opened: Opened) -> None:
    with opened(server.address, complaints=("400",)) as page:
        page.fill("#policy", "none")
        page.click("#write")
        until(page, "document.getElementById('error').textContent.startsWith(\"There is no policy 'none';\")")
        server.failure = "The run failed: no memory."
        write(page, policy="")
        assert page.locator("#error").inner_text() == "The run failed: no memory."
        assert shown(page).count(None) == 2  # the first pass is kept
        server.failure = None
        write(page)
        assert page.locator("#error").inner_text() == ""


def test_a_key_is_asked_for_and_kept_in_memory_alone(server: Server, opened: Opened) -> None:
    server.key = "secret"
    with opened(server.address, complaints=("401",)) as page:
        for key, why in (("wrong", "It is kept"), ("secret", "The server does not take this key.")):
            until(page, f"document.getElementById('ask-why').textContent.startsWith({json.dumps(why)})")
            page.fill("#key", key)
            page.click("#ask-form .main")
        until(page, "models.length === 2")
        write(page, text=TEMPLATE)
        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie.length]") == [0, 0, 0]
        assert "secret" not in page.content()
        page.reload()
        until(page, "document.getElementById('ask').open")
        page.click("#ask-no")
        until(page, "document.getElementById('error').textContent.startsWith('The server writes nothing')")


def test_guesses_are_shown_and_a_prompt_is_continued(server: Server, opened: Opened) -> None:
    with opened(server.address) as page:
        server.gate = threading.Semaphore(1)
        page.click("summary")
        page.check("#guesses")
        page.check("[value=prompt]")
        page.fill("#text", "Once upon")
        page.fill("#tokens", "6")
        page.click("#write")
        until(page, "document.querySelectorAll('.guess').length === 3")
        assert page.locator(".guess").all_inner_texts() == ["river"] * 3
        server.gate.release(5)
        until(page, "work === null")
        assert page.locator(".guess").count() == 0
        assert (server.asked[0]["prompt"], server.asked[0]["max_tokens"]) == ("Once upon", 6)


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_the_page_fits(server: Server, opened: Opened, scheme: str, width: int) -> None:
    axe = (resources.files("axe_playwright_python") / "axe.min.js").read_text()
    with opened(server.address, width, color_scheme=scheme, reduced_motion="reduce") as page:
        page.evaluate(axe)

        def violations() -> list[str]:
            report = page.evaluate("axe.run()")
            assert len(report["passes"]) > 10
            return [f"{each['id']}: {each['nodes'][0]['html']}" for each in report["violations"]]

        assert violations() == []
        page.check("#race")
        page.click("summary")
        write(page, text=f"{TEMPLATE} [20]", policy="restless")
        page.locator("[data-at='4']").first.dispatch_event("click")
        assert violations() == []
        page.keyboard.press("c")
        page.keyboard.press("ArrowLeft")
        assert violations() == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate("getComputedStyle(document.querySelector('.new .word-of')).animationName") == "none"
        page.evaluate("document.getElementById('hint').style.color = 'var(--line)'")
        assert [text.split(":")[0] for text in violations()] == ["color-contrast"]  # the control


def test_results_in_a_notebook_play_and_do_not_meet(opened: Opened, tmp_path: Path) -> None:
    texts = ["To be </pre><b>", "be"]
    result = Generation(texts, [[0], [1]], [[0.0], [0.0]], [1, 1], 0.1, 0.0)
    playing, other = replace(result, trace=TEXT), replace(result, trace=replace(TEXT, events=TEXT.events[:3]))
    (tmp_path / "notebook.html").write_text(
        "<!doctype html><meta charset=utf-8><title>notebook</title><script>const player = 1;</script>"
        + "".join(each._repr_html_() for each in (playing, other, result))
    )
    assert escape(texts[0]) in result._repr_html_()
    with opened((tmp_path / "notebook.html").as_uri()) as page:
        assert page.locator("b").count() == 0
        first, second = page.frames[1:]
        until(first, "!player.timer && player.views[0].shown === 4")  # it played by itself
        until(second, "!player.timer && player.views[0].shown === 1")
        assert first.evaluate(WORDS_SHOWN.format(0))[2] == EVIL
        assert second.evaluate(WORDS_SHOWN.format(0)).count(None) == 4
        assert page.evaluate("player") == 1
        assert (
            first.evaluate("(() => { try { return parent.document.title; } catch { return 'closed'; } })()") == "closed"
        )
    with opened((tmp_path / "notebook.html").as_uri(), reduced_motion="reduce") as page:
        until(page.frames[1], "typeof player !== 'undefined' && player.frame === 4 && !player.timer")


def test_the_page_lets_no_other_script_run(browser: Any) -> None:
    page = browser.new_page()
    page.set_content(live_page().replace("</body>", "<script>window.other = 1;</script></body>"))
    assert page.evaluate("[typeof player, typeof other]") == ["object", "undefined"]
    page.close()
