"""The sentences of settings, checkpoints and runs, word for word."""

import json
import re
import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from unmask.config import from_dict
from unmask.disk.checkpoint import load_state, read_checkpoint, write_checkpoint
from unmask.disk.files import atomic_text, explained
from unmask.disk.folders import resolve
from unmask.disk.json import read_toml
from unmask.errors import CheckpointError, ConfigError, DataError, RunError, UnmaskError
from unmask.run import machine, parallel
from unmask.run.machine import choose_device, choose_dtype, set_threads
from unmask.run.metrics import Metrics, read_metrics
from unmask.run.optim import Ema, learning_rate
from unmask.run.parallel import Group, join_group

HOLDS = "a checkpoint folder holds model.safetensors and config.json"


@dataclass(frozen=True, slots=True)
class Train:
    """Settings inside settings."""

    lr: float = 0.001
    betas: tuple[float, float] = (0.9, 0.95)
    shape: Literal["constant", "cosine"] = "constant"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a recipe might hold."""

    name: str
    train: Train = field(default_factory=Train)
    length: int | Literal["auto"] = "auto"


SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"nmae": "a"}, "there is no setting 'nmae': did you mean 'name'?"),
    ({"name": "a", "train": {"bteas": 1}}, "there is no setting 'train.bteas': did you mean 'betas'?"),
    ({"name": "a", "train": {"width": 1}}, "there is no setting 'train.width': known: betas, lr, shape."),
    ({}, "the setting 'name' is missing: give it a value."),
    ({"name": 3}, "the setting 'name' cannot be 3: give a text."),
    ({"name": "a", "train": {"lr": "fast"}}, "the setting 'train.lr' cannot be \"fast\": give a number."),
    ({"name": "a", "train": 3}, "the setting 'train' cannot be 3: give a table of settings."),
    ({"name": "a", "train": {"betas": [1]}}, "the setting 'train.betas' cannot be [1]: give a longer list."),
    (
        {"name": "a", "train": {"shape": "x"}},
        "the setting 'train.shape' cannot be \"x\": give one of 'constant' or 'cosine'.",
    ),
    ({"name": "a", "length": 1.5}, "the setting 'length' cannot be 1.5: give a whole number or one of 'auto'."),
]


@pytest.mark.parametrize(("data", "sentence"), SETTINGS)
def test_settings(data: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        from_dict(Settings, data, "r.toml")
    assert str(error.value) == f"r.toml: {sentence}"


def test_toml(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    assert (
        _sentence(ConfigError, lambda: read_toml(path))
        == f"{path} cannot be read (no such file or directory): give the path of a TOML file."
    )
    path.write_text("a = 1\nb = \n")
    assert _sentence(ConfigError, lambda: read_toml(path)) == (
        f"{path} is not valid TOML: invalid value (at line 2, column 5)."
    )
    path.write_bytes(b"\xff\xfe")
    assert _sentence(ConfigError, lambda: read_toml(path)) == f"{path} is not UTF-8 text: give the path of a TOML file."


def _sentence(error_type: type[UnmaskError], act: Any) -> str:
    with pytest.raises(error_type) as error:
        act()
    assert type(error.value) is error_type
    return str(error.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small whole checkpoint."""
    return write_checkpoint(tmp_path / "c", {"w": torch.ones(4)}, {})


def _refused(folder: Path) -> str:
    return _sentence(CheckpointError, lambda: read_checkpoint(folder))


def test_what_is_not_a_checkpoint_folder(folder: Path, tmp_path: Path) -> None:
    none = tmp_path / "none"
    assert _refused(none) == f"{none} does not exist: give a checkpoint or run folder; {HOLDS}."
    file = folder / "config.json"
    assert _refused(file) == f"{file} is a file: give the folder it is in; {HOLDS}."
    none.mkdir()
    assert _refused(none) == f"{none} has no model.safetensors and no config.json: {HOLDS}."
    (none / "checkpoints").mkdir()
    assert _refused(none) == f"{none} is a run folder without a whole checkpoint yet: let the run write one."
    (folder / "model.safetensors").rename(folder / "model.bin")
    assert _refused(folder) == (
        f"{folder / 'model.bin'} is a pickle, which is never loaded because it can run any program: "
        "convert a published model with unmask import, which runs nothing, or save the tensors as model.safetensors "
        "with the library that made it."
    )
    (folder / "model.bin").unlink()
    assert _refused(folder) == f"{folder} has no model.safetensors: {HOLDS}."


