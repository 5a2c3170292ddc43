"""The option --trace and the command `unmask watch`."""

import json
import os
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from unmask.cli.main import main
from unmask.cli.watch import Player, keys_of
from unmask.trace.events import Event, Header, Row, Trace, position_texts, read, replay
from unmask.trace.picture import to_svg

SRC = Path(__file__).parents[2] / "src"
MACHINE = ["--threads", "1", "--dtype", "float32"]
WORDS = ["generate", "wordnet", "To be", "--length", "12", "--seed", "4", "--suppress", "<eos>", *MACHINE]


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace of two short texts in six passes each."""
    path = tmp_path_factory.mktemp("trace") / "a.jsonl"
    assert main([*WORDS, "--policy", "confidence:steps=6", "--count", "2", "--trace", str(path), "--json"]) == 0
    return path


def output(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    """Words -> (stdout, stderr) of the command."""
    capsys.readouterr()
    assert main(list(words)) == code
    out, err = capsys.readouterr()
    return out, err


def test_generate_writes_the_same_text_with_and_without_a_trace(
    trace: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out, _ = output(capsys, *WORDS, "--policy", "confidence:steps=6", "--count", "2", "--json")
    result, shown = json.loads(out), read(trace)
    assert [replay(shown, row) for row in (0, 1)] == result["token_ids"]
    assert [row.passes for row in shown.header.rows] == result["passes"] == [6, 6]
    assert all(len(event.alternatives) == 5 for event in shown.events)
    assert (shown.header.policy, shown.header.seed, shown.header.checkpoint) == ("confidence:steps=6", 4, "wordnet")
    for row, text in enumerate(result["texts"]):
        summary = json.loads(output(capsys, "watch", str(trace), "--row", str(row), "--json")[0])
        assert summary["text"].removeprefix(" ") == text  # a trace has the text of each token, that of words a space
        assert (summary["passes"], summary["events"]["committed"], summary["complete"]) == (6, 12, True)


def test_fill_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "new" / "a.html"
    _, err = output(capsys, "fill", "To be, or [3] to be", "--trace", str(page), "--threads", "1")
    data = json.loads(page.read_text().split('id="trace">')[1].split("</script>")[0])
    assert len(data["events"]) == 3
    assert f"{page}: 3 events; open it in a browser" in err


def test_elsewhere_than_on_a_terminal_it_prints_stages(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = output(capsys, "watch", str(trace))
    assert [line for line in out.splitlines() if line.startswith("[") and "passes]" in line] == [
        f"[{2 * n} of 12 tokens, {n} passes]" for n in range(7)
    ]
    assert out.split("[12 of")[0].count(" _") == 12 + 10 + 8 + 6 + 4 + 2
    assert out.rstrip().endswith(json.loads(output(capsys, "watch", str(trace), "--json")[0])["text"].rstrip()[-8:])


def test_a_file_that_was_cut_off_is_played_with_a_note(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cut.jsonl").write_text(trace.read_text()[:-20])
    out, err = output(capsys, "watch", str(tmp_path / "cut.jsonl"), "--row", "1", "--json")
    assert "ends in the middle of an event, which is left out." in err
    assert json.loads(out)["complete"] is False


def test_the_page_is_the_same_from_both_commands(trace: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.html", tmp_path / "second.html"
    assert main(["watch", str(trace), "--html", str(first)]) == 0
    assert main([*WORDS, "--policy", "confidence:steps=6", "--count", "2", "--trace", str(second), "--json"]) == 0
    assert first.read_text() == second.read_text()


def shown_at(picture: str, moment: float) -> str:
    """Animated picture and moment (a share of the loop) -> its texts; those that are not visible yet are left out."""
    root = ElementTree.fromstring(picture)
    shown = {
        name: float(until) / 100 <= moment
        for name, until in re.findall(r"@keyframes (t\d+) { 0%, ([\d.]+)% { visibility: hidden", picture)
    }
    texts = root.iter("{http://www.w3.org/2000/svg}text")
    return "".join(text.text or "" for text in texts if shown.get(text.attrib["class"], True))


def test_the_picture_shows_the_text_as_it_was_written(trace: Path, tmp_path: Path) -> None:
    """At the start the prompt alone, at the end all of the final text; the control: it grows in between."""
    pictures: list[str] = []
    for row in (0, 1):
        path = tmp_path / f"{row}.svg"
        assert main(["watch", str(trace), "--svg", str(path), "--row", str(row)]) == 0
        assert main(["watch", str(trace), "--svg", str(path), "--row", str(row)]) == 0  # its own file is replaced
        pictures.append(path.read_text())
        header, tokens = read(trace).header, replay(read(trace), row)
        pieces = [piece.replace("\n", "") for piece in position_texts(header, tokens)]
        count = len(header.rows[row].start) - header.rows[row].start.count(header.mask_id)
        final = "".join(piece for piece in pieces if piece.strip())
        assert shown_at(pictures[-1], 0.0) == "".join(piece for piece in pieces[:count] if piece.strip())
        assert shown_at(pictures[-1], 1.0) == final
        lengths = [len(shown_at(pictures[-1], share / 20)) for share in range(21)]
        assert lengths == sorted(lengths)
        assert len(set(lengths)) > 4
    assert pictures[0] != pictures[1]


def test_text_cannot_leave_its_element() -> None:
    """Signs of markup in a token are text in the picture."""
    row = Row(start=(1, 0), passes=1)
    event = Event(step=1, row=0, position=1, token=2, confidence=0.5, change="committed", block=0, passes=1)
    picture = to_svg(Trace(Header(0, (row,), {1: "<&>", 2: "</svg><script>"}), (event,)))
    assert shown_at(picture, 1.0) == "<&></svg><script>"
    assert "<script>" not in picture


WRONG = [
    (["fill", "a [?]", "--choices", "b", "--trace", "a.html"], "--trace does not go with --choices, which writes"),
    (["watch", "none.jsonl"], "none.jsonl cannot be read (no such file or directory); give a file that --trace wrote."),
    (["watch", "{trace}", "--row", "2"], "There is no row 2 in this trace; give 0 to 1."),
    (["watch", "{trace}", "--html", "a.txt"], "--html cannot write 'a.txt'; give a file that ends in .html."),
    (["watch", "{trace}", "--svg", "a.html"], "--svg cannot write 'a.html'; give a file that ends in .svg."),
    ([*WORDS, "--trace", "a.json"], "--trace cannot write 'a.json'; give a name that ends in .jsonl, .html (a "),
    ([*WORDS, "--trace", "{trace}/a.html"], "--trace cannot write '{trace}/a.html'; give a file in a folder that can"),
]


@pytest.mark.parametrize("words, sentence", WRONG)
def test_wrong_requests_get_a_sentence(
    words: list[str], sentence: str, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = output(capsys, *(word.replace("{trace}", str(trace)) for word in words), code=2)
    assert out == ""
    assert err.startswith(f"unmask: {sentence.replace('{trace}', str(trace))}")
    assert err.count("\n") == 1


def test_keys_move_through_the_frames(trace: Path) -> None:
    player = Player(read(trace))
    assert (player.at, player.playing, player.steps) == (0, True, list(range(7)))
    player.tick()
    assert (player.at, player.playing) == (1, True)
    for data, at in (
        (b"\x1b[C", 2),
        (b"\x1b[C\x1b[C", 4),
        (b"\x1b[D", 3),
        (b"\x1b[F", 6),
        (b"\x1b[C", 6),
        (b"\x1b[H", 0),
    ):
        for key in keys_of(data):
            assert player.press(key)
        assert (player.at, player.playing) == (at, False)
    speed = player.speed
    assert [player.press(key) for key in keys_of(b"+ -x")] == [True] * 4
    assert (player.speed, player.playing) == (speed, True)
    player.press("end")
    player.press("space")
    assert (player.at, player.playing) == (0, True)  # from the end it starts again
    for _ in player.steps:
        player.tick()
    assert (player.at, player.playing) == (6, False)
    assert not player.press("quit")
    assert keys_of(b"") == ["quit"]


def test_each_frame_is_the_replayed_canvas(trace: Path) -> None:
    player = Player(read(trace), 1)
    for step in player.steps:
        player.at = step
        plain = player.text(plain=True)
        assert plain.plain.count(" _") == 12 - 2 * step
        assert player.counts == (2 * step, 12)
        assert sum("reverse" in str(span.style) for span in plain.spans) == (2 if step else 0)
        assert player.news().count("+ ") == (2 if step else 0)


@pytest.mark.slow
def test_on_a_terminal_it_plays_until_q_and_puts_the_terminal_back(trace: Path) -> None:
    import pty
    import termios

    leader, follower = pty.openpty()
    before = termios.tcgetattr(follower)
    process = subprocess.Popen(
        [sys.executable, "-m", "unmask.cli.main", "watch", str(trace)],
        stdin=follower, stdout=follower, stderr=follower,
        env=os.environ | {"PYTHONPATH": str(SRC), "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"},
    )  # fmt: skip
    try:
        until(leader, r"step 1 of 6.*▶")  # it plays without a key
        os.write(leader, b"\x1b[F\x1b[D")
        until(leader, r"step 5 of 6.*⏸")
        os.write(leader, b"q")
        assert process.wait(30) == 0
        assert termios.tcgetattr(follower) == before
    finally:
        process.kill()
        process.wait()
        os.close(leader)
        os.close(follower)


def until(terminal: int, pattern: str) -> None:
    """Wait until a line on the terminal matches the pattern."""
    shown, end = "", time.monotonic() + 60
    while not re.search(pattern, shown):
        assert time.monotonic() < end, shown
        if select.select([terminal], [], [], 0.2)[0]:
            shown += os.read(terminal, 65536).decode("utf-8", "replace")
