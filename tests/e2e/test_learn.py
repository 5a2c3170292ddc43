"""`unmask learn` end to end: training, interruption, a resumed run with the same bits, use of a policy by name."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import unmask
from unmask import tasks
from unmask.bench.policy import policy_cell
from unmask.cli.learn import LearnProgress
from unmask.cli.main import main
from unmask.config import to_dict, typed
from unmask.disk.checkpoint import load_state, load_tensors
from unmask.disk.folders import bundled, bundled_policies, latest
from unmask.errors import CheckpointError, ConfigError, RunError
from unmask.model.load import build
from unmask.model.settings import DiTSettings
from unmask.policies.learned.settings import PolicySettings
from unmask.recipes.policies import names, read
from unmask.reproduce.work import _requested
from unmask.rl import loop, warm
from unmask.rl.learner import RoundReport
from unmask.rl.loop import ValidationResult, fit
from unmask.rl.rollout import experts
from unmask.rl.session import _origins, learn_side_by_side, open_learning, recorded_learning
from unmask.rl.settings import LearnRun, LearnSettings
from unmask.run.loop import Listener
from unmask.solve.problems import problems, solve

SMALL = LearnSettings(
    rounds=4,
    prompts=4,
    group=4,
    alphas=(0.3, 10.0),
    warm=2,
    scored=8,
    pool=32,
    valid_prompts=8,
    valid_every=2,
    calibrated=4,
    threads=1,
)
RUN = LearnRun("automaton_eos", "automaton", PolicySettings(width=16), SMALL)
TASK = """
from unmask.tasks.automaton import Automaton
from unmask.tasks.base import Verdict

class Mine(Automaton):
    def verify(self, example, completion):
        return {verdict}
"""


class Quiet(Listener[RoundReport, ValidationResult]):
    """A listener that sends this process SIGINT, as Ctrl-C does, after a number of rounds."""

    def __init__(self, rounds: int = 99) -> None:
        self.rounds, self.reports, self.texts = rounds, list[RoundReport](), list[str]()

    def message(self, text: str) -> None:
        self.texts.append(text)

    def stepped(self, report: RoundReport) -> None:
        self.reports.append(report)
        if report.round == self.rounds:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("steering", [0, 1])
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path: Path, steering: int) -> None:
    """Without steering with a policy that hides tokens again, and with every setting for the fast end."""
    run = replace(RUN, learn=replace(SMALL, steering=steering))
    if not steering:
        learn = replace(SMALL, mixed=True, fastest=True, between=True)
        run = replace(RUN, policy=replace(RUN.policy, hides=1), learn=learn)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done, calibration = fit(open_learning(run, out=whole).learner, Quiet())
    assert done.reason == "finished"
    assert calibration
    first, _ = fit(open_learning(run, out=parts).learner, Quiet(2))
    assert (first.reason, first.step) == ("interrupted", 2)
    assert fit(open_learning(run, resume=parts).learner, Quiet())[0].reason == "finished"
    for name, weight in load_tensors(whole / "checkpoints" / "step-00000004").items():
        assert torch.equal(weight, load_tensors(parts / "checkpoints" / "step-00000004")[name])
    assert (
        load_state(whole / "checkpoints" / "step-00000004")[1] == load_state(parts / "checkpoints" / "step-00000004")[1]
    )
    other, _ = fit(
        open_learning(replace(run, learn=replace(run.learn, seed=1)), out=tmp_path / "other").learner, Quiet()
    )
    assert other.merit != done.merit  # the control


@pytest.mark.slow
@pytest.mark.long
def test_an_interrupted_mixture_goes_on_to_the_same_bits(few: None, tmp_path: Path) -> None:
    """With a pair that is left out: before a round, and in the run that goes on. The control: another mixture."""
    (tmp_path / "never.py").write_text(TASK.format(verdict="Verdict(0.0)"), encoding="utf-8")
    with typed([never := f"{tmp_path}/never.py:Mine"]):
        run = replace(RUN, others=("automaton=automaton", f"{never}=automaton"))
        whole, parts, listener = tmp_path / "whole", tmp_path / "parts", Quiet()
        done, tables = fit(open_learning(run, out=whole).learner, listener)
        assert any(
            "Mine=automaton is left out of the mixture: its denoiser solves none" in text for text in listener.texts
        )
        assert fit(open_learning(run, out=parts).learner, Quiet(2))[0].reason == "interrupted"
        learner = open_learning(recorded_learning(parts), resume=parts).learner
        assert (learner.pairs, fit(learner, Quiet())[0].merit) == ([0, 1], done.merit)
    assert len(tables) == 2
    points = [folder / "checkpoints" / "step-00000004" for folder in (whole, parts)]
    for name, weight in load_tensors(points[0]).items():
        assert torch.equal(weight, load_tensors(points[1])[name])
    assert load_state(points[0])[1] == load_state(points[1])[1]
    record = json.loads((points[0] / "run.json").read_text(encoding="utf-8"))
    assert "is left out" in record["left_out"][0]
    assert [each["checkpoint"] for each in record["others"]] == ["automaton", "automaton"]
    other = fit(open_learning(replace(run, others=run.others[:1]), out=tmp_path / "other").learner, Quiet())[0]
    alone = fit(open_learning(replace(run, others=()), out=tmp_path / "alone").learner, Quiet())[0]
    assert other.merit == done.merit != alone.merit


WARM = replace(
    RUN,
    policy=PolicySettings(width=16, priced=False),  # nothing to calibrate
    learn=replace(
        SMALL, warm=5, save_every=2, rounds=1, prompts=2, group=2, valid_prompts=2, scored=2, pool=4, alphas=(0.3,)
    ),
)


def interrupted(name: str, at: int, monkeypatch: pytest.MonkeyPatch, number: int = signal.SIGINT) -> None:
    """Let the call number `at` of a function of the warm start send a signal to this process."""
    module = warm if name == "experts" else loop
    true, calls = getattr(module, name), list[int]()

    def noted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            signal.raise_signal(number)
        return true(*arguments)

    monkeypatch.setattr(module, name, noted)


@pytest.fixture(scope="module")
def few() -> Generator[None]:
    """Two heuristics instead of dozens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warm, "experts", lambda *asked: experts(*asked)[-2:])
        yield


