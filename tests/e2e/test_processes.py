"""`unmask train` under torchrun, as typed: what ends it ends it in all processes, with one sentence."""

import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from unmask.cli.main import main

pytestmark = pytest.mark.processes

SOURCE = Path(__file__).parents[2] / "src"
SMALL = [
    "--model.width",
    "32",
    "--model.blocks",
    "1",
    "--model.heads",
    "2",
    "--data.length",
    "32",
    "--train.batch",
    "8",
]
TYPED = ["--data.tokenizer", "byte", "--train.eval-every", "1000", "--train.sample-every", "0", "--out", "run", *SMALL]
SPOILED = """
import os, signal, sys, time
from unmask.cli.main import main
from unmask.train.loop import Trainer

mine, what, step = os.environ["RANK"] == sys.argv[1], sys.argv[2], Trainer.take_step

def spoiled(trainer):
    if mine and trainer.step == 3:
        time.sleep(60) if what == "hang" else os.kill(os.getpid(), getattr(signal, what))
    return step(trainer)

Trainer.take_step = spoiled
code = main(sys.argv[3:] + (["--train.lr", "0.5"] if mine and what == "differ" else []))
print("code", os.environ["RANK"], code, flush=True)
sys.exit(code)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a small text."""
    words, generator = ["the", "king", "queen", "sword", "love"], random.Random(0)
    rows = [json.dumps({"text": " ".join(generator.choices(words, k=60))}) for _ in range(60)]
    (tmp_path / "book.jsonl").write_text("\n".join(rows))
    (tmp_path / "spoiled.py").write_text(SPOILED)
    return tmp_path


def torchrun(place: Path, *words: str) -> str:
    """The words after those of torchrun -> what its two processes printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    more = {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "UNMASK_CACHE": str(place / "cache")}
    done = subprocess.run(
        command, cwd=place, env=os.environ | more, capture_output=True, text=True, check=False, timeout=240
    )
    return done.stdout + done.stderr


def ended(place: Path, who: int, what: str, *more: str) -> tuple[list[str], list[str]]:
    """A process that does something in its fourth step -> the sentences that were printed, and the exit codes."""
    typed = ["train", "--data.source", "book.jsonl", "--train.steps", "40", *TYPED, *more]
    text = torchrun(place, "spoiled.py", str(who), what, *typed)
    return re.findall(r"^unmask: (.*)$", text, re.MULTILINE), sorted(re.findall(r"^code (\d \d+)$", text, re.MULTILINE))


def test_processes_with_different_settings_are_refused_by_name(place: Path) -> None:
    """One sentence of two processes; the control is the run of the test below, which begins."""
    sentences, codes = ended(place, 1, "differ")
    sentence = (
        "The 2 processes of the run have different settings: train.lr is None in process 0 and 0.5 in process 1 (other "
        "than process 0: 1); start all of them with the same command, library versions and files."
    )
    assert sentences == [sentence]
    assert codes == ["0 2", "1 2"]
    assert not (place / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_a_run_as_typed_and_a_batch_that_cannot_be_shared(place: Path) -> None:
    words = ["-m", "unmask", "train", "--data.source", "book.jsonl", "--train.steps", "4", *TYPED]
    text = torchrun(place, *words)
    assert "Done after step 4 of 4 (finished)." in text
    lines = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["rows"] for line in lines if "loss" in line] == [8, 16, 24, 32]
    assert all(line["skew"] >= 0 and line["mfu"] > 0 and line["memory"] > 0 for line in lines if "loss" in line)
    refused = torchrun(place, *words[:-1], "7", "--out", "other")
    assert refused.count("unmask: a batch of 7 rows cannot be shared by 2 processes: give a multiple.") == 1


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_a_process_that_hangs_is_named(who: int, place: Path) -> None:
    sentences, codes = ended(place, who, "hang", "--train.wait", "5")
    assert len(sentences) == 1
    assert f"process {who} of 2 does not answer" in sentences[0]
    assert f"{1 - who} 1" in codes


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_others(place: Path) -> None:
    sentences, codes = ended(place, 1, "SIGKILL")
    assert len(sentences) == 1
    assert sentences[0].startswith("Another process of the run has ended")
    assert codes == ["0 1"]


@pytest.mark.slow
def test_a_signal_to_one_process_saves_in_all(place: Path) -> None:
    sentences, codes = ended(place, 1, "SIGTERM")
    assert sentences == ["interrupted: step 4 is kept; go on with: unmask train --resume run"]
    assert f"1 {128 + signal.SIGTERM}" in codes
    assert [path.name for path in (place / "run" / "checkpoints").iterdir()] == ["step-00000004"]


@pytest.mark.slow
def test_the_cost_of_a_divided_network_can_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Weights, gradients and moments are divided in half; speeds of tiny sizes mean nothing."""
    assert main(["bench", "scale", "--processes", "2", "--rounds", "1", "--quick", "--json"]) == 0
    alone, several = json.loads(capsys.readouterr().out)["cells"]
    assert (alone["processes"], several["processes"]) == (1, 2)
    assert 0.5 <= several["share_held"] <= 0.55
