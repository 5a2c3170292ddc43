"""Soft masks on the command line: trainings from the start and from a checkpoint, what their models can, and errors."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from unmask.cli.main import main
from unmask.disk.checkpoint import load_tensors
from unmask.model.load import load_denoiser
from unmask.model.soft import scalars_of

SMALL = ["--model.width", "16", "--model.blocks", "1", "--model.heads", "2", "--data.length", "16"]
STEPS = ["--train.batch", "4", "--train.eval-draws", "8", "--train.lr", "1e-2", "--sample-every", "0"]
COMMON = [*STEPS, "--threads", "1", "--dtype", "float32"]

Printed = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("a small text of a few letters\n" * 60)
    return ["--data.source", str(file)]


@pytest.fixture(scope="module")
def plain(text: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model with plain masks."""
    folder = str(tmp_path_factory.mktemp("plain") / "run")
    assert main(["train", *text, *SMALL, *COMMON, "--train.steps", "2", "--out", folder]) == 0
    return folder


@pytest.fixture(scope="module")
def soft(text: list[str], plain: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """That model after two steps with soft masks, of which the second is resumed."""
    folder = str(tmp_path_factory.mktemp("soft") / "run")
    words = ["train", "--init", plain, "--model.soft", "3", "--train.two-pass", "1", *text, *COMMON, "--out", folder]
    assert main([*words, "--train.steps", "1"]) == 0
    assert main(["train", "--resume", folder, "--train.steps", "2"]) == 0
    return folder


def facts_of(words: list[str], capsys: Printed) -> dict[str, Any]:
    """The words of a command -> the JSON object that it prints."""
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_soft_masks_are_added_to_a_plain_checkpoint(plain: str, soft: str) -> None:
    """Its weights go on, and the scalars are new; two steps of 1e-2 move no weight far."""
    before, after = load_tensors(plain), load_tensors(soft)
    assert after.keys() == before.keys() | {"soft_mask.raw"}
    assert all(0 < float((after[name] - before[name]).abs().max()) < 0.1 for name in before)
    assert float(scalars_of(after["soft_mask.raw"]).strength) != 0
    network: Any = load_denoiser(soft, "cpu").denoiser
    assert network.soft == 3
    assert torch.equal(network.soft_mask.raw, after["soft_mask.raw"])


@pytest.mark.slow
def test_info_prints_the_scalars(plain: str, soft: str, capsys: Printed) -> None:
    facts = facts_of(["info", soft], capsys)
    expected = {name: float(value) for name, value in scalars_of(load_tensors(soft)["soft_mask.raw"])._asdict().items()}
    assert facts["soft_masks"] == {"tokens": 3, **expected}
    assert facts["bound"]["two_pass"] is True
    assert main(["info", soft]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"mixed into a MASK; strength {expected['strength']:.4g}, slope {expected['slope']:.4g}, offset" in printed
    assert ", of the model in two passes" in printed
    facts = facts_of(["info", plain], capsys)  # the control
    assert facts["soft_masks"] is None
    assert facts["bound"]["two_pass"] is False


@pytest.mark.slow
def test_it_is_measured_in_two_passes_and_decoded_with_feedback(plain: str, soft: str, capsys: Printed) -> None:
    named = ", of the model in two passes (soft masks)"
    assert named in facts_of(["eval", soft, "--limit", "8"], capsys)["estimator"]
    assert named not in facts_of(["eval", plain, "--limit", "8"], capsys)["estimator"]
    for feedback in ("auto", "on", "off"):
        assert main(["generate", soft, "a small", "--length", "5", "--feedback", feedback]) == 0
    assert main(["generate", soft, "a", "--length", "5", "--guidance", "1", "--feedback", "off"]) == 0
    assert main(["generate", plain, "a small", "--length", "5", "--feedback", "off"]) == 0


@pytest.mark.slow
def test_a_checkpoint_with_soft_masks_keeps_them(soft: str, text: list[str], capsys: Printed, tmp_path: Path) -> None:
    """Where a run goes on from it without a word about them; here with one pass in each step: the scalars stay."""
    out = str(tmp_path / "run")
    words = ["train", "--init", soft, *text, *COMMON, "--train.two-pass", "0", "--train.steps", "1", "--out", out]
    assert main(words) == 0
    facts = facts_of(["info", out], capsys)
    assert facts["soft_masks"] == facts_of(["info", soft], capsys)["soft_masks"]
    assert facts["bound"]["two_pass"] is True


@pytest.mark.slow
def test_what_is_impossible_is_one_sentence(
    plain: str, soft: str, text: list[str], capsys: Printed, tmp_path: Path
) -> None:
    def refused(words: list[str], sentence: str) -> None:
        capsys.readouterr()
        assert main(words) == 2, words
        assert sentence in " ".join(capsys.readouterr().err.split())

    generate, out = ["--length", "5"], ["--train.steps", "1", "--out", str(tmp_path / "none")]
    refused(["generate", plain, "a", *generate, "--feedback", "on"], "not trained with soft masks, and feedback would")
    refused(
        ["generate", "wordnet", "a", *generate, "--feedback", "on"], "train it with them first: unmask train --init"
    )
    refused(["generate", soft, "a", *generate, "--guidance", "1"], "Guidance does not go with soft masks")
    refused(["generate", soft, "a", *generate, "--policy", "freedave over confidence"], "turn feedback off")
    train = ["train", *text, *COMMON]
    two = ["--train.two-pass", "0.5"]
    refused([*train, *SMALL, *two, *out], "train.two_pass is 0.5, but masks are plain")
    refused([*train, "--init", plain, *two, *out], "train.two_pass is 0.5, but masks are plain")
    refused([*train, "--init", soft, "--model.soft", "0", *out], "has soft masks, and they stay; set model.soft to 3")
    refused(
        [*train, "--init", plain, "--model.soft", "3", "--model.width", "8", *out], "--model.width does not go with"
    )
    refused([*train, *SMALL, "--model.soft", "3", "--model.parameterization", "sedd", *out], "soft masks are for subs")
    refused([*train, *SMALL, "--model.soft", "3", "--train.grid", "4", *out], "leave train.grid and adapt.anneal out")
    refused(
        [*train, *SMALL, "--model.soft", "3", "--agnostic.masks", "4", *out], "agnostic.masks does not go with soft"
    )
    refused([*train, *SMALL, "--model.soft", "-1", *out], "--model.soft cannot be '-1'")
    refused(["train", "--resume", soft, "--model.soft", "2"], "model.soft was 3 and cannot become 2")
