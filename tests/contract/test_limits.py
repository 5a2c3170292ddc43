"""What is asked is bounded: memory is estimated before work starts, and an error of the machine is one sentence."""

import errno
import gzip
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from unmask import limits
from unmask.api import load
from unmask.cli import main as cli
from unmask.cli.common import Meter
from unmask.config import to_dict
from unmask.data import documents
from unmask.data.documents import json_rows
from unmask.data.packed import Packed
from unmask.data.prepare import choose_tokenizer, open_sources
from unmask.data.settings import DataSettings
from unmask.data.split import plan_split
from unmask.disk import checkpoint as checkpoints
from unmask.disk import json as reader
from unmask.disk.checkpoint import read_checkpoint, write_checkpoint
from unmask.disk.folders import bundled, bundled_policies
from unmask.errors import CheckpointError, ConfigError, DataError, PluginError, RequestError, RunError
from unmask.limits import available_bytes, bytes_text, failure_of, require_finite, require_memory, sentences
from unmask.model.dit import DiT
from unmask.model.load import ARCHITECTURES, build, load_denoiser, model_config, register
from unmask.model.settings import DiTSettings
from unmask.policies.base import Decision
from unmask.policies.learned.network import PolicyNetwork
from unmask.policies.learned.policy import read_policy
from unmask.policies.learned.settings import PolicySettings
from unmask.policies.or_else import OrElse
from unmask.text.build import bpe_tokenizer, byte_tokenizer
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
    (_raise(OSError(errno.EFBIG, "", "f")), "f could not be written because a file may not be that large here"),
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

    real = cli._dispatch  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(cli, "_dispatch", lies)
    assert cli.main(["generate"]) == 1
    assert capsys.readouterr().err.startswith("unmask: There was not enough memory")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(cli, "_dispatch", real)
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


def _plan_of(batch: int, accumulate: int = 1, replicas: int = 1) -> tuple[TextRun, TrainPlan, Packed]:
    rows = 64
    packed = Packed(np.zeros((rows, 32), np.uint16), np.zeros(rows), np.full(rows, 32), 0, rows * 32)
    settings = DiTSettings(300, 0, 32, 32, 2, 2)
    run = TextRun(train=TrainSettings(batch=batch, accumulate=accumulate, replicas=replicas))
    plan = TrainPlan(settings, settings.parameters, 1, 1e-3, 1, 1, 1, 1, 1, 1, 1.0)
    return run, plan, packed


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


def test_a_step_in_parts_needs_the_gradient_of_all_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where processes divide the network; the advice counts it too, and says so where it is what does not fit."""
    parameters, row = _plan_of(64)[1].parameters, 4 * 2 * 32 * 32 * 10
    needs = list[float]()
    with monkeypatch.context() as patch:
        patch.setattr(plans, "require_memory", lambda needed, *_: needs.append(needed))
        for plan, processes in ((_plan_of(64), 4), (_plan_of(64, 2), 4), (_plan_of(64, 2, 4), 4), (_plan_of(64, 2), 1)):
            require_step(*plan, tuned=False, processes=processes, device="cpu")
    once, twice, copies, alone = needs[1::2]
    assert once == 5 * parameters + 16 * row
    assert twice == 5 * parameters + 3 * parameters + 8 * row
    assert copies == 20 * parameters + 8 * row
    assert alone == 20 * parameters + 32 * row

    def advice(free: int) -> str:
        for module in (limits, plans):
            monkeypatch.setattr(module, "available_bytes", lambda *_: free)
        with pytest.raises(RequestError) as error:
            require_step(*_plan_of(64), tuned=False, processes=4, device="cpu")
        return str(error.value)

    monkeypatch.setattr(limits, "_SMALL", 0)
    assert "set --train.accumulate 8, or --train.batch 8." in advice(8 * parameters + 8 * row)
    assert "set --train.accumulate 1 and --train.batch 4." in advice(5 * parameters + 4 * row)
    assert "set a smaller --data.length" in advice(5 * parameters + 2 * row)


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
    ("fill automaton 'a[1-3]' --draws 10000000000", "10,000,000,000 maskings of 3 texts needs at least 720.0 GB"),
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
    monkeypatch.setattr(reader, "LINES_BYTES", 1 << 20)
    assert cli.main(["generate", "--prompts", "/dev/zero"]) == 2
    assert "/dev/zero is larger than 1 MiB; give a text file" in capsys.readouterr().err
    (tmp_path / "two.txt").write_text("a\nb\n")
    assert cli.main(["generate", "automaton", "--prompts", str(tmp_path / "two.txt"), "--length", "2"]) == 0
    capsys.readouterr()


@pytest.mark.slow
@pytest.mark.long
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
plans.require_step(trainer.run, trainer.plan, trainer.corpus.train, tuned=True, processes=1, device="cpu")
print((peak_bytes(cpu) - before) / max(needs))
"""
    for dtype in ("float32", "bfloat16"):
        done = subprocess.run([sys.executable, "-c", code, dtype], capture_output=True, text=True, check=True)
        assert 1 < float(done.stdout) < 6, dtype


