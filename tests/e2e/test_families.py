"""Every family of published models, from a folder laid out as published: all that a user does with a model, by command.

The commands are those of docs/models.md. Weights are random, so that no figure means anything.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.parity.published import SPECS, write, write_dit
from tests.parity.test_encoder import TOKENS
from tests.parity.test_encoder import write as write_encoder

import unmask
from unmask.cli.main import main
from unmask.model.zoo.read import FAMILIES
from unmask.objective.masked import Masked

TASK = '''
"""Letters after letters: the score is the share of right ones."""

from unmask.tasks.base import Example, Verdict


class Letters:
    name = "letters"

    def examples(self, split, count, seed=0):
        words = [(number * step) % 1000 for number, step in zip(range(count), [7] * count)]
        return [Example(f"{'abcde'[w % 5]}{'fghij'[w % 3]}[4]", ("abcde" * 3)[w % 5 : w % 5 + 4]) for w in words]

    def verify(self, example, completion):
        return Verdict(sum(a == b for a, b in zip(completion, example.answer)) / 8 + 0.25)

    def pairs(self, split, count, seed=0):
        return ((example.template[:2], example.answer) for example in self.examples(split, count, seed))
'''
LEARN = (
    "--learn.rounds 1 --learn.prompts 2 --learn.group 2 --learn.alphas 0.3 10 --learn.warm 1 --learn.scored 4 "
    "--learn.pool 8 --learn.valid-prompts 2 --learn.calibrated 2 --learn.threads 1 --policy.width 16 --json"
)


TRAIN = "--train.threads 1 --train.dtype float32 --train.sample-every 0 --train.eval-draws 4"


def published(family: str, folder: Path) -> str:
    """Write the folder of a family -> its path."""
    if family in SPECS:
        write(family, folder)
    elif family in TOKENS:
        write_encoder(family, folder)
    else:
        write_dit(family, folder)
    return str(folder)


def run(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    """The words of a command with --json -> what it prints."""
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_all_that_a_user_does(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    maskable = list[Any]()  # in training, the first positions
    draw = Masked.draw

    def recorded(self: Masked, *words: Any) -> Any:
        maskable.append(words[-1][:, 0])
        return draw(self, *words)

    monkeypatch.setattr(Masked, "draw", recorded)
    for module in ("unmask.run.metrics", "unmask.eval.report"):
        monkeypatch.setattr(f"{module}.can_draw", lambda: False)  # pictures take half of the time
    folder = published(family, tmp_path / "published")
    network: Any = unmask.load(folder, device="cpu", dtype="float32").network
    shifted = getattr(network, "shifted", False)
    (tmp_path / "letters.py").write_text(TASK)
    (tmp_path / "text.txt").write_text("\n".join("abcdefghij"[n % 7 :] + "\n" for n in range(60)))
    task = f"{tmp_path / 'letters.py'}:Letters"
    assert run(capsys, "info", folder, "--json")["family"] == family
    assert run(capsys, "generate", folder, "ab", "--length", 8, "--json")["texts"]
    assert run(capsys, "fill", folder, "ab[3]cd", "--json")
    assert run(capsys, "fill", folder, "ab[?]cd", "--choices", "a", "bc", "--json")
    bound = run(capsys, "eval", folder, "--data.source", tmp_path / "text.txt", "--draws", 2, "--json")
    assert (bound["known"] > 0) == shifted
    sweep = ["--policies", "confidence", "--blocks", "full", "--count", 2, "--workers", 1, "--out", tmp_path / "sweep"]
    assert run(capsys, "frontier", folder, "--task", task, *sweep, "--json")
    words = LEARN.split()
    run(capsys, "learn", "--checkpoint", folder, "--task", task, *words, "--out", tmp_path / "policy")
    text = [
        "--data.source",
        tmp_path / "text.txt",
        "--data.length",
        32,
        "--train.steps",
        2,
        "--train.batch",
        4,
        *TRAIN.split(),
    ]
    tuned = run(capsys, "train", "--init", folder, *text, "--out", tmp_path / "tuned", "--json")["checkpoint"]
    rule = f"learned:from={tmp_path / 'policy'}"
    assert run(capsys, "generate", tuned, "ab", "--length", 8, "--policy", rule, "--json")["texts"]
    assert all(bool(part.any()) != shifted for part in maskable)
    assert unmask.load(tuned, device="cpu", dtype="float32").network.settings == network.settings
