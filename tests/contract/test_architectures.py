"""Nothing is fixed to one network: another architecture is fitted, saved, loaded, decoded, swept and learned on.

`Mixer` has settings of its own, ties its head to its embedding, and shares no code with the DiT.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from torch import Tensor, nn

import unmask
from unmask.cli.main import main
from unmask.config import typed
from unmask.data.settings import DataSettings
from unmask.disk.checkpoint import load_tensors, read_checkpoint, write_checkpoint
from unmask.errors import CheckpointError, ConfigError, UnmaskError
from unmask.model import load as loader
from unmask.model.load import ARCHITECTURES, build, load_denoiser, model_config, parameter_count, register
from unmask.model.settings import DiTSettings
from unmask.policies.learned.policy import read_policy
from unmask.policies.learned.settings import PolicySettings
from unmask.rl.loop import fit
from unmask.rl.session import open_learning, recorded_learning
from unmask.rl.settings import LearnRun, LearnSettings
from unmask.run.loop import Listener
from unmask.run.machine import bfloat16_works
from unmask.solve.settings import Setting
from unmask.solve.sweep import Bench, open_bench, sweep
from unmask.text.build import char_tokenizer
from unmask.train.session import open_session, plan_session, recorded_run
from unmask.train.settings import TextRun, TrainSettings

WINDOW, CHANNELS = 49, 12
TASK = """
from unmask.tasks.automaton import Automaton
from unmask.tasks.base import Verdict

class Mine(Automaton):
    def verify(self, example, completion):
        return Verdict(sum(a == b for a, b in zip(completion, example.answer)) / len(example.answer))
"""


@dataclass(frozen=True, slots=True)
class MixerSettings:
    """Not one name in common with the DiT's settings."""

    ids: int
    hidden_id: int
    window: int
    channels: int = CHANNELS


class Mixer(nn.Module):
    """Embeddings, mixed over the positions by one learned matrix; the embedding is the head too."""

    def __init__(self, settings: MixerSettings) -> None:
        super().__init__()
        self.dropout_keys: Tensor | None = None  # it has no dropout
        self.settings = settings
        self.embedding = nn.Embedding(settings.ids, settings.channels)
        self.mixing = nn.Parameter(torch.randn(settings.window, settings.window) / settings.window)
        self.head = nn.Linear(settings.channels, settings.ids, bias=False)
        self.head.weight = self.embedding.weight

    @property
    def vocab_size(self) -> int:
        return self.settings.ids

    @property
    def mask_id(self) -> int:
        return self.settings.hidden_id

    @property
    def max_length(self) -> int:
        return self.settings.window

    @property
    def width(self) -> int:
        return self.settings.channels

    @property
    def time_conditioned(self) -> bool:
        return False

    def hidden(
        self,
        tokens: Tensor,
        *,
        valid: Tensor | None = None,
        time: Tensor | None = None,
        positions: Tensor | None = None,
        prompt: Tensor | None = None,
    ) -> Tensor:
        x = self.embedding(tokens)
        x = x if valid is None else x * valid[..., None]
        length, more = tokens.shape[1], max(0, tokens.shape[1] - self.max_length)  # padding may stand beyond the window
        mixing = nn.functional.pad(self.mixing, (0, more, 0, more))
        return x + torch.tanh(mixing[:length, :length] @ x)

    def logits(self, hidden: Tensor) -> Tensor:
        return nn.functional.linear(hidden.float(), self.head.weight.float())

    def lowered(self, dtype: torch.dtype) -> Self:
        return self


def open_registered(**arguments: Any) -> Bench:
    """What a sweep in several processes calls in each of them: registering does not reach other processes."""
    register("mixer", MixerSettings, Mixer)
    return open_bench(**arguments)


@pytest.fixture
def mixer() -> Iterator[None]:
    register("mixer", MixerSettings, Mixer)
    yield
    del ARCHITECTURES["mixer"]


