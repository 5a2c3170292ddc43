"""The live canvas: it shows the text, with tokens in any order, and no control characters."""

import io
import math
from collections.abc import Sequence

import pytest
import torch
from rich.console import Console
from rich.text import Text

from unmask.api import Model
from unmask.cli.live import Cell, LiveText, cropped, frame
from unmask.model.load import build
from unmask.model.settings import DiTSettings
from unmask.process import MaskedDiffusion
from unmask.text.build import byte_tokenizer

TOKENIZER = byte_tokenizer()


def model() -> Model:
    """A small network with random weights, window 16."""
    settings = DiTSettings(TOKENIZER.vocab_size, TOKENIZER.mask_id, max_length=16, width=16, blocks=1, heads=2)
    return Model(build(settings), MaskedDiffusion(TOKENIZER.mask_id), TOKENIZER, None, torch.device("cpu"))


def cells_of(tokens: Sequence[int], log_probs: Sequence[float] | None = None) -> list[Cell]:
    """Row -> its cells; tokens without a log-probability are those of the prompt."""
    live = LiveText(TOKENIZER, Console(file=io.StringIO()), prompt=tokens, total=0)
    if log_probs is not None:
        live._log_probs = list(log_probs)
    return live.cells()


def test_bytes_of_one_character_are_drawn_as_one_and_control_signs_are_not_sent() -> None:
    row = cells_of([*TOKENIZER.encode("a é"), 27, TOKENIZER.mask_id, 0xC3, TOKENIZER.pad_id])
    assert [cell.text for cell in row] == ["a", " ", "é", "", "\ufffd", "", "\ufffd", ""]
    assert [cell.masked for cell in row] == [False] * 5 + [True, False, False]
    assert frame(row, "░").plain == "a é\ufffd░\ufffd"


def test_shade_follows_confidence() -> None:
    row = cells_of(TOKENIZER.encode("abc"), [math.nan, math.log(0.001), math.log(0.99)])
    prompt, unsure, sure = (str(span.style) for span in frame(row, "░").spans)
    assert prompt == "bold"
    assert unsure.startswith("#b0")
    assert sure.startswith("#2f")


@pytest.mark.parametrize("focus", [0, 17, 29])
def test_a_text_higher_than_the_terminal_is_cropped_around_what_is_new(focus: int) -> None:
    """The control: a text without new cells is shown from its end."""
    console = Console(file=io.StringIO(), width=20, height=11)

    def shown(style: str) -> list[str]:
        cells = [Cell(f"line {n}\n", False, style if n == focus else "bold") for n in range(30)]
        with console.capture() as capture:
            console.print(cropped(frame(cells, "░"), console, "reverse", [Text("below")]))
        return [line.strip() for line in capture.get().splitlines()]

    lines = shown("bold reverse")
    assert len(lines) == 10
    assert lines[-1] == "below"
    assert f"line {focus}" in lines
    assert "line 0" not in shown("bold")


def drawn(terminal: bool) -> tuple[str, str]:
    """(the output while 24 tokens are written in sliding windows, the finished text)."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, height=20, color_system=None)
    stream = model().stream("To be", length=24, stop_at_eos=False, seed=3)
    with LiveText(TOKENIZER, console, prompt=TOKENIZER.encode("To be"), total=24) as live:
        row = live.follow(stream)[0]
    last = frame(cells_of(row.tokens), "░").plain
    return out.getvalue(), last


def test_plain_lines_are_a_few_stages_that_end_with_the_text() -> None:
    shown, last = drawn(terminal=False)
    assert 3 <= shown.count("passes]") <= 8
    assert "[100%, 24 passes]" in shown
    assert "\x1b" not in shown
    assert last.split()[-1] in shown.split("[100%")[1]
    assert "_" in shown.split("[100%")[0]


def test_on_a_terminal_the_last_frame_is_the_whole_text() -> None:
    shown, last = drawn(terminal=True)
    end = shown.split("\x1b[2K")[-1]
    assert "100%  24 of 24 tokens, 24 passes" in end
    assert "░" not in end
    assert last.split()[-1] in shown
