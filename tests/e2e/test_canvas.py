"""The live canvas: what it shows is the text, tokens out of order included, and nothing that upsets a terminal."""

import io
import math

import torch
from rich.console import Console

from unmask.api import Model
from unmask.cli.canvas import LiveText, cells, follow, frame
from unmask.model.load import build
from unmask.model.settings import DiTSettings
from unmask.process import MaskedDiffusion
from unmask.text.build import byte_tokenizer

TOKENIZER = byte_tokenizer()


def model() -> Model:
    """A small network that knows nothing, window 16."""
    settings = DiTSettings(TOKENIZER.vocab_size, TOKENIZER.mask_id, max_length=16, width=16, blocks=1, heads=2)
    return Model(build(settings), MaskedDiffusion(TOKENIZER.mask_id), TOKENIZER, None, torch.device("cpu"))


def test_bytes_of_one_character_are_drawn_as_one_and_control_signs_are_not_sent() -> None:
    tokens = [*TOKENIZER.encode("a é"), 27, TOKENIZER.mask_id, 0xC3]
    row = cells(TOKENIZER, tokens, [0.0] * len(tokens))
    assert len(row) == len(tokens)
    assert [cell.text for cell in row] == ["a", " ", "é", "", "\ufffd", "", "\ufffd"]
    assert [cell.masked for cell in row] == [False] * 5 + [True, False]
    assert frame(row, "░").plain == "a é\ufffd░\ufffd"


def test_shade_follows_confidence() -> None:
    row = cells(TOKENIZER, TOKENIZER.encode("abc"), [math.nan, math.log(0.001), math.log(0.99)])
    given, unsure, sure = (str(span.style) for span in frame(row, "░").spans)
    assert given == "bold"
    assert unsure.startswith("#b0")
    assert sure.startswith("#2f")


def drawn(terminal: bool) -> tuple[str, str]:
    """What appears while 24 tokens are written in sliding windows, and the finished text."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, height=20, color_system=None)
    stream = model().stream("To be", length=24, stop_at_eos=False, seed=3)
    with LiveText(TOKENIZER, console, prompt=TOKENIZER.encode("To be"), total=24) as canvas:
        row = follow(stream, canvas.show)[0]
        canvas.finish(row)
    last = frame(cells(TOKENIZER, row.tokens, [0.0] * len(row.tokens)), "░").plain
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