def written(folder: Path, dtype: torch.dtype = torch.float32) -> MixerSettings:
    """A fresh mixer on disk, with the tokenizer of the automaton."""
    tokenizer = unmask.load("automaton", device="cpu", dtype="float32").tokenizer
    settings = MixerSettings(tokenizer.vocab_size, tokenizer.mask_id, WINDOW)
    state = {name: value.to(dtype) for name, value in build(settings, 3).state_dict().items()}
    if dtype != torch.float32:
        state["head.weight"] = state["embedding.weight"]
    write_checkpoint(folder, state, model_config(settings, "linear"), tokenizer_json=tokenizer.to_json())
    return settings


class Quiet(Listener[Any, Any]):
    """The listener of a training and of a learning; keeps what it receives."""

    def __init__(self) -> None:
        self.reports = list[Any]()

    def stepped(self, report: Any) -> None:
        self.reports.append(report)


DATA = DataSettings("task:automaton@256", tokenizer="char", length=WINDOW, eos="none")
TRAIN = TrainSettings(steps=30, batch=16, lr=3e-2, ema=0.5, patience=0, eval_every=30, dtype="float32", device="cpu")


def trained(folder: Path, steps: int = 30) -> Quiet:
    """A fresh mixer beside `folder`, fine-tuned there."""
    written(folder.with_name("fresh"))
    run = TextRun(DATA, train=replace(TRAIN, steps=steps, eval_every=steps))
    session = open_session(plan_session(run, out=folder, init=folder.with_name("fresh"), note=lambda _: None))
    assert session.plan.parameters == sum(p.numel() for p in session.trainer.model.parameters())
    listener = Quiet()
    session.trainer.fit(listener)
    return listener