def test_formats(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text('{"format": 2}')
    assert _refused(folder) == f"{folder} has checkpoint format 2 and this unmask reads up to 1: upgrade unmask."
    for number in (0, -1):
        config.write_text(f'{{"format": {number}}}')
        assert _refused(folder).startswith(f"{config} has no format number, so unmask did not write it: ")
    config.write_text('{"model_type": "bert"}')
    assert _refused(folder).startswith(f"{config} has no format number, so unmask did not write it: ")
    config.write_text("{")
    assert _refused(folder) == f"{config} is damaged: it is not JSON; copy or write the file again."
    config.write_text("[]")
    assert _refused(folder) == f"{config} is damaged: it is not a JSON object; copy or write the file again."


def test_damaged_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    again = "copy or write the file again."
    path.write_bytes(whole[:-3])
    assert _refused(folder) == (
        f"{path} is damaged: its header says {len(whole)} bytes and the file has {len(whole) - 3}; {again}"
    )
    length = struct.unpack("<Q", whole[:8])[0]
    path.write_bytes(whole[:30])
    assert _refused(folder) == (
        f"{path} is damaged: its header says at least {8 + length} bytes and the file has 30; {again}"
    )
    path.write_bytes(b"")
    assert _refused(folder) == f"{path} is empty: {again}"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    assert "is a pickle, which is never loaded" in _refused(folder)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert _refused(folder) == f"{path} is a Git LFS pointer and not the file itself: fetch it with 'git lfs pull'."
    path.write_bytes(b"GGUF" + bytes(100))
    assert _refused(folder) == f"{path} is not a safetensors file: give a checkpoint that unmask wrote."
    header = json.dumps({"w": {"dtype": "F32", "shape": [9], "data_offsets": [0, 16]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    assert _refused(folder) == f"{path} is damaged: its header cannot be read; {again}"


def test_state_and_reserved_keys(folder: Path, tmp_path: Path) -> None:
    assert _sentence(CheckpointError, lambda: load_state(folder)) == (
        f"{folder} has no training state, so a run cannot go on from it: give a run folder, "
        "or start a new run from its weights."
    )
    assert _sentence(CheckpointError, lambda: write_checkpoint(tmp_path / "d", {}, {"format": 3})) == (
        "a checkpoint's config cannot have the key 'format': config.json uses it itself."
    )
    assert resolve(folder) == folder


@pytest.mark.parametrize(
    ("number", "error_type", "sentence"),
    [
        (28, RunError, "p could not be written because the disk is full: free some space and try again."),
        (
            27,
            RunError,
            (
                "p could not be written because a file may not be that large here: raise the limit of file sizes "
                "('ulimit -f'), or choose another disk."
            ),
        ),
        (13, ConfigError, "p cannot be written (permission denied): choose another folder, or change its permissions."),
        (
            30,
            ConfigError,
            "p cannot be written (read-only file system): choose another folder, or change its permissions.",
        ),
        (20, ConfigError, "p cannot be written (not a directory): choose another path."),
    ],
)
def test_writing(number: int, error_type: type[UnmaskError], sentence: str) -> None:
    def fail() -> None:
        with explained(Path("p")):
            raise OSError(number, "text of the system")

    assert _sentence(error_type, fail) == sentence


def test_a_folder_in_a_files_place(tmp_path: Path) -> None:
    atomic_text(tmp_path / "f", "x")
    assert _sentence(ConfigError, lambda: write_checkpoint(tmp_path / "f", {}, {})) == (
        f"{tmp_path / 'f'} is a file, and a folder is to be written there: choose another path."
    )


def test_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _sentence(ConfigError, lambda: choose_device("gpu")) == (
        "device 'gpu' is unknown: give auto, cpu, cuda, cuda:N or mps."
    )
    monkeypatch.setattr(machine, "_cuda_count", lambda: 0)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    assert _sentence(ConfigError, lambda: choose_device("cuda")) == (
        "device 'cuda' is not available (this torch was built without CUDA): use --device cpu, or auto."
    )
    monkeypatch.setattr(machine, "_cuda_count", lambda: 2)
    assert _sentence(ConfigError, lambda: choose_device("cuda:2")) == (
        "device 'cuda:2' does not exist: this machine has cuda:0 to cuda:1."
    )
    cpu = torch.device("cpu")
    wrong: Any = "float16"
    assert _sentence(ConfigError, lambda: choose_dtype(wrong, cpu)) == (
        "dtype 'float16' is not possible: give auto, float32, bfloat16 or int8."
    )
    monkeypatch.setattr(machine, "_prepare_once", lambda: False)
    assert _sentence(ConfigError, lambda: choose_dtype("bfloat16", cpu)) == (
        "dtype bfloat16 cannot be used: this machine reports AMX but the instructions fail, and oneDNN was in use "
        "before unmask could switch them off; use float32, or set ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 before Python "
        "starts."
    )
    assert _sentence(ConfigError, lambda: set_threads(0)) == ("threads is 0; give a whole number from 1 to 1024.")


def test_training_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong: Any = "step"
    assert _sentence(ConfigError, lambda: learning_rate(0, base=1.0, warmup=0, steps=1, shape=wrong)) == (
        "a learning rate cannot have the shape 'step': give constant or cosine."
    )
    assert _sentence(ConfigError, lambda: Ema([], 1.0)) == (
        "an average cannot have the decay 1.0: give a number from 0 up to, but not, 1."
    )
    assert _sentence(ConfigError, lambda: Group(0, 2).share(3)) == (
        "a batch of 3 rows cannot be shared by 2 processes: give a multiple."
    )


PROCESSES = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
TORCHRUN = "start the run with torchrun, or unset RANK, WORLD_SIZE and LOCAL_RANK"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"MASTER_ADDR": None}, f"RANK is set and MASTER_ADDR is not: {TORCHRUN}."),
        ({"MASTER_PORT": ""}, f"RANK is set and MASTER_PORT is not: {TORCHRUN}."),
        ({"WORLD_SIZE": None}, f"RANK is set and WORLD_SIZE is not: {TORCHRUN}."),
        ({"RANK": None, "MASTER_ADDR": None}, f"WORLD_SIZE is set and RANK, MASTER_ADDR are not: {TORCHRUN}."),
        ({"WORLD_SIZE": "1", "RANK": None, "LOCAL_RANK": "1"}, None),
        ({"RANK": "a"}, f"RANK is 'a'; give a whole number from 0 to 1 (there are 2 processes; {TORCHRUN})."),
        ({"RANK": "-1"}, f"RANK is -1; give a whole number from 0 to 1 (there are 2 processes; {TORCHRUN})."),
        ({"RANK": "2"}, f"RANK is 2; give a whole number from 0 to 1 (there are 2 processes; {TORCHRUN})."),
        ({"LOCAL_RANK": "7"}, f"LOCAL_RANK is 7; give a whole number from 0 to 1 (there are 2 processes; {TORCHRUN})."),
        ({"WORLD_SIZE": "²"}, f"WORLD_SIZE is '²'; give a whole number from 1 to 1000000 ({TORCHRUN})."),
        ({"WORLD_SIZE": "-1"}, f"WORLD_SIZE is -1; give a whole number from 1 to 1000000 ({TORCHRUN})."),
        ({"WORLD_SIZE": "0"}, f"WORLD_SIZE is 0; give a whole number from 1 to 1000000 ({TORCHRUN})."),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT is 70000; give a whole number from 1 to 65535."),
        (dict.fromkeys(PROCESSES), None),
        (dict.fromkeys(PROCESSES, ""), None),  # a shell that empties a variable unsets it
    ],
)
def test_processes(changes: dict[str, str | None], sentence: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is refused before a connection is tried; the controls, without a sentence, are groups of one process."""
    for name, value in (PROCESSES | changes).items():
        monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name, raising=False)
    if sentence is None:
        assert join_group(torch.device("cpu")).size == 1
    else:
        assert _sentence(ConfigError, lambda: join_group(torch.device("cpu"))) == sentence


def test_processes_that_do_not_reach_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_PATIENCE", 0.3)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        for name, value in (PROCESSES | {"MASTER_PORT": str(port)}).items():
            monkeypatch.setenv(name, value)
        assert _sentence(RunError, lambda: join_group(torch.device("cpu"))) == (
            f"Process 1 of 2 cannot reach the first one at 127.0.0.1:{port} (connection refused): check MASTER_ADDR, "
            "MASTER_PORT and that the first process runs."
        )
        taken.listen()
        monkeypatch.setenv("RANK", "0")
        assert re.fullmatch(
            rf"The 2 processes of the run could not connect at 127.0.0.1:{port} \(.*address already in use\): start "
            r"the run again with torchrun, with another port where this one is taken \(--master-port\)\.",
            _sentence(RunError, lambda: join_group(torch.device("cpu"))),
        )


CLOSED = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:36497. This is "
    "typically caused by a remote worker crashing. Check the logs."
)


def test_a_process_that_ends_is_noted_by_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a first process that may not write the folder. The control is an error of the program, which passes."""
    group = Group(1, 2, 1)
    communications = [
        ("all_reduce", lambda: group.any(True, torch.device("cpu"))),
        ("all_reduce", lambda: group.gather("mine", torch.device("cpu"))),
        ("broadcast", lambda: group.copy_first([torch.ones(2)])),
        ("barrier", group.barrier),
    ]
    for name, communicate in communications:
        for error in (RuntimeError(CLOSED), KeyError(CLOSED)):

            def fail(*_: object, error: Exception = error, **__: object) -> None:
                raise error

            monkeypatch.setattr(f"torch.distributed.{name}", fail)
            if isinstance(error, RuntimeError):
                assert _sentence(RunError, communicate) == (
                    "Another process of the run has ended (Connection closed by peer [127.0.0.1]:36497): its message "
                    "has the reason; start all of them again."
                )
            else:
                with pytest.raises(KeyError):
                    communicate()


def test_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _sentence(ConfigError, lambda: Metrics(tmp_path, track=("wandbb",))) == (
        "there is no tracker 'wandbb': did you mean 'wandb'?"
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert _sentence(ConfigError, lambda: Metrics(tmp_path, track=("wandb",))) == (
        "tracking with wandb needs a package that is missing: pip install 'unmask[track]'."
    )
    path = tmp_path / "metrics.jsonl"
    assert _sentence(DataError, lambda: read_metrics(path)) == (
        f"{path} cannot be read: give the metrics.jsonl of a run folder."
    )
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    assert _sentence(DataError, lambda: read_metrics(path)) == f"{path} is damaged at line 2: delete that line."