@pytest.fixture(scope="module")
def warm_whole(few: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights after a warm start of five rounds and one round."""
    run = tmp_path_factory.mktemp("warm") / "run"
    fit(open_learning(WARM, out=run).learner, Quiet())
    return load_tensors(run / "checkpoints" / "step-00000001")


@pytest.mark.parametrize(("name", "at"), [("experts", 1), ("imitate", 3), ("imitate", 5)])
def test_an_interrupted_warm_start_goes_on_to_the_same_bits(
    tmp_path: Path, warm_whole: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch, name: str, at: int
) -> None:
    """While the heuristics are scored, and after rounds with and without a checkpoint of their own."""
    with monkeypatch.context() as patch:
        interrupted(name, at, patch)
        first, _ = fit(open_learning(WARM, out=tmp_path).learner, Quiet())
    assert (first.reason, first.step, first.exit_code) == ("interrupted", 0, 130)
    facts = load_state(tmp_path / "checkpoints" / "step-00000000")[1]
    assert facts["warmed"] == (0 if name == "experts" else at)
    rounds = list[float]()
    monkeypatch.setattr(loop, "imitate", lambda learner: rounds.append(warm.imitate(learner)) or rounds[-1])
    assert fit(open_learning(recorded_learning(tmp_path), resume=tmp_path).learner, Quiet())[0].reason == "finished"
    assert len(rounds) == 5 - facts["warmed"]
    weights = load_tensors(tmp_path / "checkpoints" / "step-00000001")
    assert all(torch.equal(weights[key], warm_whole[key]) for key in warm_whole)


def test_control_forgotten_moments_of_the_warm_start_are_seen(
    tmp_path: Path, warm_whole: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupted("imitate", 3, patch)
        fit(open_learning(WARM, out=tmp_path).learner, Quiet())
    (tmp_path / "checkpoints" / "step-00000000" / "state" / "warm.safetensors").unlink()
    fit(open_learning(recorded_learning(tmp_path), resume=tmp_path).learner, Quiet())
    weights = load_tensors(tmp_path / "checkpoints" / "step-00000001")
    assert not all(torch.equal(weights[key], warm_whole[key]) for key in warm_whole)


def test_a_warm_start_that_is_killed_keeps_its_checkpoints(
    few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every `save_every` rounds of it: here after 2 and 4 of 5; the control is a death before the first."""
    for at, kept in ((2, None), (4, 2), (5, 4)):
        run = tmp_path / str(at)
        with monkeypatch.context() as patch:
            interrupted("imitate", at, patch, signal.SIGALRM)
            former = signal.signal(signal.SIGALRM, signal.default_int_handler)
            with pytest.raises(KeyboardInterrupt):
                fit(open_learning(WARM, out=run).learner, Quiet())
            signal.signal(signal.SIGALRM, former)
        point = latest(run)
        assert (None if point is None else load_state(point)[1]["warmed"]) == kept


def test_the_command_says_how_a_warm_start_goes_on(
    few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--learn.warm 3 --learn.rounds 1 --learn.prompts 2 --learn.group 2 --learn.scored 4 --learn.pool 8 "
    words += "--learn.valid-prompts 2 --learn.alphas 0.3 --policy.width 16 --learn.threads 1"
    run = tmp_path / "run"
    interrupted("imitate", 2, monkeypatch, signal.SIGTERM)
    assert main(["learn", "automaton_eos", *words.split(), "--out", str(run)]) == 143
    error = capsys.readouterr().err
    first = error.index("Saving after this round; Ctrl-C again ends at once, without saving.")
    again = f"Go on with: unmask learn --resume {run}\n"
    assert error.index(again) > first
    assert error.endswith(f"Stopped in the warm start; saved. {again}")


@pytest.mark.slow
def test_a_policy_is_used_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--learn.rounds 2 --learn.prompts 4 --learn.group 4 --learn.warm 2 --learn.scored 8 --learn.pool 32 "
    words += "--learn.valid-prompts 8 --learn.calibrated 4 --learn.alphas 0.3 10 --policy.width 16 "
    words += "--learn.threads 1 --json"
    assert main(["learn", "automaton_eos", *words.split(), "--out", str(tmp_path / "run")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["reason"] == "finished"
    folder = Path(report["policy"])
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2e6
    name = f"learned:from={tmp_path / 'run'}"
    model = unmask.load("automaton_eos", dtype="float32", device="cpu", threads=1)
    template = "aABCDEFABCDEFABCDEFABCDEF[24]"
    model.fill(template, policy=name, dial=0.5, temperature=0)
    bundled = "learned:from=automaton_eos"
    fast, slow = (model.fill(template, policy=bundled, dial=dial, temperature=0).passes[0] for dial in (1.0, 0.0))
    assert 1 <= fast < slow <= 24
    beside = model.fill(template, policy=bundled, dial=[1.0, 0.0], count=2, temperature=0).passes
    assert beside == [fast, slow]  # a dial a row
    assert model.fill(template, policy=bundled, passes=1, temperature=0).passes[0] == fast
    again = ["learn", "--resume", str(tmp_path / "run"), "--json"]
    assert main(again) == 0
    assert json.loads(capsys.readouterr().out)["round"] == 2
    assert main(["learn", "automaton_eos", "--resume", str(tmp_path / "run"), "--learn.lr", "1"]) == 2
    assert "--learn.lr does not go with --resume" in capsys.readouterr().err
    assert main(["learn", "sudoku", "--resume", str(tmp_path / "run")]) == 2
    assert "leave 'sudoku' out" in capsys.readouterr().err


def test_the_denoiser_is_recorded_by_its_absolute_path_and_asked_for_where_it_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bundled()["automaton_eos"], "denoiser")
    origin = _origins(replace(RUN, checkpoint="denoiser"), None)[0]
    assert (origin["checkpoint"], origin["typed"]) == (str(tmp_path / "denoiser"), "denoiser")
    assert _origins(RUN, None)[0]["checkpoint"] == "automaton_eos"
    point = tmp_path / "run" / "checkpoints" / "step-00000001"
    shutil.copytree(bundled_policies()["automaton_eos"], point)
    recorded = replace(RUN, checkpoint=origin["checkpoint"])
    (point / "run.json").write_text(json.dumps({"settings": to_dict(recorded), "denoiser": origin}), encoding="utf-8")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert _origins(recorded, point)[0] == origin
    assert _requested(recorded, replace(RUN, checkpoint="../denoiser")) == replace(RUN, checkpoint="../denoiser")
    assert _requested(recorded, RUN) != RUN
    (tmp_path / "denoiser").rename(tmp_path / "moved")
    with pytest.raises(CheckpointError) as caught:
        _origins(recorded, point)[0]
    assert str(caught.value) == (
        f"The denoiser of {tmp_path / 'run'} was 'denoiser', recorded as {tmp_path / 'denoiser'}, and nothing is "
        "there: give its place with --checkpoint PATH."
    )
    again = _origins(replace(RUN, checkpoint="../moved"), point)[0]
    assert again == origin | {"checkpoint": str(tmp_path / "moved"), "typed": "../moved"}
    with pytest.raises(ConfigError, match="is not, or no longer, the denoiser"):
        _origins(replace(RUN, checkpoint="automaton"), point)


@pytest.mark.slow
@pytest.mark.long
def test_several_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One run for each seed and alpha, with the recipe by name, wherever the name is on the command line."""
    words = (
        "--seeds 0 --separate --learn.alphas 0.3 3 --learn.rounds=1 --learn.prompts 2 --learn.group 2 --learn.warm 1 "
    )
    words += "--learn.scored 2 --learn.pool 4 --learn.valid-prompts 2 --policy.width 16 --json"
    assert main(["learn", "--out", str(tmp_path / "many"), "automaton", *words.split()]) == 0
    policies = json.loads(capsys.readouterr().out)["policies"]
    assert sorted(policies) == ["alpha-0.3-seed-0", "alpha-3-seed-0"]
    for name, folder in policies.items():
        facts = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        assert facts["trained_on"]["checkpoint"] == "automaton"
        assert facts["trained_on"]["learn"]["alphas"] == [float(name.split("-")[1])]
        assert facts["policy"]["priced"] is False


@pytest.mark.slow
@pytest.mark.long
def test_several_stop_at_a_signal(tmp_path: Path) -> None:
    """Running ones save, and waiting ones do not start."""
    words = "--seeds 0 1 2 --learn.rounds 100000 --learn.prompts 2 --learn.group 2 --learn.warm 1 --learn.scored 4 "
    words += "--learn.pool 8 --learn.valid-prompts 2 --learn.valid-every 1000 --policy.width 16"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "unmask.cli.main",
            "learn",
            "automaton",
            *words.split(),
            "--out",
            str(tmp_path / "many"),
        ],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    output = ""
    while not ("seed-0: round 0:" in output and "seed-1: round 0:" in output):
        line = process.stderr.readline()
        assert line, output
        output += line
    process.terminate()
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 143, rest
    assert "Traceback" not in rest
    for seed in (0, 1):
        assert f"seed-{seed}: go on with: unmask learn --resume {tmp_path / 'many' / f'seed-{seed}'}" in rest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verdict", "sentence"),
    [
        ("__import__('os')._exit(3)", "its process ended with code 3 before it had a result. Its task is TASK."),
        ("1 / 0", "The verifier of 'automaton:length=24,traces=natural' failed"),  # the control: it names the task
    ],
)
def test_a_task_that_ends_the_process_is_named(tmp_path: Path, verdict: str, sentence: str) -> None:
    file, notes = tmp_path / "mine.py", list[str]()
    file.write_text(TASK.format(verdict=verdict), encoding="utf-8")
    task, listen = f"{file}:Mine", partial(LearnProgress, begun=0, visible=False)
    with typed([task]):
        runs = {"seed-0": replace(RUN, task=task)}
        codes = learn_side_by_side(runs, tmp_path / "many", workers=1, listen=listen, note=notes.append)
    assert codes["seed-0"] != 0
    assert len(notes) == 1
    assert notes[0].startswith(f"unmask: seed-0: {sentence.replace('TASK', task)}")


@pytest.mark.slow
def test_nothing_to_learn_from_is_an_error_before_training(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(TASK.format(verdict="Verdict(0.0)"), encoding="utf-8")
    with typed([f"{file}:Mine"]):
        session = open_learning(replace(RUN, task=f"{file}:Mine"), out=tmp_path / "run")
        with pytest.raises(RunError, match=r"solves none of 8 problems of .* so there is nothing to learn from"):
            fit(session.learner, Quiet())


@pytest.mark.parametrize("verdict", ["1 / 0", "Verdict(float('nan'))"])
def test_a_verifier_that_fails_is_refused(tmp_path: Path, verdict: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text(TASK.format(verdict=verdict), encoding="utf-8")
    words = ["--learn.scored", "4", "--learn.pool", "8", "--learn.valid-prompts", "4", "--learn.threads", "1"]
    assert main(["learn", "--task", f"{file}:Mine", *words, "--out", str(tmp_path / "run")]) != 0
    error = capsys.readouterr().err
    assert "ZeroDivisionError" in error or "a score lies between 0 and 1" in error


def test_the_bundled_policy_goes_where_sure_first_rules_fail() -> None:
    """Long traces, whole canvas: the control is the threshold that takes about as many passes."""
    model = unmask.load("automaton_eos", dtype="float32", device="cpu", threads=1)
    task = tasks.make("automaton:traces=long")
    examples = problems(task.examples("test", 64, 11), model.tokenizer)
    results: list[tuple[float, float]] = []
    for policy in ("learned:from=automaton_eos,dial=0.4", "threshold:threshold=0.997"):
        decoder = model.decoder(policy, temperature=0)
        scores, passes, _ = solve(decoder, task, examples, model.tokenizer, device=model.device)
        results.append((sum(scores) / 64, sum(passes) / 64))
    assert results[0][0] > 0.9
    assert results[0][1] < 11
    assert results[1][0] < results[0][0] - 0.1
    assert results[1][1] > results[0][1] - 1


def test_every_recipe_can_be_read() -> None:
    for name in names():
        assert read(name).learn.rounds + read(name).learn.warm > 0  # a filter is trained by imitation alone


_TWO = """
import sys
from pathlib import Path
import torch
from test_learn import RUN, Quiet
from unmask.rl.collect import InProcess
from unmask.rl.loop import fit
from unmask.rl.session import open_learning

true, decoded = InProcess.collect, []

def counted(self, policy, groups, **options):
    decoded.append(len(groups))
    return true(self, policy, groups, **options)

InProcess.collect = counted
session = open_learning(RUN, out=sys.argv[1])
quiet = Quiet()
fit(session.learner, quiet)
mine = torch.cat([p.detach().flatten() for p in session.learner.params])
rewards = [report.reward for report in quiet.reports]
torch.save({"params": mine, "rewards": rewards, "decoded": decoded}, f"{sys.argv[1]}-{session.group.rank}.pt")
session.group.leave()
"""


@pytest.mark.slow
@pytest.mark.long
def test_two_processes_share_the_problems_and_have_one_policy(tmp_path: Path) -> None:
    """As torchrun starts them, over gloo: each decodes half of every call; `test_collect` compares with one process."""
    script = tmp_path / "two.py"
    script.write_text(_TWO)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    here = Path(__file__).parent
    shared["PYTHONPATH"] = os.pathsep.join([str(here.parents[1] / "src"), str(here)])
    crew = [
        subprocess.Popen(
            [sys.executable, str(script), str(tmp_path / "run")],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=400) for process in crew] == [0, 0]
    first, second = (torch.load(tmp_path / f"run-{rank}.pt") for rank in range(2))
    assert torch.equal(first["params"], second["params"])
    assert first["rewards"] == second["rewards"]
    assert len(set(first["rewards"])) > 1  # the control
    shares = list(zip(first["decoded"], second["decoded"], strict=True))
    assert len(shares) > 40
    assert all(0 <= mine - other <= 1 for mine, other in shares)
    assert (tmp_path / "run" / "policy" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_share_of_a_pass_can_be_measured() -> None:
    network = build(DiTSettings(32, 31, 128, 32, 1, 2)).eval()
    with torch.no_grad():
        cell = policy_cell(network, "default", PolicySettings(), 2, 1)
    assert cell["parameters"] == 21_889
    assert cell["share_of_pass"] == pytest.approx(cell["cpu_seconds"] / cell["pass_cpu_seconds"])
