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
SWEEP = "--policies confidence --blocks full --count 2 --workers 1"
LEARN = (
    "--learn.rounds 1 --learn.prompts 2 --learn.group 2 --learn.alphas 0.3 10 --learn.warm 1 --learn.scored 4 "
    "--learn.pool 8 --learn.valid-prompts 2 --learn.calibrated 2 --learn.threads 1 --policy.width 16"
)


TRAIN = (
    "--data.length 32 --train.steps 2 --train.batch 4 --train.threads 1 --train.dtype float32 --train.sample-every 0 "
    "--train.eval-draws 4"
)


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
    """The words of a command -> what it prints with --json."""
    code = main([*map(str, words), "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def parameter_count(network: Any) -> int:
    return sum(value.numel() for value in network.parameters())


def all_that_a_user_does(
    folder: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    letters: str = "abcdefghij",
) -> None:
    """Every command on a published folder whose tokenizer has these letters."""
    maskable = list[Any]()  # in training, the first positions
    draw = Masked.draw

    def recorded(self: Masked, *words: Any) -> Any:
        maskable.append(words[-1][:, 0])
        return draw(self, *words)

    monkeypatch.setattr(Masked, "draw", recorded)
    for module in ("unmask.run.metrics", "unmask.eval.report"):
        monkeypatch.setattr(f"{module}.can_draw", lambda: False)  # pictures take half of the time
    network: Any = unmask.load(folder, device="cpu", dtype="float32").network
    shifted = getattr(network, "shifted", False)
    file, text, tuned = tmp_path / "letters.py", tmp_path / "text.txt", tmp_path / "tuned"
    file.write_text(TASK.replace("abcde", letters[:5]).replace("fghij", letters[5:]))
    text.write_text("\n".join(letters[n % 7 :] + "\n" for n in range(60)))
    a, b = letters[:2], letters[2:4]
    assert run(capsys, "generate", folder, a, "--length", 8)["texts"]
    assert run(capsys, "fill", folder, f"{a}[3]{b}")
    assert run(capsys, "fill", folder, f"{a}[?]{b}", "--choices", letters[0], letters[1:3])
    bound = run(capsys, "eval", folder, "--data.source", text, "--draws", 2)
    assert (bound["known"] > 0) == shifted
    assert run(capsys, "frontier", folder, "--task", f"{file}:Letters", *SWEEP.split(), "--out", tmp_path / "sweep")
    options = ["--task", f"{file}:Letters", *LEARN.split(), "--out", tmp_path / "policy"]
    run(capsys, "learn", "--checkpoint", folder, *options)
    run(capsys, "train", "--init", folder, "--data.source", text, *TRAIN.split(), "--out", tuned)
    rule = f"learned:from={tmp_path / 'policy'}"
    assert run(capsys, "generate", tuned, a, "--length", 8, "--policy", rule)["texts"]
    assert all(bool(part.any()) != shifted for part in maskable)
    again: Any = unmask.load(tuned, device="cpu", dtype="float32").network
    assert again.settings == network.settings
    assert parameter_count(again) == parameter_count(network)  # tied weights stay a single parameter


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = published(family, tmp_path / "published")
    assert run(capsys, "info", folder)["family"] == family
    all_that_a_user_does(folder, tmp_path, capsys, monkeypatch)


@pytest.mark.slow
@pytest.mark.extras
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("model_type", ["modernbert", "esm", "distilbert"])
def test_masked_language_models_of_transformers(
    model_type: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    from tests.parity.test_masked_lm import written

    written(model_type, tmp_path / "published")
    assert run(capsys, "info", tmp_path / "published")["architecture"] == "masked-lm"
    all_that_a_user_does(str(tmp_path / "published"), tmp_path, capsys, monkeypatch, "ACDEFGHIKL")