def test_it_is_fitted_saved_and_gone_on_with(mixer: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    losses = [report.loss for report in trained(tmp_path / "run").reports]
    assert sum(losses[-5:]) < sum(losses[:5]) - 1
    assert read_checkpoint(tmp_path / "run").config["architecture"] == "mixer"
    assert main(["info", str(tmp_path / "run")]) == 0
    assert "mixer" in capsys.readouterr().out
    again = recorded_run(tmp_path / "run")
    again = replace(again, train=replace(again.train, steps=32))
    session = open_session(plan_session(again, resume=tmp_path / "run", note=lambda _: None))
    raw = session.trainer.model.state_dict()
    assert session.trainer.step == 30
    assert not torch.equal(raw["mixing"], build(session.plan.model, TRAIN.seed).state_dict()["mixing"])  # the control
    assert session.trainer.fit(Quiet()).step == 32


def test_a_window_that_is_too_short_is_refused(mixer: None, tmp_path: Path) -> None:
    written(tmp_path / "fresh")
    run = TextRun(replace(DATA, length=WINDOW + 1), train=TRAIN)
    with pytest.raises(ConfigError, match=f"the model's window is {WINDOW} tokens"):
        plan_session(run, out=tmp_path / "run", init=tmp_path / "fresh", note=lambda _: None)


def test_it_is_loaded_and_decoded(mixer: None, tmp_path: Path) -> None:
    trained(tmp_path / "run", 4)
    model = unmask.load(str(tmp_path / "run"), device="cpu", dtype="float32")
    assert isinstance(model.network, Mixer)
    first, second = (model.generate("ab", length=12, policy="confidence:steps=4", seed=seed) for seed in (1, 2))
    assert model.tokenizer.mask_id not in first.tokens[0]
    assert first.passes == [4]
    assert first.tokens != second.tokens  # the control
    assert model.generate("ab", length=12, policy="confidence:steps=4", seed=1).tokens == first.tokens
    fillings = [model.fill("ab[5]", seed=seed).tokens for seed in (3, 3, 4)]
    assert fillings[0] == fillings[1] != fillings[2]
    bounds = [model.bound(["abab" * 4], draws=4).nats_per_token]
    for state in (load_tensors(tmp_path / "run"), {}):  # the stored weights; the control, none of them
        network = build(model.network.settings, seed=9)
        network.load_state_dict(network.state_dict() | state)
        again = unmask.Model(network, model.process, model.tokenizer, None, torch.device("cpu"))
        bounds.append(again.bound(["abab" * 4], draws=4).nats_per_token)
    assert bounds[0] == bounds[1] != bounds[2]


def test_commands_read_it_without_the_names_of_a_dit(
    mixer: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "fresh")
    assert main(["info", str(tmp_path / "fresh")]) == 0
    lines = capsys.readouterr().out
    assert f"{WINDOW} tokens" in lines
    assert f"{read_checkpoint(tmp_path / 'fresh').network_fact('vocab_size')} ids" in lines
    config = json.loads((tmp_path / "fresh" / "config.json").read_text())
    del config["network"]  # the control: without these facts it is not known
    (tmp_path / "fresh" / "config.json").write_text(json.dumps(config))
    assert main(["info", str(tmp_path / "fresh")]) == 0
    assert f"{WINDOW} tokens" not in capsys.readouterr().out


def arguments(folder: Path, **changes: Any) -> dict[str, Any]:
    (folder / "task.py").write_text(TASK)
    fixed = {"task": f"{folder / 'task.py'}:Mine", "split": "test", "count": 4, "seed": 1, "temperature": 0.0}
    return {"checkpoint": str(folder / "fresh"), **fixed, "device": "cpu", "dtype": "float32", **changes}


@pytest.fixture(autouse=True)
def _typed_task(tmp_path: Path) -> Iterator[None]:
    """The file of the task may be run, as where a person typed its name."""
    with typed([f"{tmp_path / 'task.py'}:Mine"]):
        yield


SETTINGS = [Setting("threshold:threshold=0.3"), Setting("random:steps=3", 6)]


def test_it_is_swept(mixer: None, tmp_path: Path) -> None:
    written(tmp_path / "fresh")
    outcomes = list(sweep(open_bench, arguments(tmp_path), SETTINGS, workers=1))
    assert [outcome.setting for outcome in outcomes] == SETTINGS
    assert outcomes[0].scores != outcomes[1].scores


@pytest.mark.slow
def test_it_is_swept_in_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process knows what `build` registers in it; this file, under a name that a process can import, has one."""
    shutil.copy(__file__, tmp_path / "mixer_of_workers.py")
    monkeypatch.syspath_prepend(tmp_path)
    module = import_module("mixer_of_workers")
    register("mixer", module.MixerSettings, module.Mixer)
    try:
        module.written(tmp_path / "fresh")
        alone, shared = (
            {outcome.setting.key: (outcome.scores, outcome.passes) for outcome in outcomes}
            for outcomes in (
                sweep(module.open_registered, arguments(tmp_path), SETTINGS, workers=count) for count in (1, 2)
            )
        )
    finally:
        del ARCHITECTURES["mixer"]
    assert alone == shared


LEARN = LearnSettings(
    rounds=2, prompts=2, group=2, alphas=(0.3, 10.0), warm=1, scored=4, pool=8, valid_prompts=2, valid_every=1,
    calibrated=2, threads=1, device="cpu",
)  # fmt: skip


def test_a_policy_is_learned_on_it(mixer: None, tmp_path: Path) -> None:
    """One that reads the hidden states too, whose width is the mixer's."""
    written(tmp_path / "fresh")
    task = arguments(tmp_path)["task"]
    policy = PolicySettings(width=16, features=("confidence", "hidden"), hidden=CHANNELS)
    run = LearnRun(str(tmp_path / "fresh"), task, policy, LEARN)
    session, listener = open_learning(run, out=tmp_path / "policy"), Quiet()
    before = {name: value.clone() for name, value in session.learner.network.state_dict().items()}
    outcome, calibration = fit(session.learner, listener)
    assert (outcome.step, len(listener.reports), bool(calibration)) == (2, 2, True)
    after = read_policy(tmp_path / "policy" / "policy").network.state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in after.items())
    model = unmask.load(str(tmp_path / "fresh"), device="cpu", dtype="float32")
    name = f"learned:from={tmp_path / 'policy'}"
    passes = [model.generate("ab", length=8, policy=name, dial=dial).passes[0] for dial in (1.0, 0.0)]
    assert passes[0] == 1 < passes[1]  # the dial of its policy goes to one pass
    wrong = replace(run, policy=replace(policy, hidden=CHANNELS + 1))
    with pytest.raises(ConfigError, match=f"have {CHANNELS}; give --policy.hidden {CHANNELS}"):
        open_learning(wrong, out=tmp_path / "wrong")


