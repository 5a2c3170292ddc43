"""What is asked is bounded: memory is estimated before work starts, and an error of the machine is one sentence."""

import errno
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from unmask import limits
from unmask.cli import main as cli
from unmask.cli import write
from unmask.config import to_dict
from unmask.data.packed import Corpus, Packed
from unmask.disk.checkpoint import write_checkpoint
from unmask.errors import CheckpointError, ConfigError, RequestError, RunError
from unmask.limits import available_bytes, bytes_text, failure_of, require_memory, sentences
from unmask.model.dit import DiT
from unmask.model.load import build, load_denoiser, model_config
from unmask.model.settings import DiTSettings
from unmask.text.build import byte_tokenizer
from unmask.train import plan as plans
from unmask.train.plan import TrainPlan, require_step
from unmask.train.settings import TextRun, TrainSettings

GB = 10**9


# ---- how much there is -----------------------------------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`machine(own, groups)`: a machine of 8 GB available whose files say this of control groups."""
    monkeypatch.setattr(limits, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(limits, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(limits, "_MEMINFO", tmp_path / "meminfo")

    def write(own: str = "", groups: dict[str, tuple[str, str, str]] | None = None, swap: int = 0) -> None:
        (tmp_path / "meminfo").write_text(f"MemAvailable: {8 * GB >> 10} kB\nSwapFree: {swap >> 10} kB\nX: 1\n")
        (tmp_path / "own").write_text(own)
        for folder, (limit, usage, stat) in (groups or {}).items():
            group = tmp_path / "cgroup" / folder
            group.mkdir(parents=True, exist_ok=True)
            first = ("memory.limit_in_bytes", "memory.usage_in_bytes") if "memory" in folder.split("/") else None
            names = first or ("memory.max", "memory.current")
            for name, text in zip((*names, "memory.stat"), (limit, usage, stat), strict=True):
                (group / name).write_text(text + "\n")

    return write


def test_the_machine_without_groups(machine: Callable[..., None]) -> None:
    machine()
    assert available_bytes() == pytest.approx(8 * GB, abs=1024)
    machine(swap=2 * GB)  # what swap space would hold is not refused
    assert available_bytes() == pytest.approx(10 * GB, abs=2048)


def test_nested_groups_of_version_2(machine: Callable[..., None]) -> None:
    """The group above has less left than the own one; its copies of files count as free; "max" is no limit."""
    stat = f"anon 5\ninactive_file {GB}\nactive_file 0"
    groups = {"a/b": ("max", str(GB), stat), "a": (str(4 * GB), str(3 * GB), stat)}
    machine("0::/a/b\n", groups)
    assert available_bytes() == 2 * GB
    machine("0::/\n", groups)  # a negative control: the process is outside of these groups
    assert available_bytes() == pytest.approx(8 * GB, abs=1024)


def test_groups_of_version_1(machine: Callable[..., None]) -> None:
    stat = "total_inactive_file 0\ntotal_active_file 0"
    groups = {"memory/x": (str(3 * GB), str(GB), stat), "memory": (str(2**63 - 4096), "5", stat)}
    machine("4:cpu,memory:/x/not-visible\n0::/\n", groups)
    assert available_bytes() == 2 * GB


def test_a_machine_that_says_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """macOS has no /proc: all its memory is the limit, and never less than what is available."""
    monkeypatch.setattr(limits, "_MEMINFO", tmp_path / "missing")
    assert available_bytes() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.delattr(os, "sysconf")
    assert available_bytes() == sys.maxsize


def test_the_sentence(machine: Callable[..., None]) -> None:
    machine()
    require_memory(7 * GB, "This", "ask for less")
    with pytest.raises(RequestError) as error:
        require_memory(4e13, "This", "ask for less")
    assert str(error.value) == "This needs at least 40.0 TB of memory, and 8.0 GB are available: ask for less."
    with pytest.raises(RequestError, match="more than 1000 EB"):
        require_memory(10**400, "This", "ask for less")


@pytest.mark.parametrize("count, text", [(5, "5 B"), (10**7, "10.0 MB"), (4e12, "4.0 TB")])
def test_bytes(count: float, text: str) -> None:
    assert bytes_text(count) == text


# ---- errors of the machine -------------------------------------------------------------------------------------------


def _recurse() -> None:
    _recurse()


def _raise(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


MACHINE: list[tuple[Callable[[], object], str]] = [
    (lambda: torch.empty(10**13), "not enough memory (40.0 TB at once): ask for less"),
    (lambda: torch.empty(10**10, 10**10), "not enough memory (Storage size calculation overflowed"),
    (lambda: np.empty(10**14), "not enough memory (Unable to allocate 728. TiB"),
    (lambda: np.empty((10**10, 10**10)), "not enough memory (array is too big"),
    (lambda: [1] * 10**15, "not enough memory: ask for less"),
    (_raise(torch.OutOfMemoryError("CUDA out of memory. Tried")), "not enough memory (CUDA out of memory"),
    (lambda: [1] * 10**30, "A number is too large for this machine"),
    (lambda: torch.tensor([10**30]), "A number is too large for this machine"),
    (lambda: open("a\0b"), "A path has a NUL character"),  # noqa: SIM115
    (lambda: open("a" * 5000), "cannot be used (file name too long)"),  # noqa: SIM115
    (lambda: open("/dev/null/x"), "/dev/null/x cannot be used (not a directory)"),  # noqa: SIM115
    (_raise(OSError(errno.EMFILE, "", "f")), "f could not be opened (too many open files): close other programs"),
    (_raise(OSError(errno.ENOSPC, "")), "A file could not be written because the disk is full"),
    (_raise(OSError(errno.EROFS, "", "f")), "f cannot be used (read-only file system): choose another place"),
    (_raise(OSError(errno.ENOMEM, "")), "There was not enough memory"),
    (lambda: "\udcff".encode(), "has characters that cannot be read or written"),
    (_recurse, "nested too deeply, or calls itself without end"),
]


@pytest.mark.parametrize("act, sentence", MACHINE)
def test_errors_of_the_machine(act: Callable[[], object], sentence: str) -> None:
    """In the Python API they are errors of this library."""
    with pytest.raises((RunError, ConfigError)) as error, sentences():
        act()
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), RuntimeError("x"), ValueError("x"), KeyError("x")])
def test_faults_of_the_program_are_not_hidden(error: Exception) -> None:
    assert failure_of(error) is None
    with pytest.raises(type(error)), sentences():
        raise error


