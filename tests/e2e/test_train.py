"""The first minutes of a training: looks and samples, budgets of time, plans, fine-tuning, broken weights."""

import json
import math
import random
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from unmask.cli.main import main
from unmask.data import estimate
from unmask.data.packed import Corpus, Facts, Packed, PartFacts, Split
from unmask.data.settings import DataSettings
from unmask.disk.checkpoint import read_checkpoint
from unmask.disk.folders import latest, resolve
from unmask.errors import RunError
from unmask.model.load import build
from unmask.objective.bound import Bound
from unmask.run import metrics
from unmask.run.loop import Listener
from unmask.run.metrics import read_metrics
from unmask.run.parallel import Group
from unmask.text.build import char_tokenizer
from unmask.train import budget, progress
from unmask.train.checkpoint import training_tensors
from unmask.train.loop import StepReport, Trainer
from unmask.train.plan import make_plan
from unmask.train.progress import Watch
from unmask.train.session import run_objective
from unmask.train.settings import ModelChoice, TextRun, TrainSettings

LENGTH = 24
SMALL = ["--model.width", "32", "--model.blocks", "1", "--model.heads", "2", "--threads", "1", "--dtype", "float32"]


def packed(rows: int, first: int, tokenizer: Any, seed: int) -> Packed:
    generator = np.random.default_rng(seed)
    ids = np.array(tokenizer.encode("abcdefgh"), np.uint16)[generator.integers(0, 8, (rows, LENGTH))]
    last = generator.integers(LENGTH // 2, LENGTH, rows).astype(np.int32)
    for row, end in zip(ids, last, strict=True):
        row[end:] = tokenizer.pad_id
    size = int(last.sum()) - first * rows
    return Packed(ids, np.full(rows, first, np.int32), last, size, size)


def trainer(folder: Path, *, paired: bool = False, model: dict[str, Any] | None = None, **changes: Any) -> Trainer:
    tokenizer = char_tokenizer(["abcdefgh"])
    train, valid = packed(40, 4 * paired, tokenizer, 1), packed(8, 4 * paired, tokenizer, 2)
    parts = [PartFacts(1, part.bytes, part.tokens, len(part)) for part in (train, valid)]
    facts = Facts("memory", paired, "char", tokenizer.vocab_size, LENGTH, "none", parts[0], parts[1], 48)
    data = Corpus(tokenizer, train, valid, "0" * 64, (), facts, Split(2, "", None))
    chosen = TrainSettings(steps=6, batch=8, eval_draws=8, ema=0.9, dtype="float32", lr=3e-3, eval_every=3, patience=0)
    choice = replace(ModelChoice(width=16, blocks=2, heads=2, dropout=0.2), **(model or {}))
    run = TextRun(DataSettings(length=LENGTH), choice, replace(chosen, **changes))
    plan = make_plan(run, data)
    network = build(plan.model, 1)
    return Trainer(run, plan, data, network, run_objective(run, data), folder, Group(), torch.float32)


def everything(run: Trainer) -> list[torch.Tensor]:
    return [*training_tensors(run).values(), torch.tensor(run.ema.updates)]


def same(left: Trainer, right: Trainer) -> bool:
    return all(torch.equal(a, b) for a, b in zip(everything(left), everything(right), strict=True))


class Quiet(Listener[StepReport, Bound]):
    """Keeps the reports."""

    def __init__(self) -> None:
        self.reports: list[StepReport] = []

    def stepped(self, report: StepReport) -> None:
        self.reports.append(report)


# ---- looks and samples ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paired", "model"), [(False, {}), (True, {"absolute": True}), (True, {"time_conditioned": True})]
)
def test_looking_at_a_run_changes_nothing(
    paired: bool, model: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples after every step, and looks, leave every tensor the same. Control: averages that stay in the model."""
    silent, talking = (
        trainer(tmp_path / n, paired=paired, model=model, sample_every=e) for n, e in (("a", 0), ("b", 1))
    )
    silent.fit(Quiet())
    monkeypatch.setattr(progress, "_FIRST_LOOK", 0.0)
    talking.watch.seen = -1.0
    torch.manual_seed(3)
    before = torch.get_rng_state()
    listener = Quiet()
    talking.fit(listener)
    assert same(silent, talking)
    assert torch.equal(before, torch.get_rng_state())
    samples = [report.look.sample for report in listener.reports if report.look and report.look.sample]
    assert len(samples) == 6
    assert all((sample.answer is not None) == paired and sample.text for sample in samples)
    assert not paired or len(samples[0].prompt) == 4
    assert listener.reports[0].look is not None
    assert listener.reports[0].look.bound is not None
    lines = read_metrics(tmp_path / "b" / "metrics.jsonl")
    assert [line["step"] for line in lines if "sample" in line] == [1, 2, 3, 4, 5, 6]
    assert next(line["step"] for line in lines if "valid" in line) == 1

    broken = trainer(tmp_path / "c", paired=paired, model=model, sample_every=1)
    monkeypatch.setattr(
        broken.ema, "_copy", lambda values: None if values is not broken.ema._averages else copy(values)
    )
    copy = type(broken.ema)._copy.__get__(broken.ema)
    broken.fit(Quiet())
    assert not same(silent, broken)


def test_by_default_a_validation_has_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SHARE", math.inf)
    run = trainer(tmp_path / "run", paired=True)
    run.fit(Quiet())
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines if "sample" in line] == [3, 6]
    assert all("sample_answer" in line for line in lines if "sample" in line)
    assert run.sample is not None
    assert run.sample[0] == 6


def test_samples_take_a_thirtieth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    watch, written = Watch(None, began=0.0), 0
    looks: list[float] = []
    for second in range(3000):
        now[0] = float(second)
        if watch.look_due():
            looks.append(second)
            watch.looked()
        if watch.affordable():
            written += 1
            watch.wrote(2.0)
    assert looks == [15, 30, 60, 120, 240, 480, 960, 1920]
    assert 40 <= written <= 45
    assert not Watch(0, began=0.0).affordable()
    assert [step for step in range(1, 7) if Watch(2).sample_due(step)] == [2, 4, 6]


# ---- a budget of time ----------------------------------------------------------------------------------------------


def timed(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    cost: Callable[[int], float],
    *,
    capped: bool = False,
    steps: int = 50,
) -> tuple[Trainer, Quiet, list[float]]:
    """A run with a budget of 100 s and an estimate of `steps`, whose step n takes `cost(n)` s."""
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    run = trainer(folder, eval_every=10, sample_every=0)
    plan = replace(run.plan, seconds=100.0, steps=steps, warmup=2, capped=capped)
    run.plan = run.clock.plan = plan
    run.clock.began = 0.0
    take = run.take_step

    def slow() -> Any:
        result = take()
        now[0] += cost(run.step)
        return result

    monkeypatch.setattr(run, "take_step", slow)
    return run, Quiet(), now


@pytest.mark.parametrize("cost", [lambda n: 0.5, lambda n: 2.0, lambda n: 5.0, lambda n: 1.0 if n < 20 else 8.0])
def test_a_budget_is_kept_and_the_rate_ends_at_zero(
    cost: Callable[[int], float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the machine is as fast as the estimate, faster, slower, or slows down."""
    run, listener, now = timed(tmp_path / "run", monkeypatch, cost)
    result = run.fit(listener)
    assert result.reason == "finished"
    assert 90 <= now[0] <= 106
    rates = [report.lr for report in listener.reports]
    assert max(rates) == pytest.approx(3e-3, rel=0.2)
    assert rates[-1] < 0.1 * 3e-3
    assert run.standing.validated_at == result.step == int(str(latest(run.folder)).rpartition("-")[2])


def test_processes_go_by_the_clock_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would leave the loop at different steps else. The control: one process goes by its own clock."""
    run, _, now = timed(tmp_path / "run", monkeypatch, lambda n: 1.0)
    now[0] = 90.0
    assert run.clock.place(3) > 40

    class Second(Group):
        def sum(self, tensor: torch.Tensor) -> torch.Tensor:
            assert tensor.item() == 0
            return torch.tensor(7.5)

    run.clock.group = Second(1, 2, 1)
    assert run.clock.place(3) == 7.5


def test_control_a_schedule_in_steps_is_cut_on_a_slow_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, listener, _ = timed(tmp_path / "run", monkeypatch, lambda n: 5.0)
    place = run.clock.place
    monkeypatch.setattr(type(run.clock), "tick", lambda self, step: setattr(self, "expired", place(step) >= 50))
    monkeypatch.setattr(type(run.clock), "place", lambda self, step: step)
    run.fit(listener)
    assert listener.reports[-1].lr > 0.5 * 3e-3


def test_a_small_text_ends_after_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, listener, now = timed(tmp_path / "run", monkeypatch, lambda n: 1.0, capped=True, steps=12)
    assert run.fit(listener).step == 12
    assert now[0] == 12
    assert listener.reports[-1].lr < 0.1 * 3e-3


def test_a_resumed_budget_goes_on_with_what_was_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, listener, _ = timed(tmp_path / "run", monkeypatch, lambda n: 10.0)
    monkeypatch.setattr(
        listener, "stepped", lambda report: (_ for _ in ()).throw(KeyboardInterrupt) if report.step == 4 else None
    )
    run.clock.before = 10.0
    with pytest.raises(KeyboardInterrupt):
        run.fit(listener)
    run.save()
    run.saver.publish()
    again, listener, now = timed(tmp_path / "run", monkeypatch, lambda n: 10.0)
    assert again.restore()
    assert again.clock.before == 50.0
    again.fit(listener)
    assert 40 <= now[0] <= 55


def test_the_size_follows_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 10 GFLOP/s a network sees 20 tokens for each parameter of its blocks; the text bounds the size, too."""
    run = trainer(tmp_path).run
    facts = trainer(tmp_path).corpus.facts
    part = PartFacts(1, 10**8, 10**8, 10**6)
    corpus = replace(trainer(tmp_path).corpus, facts=replace(facts, train=part, length=256))
    probe = budget.Probe(corpus, run_objective(run, corpus), torch.device("cpu"), torch.float32, Group())

    def seconds(run: TextRun, plan: Any, *_: Any) -> float:
        return run.train.batch * 100 * budget.flops_per_token(plan.model) / 1e10

    monkeypatch.setattr(budget, "step_seconds", seconds)
    free = replace(run, model=ModelChoice(), train=TrainSettings())
    sizes: list[int] = []
    for minutes in (2.0, 60.0, 600.0, 6000.0, 60000.0):
        asked = replace(free, train=replace(free.train, minutes=minutes))
        result, plan, each = budget.plan_for_minutes(asked, probe, None, lambda: 5.0)
        sizes.append(plan.model.width)
        assert plan.seconds == 60 * minutes
        assert each * plan.steps <= 60 * minutes
        assert plan.capped or each * plan.steps > 0.7 * 60 * minutes
        assert result.train.steps is None
    assert sizes == sorted(sizes)
    assert sizes[0] == 128
    assert sizes[-1] == 384


# ---- the command line ----------------------------------------------------------------------------------------------


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """60 documents of 4 kB; the working folder and the cache are new."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    generator, words = random.Random(0), ["the", "king", "queen", "sword", "shall", "love", "night", "crown"]
    rows = [json.dumps({"text": " ".join(generator.choices(words, k=800))}) for _ in range(60)]
    (tmp_path / "book.jsonl").write_text("\n".join(rows))
    return tmp_path


def plan_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["train", *words, "--dry", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_dry_run_estimates_a_large_text(
    book: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a part of it, which alone is encoded; the control: a part as large as the text has those of a run."""
    words = ["--data.source", "book.jsonl", "--data.length", "64", "--data.tokenizer", "byte", *SMALL]
    exact = plan_of(capsys, *words)
    monkeypatch.setattr(estimate, "SAMPLE", 30_000)
    monkeypatch.setattr(estimate, "_SECONDS", 0.0)
    about = plan_of(capsys, *words)
    assert (exact["estimated"], about["estimated"]) == (False, True)
    for name in ("train_tokens", "train_rows", "steps"):
        assert about[name] == pytest.approx(exact[name], rel=0.15)
    encoded = sum(path.stat().st_size for path in (book / "cache").rglob("train.ids"))
    assert encoded < 2 * exact["train_tokens"] * 1.3
    assert not (book / "runs").exists()
    main(["train", *words, "--dry"])
    out, err = capsys.readouterr()
    assert "book.jsonl: about " in out
    assert "sizes of the text are estimates: 0.0 MB of about 0.3 MB were encoded." in err


def test_a_task_has_its_number_of_problems(
    book: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "SAMPLE", 3_000)
    words = ["--data.source", "task:arithmetic:modulus=5,length=8@900000", "--data.length", "40"]
    about = plan_of(capsys, *words, "--data.tokenizer", "char", *SMALL)
    assert about["train_rows"] == pytest.approx(900_000, rel=0.02)


@pytest.mark.slow
def test_training_speaks_early_and_minutes_end_it(
    book: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", "--data.source", "book.jsonl", "--data.length", "64", "--data.tokenizer", "byte", *SMALL]
    assert main([*words, "--minutes", "0.15", "--train.batch", "4", "--out", "run", "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["reason"] in ("finished", "no better bound")
    assert "  sample: " in err
    assert "in 0.15 min, about " in err
    assert f"Done after step {report['step']:,} (" in err  # a budget has no number of steps
    assert math.isfinite(report["best"]["nats_per_token"])
    lines = read_metrics(book / "run" / "metrics.jsonl")
    assert any(line.get("sample") for line in lines)
    if report["reason"] == "finished":
        assert [line["lr"] for line in lines if "lr" in line][-1] < 3e-4
    assert main(["train", "--resume", "run", "--train.steps", "9"]) == 2
    assert "train.minutes 0.15 and train.steps 9 both say when the run ends" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--minutes", "2", "--train.steps", "5"], "train.minutes 2 and train.steps 5 both say when the run ends"),
        (["--minutes", "0"], "minutes"),
        (["--minutes", "nan"], "train.minutes"),
        (["--minutes", "-3"], "minutes"),
        (["--sample-every", "-1"], "sample"),
        (["--minutes", "0.0001"], "0.0001 min is too short: "),
    ],
)
def test_what_is_refused(words: list[str], sentence: str, book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["train", "--data.source", "book.jsonl", "--data.length", "64", "--data.tokenizer", "byte", *SMALL]
    assert main([*base, *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not (book / "runs").exists()


def test_a_model_of_pairs_is_used_by_its_prompts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands that are printed at the end can be typed: a held-out prompt, and the length of the answers."""
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{n}+{n}=,{2 * n}\n" for n in range(40))
    (tmp_path / "sums.csv").write_text("question,answer\n" + rows)
    words = ["train", "--data.source", "sums.csv", "--data.tokenizer", "char", "--data.length", "12", *SMALL]
    assert main([*words, "--train.steps", "3", "--train.batch", "4", "--out", "run", "--train.threads", "1"]) == 0
    printed = capsys.readouterr().err
    assert "1 thread\n" in printed
    typed = next(line for line in printed.splitlines() if line.startswith("  unmask generate"))
    assert typed.endswith("--length 3 --policy confidence --temperature 0")
    assert "fill" not in printed.split("Next:")[1]
    _, *typed_words = shlex.split(typed)
    assert main(typed_words) == 0
    assert capsys.readouterr().out.startswith(typed_words[2])


@pytest.mark.slow
def test_fine_tuning_has_a_tenth_of_the_rate(book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data.source", "book.jsonl", "--data.length", "32", "--data.tokenizer", "byte"]
    assert main(["train", *words, *SMALL, "--train.steps", "2", "--train.batch", "4", "--out", "first"]) == 0
    assert "peak rate 0.001" in capsys.readouterr().err
    tuned = ["train", "--init", "first", "--data.source", "book.jsonl", "--train.steps", "2", "--train.batch", "4"]
    assert main([*tuned, "--out", "second"]) == 0
    assert "peak rate 0.0001, a tenth because --init" in capsys.readouterr().err
    rates = [read_checkpoint(resolve(book / run)).run["plan"]["lr"] for run in ("first", "second")]  # pyright: ignore[reportOptionalSubscript]
    assert rates == pytest.approx([1e-3, 1e-4])
    assert main([*tuned, "--train.lr", "0.002", "--out", "third"]) == 0
    assert "peak rate 0.002" in capsys.readouterr().err


# ---- a run that goes on --------------------------------------------------------------------------------------------


def test_a_run_goes_on_with_another_accumulation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it has to in more processes, whose shares have fewer rows. The control: a run with another seed."""
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question.\n\n" * 60)
    words = ["--data.source", str(tmp_path / "text.txt"), "--data.length", "16", *SMALL, "--train.batch", "4"]
    monkeypatch.setattr(metrics, "can_draw", lambda: False)
    words += ["--train.steps", "6", "--train.save-every", "3", "--train.sample-every", "0", "--train.eval-draws", "4"]
    runs = [tmp_path / "run", tmp_path / "other"]
    for run, seed in zip(runs, "12", strict=True):
        assert main(["train", *words, "--train.accumulate", "4", "--train.seed", seed, "--out", str(run)]) == 0
    whole, other = (
        {line["step"]: line["loss"] for line in read_metrics(run / "metrics.jsonl") if "loss" in line} for run in runs
    )
    point = runs[0] / "checkpoints" / "step-00000003"
    assert main(["train", "--resume", str(point), "--train.accumulate", "1"]) == 0
    again = {line["step"]: line["loss"] for line in read_metrics(runs[0] / "metrics.jsonl") if "loss" in line}
    assert again == pytest.approx(whole, rel=1e-5)
    assert again != pytest.approx(other, rel=1e-5)
    newest = latest(runs[0])
    assert newest is not None
    assert read_checkpoint(newest).run["settings"]["train"]["accumulate"] == 1  # pyright: ignore


# ---- broken weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["weights", "averages"])
def test_weights_that_are_not_finite_are_never_written(where: str, tmp_path: Path) -> None:
    """The run stops with a sentence that names the last good checkpoint; the control: it ends well without them."""

    class Spoil(Quiet):
        def stepped(self, report: StepReport) -> None:
            if report.step == 4 and where != "nowhere":
                tensors = run.params if where == "weights" else run.ema._averages
                tensors[0].data[0, 0] = math.nan

    run = trainer(tmp_path / "run", save_every=1)
    with pytest.raises(RunError, match=r"not finite|is nan"):
        run.fit(Spoil())
    kept = latest(tmp_path / "run")
    assert kept is not None
    assert kept.name.endswith("3")
    for path in (tmp_path / "run").rglob("*.safetensors"):
        assert all(bool(value.isfinite().all()) for value in load_file(path).values()), path
