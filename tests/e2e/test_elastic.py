"""A worker of torchrun is killed: all are started again, and the run loses the steps since its last checkpoint."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unmask.cli.main import main
from unmask.disk.folders import latest
from unmask.run import metrics

pytestmark = pytest.mark.processes

STEPS = 300
TINY = (
    "--data.length 16 --model.width 16 --model.heads 2 --model.blocks 1 --model.dropout 0.1 --train.batch 4 "
    f"--train.steps {STEPS} --train.save-every 10 --train.eval-every 100 --train.eval-draws 4 --train.log-every 1 "
    "--train.sample-every 0 --dtype float32 --threads 1"
)


def torchrun(folder: Path, words: list[str], *options: str) -> "subprocess.Popen[str]":
    """The words of a command -> the agent that runs it in workers."""
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
    ]
    command += ["--monitor-interval", "0.1", *options, "-m", "unmask", *words]
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def workers(agent: "subprocess.Popen[str]") -> list[int]:
    """An agent -> the numbers of its workers, by rank."""
    text = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text()
    pids: dict[int, int] = {}
    for pid in map(int, text.split()):
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ranks = [int(line[5:]) for line in variables if line.startswith(b"RANK=")]
        pids |= dict.fromkeys(ranks, pid)
    return [pids[rank] for rank in sorted(pids)]


def step(run: Path) -> int:
    """A run folder -> the step of its newest checkpoint."""
    point = latest(run)
    return 0 if point is None else int(point.name.removeprefix("step-"))


def losses(run: Path) -> list[float]:
    """A run folder -> the loss of each step, of which none is missing or double."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    by_step = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert list(by_step) == list(range(1, STEPS + 1))
    return list(by_step.values())


def kill_and_check(folder: Path, seed: int, kills: int, out: str | None) -> None:
    """Train in two workers, of which one is killed again and again at random steps; compare with one process."""
    draw = random.Random(seed)
    (folder / "text.txt").write_text("to be or not to be, that is the question.\n\n" * 60)
    words = ["train", "--data.source", "text.txt", *TINY.split()]
    run = folder / (out or "runs/text-1")
    options = ["--nnodes", "1:1", "--nproc-per-node", "2", "--max-restarts", str(kills)]
    agent = torchrun(folder, [*words, *([] if out is None else ["--out", out])], *options)
    try:
        before: list[int] = []
        for number in range(kills):
            low = STEPS * number // kills
            aim = draw.randrange(low, low + STEPS // (2 * kills)) if number else draw.choice([-1, 30])
            while step(run) <= aim or len(workers(agent)) < 2 or set(workers(agent)) & set(before):
                assert agent.poll() is None, agent.communicate()[1]
                time.sleep(0.05)
            time.sleep(draw.random())
            before = workers(agent)
            os.kill(before[draw.randrange(2)], signal.SIGKILL)
        errors = agent.communicate(timeout=900)[1]
        assert agent.returncode == 0, errors
    finally:
        agent.kill()
    assert sorted(entry.name for entry in run.parent.iterdir() if entry.is_dir() and entry != folder / "alone") == [
        run.name
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "can_draw", lambda: False)
        patch.chdir(folder)
        assert main([*words, "--out", "alone"]) == 0
    assert losses(run) == pytest.approx(losses(folder / "alone"), rel=1e-5)
    assert not [entry for entry in (run / "checkpoints").iterdir() if entry.name.startswith(".")]


def test_a_worker_is_killed_and_the_run_goes_on(tmp_path: Path) -> None:
    """Three times at random moments, without --out."""
    kill_and_check(tmp_path, 1, 3, None)


@pytest.mark.slow
def test_a_worker_is_killed_with_out(tmp_path: Path) -> None:
    kill_and_check(tmp_path, 2, 3, "run")


def test_a_folder_of_another_launch_is_refused(tmp_path: Path) -> None:
    """Also after torchrun has started the workers again, as their folder is not that of this launch."""
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question.\n\n" * 60)
    words = ["train", "--data.source", str(tmp_path / "text.txt"), *TINY.split(), "--train.steps", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "can_draw", lambda: False)
        assert main([*words, "--out", str(tmp_path / "run")]) == 0
    agent = torchrun(
        tmp_path, [*words, "--out", "run"], "--nnodes", "1:1", "--nproc-per-node", "1", "--max-restarts", "1"
    )
    errors = agent.communicate(timeout=600)[1]
    assert agent.returncode != 0
    assert errors.count("run holds a run already; go on with it by --resume run, or choose another --out.") == 2


def aside(run: Path) -> list[str]:
    """A run folder -> the names of checkpoints that were renamed because a run went on from an earlier one."""
    return sorted(entry.name for entry in (run / "checkpoints").iterdir() if entry.name.startswith("aside-"))


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A training of six steps with checkpoints, in a process that torchrun started in the launch "one"."""
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question.\n\n" * 60)
    monkeypatch.setattr(metrics, "can_draw", lambda: False)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    monkeypatch.chdir(tmp_path)
    steps = ["--train.steps", "6", "--train.save-every", "2", "--train.keep", "3"]
    return ["train", "--data.source", "text.txt", *TINY.split(), *steps, "--out", "run"]


def test_workers_that_resume_from_a_checkpoint_keep_what_they_did(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same words of the same launch go on from the newest checkpoint, also without the one that they name. The
    control: another launch goes on from that one, and newer ones are renamed."""
    assert main(words) == 0
    again = ["train", "--resume", "run/checkpoints/step-00000002"]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "two")
    assert main(again) == 0
    assert aside(tmp_path / "run") == ["aside-step-00000004", "aside-step-00000006"]
    assert "started the workers again" not in capsys.readouterr().err
    assert main(again) == 0
    assert "started the workers again: the run in run goes on from step-00000006." in capsys.readouterr().err
    assert len(aside(tmp_path / "run")) == 2
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "three")
    assert main(again) == 0
    assert len(aside(tmp_path / "run")) == 4
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000002")
    assert main(again) == 0
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "four")
    assert main(again) == 2


def test_a_name_of_a_launch_that_is_used_again_for_other_settings_is_refused(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The control: with the same settings, and with another number of threads, it is the same run."""
    assert main(words) == 0
    capsys.readouterr()
    assert main([*words, "--train.lr", "0.01"]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        "unmask: run was begun by a launch of torchrun of the same name (--rdzv-id) with other settings: go on with it "
        "by --resume run, or give a new run another --rdzv-id."
    )
    assert main([*words, "--train.threads", "1"]) == 0
    assert "the run in run goes on from step-00000006." in capsys.readouterr().err
    assert main(["train", "--resume", "run", "--train.steps", "8"]) == 0
    assert step(tmp_path / "run") == 8
