"""A checkpoint is read as it was written, is whole or absent, and other files are refused."""

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import unmask
from unmask.disk import checkpoint, files, folders
from unmask.disk.checkpoint import load_state, load_tensors, read_checkpoint, write_checkpoint
from unmask.disk.folders import best_folder, keep_best, keep_last, latest, reading, resolve, step_folder
from unmask.errors import CheckpointError, ConfigError, RunError
from unmask.model import load
from unmask.run.loop import Interrupt
from unmask.run.machine import choose_device, choose_dtype, matmul_rates
from unmask.run.metrics import Metrics, plot_curves, read_metrics
from unmask.run.optim import Ema, adamw, clip, learning_rate, load_optimizer_tensors, optimizer_tensors
from unmask.run.parallel import join_group

SRC = Path(__file__).parents[2] / "src"


def _tensors() -> dict[str, Tensor]:
    whole = torch.arange(40.0).view(10, 4)
    return {
        "weight": whole,
        "tied": whole,
        "part": whole[2:4],
        "overlap": whole[3:5],
        "turned": whole.t(),
        "half": torch.randn(3).bfloat16(),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(3),
    }


def _write(folder: Path) -> Path:
    return write_checkpoint(folder, {"w": torch.ones(2, 3)}, {"architecture": "x"})


