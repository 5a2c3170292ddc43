"""The README's commands as a person types them: real processes, on a tiny text made here."""

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
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text of 40 documents' worth of nonsense."""
    folder, chance = tmp_path_factory.mktemp("e2e"), random.Random(0)
    paragraphs = [" ".join(chance.choice(WORDS) for _ in range(40)).capitalize() + "." for _ in range(80)]
    (folder / "text.txt").write_text("\n\n".join(paragraphs))
    return folder


def start(place: Path, *words: str) -> subprocess.Popen[str]:
    """`unmask` with these words, in `place`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "unmask.cli.main", *words],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(SRC)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    STARTED.append(process)
    return process


@pytest.fixture(autouse=True)
def _leave_nothing_running() -> Generator[None]:
    """A test that fails half-way takes its processes with it."""
    yield
    while STARTED:
        process = STARTED.pop()
        process.kill()
        process.communicate()


def call(place: Path, *words: str) -> str:
    """What it prints on stdout; it must end well."""
    process = start(place, *words)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def told(place: Path, *words: str) -> dict[str, Any]:
    """The one JSON object that it prints with --json."""
    out = call(place, *words, "--json")
    assert out.count("\n") == 1
    return json.loads(out)


def computed() -> float:
    """Processor seconds of the processes that have ended: unlike the clock, no other program makes them more."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def weights(run: Path) -> bytes:
    """The newest training state of a run, byte for byte."""
    folder = latest(run)
    assert folder is not None
    files = ("model.safetensors", "state/raw.safetensors", "state/optimizer.safetensors", "state/ema.safetensors")
    return b"".join((folder / name).read_bytes() for name in files)


