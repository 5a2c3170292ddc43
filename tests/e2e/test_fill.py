"""`unmask fill` on the bundled model: free lengths, replaced words, choices, digits only."""

import json
from typing import Any

import pytest

import unmask
from unmask.cli.main import main

FAST = ("--threads", "1", "--dtype", "float32", "--device", "cpu")


def json_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Words -> the JSON object that `unmask fill WORDS --json` prints."""
    capsys.readouterr()
    assert main(["fill", *words, *FAST, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_combination_of_lengths_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("My kingdom for a[1-2], my[= fair] lord!", "--draws", "2", "--count", "2", "--block-size", "8")
    fills = json_of(capsys, *words)["fills"]
    assert len(fills) == 2
    for fill in fills:
        first, second = fill["holes"]
        assert fill["text"] == f"My kingdom for a{first}, my{second} lord!"
        assert sorted(attempt["lengths"] for attempt in fill["attempts"]) == [[1, 1], [2, 1]]
        assert fill["attempts"][0]["text"] == fill["text"]
        assert fill["attempts"][0]["nats"] == min(attempt["nats"] for attempt in fill["attempts"])
        assert len(fill["log_probs"]) == sum(fill["attempts"][0]["lengths"])
    assert main(["fill", *words, *FAST, "-v"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [line for fill in fills for line in fill["text"].splitlines()]
    for fill in fills:
        for attempt in fill["attempts"]:
            assert f"{attempt['nats']:.2f} ± {attempt['stderr']:.2f}" in err
            assert f"{attempt['holes'][0]!r} | {attempt['holes'][1]!r}" in err


def test_a_hole_at_the_beginning_has_its_text_without_a_space(capsys: pytest.CaptureFixture[str]) -> None:
    """The token of a word has a space before it, which the beginning of a text has not; the control is the other."""
    letters = " abcdefghijklmnopqrstuvwxyz"
    (fill,) = json_of(capsys, "[1]: a[1] of water", "--temperature", "0", "--only", letters)["fills"]
    first, second = fill["holes"]
    assert fill["text"] == f"{first}: a{second} of water"
    assert not first.startswith(" ")


def test_choices_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("river: a large natural [?] of water", "--choices", "stream", "king of the sea")
    choices = json_of(capsys, *words)["choices"]
    assert [choice["text"] for choice in choices] == ["stream", "king of the sea"]
    assert choices[0]["probability"] > 0.95
    assert sum(choice["probability"] for choice in choices) == pytest.approx(1)
    assert main(["fill", *words, *FAST]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["probability", "nats", "tokens"]
    assert first.startswith("'stream'")
    assert f"{choices[0]['nats']:.2f}" in first
    assert second.startswith("'king of the sea'")


def test_a_choice_is_read_together_with_the_space_before_it() -> None:
    model = unmask.load(device="cpu", dtype="float32", threads=1)
    (apart,), (together,) = (
        model.score(text, [choice]) for text, choice in (("a [?] of water", "stream"), ("a[?] of water", " stream"))
    )
    assert (apart.nats, apart.tokens) == (together.nats, together.tokens) == (pytest.approx(together.nats), 1)


def test_digits_only(capsys: pytest.CaptureFixture[str]) -> None:
    (fill,) = json_of(capsys, "wordnet", "In the year [4] of our lord", "--only", "0123456789")["fills"]
    assert fill["holes"][0].isdigit()


def test_generate_and_fill_have_the_same_options(capsys: pytest.CaptureFixture[str]) -> None:
    """Characters, suppressed tokens and guidance in both; the control is the same request without them."""
    for verb, words in (("generate", ["wordnet", "To be", "--length", "6"]), ("fill", ["To be[6]."])):
        texts: list[str] = []
        for more in ([], ["--only", " abcdefgh"], ["--suppress", ",", " "], ["--guidance", "2"]):
            capsys.readouterr()
            assert main([verb, *words, *more, *FAST, "--json"]) == 0
            answer = json.loads(capsys.readouterr().out)
            texts.append(answer["texts"][0] if verb == "generate" else answer["fills"][0]["text"])
        plain, only, suppressed, guided = (text.removeprefix("To be") for text in texts)
        assert set(only) <= set(" abcdefgh.")
        assert not set(plain) <= set(" abcdefgh.")
        assert "," not in suppressed
        assert len({plain, only, guided}) == 3


def test_score_marks_the_best_answer_in_total_a_token_and_a_byte(capsys: pytest.CaptureFixture[str]) -> None:
    """The same bounds as `fill --choices` for the same text; a long answer has fewer nats a token than in total."""
    answers = (" water", " stone", " stone and water of the sea")
    words = ("river: a large natural stream of", "--choices", *answers)
    assert main(["score", "wordnet", *words, *FAST, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    choices = result["choices"]
    assert [choice["text"] for choice in choices] == list(answers)
    for name in ("nats", "nats_per_token", "nats_per_byte"):
        values = [choice[name] for choice in choices]
        assert result["best"][name] == values.index(min(values))
    assert choices[2]["nats_per_byte"] == pytest.approx(choices[2]["nats"] / len(answers[2]))
    assert choices[2]["nats_per_token"] == pytest.approx(choices[2]["nats"] / choices[2]["tokens"])
    filled = json_of(capsys, f"{words[0]}[?]", *words[1:])["choices"]
    assert [choice["nats"] for choice in filled] == [choice["nats"] for choice in choices]
    assert main(["score", "wordnet", *words, *FAST]) == 0
    _, first, second, _ = capsys.readouterr().out.splitlines()
    assert first.startswith("' water'")
    assert "*" in first
    assert "*" not in second
    assert main(["score", "wordnet", "river: a [?] stream", "--choices", "large", "small", *FAST, "--json"]) == 0
    placed = json.loads(capsys.readouterr().out)["choices"]
    other = json_of(capsys, "river: a [?] stream", "--choices", "large", "small")["choices"]
    assert [choice["nats"] for choice in placed] == [choice["nats"] for choice in other]