def test_everything_comes_back_as_given(tmp_path: Path) -> None:
    given_tensors, config = _tensors(), {"architecture": {"width": 64}, "mask_id": 3}
    folder = write_checkpoint(
        tmp_path / "c",
        given_tensors,
        config,
        tokenizer_json='{"a": "\\u2581"}',
        run={"seed": 1},
        card="# Card\nä\n",
        state={"optimizer": {"0.step": torch.tensor(5.0)}},
        state_facts={"step": 5},
    )
    read = read_checkpoint(folder)
    assert (read.config, read.run, read.card) == (config, {"seed": 1}, "# Card\nä\n")
    assert (read.tokenizer_json, read.format) == ('{"a": "\\u2581"}', 1)
    assert read.versions["torch"] == torch.__version__
    loaded = load_tensors(folder)
    assert loaded.keys() == given_tensors.keys()
    for name, tensor in given_tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor), name
    parts, facts = load_state(folder)
    assert torch.equal(parts["optimizer"]["0.step"], torch.tensor(5.0))
    assert facts == {"step": 5}


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_whoever_may_read_the_configuration_may_read_the_weights(tmp_path: Path) -> None:
    folder = _write(tmp_path / "shared")
    modes = {path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {(folder / "config.json").stat().st_mode & 0o777}


def test_tied_tensors_are_stored_once_and_tied_again(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", _tensors(), {})
    loaded = load_tensors(folder)
    assert loaded["tied"].data_ptr() == loaded["weight"].data_ptr()
    assert loaded["part"].data_ptr() != loaded["weight"].data_ptr()
    assert read_checkpoint(folder).parameters == 40 + 8 + 8 + 40 + 3 + 0 + 1


def test_a_failed_write_leaves_the_old_checkpoint_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    folder = _write(tmp_path / "c")

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(files, "_sync", full)
    with pytest.raises(RunError, match="the disk is full"):
        write_checkpoint(folder, {"w": torch.zeros(1)}, {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["c"]
    assert torch.equal(load_tensors(folder)["w"], torch.ones(2, 3))


@pytest.mark.parametrize("exchange", [True, False])
def test_an_old_folder_is_replaced_whole(tmp_path: Path, monkeypatch, exchange: bool) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda first, second: False)
    folder = write_checkpoint(tmp_path / "c", {"old": torch.ones(1)}, {}, card="old")
    write_checkpoint(folder, {"new": torch.ones(1)}, {})
    assert read_checkpoint(folder).card is None
    assert set(load_tensors(folder)) == {"new"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["c"]


def test_a_killed_writer_shows_nothing_and_is_swept(tmp_path: Path) -> None:
    code = """
        import os, signal, sys
        from unmask.disk.files import atomic_folder
        with atomic_folder(sys.argv[1]) as folder:
            (folder / "config.json").write_text("{}")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "c")]
    assert subprocess.run(command, env={"PYTHONPATH": str(SRC)}, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "c").exists()
    assert len(list(tmp_path.iterdir())) == 1
    _write(tmp_path / "d")
    assert [entry.name for entry in tmp_path.iterdir()] == ["d"]


def test_a_folder_moved_aside_by_a_dead_process_comes_back(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    _write(tmp_path / f".c.{files._host()}-{dead.pid}-00000000.old")
    alive = tmp_path / f".e.{files._host()}-{os.getpid()}-00000000.tmp"
    alive.mkdir()
    files.remove_leftovers(tmp_path)
    assert read_checkpoint(tmp_path / "c").config == {"architecture": "x"}
    assert alive.exists()


@given(cut=st.integers(min_value=0, max_value=2**16))
def test_a_cut_off_file_is_always_refused(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = _write(tmp_path_factory.mktemp("cut") / "c")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: cut % path.stat().st_size])
    with pytest.raises(CheckpointError):
        read_checkpoint(folder)


def test_one_byte_too_many_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "c") / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="damaged"):
        load_tensors(tmp_path / "c")


class _Trap:
    """Unpickling it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["model.safetensors", "model.bin", "model.pt", "weights.ckpt"])
def test_nothing_is_ever_unpickled(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "config.json").write_text('{"format": 1}')
    (folder / name).write_bytes(pickle.dumps(_Trap(tmp_path / "sprung")))
    for path in (folder, folder / name):
        with pytest.raises(CheckpointError, match="is a pickle"):
            load_tensors(path)
    assert not (tmp_path / "sprung").exists()
    pickle.loads((folder / name).read_bytes())
    assert (tmp_path / "sprung").exists()


def test_a_run_folder_means_its_best_or_else_its_newest_whole_checkpoint(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    for step in (5, 20, 100):
        _write(step_folder(tmp_path, step))
    (step_folder(tmp_path, 300)).mkdir()
    hidden = step_folder(tmp_path, 400)
    _write(hidden.with_name(f".{hidden.name}.abcdef-1-00000000.tmp"))
    assert resolve(tmp_path) == latest(tmp_path) == step_folder(tmp_path, 100)
    _write(best_folder(tmp_path, 5))
    _write(best_folder(tmp_path, 20))
    assert resolve(tmp_path) == resolve(tmp_path / "checkpoints") == best_folder(tmp_path, 20)
    keep_best(tmp_path)
    keep_last(tmp_path, 2)
    names = sorted(entry.name for entry in (tmp_path / "checkpoints").iterdir() if entry.name[0] != ".")
    assert names == ["best-00000020", "step-00000020", "step-00000100", "step-00000300"]


def _trained(steps: int, model: nn.Linear, optimizer: torch.optim.AdamW, ema: Ema) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.full((2, 4), float(step + 1))).square().sum().backward()
        optimizer.step()
        ema.update()


def test_optimizer_and_averages_go_on_exactly_from_a_checkpoint(tmp_path: Path) -> None:
    def fresh() -> tuple[nn.Linear, torch.optim.AdamW, Ema]:
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        return model, adamw(model.parameters(), 1e-2, (0.9, 0.95), 1e-8, 0.1), Ema(model.parameters(), 0.9)

    model, optimizer, ema = fresh()
    _trained(3, model, optimizer, ema)
    averages = {str(number): average for number, average in enumerate(ema.averages)}
    state = {"optimizer": optimizer_tensors(optimizer), "ema": averages}
    write_checkpoint(tmp_path / "c", model.state_dict(), {}, state=state, state_facts={"step": 3})
    again, optimizer_again, ema_again = fresh()
    again.load_state_dict(load_tensors(tmp_path / "c"))
    parts, _ = load_state(tmp_path / "c")
    load_optimizer_tensors(optimizer_again, parts["optimizer"])
    for number, average in enumerate(ema_again.averages):
        average.copy_(parts["ema"][str(number)])
    ema_again.updates = ema.updates
    _trained(3, model, optimizer, ema)
    _trained(3, again, optimizer_again, ema_again)
    assert torch.equal(model.weight, again.weight)
    assert all(map(torch.equal, ema.averages, ema_again.averages))
    forgetful, optimizer_forgetful, ema_forgetful = fresh()  # the control: without the state it goes elsewhere
    forgetful.load_state_dict(load_tensors(tmp_path / "c"))
    _trained(3, forgetful, optimizer_forgetful, ema_forgetful)
    assert not torch.equal(model.weight, forgetful.weight)
    with pytest.raises(CheckpointError):
        load_optimizer_tensors(adamw(nn.Linear(5, 3).parameters(), 1e-2, (0.9, 0.95), 1e-8, 0.1), parts["optimizer"])


def test_a_parameter_without_a_gradient_goes_on_too() -> None:
    """An expert that no position has chosen: AdamW has no state for it, and zeros are stored. One tensor a moment."""

    def fresh() -> tuple[nn.ModuleList, torch.optim.AdamW]:
        torch.manual_seed(0)
        experts = nn.ModuleList(nn.Linear(4, 3) for _ in range(2))
        return experts, adamw(experts.parameters(), 1e-2, (0.9, 0.95), 1e-8, 0.1)

    def trained(experts: nn.ModuleList, optimizer: torch.optim.AdamW, *chosen: int) -> None:
        for number in chosen:
            optimizer.zero_grad()
            experts[number](torch.ones(2, 4)).square().sum().backward()
            optimizer.step()

    (experts, optimizer), (again, optimizer_again) = fresh(), fresh()
    trained(experts, optimizer, 0, 0)
    stored = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer).items()}
    assert {name.partition(".")[0] for name in stored} == {"0", "1", "2", "3"}
    assert len(optimizer.state_dict()["state"]) == 2  # the control
    again.load_state_dict(experts.state_dict())
    load_optimizer_tensors(optimizer_again, stored)
    for pair in ((experts, optimizer), (again, optimizer_again)):
        trained(*pair, 1, 0, 1)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in experts.state_dict().items())


