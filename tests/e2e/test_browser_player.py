"""The page that plays a trace, opened in a real browser without a window."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from unmask.trace.events import Event, Header, Row, Trace, position_texts, replay
from unmask.trace.page import to_html

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine: apt-get install chromium"),
]

EVIL = "</script><img src=x onerror=alert(1)>&amp;"
PIECES = {0: "To", 1: " be", 2: EVIL, 3: "\n", 4: " or", 9: "<mask>"}
TEXT = Trace(
    Header(9, (Row((0, 9, 9, 9, 9, 9, 9), 4), Row((9,), 1)), PIECES, {5: "c3", 6: "a9"}, "restless", 7, "tiny"),
    (
        Event(1, 0, 1, 4, 0.3, "committed", 0, 1, ((1, 0.6), (4, 0.3))),
        Event(1, 0, 3, 3, 1.0, "committed", 0, 1),
        Event(1, 1, 0, 1, 0.5, "committed", 0, 1),
        Event(2, 0, 1, 4, 0.3, "remasked", 0, 2),
        Event(2, 0, 2, 2, 0.004, "rescued", 0, 2),
        Event(3, 0, 1, 1, 0.9, "edited", 0, 3, ((1, 0.9), (4, 0.05))),
        Event(4, 0, 4, 5, 0.8, "committed", 0, 4),
        Event(4, 0, 5, 6, 0.8, "committed", 0, 4),
        Event(4, 0, 6, 0, None, "committed", 0, 4),
    ),
)
GRID = Trace(
    Header(9, (Row((1, 9, 9, 1) * 4, 8),), {1: "1", 2: "2", 9: "?"}, columns=4, box=(2, 2)),
    tuple(Event(n + 1, 0, at, 2, 0.9, "committed", 0, n + 1) for n, at in enumerate((1, 2, 5, 6, 9, 10, 13, 14))),
)
LOOK = """
<script>
const $ = found => document.querySelector(found), value = name => $(`[data-figure=${name}]`).textContent;
const view = () => player.views[0];
const look = () => ({
  step: value("step"), passes: value("passes"), count: value("tokens"),
  hash: location.hash, slider: player.slider.value, classes: view().cells.map(cell => cell.cell.className.trim()),
  orders: view().cells.map(cell => cell.ink.dataset.order ?? ""),
  shown: view().cells.map(cell => cell.ink.querySelector(".ghost") ? null : cell.ink.textContent),
  card: player.card.hidden ? null : player.card.innerText, images: document.images.length,
  fits: document.documentElement.scrollWidth <= innerWidth, playing: player.timer !== 0, legend: $(".legend").innerText,
});
const fire = (name, type, more) => new name(type, { bubbles: true, cancelable: true, ...more });
const press = key => document.activeElement.dispatchEvent(fire(KeyboardEvent, "keydown", { key }));
const over = at => view().cells[at].ink.dispatchEvent(fire(MouseEvent, "mouseover"));
const pause = ms => new Promise(done => setTimeout(done, ms));
const kept = [];
window.onerror = (...all) => { document.documentElement.dataset.failed = all[0]; };
(async () => {
DRIVE
document.documentElement.dataset.found = JSON.stringify(kept);
})();
</script></body>"""


def looks_of(tmp_path: Path, trace: Trace, drive: str, hash_: str = "", size: str = "1000,760") -> list[dict[str, Any]]:
    """What the page tells at the moments that `drive` (JavaScript) keeps in `kept`."""
    assert BROWSER is not None
    page = tmp_path / "page.html"
    whole = re.sub("script-src 'sha256-[^']*'", "script-src 'unsafe-inline'", to_html(trace))  # for the test's own
    page.write_text(whole.replace("</body>", LOOK.replace("DRIVE", drive)))
    words = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    words += [f"--window-size={size}", "--virtual-time-budget=20000", "--dump-dom", f"{page.as_uri()}{hash_}"]
    done = subprocess.run([BROWSER, *words], capture_output=True, text=True, timeout=120)
    failed = re.search(r'data-failed="([^"]*)"', done.stdout)
    assert failed is None, failed
    match = re.search(r'data-found="([^"]*)"', done.stdout)
    assert match is not None, done.stderr[-2000:]
    return json.loads(unescape(match[1]))


def text_of(look: dict[str, Any]) -> list[str | None]:
    """What stands in each cell, as the trace has it: the signs for line ends and spaces taken back."""
    return [None if text is None else text.replace("↵", "\n") for text in look["shown"]]


def test_every_frame_is_the_replayed_canvas(tmp_path: Path) -> None:
    drive = 'kept.push(look()); for (let n = 0; n < 4; n++) { press("ArrowRight"); kept.push(look()); }'
    looks = looks_of(tmp_path, TEXT, drive)
    for step, look in enumerate(looks):
        tokens = replay(TEXT, 0, step)
        wanted = [
            None if token == 9 else text.strip() or text
            for token, text in zip(tokens, position_texts(TEXT.header, tokens), strict=True)
        ]
        assert text_of(look) == wanted
        assert look["step"] == f"{step} / 4"
        assert look["passes"] == f"{step} / 4"
        assert look["count"] == f"{sum(t != 9 for t in tokens) - 1} / 6"
        assert look["images"] == 0  # text stays text
        assert look["fits"]
    assert looks[4]["shown"][2] == EVIL
    assert [names.split()[1] for names in looks[2]["classes"][:4]] == ["given", "masked", "written", "written"]
    assert "again" in looks[2]["classes"][1]
    assert "rescued" in looks[2]["classes"][2]
    assert "edited" in looks[3]["classes"][1]
    assert ["new" in names.split() for names in looks[3]["classes"]] == [at == 1 for at in range(7)]
    assert looks[4]["orders"] == ["", "3", "2", "1", "4", "4", "4"]
    assert all(word in looks[0]["legend"] for word in ("given", "masked", "hidden again", "edited", "rescued"))


def test_control_another_trace_is_another_page(tmp_path: Path) -> None:
    (whole,) = looks_of(tmp_path, TEXT, "kept.push(look());", "#step=4")
    (lacking,) = looks_of(tmp_path, replace(TEXT, events=TEXT.events[:-1]), "kept.push(look());", "#step=4")
    assert whole["shown"][6] == "To"
    assert lacking["shown"][6] is None
    assert lacking["count"] == "5 / 6"


def test_keys_slider_and_playing(tmp_path: Path) -> None:
    drive = """
    press("End"); kept.push(look()); press("ArrowRight"); kept.push(look()); press("ArrowLeft"); kept.push(look());
    press("Home"); kept.push(look()); press("ArrowLeft"); kept.push(look());
    player.slider.value = 2; player.slider.dispatchEvent(new Event("input")); kept.push(look());
    press("Home"); press(" "); kept.push(look()); await pause(1000); kept.push(look());
    await pause(5000); kept.push(look());
    """
    looks = looks_of(tmp_path, TEXT, drive)
    assert [int(look["step"][0]) for look in looks[:7]] == [4, 4, 3, 0, 0, 2, 0]
    assert [look["slider"] for look in looks[:7]] == ["4", "4", "3", "0", "0", "2", "0"]
    assert [look["playing"] for look in looks] == [False] * 6 + [True, True, False]
    assert 0 < int(looks[7]["step"][0]) < 4
    assert int(looks[8]["step"][0]) == 4
    assert looks[5]["hash"] == "#row=0&step=2"


def test_hover_and_focus_show_the_alternatives(tmp_path: Path) -> None:
    drive = """
    over(1); kept.push(look()); press("Home"); kept.push(look()); press("ArrowRight"); kept.push(look());
    view().stage.dispatchEvent(new MouseEvent("mouseleave")); kept.push(look());
    press("End"); press("ArrowDown"); kept.push(look()); press("ArrowDown"); kept.push(look());
    press("Escape"); kept.push(look());
    """
    end, start, first, left, focus, below, closed = (
        look["card"] for look in looks_of(tmp_path, TEXT, drive, "#step=4")
    )
    for word in ("␣be", "edited", ".900", ".050", "step 1: ␣or written, .300", "step 2: ␣or hidden again, .300"):
        assert word in end
    assert start.startswith("masked")
    assert ".600" in first  # of the word that was not taken
    assert left is None
    assert focus == end  # the first token that was written
    assert EVIL in below
    assert "rescued" in below
    assert closed is None


def test_rows_are_chosen_and_addressed(tmp_path: Path) -> None:
    drive = """
    kept.push(look()); player.chooser.value = 0; player.chooser.dispatchEvent(new Event("change")); kept.push(look());
    """
    first, zero = looks_of(tmp_path, TEXT, drive, "#row=1&step=1")
    assert (first["shown"], first["step"]) == (["be"], "1 / 1")
    assert (len(zero["shown"]), zero["step"]) == (7, "1 / 4")


@pytest.mark.parametrize("size", ["1000,760", "500,800"])
def test_a_grid_has_its_lines_and_given_cells(tmp_path: Path, size: str) -> None:
    drive = """
    const { cells } = view(), boxes = cells.map(cell => cell.cell.getBoundingClientRect());
    kept.push({ ...look(), left: boxes.map(b => Math.round(b.left)), top: boxes.map(b => Math.round(b.top)),
      weight: cells.map(cell => getComputedStyle(cell.ink).fontWeight), right: Math.max(...boxes.map(b => b.right)) });
    """
    (look,) = looks_of(tmp_path, GRID, drive, "#step=8", size)
    assert [len(set(look["left"][at::4])) for at in range(4)] == [1] * 4
    assert [len(set(look["top"][4 * at : 4 * at + 4])) for at in range(4)] == [1] * 4
    assert look["shown"] == ["1", "2", "2", "1"] * 4
    assert look["weight"] == ["700", "400", "400", "700"] * 4
    thick = [[at for at, names in enumerate(look["classes"]) if side in names.split()] for side in ("right", "bottom")]
    assert thick == [[1, 3, 5, 7, 9, 11, 13, 15], [*range(4, 8), *range(12, 16)]]
    assert look["fits"]
    assert look["right"] <= int(size.split(",")[0])