def test_an_architecture_that_nobody_registered_is_refused(mixer: None, tmp_path: Path) -> None:
    settings = written(tmp_path / "fresh")
    assert parameter_count(settings) == settings.ids * CHANNELS + WINDOW**2  # the control; tied weights once
    del ARCHITECTURES["mixer"]
    for call, sentence in (
        (lambda: load_denoiser(str(tmp_path / "fresh")), "holds the architecture 'mixer', which is not known here"),
        (lambda: build(settings), "MixerSettings belongs to no architecture that is known here"),
        (lambda: model_config(settings, "linear"), "MixerSettings belongs to no architecture that is known here"),
        (lambda: register("dit", MixerSettings, Mixer), "meets 'dit' with DiTSettings"),
        (lambda: register("mixer", DiTSettings, Mixer), "meets 'dit' with DiTSettings"),
        (lambda: register("mixer", Mixer, Mixer), "give a frozen dataclass"),
    ):
        with pytest.raises(UnmaskError, match=sentence) as caught:
            call()
        assert "\n" not in str(caught.value)
    register("mixer", MixerSettings, Mixer)
    register("mixer", MixerSettings, Mixer)  # twice is once


def test_tied_weights_are_one_parameter_after_loading(mixer: None, tmp_path: Path) -> None:
    settings = written(tmp_path / "fresh")
    network = load_denoiser(str(tmp_path / "fresh")).denoiser
    assert isinstance(network, Mixer)
    assert network.head.weight is network.embedding.weight
    assert torch.equal(network.mixing, build(settings, 3).state_dict()["mixing"])
    with torch.device("meta"):
        control = Mixer(settings)
    control.load_state_dict(load_tensors(tmp_path / "fresh"), assign=True)
    assert control.head.weight is not control.embedding.weight


# ---- the format of the weights -------------------------------------------------------------------------------------


def formats(folder: Path, **options: Any) -> set[torch.dtype]:
    return {value.dtype for value in load_denoiser(str(folder), **options).denoiser.parameters()}