def test_the_average_is_what_its_formula_says_and_swaps_back_exactly() -> None:
    param = nn.Parameter(torch.zeros(2))
    ema, expected = Ema([param], 0.5), 0.0
    for n in range(20):
        param.data.fill_(float(n))
        ema.update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
    before = param.detach().clone()
    with ema.swap():
        assert param.detach().tolist() == pytest.approx([expected] * 2, rel=1e-5)
    assert torch.equal(param, before)
    with pytest.raises(KeyError), ema.swap():
        {}["a failure inside the block"]
    assert torch.equal(param, before)


def test_only_matrices_decay_and_the_rate_follows_its_shape() -> None:
    model = nn.Linear(2, 2)
    groups = adamw(model.parameters(), 1.0, (0.9, 0.95), 1e-8, 0.1).param_groups
    assert [(group["params"][0].ndim, group["weight_decay"]) for group in groups] == [(2, 0.1), (1, 0.0)]
    rates = [learning_rate(step, base=2.0, warmup=4, steps=12, shape="cosine") for step in range(13)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert (rates[4], rates[8], rates[12]) == pytest.approx((2.0, 1.0, 0.0))
    assert learning_rate(99, base=2.0, warmup=4, steps=12, shape="constant") == 2.0


def test_clipping_bounds_the_joint_norm_and_returns_the_one_before() -> None:
    params = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    params[0].grad, params[1].grad = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([4.0])
    assert float(clip(params, float("inf"))) == 5.0
    assert params[1].grad.tolist() == [4.0]
    assert float(clip(params, 1.0)) == 5.0
    assert float(clip(params, 10.0)) == pytest.approx(1.0, rel=1e-4)


def test_resumed_metrics_drop_what_is_repeated_and_a_cut_off_line(tmp_path: Path) -> None:
    with Metrics(tmp_path) as metrics:
        for step in (1, 2, 3):
            metrics.log(step, {"loss": 1.0 / step, "bad": float("nan")})
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 4, "lo')
    with Metrics(tmp_path, resumed_at=2) as metrics:
        metrics.log(3, {"loss": 0.25})
    assert [(line["step"], line["loss"]) for line in read_metrics(path)] == [(1, 1.0), (2, 0.5), (3, 0.25)]
    assert json.loads(path.read_text().splitlines()[0])["bad"] is None
    with Metrics(tmp_path):
        assert read_metrics(path) == []


def test_curves_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with Metrics(tmp_path) as metrics:
        metrics.log(1, {"loss": 2.0})
    assert plot_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_first_interrupt_asks_and_the_second_insists() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.requested
    assert signal.getsignal(signal.SIGINT) is before


def test_the_machine_chooses_what_it_can_compute() -> None:
    cpu = choose_device("cpu")
    rates = matmul_rates(1)
    assert rates.fp32 > 0
    assert choose_dtype("float32", cpu) is torch.float32
    assert choose_dtype("auto", cpu) in (torch.float32, torch.bfloat16)
    ones = torch.ones(256, 256, dtype=choose_dtype("bfloat16", cpu))
    assert float((ones @ ones)[0, 0]) == 256  # without prepare() this kills the process where AMX is broken


def test_one_process_is_a_group_that_changes_nothing(monkeypatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    group = join_group(torch.device("cpu"))
    group.barrier()
    assert group.first
    assert group.gather("mine", torch.device("cpu")) == ["mine"]
    assert group.share(6) == slice(0, 6)


@pytest.mark.slow
def test_two_processes_share_texts_and_sums(tmp_path: Path) -> None:
    code = """
        import torch
        from unmask.run.parallel import join_group
        torch.set_num_threads(1)
        group = join_group(torch.device("cpu"))
        a, device = torch.full((3,), float(group.rank)), torch.device("cpu")
        group.copy_first([a])
        assert a.tolist() == [0.0] * 3
        for texts in (["", ""], ["", "a "], ["Größe", "b"]):
            assert group.gather(texts[group.rank], device) == texts
        assert group.gather_bytes(bytes(group.rank), device) == [b"", bytes(1)]
        assert float(group.sum(torch.tensor(1.0 + group.rank))) == 3.0
        assert group.share(4) == slice(2 * group.rank, 2 * group.rank + 2)
        group.barrier()
        group.leave()
    """
    script = tmp_path / "two.py"
    script.write_text(textwrap.dedent(code))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=100)
    assert result.returncode == 0, result.stderr


def test_a_path_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError):
        _write(tmp_path / "file" / "c")
    with pytest.raises(ConfigError):
        _write(tmp_path / "file")


