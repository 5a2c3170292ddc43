"""The commands of the README in real processes, on a tiny text made here."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from unmask.disk.folders import latest

SRC = Path(__file__).parents[2] / "src"
TINY = [
    *("--data.source", "text.txt", "--data.length", "32", "--model.width", "32", "--model.blocks", "1"),
    *("--model.heads", "2", "--train.batch", "8", "--threads", "1", "--dtype", "float32"),
]
STARTED: list[subprocess.Popen[str]] = []
WORDS = [
    "the",
    "a",
    "king",
    "queen",
    "lord",
    "sweet",
    "night",
    "day",
    "love",
    "death",
    "sword",
    "crown",
    "shall",
    "will",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text of 80 paragraphs of random words."""
    folder, generator = tmp_path_factory.mktemp("e2e"), random.Random(0)
    paragraphs = [" ".join(generator.choice(WORDS) for _ in range(40)).capitalize() + "." for _ in range(80)]
    (folder / "text.txt").write_text("\n\n".join(paragraphs))
    return folder


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start `unmask` with these words in `folder`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "unmask.cli.main", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(SRC)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    STARTED.append(process)
    return process


@pytest.fixture(autouse=True)
def _leave_nothing_running() -> Generator[None]:
    """End the processes of a test that fails."""
    yield
    while STARTED:
        process = STARTED.pop()
        process.kill()
        process.communicate()


def call(folder: Path, *words: str) -> str:
    """Run `unmask` with these words -> its stdout; the exit code has to be 0."""
    process = start(folder, *words)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def json_of(folder: Path, *words: str) -> dict[str, Any]:
    """Run `unmask` with these words and --json -> the JSON object that it prints."""
    out = call(folder, *words, "--json")
    assert out.count("\n") == 1
    return json.loads(out)


def computed() -> float:
    """Processor seconds of the processes that have ended; unlike the clock, they do not depend on other programs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def weights(run: Path) -> dict[str, bytes]:
    """The newest training state of a run, byte for byte; an empty tensor names the save of a file."""
    folder = latest(run)
    assert folder is not None
    files = [folder / "model.safetensors", *sorted((folder / "state").glob("*.safetensors"))]
    tensors = {f"{file.name} {name}": tensor for file in files for name, tensor in load_file(file).items()}
    assert any(name.startswith("shard") for name in tensors)
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items() if tensor.numel()}


def wait_for(condition: Any, seconds: float = 60) -> None:
    """Wait until the condition is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.01)


def steps_of(run: Path) -> int:
    """The number of lines in metrics.jsonl."""
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, Any]:
    """The report of a complete run of 40 steps."""
    return json_of(
        folder,
        "train",
        *TINY,
        "--train.steps",
        "40",
        "--train.eval_every",
        "20",
        "--train.eval_draws",
        "64",
        "--out",
        "whole",
    )


def test_help_is_quick_and_names_every_verb(folder: Path) -> None:
    from unmask.cli.main import VERBS

    began = computed()
    out = call(folder, "--help")
    assert computed() - began < 0.5
    assert all(f"unmask {verb} " in out for verb in VERBS)


@pytest.mark.slow
def test_train_reports_its_end(folder: Path, whole: dict[str, Any]) -> None:
    assert (whole["step"], whole["reason"]) == (40, "finished")
    assert 0 < whole["best"]["nats_per_token"] < 7
    assert (folder / whole["curves"]).exists()
    assert (folder / whole["checkpoint"] / "model.safetensors").exists()


@pytest.mark.slow
def test_eval_repeats_and_counts_the_tokens(folder: Path, whole: dict[str, Any]) -> None:
    report = json_of(folder, "eval", "whole", "--draws", "2", "--threads", "1")
    assert report["tokens"] == whole["best"]["tokens"]
    assert abs(report["nats_per_token"] - whole["best"]["nats_per_token"]) < 0.3
    assert report["bits_per_byte"] > 0
    assert report["draws"] == 2


@pytest.mark.slow
@pytest.mark.long
def test_eval_of_all_pools_its_parts(folder: Path, whole: dict[str, Any]) -> None:
    """Tokens and bytes are those of both parts, and the rate is their pooled one within the errors of the maskings.

    The maskings of all rows are drawn together. The control is the training part alone.
    """
    words = ("eval", "whole", "--draws", "4", "--threads", "1", "--split")
    train, valid, pooled = (json_of(folder, *words, split) for split in ("train", "valid", "all"))

    def size(part: dict[str, Any]) -> float:
        return part["nats_per_token"] * part["tokens"] / part["bits_per_byte"]

    assert pooled["tokens"] == train["tokens"] + valid["tokens"] != train["tokens"]
    assert size(pooled) == pytest.approx(size(train) + size(valid), rel=1e-6) != size(train)
    nats = sum(part["nats_per_token"] * part["tokens"] for part in (train, valid))
    assert abs(pooled["nats_per_token"] - nats / pooled["tokens"]) < 4 * pooled["stderr"]


