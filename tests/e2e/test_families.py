"""The ten commands of docs/models.md for every family, on folders laid out as published, with random weights."""

import json
import shlex
from pathlib import Path
from typing import Any, cast

import pytest
from tests.extras import library
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
SWEEP = "--blocks full --count 2 --workers 1"
LEARN = (
    "--learn.rounds 1 --learn.prompts 2 --learn.group 2 --learn.alphas 0.3 10 --learn.warm 1 --learn.scored 4 "
    "--learn.pool 8 --learn.valid-prompts 2 --learn.calibrated 2 --learn.threads 1 --policy.width 16"
)


TRAIN = (
    "--train.steps 2 --train.batch 4 --train.threads 1 --train.dtype float32 --train.sample-every 0 "
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


def commands_of_the_page() -> list[list[str]]:
    """The words of the ten commands of docs/models.md."""
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    fence = page.partition("## Every family in ten lines")[2].partition("```sh parse\n")[2].partition("```")[0]
    return [shlex.split(line)[1:] for line in fence.splitlines()]


def all_that_a_user_does(
    folder: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    letters: str = "abcdefghij",
) -> list[dict[str, Any]]:
    """Run the commands of the page on a published folder whose tokenizer has these letters -> what each prints."""
    maskable = list[Any]()  # in training, the first positions
    draw = Masked.draw

    def recorded(self: Masked, *words: Any) -> Any:
        maskable.append(words[-1][:, 0])
        return draw(self, *words)

    monkeypatch.setattr(Masked, "draw", recorded)
    for module in ("unmask.run.metrics", "unmask.eval.report"):
        monkeypatch.setattr(f"{module}.can_draw", lambda: False)  # pictures take half of the time
    task, text, tuned = tmp_path / "letters.py", tmp_path / "text.txt", tmp_path / "run"
    task.write_text(TASK.replace("abcde", letters[:5]).replace("fghij", letters[5:]))
    text.write_text("\n".join(letters[n % 7 :] + "\n" for n in range(60)))
    a, b = letters[:2], letters[2:4]
    own = {"FOLDER": folder, "TEXT": text, "TASK": f"{task}:Letters", "RUN": tuned, "POLICY": tmp_path / "policy"}
    own |= {"learned:from=POLICY": f"learned:from={tmp_path / 'policy'}", "cat": letters[0], "mouse": letters[1:3]}
    own |= {"the": a, "the [3] of": f"{a}[3]{b}", "the [?] of": f"{a}[?]{b}"}
    small = {
        "train": TRAIN,
        "learn": LEARN,
        "frontier": f"{SWEEP} --out {tmp_path / 'sweep'}",
        "eval": "--draws 2 --split all",
    }
    printed = [
        run(capsys, *(own.get(word, word) for word in words), *small.get(words[0], "").split())
        for words in commands_of_the_page()
    ]
    assert len(printed) == 10
    network, again = (cast(Any, unmask.load(path, device="cpu", dtype="float32").network) for path in (folder, tuned))
    shifted = getattr(network, "shifted", False)
    assert (printed[4]["known"] > 0) == shifted
    assert all(bool(part.any()) != shifted for part in maskable)
    assert again.settings == network.settings
    assert parameter_count(again) == parameter_count(network)  # tied weights stay a single parameter
    return printed


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = published(family, tmp_path / "published")
    assert all_that_a_user_does(folder, tmp_path, capsys, monkeypatch)[0]["family"] == family


@pytest.mark.slow
@pytest.mark.extras
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("model_type", ["modernbert", "esm", "distilbert"])
def test_masked_language_models_of_transformers(
    model_type: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    library("transformers", "hf")
    from tests.parity.test_masked_lm import written

    written(model_type, tmp_path / "published")
    printed = all_that_a_user_does(str(tmp_path / "published"), tmp_path, capsys, monkeypatch, "ACDEFGHIKL")
    assert printed[0]["architecture"] == "masked-lm"