# ---- replaced while it is read -------------------------------------------------------------------------------------


def _replaced(run: Path, old: int, new: int) -> None:
    """Write the best checkpoint of step `new` and delete that of step `old`, as a training does."""
    write_checkpoint(best_folder(run, new), {"w": torch.full((2, 3), float(new))}, {"step": new}, tokenizer_json="{}")
    keep_best(run)
    assert not best_folder(run, old).exists()


@pytest.mark.parametrize("what", ["weights", "facts", "optional"])
def test_a_reader_survives_a_checkpoint_that_is_replaced(tmp_path: Path, monkeypatch, what: str) -> None:
    """The folder vanishes after it was resolved: before its weights, its config, or an optional file was read."""
    write_checkpoint(best_folder(tmp_path, 1), {"w": torch.ones(2, 3)}, {"step": 1}, tokenizer_json="{}")
    name = {"weights": "iterate_tensors", "facts": "read_json", "optional": "_read_text"}[what]
    true, calls = getattr(checkpoint, name), list[object]()

    def late(*arguments: object, **keywords: object) -> object:
        calls.append(arguments)
        if len(calls) == 1:
            _replaced(tmp_path, 1, 2)
        return true(*arguments, **keywords)

    monkeypatch.setattr(checkpoint, name, late)
    if what == "weights":
        assert float(load_tensors(tmp_path)["w"][0, 0]) == 2.0
    else:
        read = read_checkpoint(tmp_path)
        assert (read.folder, read.config, read.tokenizer_json) == (best_folder(tmp_path, 2), {"step": 2}, "{}")
    assert len(calls) > 1
    calls.clear()  # the control: a reader that resolves once fails
    write_checkpoint(best_folder(tmp_path, 1), {"w": torch.ones(2, 3)}, {"step": 1}, tokenizer_json="{}")
    monkeypatch.setattr(checkpoint, "reading", lambda path, read: read(best_folder(tmp_path, 1)))
    with pytest.raises((CheckpointError, OSError)):
        load_tensors(tmp_path) if what == "weights" else read_checkpoint(tmp_path)


def test_files_of_two_checkpoints_are_never_mixed(tmp_path: Path) -> None:
    """The folder `policy` of a learning run is exchanged in place, so that each file can be read."""
    folder = write_checkpoint(tmp_path / "policy", {"w": torch.ones(1)}, {"step": 1})

    def both(folder: Path, calls: list[int]) -> tuple[int, float]:
        step = read_checkpoint(folder).config["step"]
        if not calls:
            write_checkpoint(folder, {"w": torch.full((1,), 2.0)}, {"step": 2})
        calls.append(step)
        return step, float(load_tensors(folder)["w"])

    calls: list[int] = []
    assert reading(folder, lambda folder: both(folder, calls)) == (2, 2.0)
    assert calls == [1, 2]
    write_checkpoint(folder, {"w": torch.ones(1)}, {"step": 1})
    assert both(folder, []) == (1, 2.0)  # the control


def test_reading_again_is_bounded_and_only_for_what_was_replaced(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(folders, "_PAUSE", 0.0)
    folder, calls = _write(tmp_path / "c"), list[Path]()

    def damaged(folder: Path) -> None:
        calls.append(folder)
        raise CheckpointError("it is damaged.")

    with pytest.raises(CheckpointError, match="it is damaged"):
        reading(folder, damaged)
    assert len(calls) == 1  # the folder stayed in its place

    def chased(folder: Path) -> None:
        calls.append(folder)
        _write(folder)

    with pytest.raises(CheckpointError, match="is replaced again and again while it is read"):
        reading(folder, chased)
    assert len(calls) == 21


def test_a_model_is_loaded_while_its_best_checkpoint_is_replaced(tmp_path: Path, monkeypatch) -> None:
    """`unmask.load`, as eval, generate and fill call it; the weights of the first checkpoint vanish before the read."""
    bundled = Path(unmask.__file__).parent / "assets" / "models" / "automaton"
    shutil.copytree(bundled, best_folder(tmp_path, 1))
    true, calls = load.iterate_tensors, list[object]()

    def late(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            shutil.copytree(bundled, best_folder(tmp_path, 2))
            keep_best(tmp_path)
        return true(*arguments)

    monkeypatch.setattr(load, "iterate_tensors", late)
    model = unmask.load(str(tmp_path), device="cpu")
    assert model.checkpoint is not None
    assert (model.checkpoint.folder, len(calls)) == (best_folder(tmp_path, 2), 2)