@pytest.mark.slow
def test_generate_beyond_the_window_and_by_seed(folder: Path, whole: dict[str, Any]) -> None:
    words = ("generate", "whole", "The king", "--length", "48", "--count", "2", "--threads", "1", "--seed")
    first, second = json_of(folder, *words, "3"), json_of(folder, *words, "3", "--watch")
    assert first["texts"] == second["texts"]
    assert len(set(first["texts"])) == 2  # another row has another seed
    assert all(text.startswith("The king") for text in first["texts"])
    assert first["tokens"] == sum(len(row) for row in first["log_probs"])
    assert first["entropy"] > 0


@pytest.mark.slow
def test_fill_keeps_the_text_around_the_holes(folder: Path, whole: dict[str, Any]) -> None:
    fills = json_of(folder, "fill", "whole", "The king [3] and the queen [2].", "--count", "2", "--threads", "1")[
        "fills"
    ]
    assert len(fills) == 2
    for fill in fills:
        first, second = fill["holes"]
        assert fill["text"].startswith("The king")
        assert fill["text"].endswith(".")
        assert " and the queen" in fill["text"]
        assert len(fill["log_probs"]) == 5
        assert first in fill["text"] or "\ufffd" in fill["text"]
        assert second in fill["text"] or "\ufffd" in fill["text"]


@pytest.mark.slow
def test_info_needs_no_torch_and_under_a_second(folder: Path, whole: dict[str, Any]) -> None:
    script = "import sys; from unmask.cli.main import main; code = main(['info', 'whole', '--json'])"
    script += "; assert 'torch' not in sys.modules; sys.exit(code)"
    began = computed()
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=os.environ | {"PYTHONPATH": str(SRC)}, capture_output=True
    )
    assert computed() - began < 1.0
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["parameters"] == whole["parameters"]
    assert facts["bound"] == whole["best"]
    assert facts["model"]["max_length"] == 32


@pytest.mark.slow
def test_dry_reports_and_writes_nothing(folder: Path, whole: dict[str, Any]) -> None:
    before = set(folder.rglob("*"))
    report = json_of(folder, "train", *TINY, "--dry")
    assert report["parameters"] == whole["parameters"]
    assert report["step"] == 0
    assert report["seconds"] > 0
    assert report["memory_bytes"] > 10_000_000
    assert set(folder.rglob("*")) == before


@pytest.mark.slow
@pytest.mark.long
def test_a_run_stopped_by_ctrl_c_or_killed_continues_to_the_same_bits(folder: Path) -> None:
    long = [*TINY, "--train.steps", "240", "--train.eval_every", "80", "--train.eval_draws", "32"]
    long += ["--train.save_every", "20", "--train.patience", "0"]
    call(folder, "train", *long, "--out", "uninterrupted")

    process = start(folder, "train", *long, "--out", "stopped")
    wait_for(lambda: steps_of(folder / "stopped") > 20)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    newest = latest(folder / "stopped")
    assert newest is not None
    step = int(newest.name.removeprefix("step-"))
    assert 20 < step < 240
    assert f"Stopped after step {step}; saved. Go on with: unmask train --resume stopped" in err
    assert weights(folder / "stopped") != weights(folder / "uninterrupted")

    process = start(folder, "train", "--resume", "stopped")
    wait_for(lambda: steps_of(folder / "stopped") > 130)
    process.kill()
    process.communicate(timeout=60)
    killed = latest(folder / "stopped")
    assert killed is not None
    assert 120 <= int(killed.name.removeprefix("step-")) < 240

    process = start(folder, "train", "--resume", "stopped")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "bit-equal" not in err
    assert weights(folder / "stopped") == weights(folder / "uninterrupted")


@pytest.mark.slow
@pytest.mark.long
def test_more_steps_and_fine_tuning(folder: Path, whole: dict[str, Any]) -> None:
    pairs = [json.dumps({"prompt": "the king and", "answer": f" the queen {n}"}) for n in range(64)]
    (folder / "pairs.jsonl").write_text("\n".join(pairs))
    tuned = json_of(
        folder, "train", "--init", "whole", "--data.source", "pairs.jsonl", "--train.steps", "5", "--threads", "1"
    )
    assert tuned["run"] == "runs/pairs-1"
    assert tuned["parameters"] == whole["parameters"]
    both = [json.loads((folder / c / "config.json").read_text()) for c in (tuned["checkpoint"], whole["checkpoint"])]
    assert both[0]["model"] == both[1]["model"]
    further = json_of(folder, "train", "--resume", tuned["run"], "--train.steps", "8")
    assert (further["step"], further["steps"]) == (8, 8)


@pytest.mark.slow
def test_demo_does_its_three_things_on_any_checkpoint(folder: Path, whole: dict[str, Any]) -> None:
    report = json_of(folder, "demo", "whole", "--threads", "1")
    assert report["bound"]["nats_per_token"] > 0
    assert [text["passes"] > 0 for text in report["generated"]] == [True, True]
    assert "puzzles" not in report
    assert 0 < len(report["filled"]) <= 3
    assert report["seconds"] < 60