def test_weights_are_held_in_what_is_asked_for(mixer: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 for small models; as stored from STORED_FROM parameters on, and where that is asked for."""
    folder = tmp_path / "fresh"
    written(folder, torch.bfloat16)
    assert formats(folder) == {torch.float32}
    assert formats(folder, dtype="stored") == {torch.bfloat16}
    assert formats(folder, dtype=torch.float64) == {torch.float64}
    count = read_checkpoint(folder).parameters
    monkeypatch.setattr(loader, "STORED_FROM", count + 1)
    assert formats(folder) == {torch.float32}
    monkeypatch.setattr(loader, "STORED_FROM", count)
    assert formats(folder) == {torch.bfloat16}
    assert formats(folder, dtype=torch.float32) == {torch.float32}


@pytest.mark.parametrize("modulation", ["none", "constant", "time"])
def test_a_model_that_is_held_as_stored_computes_in_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modulation: Any
) -> None:
    """And in float32 where that is asked for: its log-probabilities are then those of the small one, to the bit."""
    tokenizer = char_tokenizer(["abcdefgh"])
    settings = DiTSettings(tokenizer.vocab_size, tokenizer.mask_id, 16, 32, 2, 2, modulation=modulation, cond=8)
    generator = torch.Generator().manual_seed(0)
    state = build(settings).state_dict()
    state = {name: (torch.randn(value.shape, generator=generator) * 0.2).bfloat16() for name, value in state.items()}
    config = model_config(settings, "linear")
    write_checkpoint(tmp_path / "model", state, config, tokenizer_json=tokenizer.to_json())

    def run(dtype: Any) -> tuple[torch.dtype, torch.dtype, list[float]]:
        model = unmask.load(str(tmp_path / "model"), device="cpu", dtype=dtype)
        result = model.generate("abc", length=8, policy="left-to-right:steps=8", temperature=0.0)
        return next(model.network.parameters()).dtype, model.dtype, result.log_probs[0][3:]

    small = run("float32")
    monkeypatch.setattr(loader, "STORED_FROM", 1)
    assert run("float32") == small
    if not bfloat16_works():
        pytest.skip("this processor cannot compute in bfloat16")
    held, computed, log_probs = run("auto")
    assert (held, computed) == (torch.bfloat16, torch.bfloat16)
    assert log_probs != small[2]  # the control
    assert log_probs[0] == pytest.approx(small[2][0], abs=0.05)


def test_a_buffer_that_nobody_stores_is_named(mixer: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(Mixer):
        def __init__(self, settings: MixerSettings) -> None:
            super().__init__(settings)
            self.register_buffer("table", torch.ones(3), persistent=False)

    written(tmp_path / "fresh")
    assert load_denoiser(str(tmp_path / "fresh")).denoiser.width == CHANNELS  # the control
    register("mixer", MixerSettings, Forgetful)
    with pytest.raises(CheckpointError, match="does not hold the buffer 'table'"):
        load_denoiser(str(tmp_path / "fresh"))


# ---- device and dtype on the command line --------------------------------------------------------------------------


def test_the_verbs_that_compare_take_a_device_and_a_dtype(
    mixer: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """float32 unless something else is asked for; what was measured in one is not mixed with another."""
    written(tmp_path / "fresh")
    task, out = arguments(tmp_path)["task"], tmp_path / "sweep"
    words = ["frontier", str(tmp_path / "fresh"), "--task", task, "--policies", "threshold:threshold=0.3", "--count"]
    words += ["2", "--blocks", "full", "--workers", "1", "--device", "cpu", "--out", str(out), "--json"]
    assert main(words) == 0
    facts = json.loads(capsys.readouterr().out)["arguments"]
    assert (facts["device"], facts["dtype"]) == ("cpu", "float32")
    assert main([*words, "--device", "nowhere"]) == 2
    assert "device 'nowhere' is unknown" in capsys.readouterr().err
    if bfloat16_works():
        assert main([*words, "--dtype", "bfloat16"]) == 2
        assert "holds the outcomes of another sweep" in capsys.readouterr().err
    words = ["learn", "automaton", "--dtype", "float64"]
    assert main(words) == 2
    assert "float64" in capsys.readouterr().err


@pytest.mark.slow
def test_rollouts_compute_in_the_dtype_of_the_settings(mixer: None, tmp_path: Path) -> None:
    if not bfloat16_works():
        pytest.skip("this processor cannot compute in bfloat16")
    written(tmp_path / "fresh")
    checkpoint, task, out = str(tmp_path / "fresh"), arguments(tmp_path)["task"], tmp_path / "low"
    run = LearnRun(checkpoint, task, PolicySettings(width=16), LEARN)
    low = replace(run, learn=replace(LEARN, dtype="bfloat16"))
    seen = [type(open_learning(asked, out=tmp_path / "p").learner.worlds[0].denoiser).__name__ for asked in (run, low)]
    assert seen == ["Mixer", "LowPrecision"]
    numbers = {"rounds": 1, "prompts": 2, "group": 2, "warm": 1, "scored": 4, "pool": 8, "threads": 1}
    numbers |= {"valid-prompts": 2, "calibrated": 2}
    words = [word for name, value in numbers.items() for word in (f"--learn.{name}", str(value))]
    words += ["--checkpoint", checkpoint, "--task", task, "--out", str(out), "--policy.width", "16", "--json"]
    assert main(["learn", "automaton", "--device=cpu", "--dtype", "bfloat16", *words]) == 0
    recorded = recorded_learning(out).learn
    assert (recorded.device, recorded.dtype, LearnSettings().dtype) == ("cpu", "bfloat16", "float32")
