"""Trace files: a written trace is read back, a truncated file to its last whole event; anything else is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from unmask.errors import DataError, RequestError, UnmaskError
from unmask.trace.events import Event, Header, Row, Trace, from_jsonl, position_texts, read, replay, to_jsonl
from unmask.trace.page import to_html
from unmask.trace.picture import to_svg

TRACE = Trace(
    Header(
        9,
        (Row((1, 9, 9, 9), 3, end=3, held={1: 2}), Row((9,), 1)),
        {1: "a", 2: " </script><b>", 3: "\x1b[2J", 9: "<mask>"},
        {4: "c3", 5: "a9"},
        policy="threshold:threshold=0.9",
        seed=(1, 2),
        checkpoint="model",
        block_size=4,
        version="0",
        columns=2,
        box=(1, 2),
    ),
    (
        Event(1, 0, 1, 4, 0.25, "committed", 0, 1, ((4, 0.25), (1, 0.125))),
        Event(1, 0, 2, 5, None, "rescued", 0, 1),
        Event(1, 1, 0, 3, 1.0, "committed", 0, 1),
        Event(2, 0, 1, 4, 0.25, "remasked", 0, 2),
        Event(3, 0, 1, 2, 0.5, "edited", 1, 3),
        Event(3, 0, 3, 1, 1e-9, "committed", 1, 3),
    ),
)
LINES = to_jsonl(TRACE).splitlines()


def test_a_written_trace_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(to_jsonl(TRACE))
    assert read(tmp_path / "a.jsonl") == TRACE
    assert len(LINES) == 1 + len(TRACE.events)
    assert to_jsonl(TRACE).isascii()


def test_a_file_truncated_in_its_last_line_is_read_without_that_line() -> None:
    whole = "\n".join(LINES)
    for missing in range(1, len(LINES[-1])):
        trace = from_jsonl(whole[:-missing])
        assert trace.cut
        assert trace.events == TRACE.events[:-1]
        assert trace.header == TRACE.header
    assert not from_jsonl(whole).cut  # only the line end is missing
    assert from_jsonl(whole[: -len(LINES[-1])]).events == TRACE.events[:-1]


def test_characters_of_several_tokens_are_drawn_once_and_no_text_controls_a_terminal() -> None:
    assert position_texts(TRACE.header, [1, 4, 5, 1]) == ["a", "é", "", "a"]
    assert position_texts(TRACE.header, [4, 9, 5, 4]) == ["\ufffd", "", "\ufffd", "\ufffd"]
    assert position_texts(TRACE.header, [3, 77]) == ["\ufffd[2J", "\ufffd"]


def changed(number: int, fields: dict[str, object]) -> str:
    """The file with other values in one line."""
    lines = list(LINES)
    lines[number] = json.dumps(json.loads(lines[number]) | fields)
    return "\n".join(lines)


WRITTEN = "give a .jsonl file that --trace wrote (a page opens in a web browser)."
WRONG = [
    ("", f"x is not a trace; {WRITTEN}"),
    ("{", f"x is not a trace; {WRITTEN}"),
    ("[1]\n", f"x is not a trace; {WRITTEN}"),
    ('{"step": 1}\n', f"x is not a trace; {WRITTEN}"),
    (to_html(TRACE), f"x is not a trace; {WRITTEN}"),
    (changed(0, {"unmask_trace": 0}), f"x is not a trace; {WRITTEN}"),
    (changed(0, {"unmask_trace": -1}), f"x is not a trace; {WRITTEN}"),
    (changed(0, {"unmask_trace": 2}), "x has trace format 2 and this unmask reads up to 1: upgrade unmask."),
    (changed(0, {"mask_id": "nine"}), "The first line of x is damaged: it has \"nine\" in the field 'mask_id', "),
    (
        changed(2, {"kind": "lost"}),
        "line 3 of x is damaged: it has \"lost\" in the field 'kind', which has to be one of 'committed', 'remasked', ",
    ),
    (
        changed(2, {"step": None}),
        "line 3 of x is damaged: it has null in the field 'step', which has to be a whole number; write the trace ",
    ),
    (changed(2, {"row": 2}), "line 3 of x is about row 2, position 2, which the header does not have."),
    (changed(6, {"position": 4}), "line 7 of x is about row 0, position 4, which the header does not have."),
    ("\n".join([*LINES[:2], LINES[2][:-4], *LINES[3:]]), "line 3 of x is damaged: it is not JSON; "),
]


@pytest.mark.parametrize("text, sentence", WRONG)
def test_what_is_no_trace_is_refused_in_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(DataError) as error:
        from_jsonl(text, "x")
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_missing_row_are_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(bytes(range(256)))
    sentences: list[tuple[UnmaskError, str]] = []
    for path in (tmp_path / "none", tmp_path / "bytes"):
        with pytest.raises(DataError) as error:
            read(path)
        sentences.append((error.value, str(path)))
    assert all(str(error).startswith(path) for error, path in sentences)
    with pytest.raises(RequestError, match=r"There is no row 2 in this trace; give 0 to 1\."):
        replay(TRACE, 2)


def test_no_text_ends_the_element_that_holds_the_data() -> None:
    page = to_html(TRACE)
    assert page.count("</script>") == 2
    data = page.split('id="trace">')[1].split("</script>")[0]
    assert "<" not in data
    assert json.loads(data)["header"]["pieces"]["2"] == " </script><b>"
    unescaped = page.replace(data, json.dumps(json.loads(data)))
    assert unescaped.count("</script>") > 2  # the control: as plain JSON the same data would end the element


def drawn(trace: Trace) -> list[tuple[str, str]]:
    """The texts of the picture of a trace, each with the height of its line."""
    pairs = re.findall(r'<text[^>]* y="(\d+)"[^>]*>([^<]*)<', to_svg(trace))
    return [(text, height) for height, text in pairs]


def test_a_picture_shows_what_was_typed() -> None:
    """Characters outside the alphabet are the reader's own, not the token that stands for them."""
    pieces = {1: "a", 2: "\n", 7: "<unk>"}
    events = (Event(1, 0, 4, 1, 0.5, "committed", 0, 1),)
    row = Row((7, 7, 7, 7, 9), 0, typed={0: "é漢\nü", 1: "", 2: "", 3: ""})
    trace = Trace(Header(9, (row,), pieces), events)
    first, second = "34", "58"
    assert drawn(trace) == [("é", first), ("漢", first), ("ü", second), ("a", second)]
    plain = replace(trace, header=replace(trace.header, rows=(replace(row, typed={}),)))
    assert [text for text, _ in drawn(plain)] == ["&lt;unk&gt;"] * 4 + ["a"]  # the control
    fewer = replace(row, typed={0: "two words\nand more", 1: ""})  # more characters than positions
    trace = replace(trace, header=replace(trace.header, rows=(replace(fewer, start=(7, 7, 9)),)))
    trace = replace(trace, events=(replace(events[0], position=2),))
    assert drawn(trace) == [("two words", first), ("and more", second), ("a", second)]


def test_the_page_needs_nothing_else() -> None:
    page = to_html(TRACE)
    assert not re.findall(r"\b(?:src|href)\s*=|@import|url\(|fetch\(|XMLHttp|WebSocket|<link", page)
    assert re.findall(r"https?://[^\"]*", page) == ["http://www.w3.org/2000/svg"]  # a name, not an address
    assert "default-src 'none'" in page