def wait_for(condition: Any, seconds: float = 60) -> None:
    """Until it holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def steps_of(run: Path) -> int:
    """Lines of metrics.jsonl so far."""
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


@pytest.fixture(scope="module")
def whole(place: Path) -> dict[str, Any]:
    """A run of 40 steps to its end, and what the command told."""
    return told(
        place,
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


def test_help_is_quick_and_names_every_verb(place: Path) -> None:
    from unmask.cli.main import VERBS

    began = computed()
    out = call(place, "--help")
    assert computed() - began < 0.5
    assert all(f"unmask {verb} " in out for verb in VERBS)


@pytest.mark.slow
def test_train_tells_its_end(place: Path, whole: dict[str, Any]) -> None:
    assert (whole["step"], whole["reason"]) == (40, "finished")
    assert 0 < whole["best"]["nats_per_token"] < 7
    assert (place / whole["curves"]).exists()
    assert (place / whole["checkpoint"] / "model.safetensors").exists()


@pytest.mark.slow
def test_eval_repeats_and_counts_the_tokens(place: Path, whole: dict[str, Any]) -> None:
    found = told(place, "eval", "whole", "--draws", "2", "--threads", "1")
    assert found["tokens"] == whole["best"]["tokens"]
    assert abs(found["nats_per_token"] - whole["best"]["nats_per_token"]) < 0.3
    assert found["bits_per_byte"] > 0
    assert found["draws"] == 2


@pytest.mark.slow
def test_eval_of_all_pools_its_parts(place: Path, whole: dict[str, Any]) -> None:
    """Rates and bits are those of all rows together; the control: the mean of the two parts."""
    words = ("eval", "whole", "--draws", "1", "--threads", "1", "--split")
    train, valid, pooled = (told(place, *words, split) for split in ("train", "valid", "all"))
    nats, tokens, size = (
        sum(value(part) for part in (train, valid))
        for value in (
            lambda part: part["nats_per_token"] * part["tokens"],
            lambda part: part["tokens"],
            lambda part: part["nats_per_token"] * part["tokens"] / part["bits_per_byte"],
        )
    )
    assert pooled["nats_per_token"] == pytest.approx(nats / tokens, rel=1e-9)
    assert pooled["bits_per_byte"] == pytest.approx(nats / size, rel=1e-9)
    assert pooled["tokens"] == tokens
    mean = (train["nats_per_token"] + valid["nats_per_token"]) / 2
    assert pooled["nats_per_token"] != pytest.approx(mean, rel=1e-6)


@pytest.mark.slow
def test_generate_beyond_the_window_and_by_seed(place: Path, whole: dict[str, Any]) -> None:
    words = ("generate", "whole", "The king", "--length", "48", "--count", "2", "--threads", "1", "--seed")
    one, again = told(place, *words, "3"), told(place, *words, "3", "--watch")
    assert one["texts"] == again["texts"]
    assert len(set(one["texts"])) == 2  # another row has another seed
    assert all(text.startswith("The king") for text in one["texts"])
    assert one["tokens"] == sum(len(row) for row in one["log_probs"])
    assert one["entropy"] > 0


@pytest.mark.slow
def test_fill_keeps_what_was_given(place: Path, whole: dict[str, Any]) -> None:
    fills = told(place, "fill", "whole", "The king [3] and the queen [2].", "--count", "2", "--threads", "1")["fills"]
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
def test_info_needs_no_torch_and_under_a_second(place: Path, whole: dict[str, Any]) -> None:
    script = "import sys; from unmask.cli.main import main; code = main(['info', 'whole', '--json'])"
    script += "; assert 'torch' not in sys.modules; sys.exit(code)"
    began = computed()
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=place, env=os.environ | {"PYTHONPATH": str(SRC)}, capture_output=True
    )
    assert computed() - began < 1.0
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["parameters"] == whole["parameters"]
    assert facts["bound"] == whole["best"]
    assert facts["model"]["max_length"] == 32


@pytest.mark.slow
def test_dry_tells_and_writes_nothing(place: Path, whole: dict[str, Any]) -> None:
    before = set(place.rglob("*"))
    found = told(place, "train", *TINY, "--dry")
    assert found["parameters"] == whole["parameters"]
    assert found["step"] == 0
    assert found["seconds"] > 0
    assert found["peak_bytes"] > 10_000_000
    assert set(place.rglob("*")) == before


@pytest.mark.slow
def test_stopped_by_ctrl_c_or_killed_a_run_goes_on_to_the_same_bits(place: Path) -> None:
    long = [*TINY, "--train.steps", "240", "--train.eval_every", "80", "--train.eval_draws", "32"]
    long += ["--train.save_every", "20", "--train.patience", "0"]
    call(place, "train", *long, "--out", "uninterrupted")

    process = start(place, "train", *long, "--out", "stopped")
    wait_for(lambda: steps_of(place / "stopped") > 20)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    newest = latest(place / "stopped")
    assert newest is not None
    step = int(newest.name.removeprefix("step-"))
    assert 20 < step < 240
    assert f"Stopped after step {step}; saved. Go on with: unmask train --resume stopped" in err
    assert weights(place / "stopped") != weights(place / "uninterrupted")

    process = start(place, "train", "--resume", "stopped")
    wait_for(lambda: steps_of(place / "stopped") > 130)
    process.kill()
    process.communicate(timeout=60)
    killed = latest(place / "stopped")
    assert killed is not None
    assert 120 <= int(killed.name.removeprefix("step-")) < 240

    process = start(place, "train", "--resume", "stopped")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "bit-equal" not in err
    assert weights(place / "stopped") == weights(place / "uninterrupted")


@pytest.mark.slow
def test_more_steps_and_fine_tuning(place: Path, whole: dict[str, Any]) -> None:
    pairs = [json.dumps({"prompt": "the king and", "answer": " the queen"}) for _ in range(64)]
    (place / "pairs.jsonl").write_text("\n".join(pairs))
    tuned = told(
        place, "train", "--init", "whole", "--data.source", "pairs.jsonl", "--train.steps", "5", "--threads", "1"
    )
    assert tuned["run"] == "runs/pairs-1"
    assert tuned["parameters"] == whole["parameters"]
    both = [json.loads((place / c / "config.json").read_text()) for c in (tuned["checkpoint"], whole["checkpoint"])]
    assert both[0]["model"] == both[1]["model"]
    further = told(place, "train", "--resume", tuned["run"], "--train.steps", "8")
    assert (further["step"], further["steps"]) == (8, 8)


@pytest.mark.slow
def test_demo_does_its_three_things_on_any_checkpoint(place: Path, whole: dict[str, Any]) -> None:
    found = told(place, "demo", "whole", "--threads", "1")
    assert found["bound"]["nats_per_token"] > 0
    assert [one["passes"] > 0 for one in found["generated"]] == [True, True]
    assert "puzzles" not in found
    assert 0 < len(found["filled"]) <= 3
    assert found["seconds"] < 60
