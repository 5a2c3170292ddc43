"""A wrong request to `unmask reproduce` -> one sentence, exit code 2, and no file is written."""

from pathlib import Path

import pytest

from unmask.cli.main import main

CASES = [
    ("", "reproduce lacks the name of a question; give one of mdlm, mdlm-rates, mdlm-baselines, "),
    ("policies-ful", "There is no question named 'policies-ful'; did you mean 'policies-full'?"),
    ("policies-full --denoisers automaton_oes", "There is no checkpoint at 'automaton_oes'; "),
    ("policies-full --denoisers", "There is nothing to train: give at least one of --denoisers and one of --seeds."),
    ("policies-full --others sudoku", "--others has 'sudoku'; write TASK=CHECKPOINT, for example sudoku=sudoku."),
    ("policies-full --others sudoko=sudoku", "There is no task named 'sudoko'; did you mean 'sudoku'?"),
    ("policies-full --workers 0", "--workers cannot be '0'; give a whole number from 1 to 1024."),
    ("policies-full --count 0", "--count cannot be '0'; give a whole number of at least 1."),
    ("policies-full --calibrated there/automaton_eos", "Two denoisers are called automaton_eos; rename the folder of "),
    ("policies-full --blocks 1/4", "blocks are 1/4; full, the whole canvas, has to be among them."),
    ("policies-full --out a,b", "The folder 'a,b' has ',' in it, which means something in a policy's name; choose "),
    ("policies-full --blocks full half", "'half' is no block size; give full, a number such as 8, or a share such as "),
    ("policies-transfer --twice nowhere", "There is no checkpoint at 'nowhere'; "),
    ("mdlm --fast --published", "reproduce takes one of --fast, --full and --published."),
    ("mdlm --rounds 3", "--rounds does not go with mdlm, which trains no policies."),
    ("mdlm-baselins", "There is no question named 'mdlm-baselins'; did you mean 'mdlm-baselines'?"),
    ("policies-full --published", "--published does not go with questions about policies; "),
    ("list --workers 2", "--workers does not go with --list, which runs nothing."),
    ("mdlm-generation --judge sudoku", "sudoku cannot judge texts: it is no causal language model, and has a bound "),
    ("mdlm-generation --judge nowhere", "There is no checkpoint at 'nowhere'; "),
    (
        "mdlm-steps --judge sudoku",
        "--judge does not go with mdlm-steps; it is for mdlm-generation, which writes texts.",
    ),
    ("policies-full --judge sudoku", "--judge does not go with questions about policies; "),
    ("policies-full --fsat", "reproduce has no option '--fsat'; did you mean '--fast'?"),
]


@pytest.mark.parametrize(("words", "sentence"), CASES)
def test_one_sentence(
    words: str, sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"unmask: {sentence}")
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())
