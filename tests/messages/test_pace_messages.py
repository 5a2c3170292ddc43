"""The error messages of paces and of `unmask pace`, word for word."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unmask.cli.main import main
from unmask.data.packed import Packed
from unmask.errors import ConfigError, DataError, RequestError
from unmask.eval.curve import two_sets
from unmask.policies.pace import SavedPace
from unmask.policies.registry import make
from unmask.policies.top_k import Power

WROTE = "give a file that unmask pace --out wrote."
NAMES = [
    ("random:steps=4,pace=cosin", "There is no pace named 'cosin'; did you mean 'cosine'?"),
    (
        "random:pace=xyzzy,steps=4",
        "There is no pace named 'xyzzy'; known: cosine, front, linear, power, or a file that ends in .json.",
    ),
    ("margin:pace=cosine", "pace=cosine needs steps; give for example margin:steps=16,pace=cosine."),
    (
        "random:steps=4,power=2",
        "The option power goes with pace=power only; add that, or leave power out.",
    ),
    ("random:steps=4,pace=power,power=big", "power is 'big'; give a finite number (for example 2)."),
    ("random:steps=4,pace=power,power=-1", "power is -1.0; give a number above 0."),
    ("random:steps=4,pace=power,power=nan", "power is nan; give a finite number (for example 2)."),
    ("random:pace=none.json", f"The pace none.json cannot be read (no such file or directory); {WROTE}"),
    (
        "random:steps=inf,pace=none.json",
        "A saved pace has its own passes; give their number as steps, or leave it out with none.json.",
    ),
]


@pytest.mark.parametrize("text, sentence", NAMES, ids=[text for text, _ in NAMES])
def test_names(text: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError) as error:
        make(text)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        "[]",
        "{}",
        '{"paces": [1, 2]}',
        '{"paces": {"two": [1, 2]}}',
        '{"paces": {"3": [1, 2]}}',
        '{"paces": {"2": [1, 0]}}',
        '{"paces": {"2": [1, 1.5]}}',
        '{"paces": {"2": [1, true]}}',
        '{"paces": {"0": []}}',
        '{"paces": {"2": 7}}',
    ],
)
def test_files(content: str, tmp_path: Path) -> None:
    path = tmp_path / "pace.json"
    path.write_text(content)
    with pytest.raises(RequestError) as error:
        make(f"random:pace={path}")
    assert str(error.value).startswith(f"{path} holds no pace")
    assert str(error.value).endswith(f"; {WROTE}")


def test_files_of_several_schedules(tmp_path: Path) -> None:
    path = tmp_path / "pace.json"
    path.write_text(json.dumps({"paces": {"3": [1, 2, 3], "2": [2, 4]}}))
    with pytest.raises(RequestError) as error:
        make(f"random:pace={path}")
    assert str(error.value) == f"{path} has paces of 2, 3 passes, and steps was not given; set steps to one of these."
    with pytest.raises(RequestError) as error:
        make(f"random:pace={path},steps=4")
    assert str(error.value) == f"{path} has paces of 2, 3 passes, not of 4; set steps to one of these."
    made: Any = make(f"random:pace={path},steps=2")
    assert made.pace == SavedPace((2, 4))
    path.write_text(json.dumps({"paces": {"3": [1, 2, 3]}}))
    made = make(f"margin:pace={path}")
    assert (made.steps, made.pace) == (3, SavedPace((1, 2, 3)))


def test_objects() -> None:
    with pytest.raises(ConfigError) as error:
        Power(0.0)
    assert str(error.value) == "power is 0.0; give a number above 0."
    with pytest.raises(ConfigError) as error:
        SavedPace((1, 0))
    assert str(error.value) == "a value of sizes is 0; give a whole number of at least 1."


ARGUMENTS = [
    ("pace", "pace needs a CHECKPOINT; see unmask pace --help."),
    ("pace wordnet --steps 4 0", "--steps cannot be '0'; give a whole number of at least 1."),
    ("pace wordnet --steps", "--steps needs numbers of passes of at least 1, for example --steps 8 16 32."),
    ("pace wordnet --prompt 1", "--prompt cannot be '1'; give a number of at least 0 and below 1."),
    ("pace wordnet --sequences 1", "--sequences cannot be '1'; give a whole number of at least 2."),
    ("pace wordnet --batch 0", "--batch cannot be '0'; give a whole number of at least 1."),
    ("pace wordnet --out pace.txt", "--out is 'pace.txt'; the name of the file has to end in .json."),
    ("pace wordnet --plot plot.pdf", "--plot is 'plot.pdf'; the name of the file has to end in .png."),
    (
        "pace wordnet --data.length 999",
        "data.length is 999, but the model's window is 64 tokens; set --data.length 64 or less.",
    ),
    (
        "pace wordnet --data.tokenizer byte",
        "--data.tokenizer does not go with pace: the tokenizer is the checkpoint's.",
    ),
]


@pytest.mark.parametrize("words, sentence", ARGUMENTS, ids=[words for words, _ in ARGUMENTS])
def test_arguments(
    words: str,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == f"unmask: {sentence}"
    assert list(tmp_path.iterdir()) == []


def packed(lasts: list[int]) -> Packed:
    """Rows of 8 positions whose ids say which row they are of."""
    ids = np.repeat(np.arange(len(lasts))[:, None], 8, 1).astype(np.uint16)
    return Packed(ids, np.zeros(len(lasts), np.int32), np.array(lasts, np.int32), 0, sum(lasts))


def test_too_few_rows() -> None:
    with pytest.raises(DataError) as error:
        two_sets(packed([8, 8, 8, 5]), 4)
    assert str(error.value) == (
        "The text has 3 sequences of 8 tokens; the curve needs at least 4 of at least 2 tokens: "
        "give a longer text, or shorter sequences with --data.length."
    )


def test_the_two_sets_share_no_row_and_all_rows_are_alike() -> None:
    data = packed([8] * 20 + [3] * 6)
    fit, check = two_sets(data, 7, prompt=0.3, batch=4, seed=1)
    assert [len(rows.ids) for rows in fit] == [4, 3]
    first, second = ({int(row[0]) for rows in part for row in rows.ids} for part in (fit, check))
    assert len(first) == len(second) == 7
    assert not first & second
    assert max(first | second) < 20
    assert all(row.tolist() == [False] * 2 + [True] * 6 for rows in fit for row in rows.maskable)
    other, _ = two_sets(data, 7, seed=2)
    assert first != {int(row[0]) for rows in other for row in rows.ids}
    fit, check = two_sets(data, 100)
    assert sum(len(rows.ids) for rows in [*fit, *check]) == 20