# ---- sources and files -----------------------------------------------------------------------------------------------


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_a_source_that_is_no_file(fifo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("/dev/zero", "/dev/null", str(fifo)):
        assert cli.main(["train", "--data.source", name]) == 2
        assert f"{name} is a pipe, a device or a socket" in capsys.readouterr().err


def test_a_long_line_in_a_small_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of a gzip file may have 64 times the size of the file, but 64 MiB always (here: a hundredth of a MiB)."""
    monkeypatch.setattr(documents, "JSON_BYTES", 10_000)
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "' + b"a" * 300_000 + b'"}\n'))
    with pytest.raises(DataError, match="line 1 is larger than"):
        list(json_rows(path))
    path.write_bytes(gzip.compress(b'{"text": "' + b"a" * 9_000 + b'"}\n'))
    assert len(list(json_rows(path))) == 1
    letters = "".join(Random(0).choices("abcdefgh ", k=300_000)).encode()
    path.write_bytes(gzip.compress(b'{"text": "' + letters + b'"}\n'))
    assert len(list(json_rows(path))) == 1


def test_a_tokenizer_file_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_checkpoint(tmp_path / "x", {"a": torch.ones(2)}, {}, tokenizer_json="{}" + " " * 5000)
    read_checkpoint(folder)
    monkeypatch.setattr(checkpoints, "JSON_BYTES", 1000)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is damaged: it is larger than"):
        read_checkpoint(folder)


def test_tokenizers_of_any_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A vocabulary is never larger than the bytes of its text allow; the trainer would reserve memory for it."""
    (tmp_path / "a.txt").write_text("to be or not to be " * 100)
    settings = DataSettings(str(tmp_path / "a.txt"), tokenizer="bpe", vocab_size=10**7)
    sources = open_sources(settings)
    tokenizer, _ = choose_tokenizer(settings, sources, lambda: plan_split(sources, 0.05), lambda _: None)
    assert tokenizer.vocab_size < 400
    with pytest.raises(RequestError, match=r"A tokenizer of 1,000,000,000,000 ids needs"):
        bpe_tokenizer(["a"], 10**12)


def test_rows_of_any_length(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("to be or not to be " * 100)
    words = ["train", "--data.source", str(tmp_path / "a.txt"), "--data.tokenizer", "byte"]
    assert cli.main([*words, "--data.length", str(10**12)]) == 2
    assert "A row of 1,000,000,000,000 tokens needs at least 8.0 TB" in capsys.readouterr().err


# ---- weights that are not finite -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(number: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command that loads a model says so, and ends with 1; the Python API raises."""
    folder = shutil.copytree(bundled()["automaton"], tmp_path / "broken")
    tensors = load_file(folder / "model.safetensors")
    next(iter(tensors.values())).flatten()[3] = number
    save_file(tensors, folder / "model.safetensors")
    commands = ("eval X", "generate X a", "fill X a[3]", "fill X 'a[?]' --choices a b", "pace X", "demo X")
    for words in (*commands, "frontier X --task automaton --count 1 --out y"):
        assert cli.main([str(folder) if word == "X" else word for word in shlex.split(words)]) == 1, words
        assert "holds weights that are NaN or infinite" in capsys.readouterr().err
    with pytest.raises(RunError, match="NaN or infinite"):
        load(str(folder))
    with pytest.raises(RunError, match="NaN or infinite"):
        require_finite(torch.tensor([1.0, number]), "x", "y")
    require_finite(torch.full((3,), 6e4, dtype=torch.float16), "x", "y")  # their sum is infinite, they are not


def test_a_policy_that_is_not_finite(tmp_path: Path) -> None:
    folder = shutil.copytree(bundled_policies()["automaton"], tmp_path / "broken")
    tensors = load_file(folder / "model.safetensors")
    next(iter(tensors.values())).flatten()[0] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(RunError, match="NaN or infinite"):
        read_policy(folder)
    with pytest.raises(RequestError, match="A policy of"):
        PolicyNetwork(PolicySettings(width=10**6))


def test_numbers_that_are_not_finite_with_weights_that_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(bundled()["automaton"], tmp_path / "huge")
    tensors = {name: value.clone() for name, value in load_file(folder / "model.safetensors").items()}
    tensors["head.weight"].fill_(3e38)
    save_file(tensors, folder / "model.safetensors")
    assert cli.main(["eval", str(folder), "--data.source", "task:automaton@50", "--limit", "2"]) == 1
    assert "The bound is nan: the network computes numbers that are not finite" in capsys.readouterr().err
    assert cli.main(["generate", str(folder), "a"]) == 1
    assert "logits that are NaN or infinite" in capsys.readouterr().err
    model = load(str(folder))
    with pytest.raises(RunError):
        model.bound("abc")
    with pytest.raises(RunError):
        model.fill("a[3]")


# ---- code of others --------------------------------------------------------------------------------------------------

TASK = """
import sys, os
from unmask.tasks.base import Example, Verdict
class T:
    name = "t"
    def examples(self, split, count, seed=0):
        {examples}
        return [Example("ab[2]", "cd") for _ in range(count)]
    def verify(self, example, completion):
        {verify}
        return Verdict(1.0)
    def pairs(self, split, count, seed=0):
        {pairs}
        return iter([("ab", "cd")] * count)
{top}
"""
SWEEP = ["frontier", "automaton", "--count", "2", "--policies", "random:steps=1", "--blocks", "full", "--workers", "1"]
TASKS = [
    ({"examples": "sys.exit(3)"}, "The task 't' failed while it made problems: SystemExit: 3."),
    ({"examples": "raise KeyError('a\\nb')"}, "The task 't' failed while it made problems: KeyError: 'a\\nb'."),
    ({"examples": "return self.examples(split, count)"}, "failed while it made problems: RecursionError: maximum"),
    ({"examples": "import itertools; return itertools.repeat(Example('a[1]', 'b'))"}, "gave more problems than the 2"),
    ({"examples": "return ['a']"}, "The task 't' gave 'a' as a problem; give an Example."),
    ({"examples": "return 3"}, "failed while it made problems: TypeError: 'int' object is not iterable."),
    ({"verify": "sys.exit('no')"}, "The verifier of 't' failed on the completion"),
    ({"verify": "return Verdict(float('nan'))"}, "The verifier of 't' gave a score of nan"),
    ({"verify": "return Verdict(2)"}, "The verifier of 't' gave a score of 2"),
    ({"verify": "return 0.5"}, "The verifier of 't' answered 0.5"),
    ({"top": "sys.exit(5)"}, "cannot be run: SystemExit: 5."),
    ({"top": "T.__init__ = lambda self: sys.exit(6)"}, "cannot be made: SystemExit: 6."),
    ({}, ""),
]


def _task_file(folder: Path, parts: dict[str, str]) -> str:
    path = folder / "mine.py"
    path.write_text(TASK.format(**{name: parts.get(name, "pass") for name in ("examples", "verify", "pairs", "top")}))
    return f"{path}:T"


@pytest.mark.parametrize("parts, sentence", TASKS)
def test_a_task_that_breaks(
    parts: dict[str, str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named with its own message, and the command ends with 2; the whole task is a negative control."""
    words = [*SWEEP, "--task", _task_file(tmp_path, parts), "--out", str(tmp_path / "out")]
    assert cli.main(words) == (2 if sentence else 0)
    *_, last = capsys.readouterr().err.splitlines()
    assert sentence in last


PAIRS = [
    ("sys.exit(3)", "The task 't' failed while it made problems: SystemExit: 3."),
    ("return iter([('a', 'b')] * (count + 1))", "gave more pairs than the"),
    ("return iter([None])", "The task 't' gave None as a pair; give a prompt and an answer."),
    ("return (1 / 0 for _ in range(3))", "failed while it made problems: ZeroDivisionError: division by zero."),
]


@pytest.mark.parametrize("pairs, sentence", PAIRS)
def test_a_task_whose_pairs_break(
    pairs: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = _task_file(tmp_path, {"pairs": pairs})
    assert cli.main(["train", "--data.source", f"task:{task}@20", "--out", str(tmp_path / "out")]) == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]


def test_problems_are_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    """Before one is made, or a row of their length."""
    cases = {
        "frontier automaton --task automaton --count 1000000000": "1,000,000,000 problems needs at least 500.0 GB",
        "train --data.source task:sudoku@999999999": "999,999,999 problems needs at least 44.0 GB",
        "frontier automaton --task automaton:length=1000000000": "give a whole number from 4 to 100000",
        "frontier automaton --task automaton:length=90000 --count 1": "has 90000 tokens, but the window of automaton",
        "frontier automaton --task sudoku:side=1000000": "is 1000000",
        "frontier automaton --task arithmetic:length=1000000000": "is 1000000000",
        "learn --learn.pool 1000000000": "1",
        "learn --learn.group 100000000": "1",
    }
    for words, sentence in cases.items():
        assert cli.main(words.split()) == 2, words
        assert sentence in capsys.readouterr().err


class _Broken:
    """A policy of somebody else."""

    looks = True

    def __init__(self, act: Callable[..., Any]) -> None:
        self.act = act

    def __repr__(self) -> str:
        return "Broken"

    def __call__(self, view: Any, state: Any) -> Any:
        return self.act(view)


POLICIES: list[tuple[Callable[..., Any], str]] = [
    (lambda view: sys.exit(3), "The policy Broken failed: SystemExit: 3."),
    (lambda view: view.nothing, "The policy Broken failed: AttributeError: 'View' object has no attribute 'nothing'"),
    (
        lambda view: None,
        "The policy Broken failed: TypeError: it returned NoneType; return a pair, (Decision(reveal), state or None).",
    ),
    (
        lambda view: (None, None),
        "The policy Broken failed: TypeError: it returned tuple; return a pair, (Decision(reveal), state or None).",
    ),
    (lambda view: (Decision(view.eligible[:, :1]), None), "The policy Broken failed: TypeError: reveal has to be bool"),
]


@pytest.mark.parametrize("act, sentence", POLICIES)
def test_a_policy_that_breaks(act: Callable[..., Any], sentence: str) -> None:
    model = load("automaton", device="cpu")
    for policy in (_Broken(act), OrElse(_Broken(act), _Broken(act))):
        with pytest.raises(PluginError) as error:
            model.fill("ab[3]", policy=policy)
        assert sentence.partition("Broken")[2] in str(error.value)
        assert "Broken" in str(error.value)
    model.fill("ab[3]", policy=_Broken(lambda view: (Decision(view.eligible), None)))


def test_a_constraint_that_breaks() -> None:
    model = load("automaton", device="cpu")

    def mine(tokens: Any, where: Any) -> Any:
        return results.pop()

    results: list[Any] = [torch.ones(7, model.network.vocab_size, dtype=torch.bool), torch.ones(3), None]
    for sentence in ("gave None; give a bool", "gave tensor", r"gave \(7, 24\) for 1 positions; give one row"):
        with pytest.raises(PluginError, match=f"The constraint mine {sentence}"):
            model.generate("ab", length=3, constraint=mine)
    with pytest.raises(PluginError, match="The constraint Vocabulary and mine failed: IndexError: pop from empty list"):
        model.fill("ab[3]", constraint=mine)


def test_an_architecture_that_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.model.load.ARCHITECTURES", dict(ARCHITECTURES))
    register("mine", _Mine, lambda settings: sys.exit(f"no {settings.size}"))
    with pytest.raises(PluginError, match=r"The architecture 'mine' cannot be built: SystemExit: no 3\."):
        build(_Mine())


@dataclass(frozen=True)
class _Mine:
    size: int = 3


# ---- narrow terminals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", ["1", "5"])
def test_help_and_progress_in_a_narrow_terminal(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for words in ("--help", "generate --help", "train --help", "list estimators", "generate automaton a --watch"):
        assert cli.main(words.split()) == 0
    with Meter("training", "step", 3, 0, visible=True) as meter:
        meter.moved(3, "a long line of figures")
    assert len(capsys.readouterr().out) > 3000
