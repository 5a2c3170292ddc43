"""The walls of DESIGN section 3 hold in src/unmask; and each gate turns red on a small bad source."""

import subprocess
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SRC = HERE.parents[1] / "src"
_spec = spec_from_file_location("unmask_gates", HERE / "gates.py")
assert _spec is not None
assert _spec.loader is not None
gates = module_from_spec(_spec)
_spec.loader.exec_module(gates)

Gate = Callable[[dict[str, str]], list[str]]
SOURCES = {path.relative_to(SRC / "unmask").as_posix(): path.read_text("utf-8") for path in SRC.glob("unmask/**/*.py")}


def transformers_gate(sources: dict[str, str]) -> list[str]:
    """hf is the only edge to transformers."""
    return gates.edge_complaints(sources, "transformers", "hf")


def fastapi_gate(sources: dict[str, str]) -> list[str]:
    """serve is the only edge to fastapi."""
    return gates.edge_complaints(sources, "fastapi", "serve")


ALL_GATES: list[Gate] = [
    gates.layer_complaints,
    gates.library_complaints,
    gates.function_complaints,
    gates.file_complaints,
    gates.all_complaints,
    gates.docstring_complaints,
    transformers_gate,
    fastapi_gate,
]


@pytest.mark.parametrize("gate", ALL_GATES, ids=lambda gate: gate.__name__)
def test_the_library_passes(gate: Gate) -> None:
    assert SOURCES
    assert gate(SOURCES) == []


LONG = "def f():\n" + "    x = 1\n" * 80
USUAL = "def f():\n" + "    x = 1\n" * 50
BAD: list[tuple[Gate, str, str]] = [
    (gates.layer_complaints, "process.py", "from unmask.decode.loop import Decoder"),
    (gates.layer_complaints, "process.py", "from unmask import decode"),
    (gates.layer_complaints, "process.py", "def f():\n    import unmask.objective.masked"),
    (gates.layer_complaints, "policies/top_k.py", "from unmask.model.dit import DiT"),
    (gates.layer_complaints, "policies/top_k.py", "from ..model import dit"),
    (gates.layer_complaints, "model/dit.py", "from unmask.policies.base import View"),
    (gates.layer_complaints, "model/dit.py", "from unmask.model.cache import Cache"),
    (gates.layer_complaints, "objective/cross_entropy.py", "from unmask.objective.masked import nelbo"),
    (gates.layer_complaints, "trace.py", "from unmask.decode.loop import Step"),
    (gates.layer_complaints, "text/tokenizer.py", "from unmask.data.packed import Packed"),
    (gates.layer_complaints, "data/prepare.py", "from unmask.disk.files import atomic_text"),
    (gates.layer_complaints, "rl/train.py", "from unmask.eval.bound import bound"),
    (gates.layer_complaints, "nowhere.py", "import json"),
    (gates.library_complaints, "objective/masked.py", "import numpy as np"),
    (gates.library_complaints, "model/cache.py", "from einops import rearrange"),
    (gates.function_complaints, "a.py", LONG),
    (gates.function_complaints, "a.py", USUAL),
    (gates.file_complaints, "data/a.py", "x = 1\n" * 351),
    (gates.file_complaints, "policies/top_k.py", "x = 1\n" * 81),
    (gates.file_complaints, "objective/masked.py", "x = 1\n" * 81),
    (gates.all_complaints, "a.py", "def f(): ..."),
    (gates.all_complaints, "a.py", "__all__ = ['b', 'a']\na = b = 1"),
    (gates.all_complaints, "a.py", "__all__ = []\ndef f(): ..."),
    (gates.all_complaints, "a.py", "__all__ = ['g']"),
    (gates.docstring_complaints, "a.py", '"""Text."""\ndef f(): ...'),
    (gates.docstring_complaints, "a.py", "x = 1"),
    (transformers_gate, "api.py", "import transformers"),
    (fastapi_gate, "api.py", "from fastapi import FastAPI"),
]


@pytest.mark.parametrize(("gate", "path", "source"), BAD)
def test_a_bad_source_turns_its_gate_red(gate: Gate, path: str, source: str) -> None:
    assert gate({path: source}) != []


GOOD: list[tuple[Gate, str, str]] = [
    (
        gates.layer_complaints,
        "decode/loop.py",
        "from unmask.trace import Event\nfrom unmask.process import MaskedDiffusion",
    ),
    (gates.layer_complaints, "objective/masked.py", "from unmask.objective.cross_entropy import chunked"),
    (gates.layer_complaints, "tasks/sudoku.py", "from unmask.text.tokenizer import Tokenizer"),
    (gates.layer_complaints, "cli/main.py", "from unmask.recipes import text\nfrom unmask.api import Model"),
    (gates.library_complaints, "data/a.py", "import numpy"),
    (gates.function_complaints, "a.py", USUAL + "def g(): ...\n" * 19),
    (gates.file_complaints, "policies/top_k.py", "x = 1\n" * 80),
    (gates.all_complaints, "a.py", "__all__ = ['A', 'f']\nA = 1\ndef f(): ...\ndef _g(): ..."),
    (gates.docstring_complaints, "a/__init__.py", ""),
]


@pytest.mark.parametrize(("gate", "path", "source"), GOOD)
def test_a_good_source_keeps_its_gate_green(gate: Gate, path: str, source: str) -> None:
    assert gate({path: source}) == []


BLOCKED = """
import importlib, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name == "torch" or name.startswith("torch."):
            raise ImportError(f"{name} is blocked by the test")
sys.meta_path.insert(0, Blocked())
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def _import_without_torch(names: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLOCKED, *names]
    return subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(SRC)}, check=False)


def test_settings_config_errors_recipes_and_cli_import_without_torch() -> None:
    names = gates.torch_free_modules(SOURCES)
    assert {"unmask.config", "unmask.errors"} <= set(names)
    result = _import_without_torch(names)
    assert result.returncode == 0, result.stderr


def test_the_block_on_torch_works() -> None:
    result = _import_without_torch(["unmask.run.machine"])
    assert "torch is blocked by the test" in result.stderr


def test_importing_the_package_and_reading_a_checkpoint_do_not_import_torch() -> None:
    code = "import sys, unmask, unmask.disk.checkpoint; sys.exit('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(SRC)}, check=False)
    assert result.returncode == 0
