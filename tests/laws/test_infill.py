"""Laws of the task infill: holes and windows keep their limits, and no held-out row is in a training problem."""

import json
from itertools import product
from pathlib import Path

import pytest

from unmask.data.sources import read_bundled
from unmask.disk.folders import bundled
from unmask.disk.json import parse_json
from unmask.errors import RequestError
from unmask.solve.problems import problems, scored
from unmask.tasks import judge, make
from unmask.tasks.base import SPLITS, Example
from unmask.tasks.infill import Infill, _units
from unmask.text.tokenizer import Tokenizer

WORDNET = Tokenizer.load(bundled()["wordnet"])


@pytest.mark.parametrize("text", ["infill", "infill:shortest=1,longest=7,window=15", "infill:source=sotu"])
def test_the_hole_is_inside_the_window(text: str) -> None:
    """Row and hole have the sizes that were asked for, and with its answer the row is the text's own tokens."""
    task = make(text)
    assert isinstance(task, Infill)
    for problem in problems(task.examples("train", 60), WORDNET):
        assert 0 < problem.holes[0] <= problem.holes[-1] < len(problem.row) <= task.window
        assert problem.holes == list(range(problem.holes[0], problem.holes[-1] + 1))
        assert task.shortest <= len(problem.holes) <= task.longest
        assert 2 * len(problem.holes) <= len(problem.row)
        answer = WORDNET.encode(problem.example.answer, inside=True)
        row = [answer.pop(0) if token == WORDNET.mask_id else token for token in problem.row]
        assert row == WORDNET.encode(problem.example.facts["text"])[: len(row)]


def test_held_out_rows_are_in_no_training_problem() -> None:
    """The sides are those of the training of the checkpoint; control: the rows are all of the text's rows."""
    rows = {parse_json(line.decode(), dict[str, str])["text"] for line in read_bundled("wordnet")}
    train, valid, test = (set(_units("wordnet", "", split)) for split in SPLITS)
    assert train | valid | test == rows
    assert not train & (valid | test)
    assert not valid & test
    assert 0.04 < (len(valid) + len(test)) / len(rows) < 0.06
    assert 0.8 < len(valid) / len(test) < 1.25
    for split, own in zip(SPLITS, (train, valid, test), strict=True):
        texts = [answer for _, answer in make("infill").pairs(split, 200)]
        short = [text for text in texts if text in rows]  # whole rows, not windows of one
        assert len(short) > 150
        assert set(short) <= own


def test_the_score_is_the_share_of_true_tokens_at_their_positions() -> None:
    task, exact = make("infill"), make("infill:score=exact")
    for problem in problems(task.examples("valid", 20), WORDNET):
        row, hole = problem.row.copy(), WORDNET.encode(problem.example.answer, inside=True)
        for at, token in zip(problem.holes, hole, strict=True):
            row[at] = token
        assert scored(task, [problem], [row], WORDNET) == scored(exact, [problem], [row], WORDNET) == [1.0]
        wrong = WORDNET.encode(" of")[0]
        row[problem.holes[1]] = wrong if row[problem.holes[1]] != wrong else WORDNET.encode(" the")[0]
        (share,) = scored(task, [problem], [row], WORDNET)
        assert share <= 1 - 1 / len(hole)
        assert scored(exact, [problem], [row], WORDNET) == [0.0]
    example = task.examples("valid", 1)[0]
    assert judge(task, example, "").score == judge(task, example, "\ud800").score == 0
    assert 0 < judge(task, example, example.answer * 2).score <= 0.5


def test_bigrams_count_pairs_of_neighbours() -> None:
    """By hand; control: the recovery of a shifted text is 0, and its pairs are not."""
    bigrams, recovery = make("infill:score=bigrams"), make("infill")
    example = Example("a[5]b", " of the first of all", {})
    for text, score in ((" of the first of all", 1.0), (" the first of all", 2 * 3 / 7), (" all the", 0.0), ("", 0.0)):
        assert judge(bigrams, example, text).score == pytest.approx(score)
    assert judge(recovery, example, " the first of all").score == 0
    twice = Example("a[3]b", " of the of", {})
    assert judge(bigrams, twice, " the of the").score == pytest.approx(2 / 3)  # the same pairs, another text


def test_a_checkpoint_without_a_text(tmp_path: Path) -> None:
    for name, sentence in (
        ("infill:model=sudoku", "sudoku does not say on which text it was trained"),
        ("infill:score=nearly", "score is 'nearly'"),
        ("infill:shortest=9,longest=8", "shortest is 9, longest 8 and window 64"),
        ("infill:shortest=9,window=17", "shortest is 9, longest 12 and window 17"),
    ):
        with pytest.raises(RequestError, match=sentence):
            make(name).examples("valid", 1)
    rows = [{"text": "".join(letters)} for letters in product("abc", repeat=8)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    examples = make(f"infill:model=automaton,source={tmp_path / 'text.jsonl'}").examples("valid", 3)
    assert all({"text": example.facts["text"]} in rows for example in examples)