def test_the_command_line_prints_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def lies(_: list[str]) -> int:
        raise MemoryError

    monkeypatch.setattr(cli, "_dispatch", lies)
    assert cli.main(["generate"]) == 1
    assert capsys.readouterr().err.startswith("unmask: There was not enough memory")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(cli, "_dispatch", lambda _: Path.cwd())  # pyright: ignore[reportUnknownLambdaType]
    assert cli.main(["generate"]) == 1
    assert "The folder that this command runs in does not exist any more" in capsys.readouterr().err
    monkeypatch.setattr(cli, "_dispatch", lambda _: 1 // 0)  # pyright: ignore[reportUnknownLambdaType]
    assert cli.main(["generate"]) == 1
    assert "Traceback" in capsys.readouterr().err, "a fault of the program is not explained away"


# ---- networks and steps ----------------------------------------------------------------------------------------------

SMALL = DiTSettings(11, 0, 6, 8, 3, 2, cond=5)


@pytest.mark.parametrize("modulation", ["none", "constant", "time"])
@pytest.mark.parametrize("absolute", [False, True])
def test_parameters_are_counted_without_building(modulation: Any, absolute: bool) -> None:
    settings = replace(SMALL, modulation=modulation, absolute=absolute)
    assert settings.parameters == sum(p.numel() for p in DiT(settings).parameters())


@pytest.mark.parametrize("changes", [{"blocks": 10**8}, {"width": 2 * 10**6}, {"vocab_size": 10**12}])
def test_a_network_that_cannot_fit(changes: dict[str, int]) -> None:
    """Also where it is not the weights, but the objects of the blocks that need the memory."""
    with pytest.raises(RequestError, match=r"A network of [\d,]+ parameters .* needs at least"):
        build(replace(SMALL, **changes))
    build(SMALL)


def test_a_checkpoint_that_says_it_is_huge(tmp_path: Path) -> None:
    """Before anything of that size is made."""
    tokenizer = byte_tokenizer()
    settings = DiTSettings(tokenizer.vocab_size, tokenizer.mask_id, 6, 8, 1, 2)
    tensors = build(settings).state_dict()
    config = model_config(settings, "linear")
    for name, changes in (("blocks", {"blocks": 10**9}), ("width", {"width": 10**5 * 2})):
        config = config | {"model": to_dict(replace(settings, **changes))}
        folder = write_checkpoint(tmp_path / name, tensors, config, tokenizer_json=tokenizer.to_json())
        with pytest.raises(CheckpointError, match=r"does not fit its own config\.json"):
            load_denoiser(str(folder))


def test_loading_is_refused_where_the_weights_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_tokenizer()
    settings = DiTSettings(tokenizer.vocab_size, tokenizer.mask_id, 6, 8, 1, 2)
    tensors = {name: value.bfloat16() for name, value in build(settings).state_dict().items()}
    config = model_config(settings, "linear")
    folder = write_checkpoint(tmp_path / "x", tensors, config, tokenizer_json=tokenizer.to_json())
    monkeypatch.setattr(limits, "_SMALL", 0)
    monkeypatch.setattr(limits, "available_bytes", lambda _: 1000)
    with pytest.raises(RequestError, match="parameters needs at least"):
        load_denoiser(str(folder), dtype=torch.float32)
    load_denoiser(str(folder), dtype="stored")  # stays in its file: nothing is allocated


def _plan_of(batch: int, accumulate: int = 1) -> tuple[TextRun, TrainPlan, Corpus]:
    rows = 64
    packed = Packed(np.zeros((rows, 32), np.uint16), np.zeros(rows), np.full(rows, 32), 0, rows * 32)
    settings = DiTSettings(300, 0, 32, 32, 2, 2)
    run = TextRun(train=TrainSettings(batch=batch, accumulate=accumulate))
    plan = TrainPlan(settings, settings.parameters, 1, 1e-3, 1, 1, 1, 1, 1, 1, 1.0)
    return run, plan, SimpleNamespace(train=packed)  # pyright: ignore[reportReturnType]


def test_a_step_that_cannot_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names what would fit, and that then does."""
    monkeypatch.setattr(limits, "_SMALL", 0)
    for module in (limits, plans):
        monkeypatch.setattr(module, "available_bytes", lambda *_: 5_000_000)
    with pytest.raises(RequestError) as error:
        require_step(*_plan_of(64), tuned=False, processes=1, device="cpu")
    assert "A step with 64 rows at once" in str(error.value)
    parts = int(str(error.value).split("--train.accumulate ")[1].split(",")[0])
    require_step(*_plan_of(64, parts), tuned=False, processes=1, device="cpu")
    with pytest.raises(RequestError):
        require_step(*_plan_of(64, 1), tuned=False, processes=1, device="cpu")
    with pytest.raises(RequestError, match=r"A batch of [\d,]+ rows needs"):
        require_step(*_plan_of(10**9), tuned=False, processes=1, device="cpu")


# ---- texts -----------------------------------------------------------------------------------------------------------

TEXTS = [
    ("fill automaton 'a [999999999]'", " tokens long and the model's window is"),
    ("fill automaton 'a [999999999=b]'", " tokens long and the model's window is"),
    ("fill automaton '[1-999999999]'", "999999999 combinations of lengths and at most"),
    ("fill automaton '[999999998-999999999]'", "up to 999999999 tokens long"),
    ("fill automaton '[999999999][?]' --choices a b", "999999999 tokens long"),
    (
        "fill automaton 'a[3]' --count 1000000000",
        "A request of 1,000,000,000 texts of 4 tokens needs at least 660.0 GB",
    ),
    ("fill automaton 'a[3]' --trace x.jsonl --count 1000000000000", "A request of 1,000,000,000,000 texts"),
    ("generate automaton a --count 1000000000", "A request of 1,000,000,000 texts of 128 tokens needs at least 5.6 TB"),
    ("generate automaton a --length 100000000000", "A request of 1 texts of 100,000,000,000 tokens needs"),
]


@pytest.mark.parametrize("words, sentence", TEXTS)
def test_texts_that_cannot_fit(words: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(shlex.split(words)) == 2
    assert sentence in capsys.readouterr().err


def test_the_same_texts_of_a_usual_size(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ("fill automaton 'a[3]' --count 2", "generate automaton a --count 2 --length 4"):
        assert cli.main(shlex.split(words)) == 0
    capsys.readouterr()


def test_prompts_without_an_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(write, "LINES_BYTES", 1 << 20)
    assert cli.main(["generate", "--prompts", "/dev/zero"]) == 2
    assert "/dev/zero is larger than 1 MiB; give a text file" in capsys.readouterr().err
    (tmp_path / "two.txt").write_text("a\nb\n")
    assert cli.main(["generate", "automaton", "--prompts", str(tmp_path / "two.txt"), "--length", "2"]) == 0
    capsys.readouterr()


@pytest.mark.slow
def test_the_estimate_of_a_step_is_below_what_it_needs(tmp_path: Path) -> None:
    """No run is refused that works: the peak of a real step is above the estimate, and not far above it."""
    code = """
import torch, sys
from unmask.bench.train import make_trainer
from unmask.bench.timing import Shape
from unmask.run.machine import peak_bytes
from unmask.train import plan as plans
from unmask.limits import available_bytes
cpu, dtype = torch.device("cpu"), getattr(torch, sys.argv[1])
trainer = make_trainer(Shape("x", 192, 4, 4, 512, 256, 24), dtype=dtype)
before = peak_bytes(cpu)
trainer.take_step()
needs = []
plans.require_memory = lambda needed, *_: needs.append(needed)
plans.require_step(trainer.run, trainer.plan, trainer.corpus, tuned=True, processes=1, device="cpu")
print((peak_bytes(cpu) - before) / max(needs))
"""
    for dtype in ("float32", "bfloat16"):
        done = subprocess.run([sys.executable, "-c", code, dtype], capture_output=True, text=True, check=True)
        assert 1 < float(done.stdout) < 6, dtype
