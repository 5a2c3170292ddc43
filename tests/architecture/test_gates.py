"""The rules of docs/architecture.md hold in src/unmask; and each gate turns red on a small bad source."""

import os
import subprocess
import sys
import tomllib
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


ALL_GATES: list[Gate] = [
    gates.circle_complaints,
    gates.order_complaints,
    gates.library_complaints,
    gates.door_complaints,
    gates.function_complaints,
    gates.file_complaints,
    gates.all_complaints,
    gates.docstring_complaints,
    gates.print_complaints,
    gates.reading_complaints,
]


@pytest.mark.parametrize("gate", ALL_GATES, ids=lambda gate: gate.__name__)
def test_the_library_passes(gate: Gate) -> None:
    assert SOURCES
    assert gate(SOURCES) == []


ROOT = SRC.parent
PYTHON = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for folder in ("src/unmask", "tests", "tools", "examples")
    for path in ROOT.glob(f"{folder}/**/*.py")
    if path.parent != HERE  # the list of words is there
}
PAGES = {path.name: path.read_text("utf-8") for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))}
del PAGES["log.md"]  # dated entries stay as they were written


def test_the_source_archive_names_what_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    names = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert [name for name in [*names, "/bench"] if not (ROOT / name.lstrip("/")).exists()] == ["/bench"]  # the control


def test_names_are_textbook_names() -> None:
    assert gates.identifier_complaints(PYTHON) == []


def test_texts_have_no_figures_of_speech() -> None:
    assert gates.text_complaints(PYTHON | PAGES) == []


LONG = "def f():\n" + "    x = 1\n" * 80
USUAL = "def f():\n" + "    x = 1\n" * 50
BAD: list[tuple[Gate, dict[str, str]]] = [
    (gates.circle_complaints, {"a/x.py": "from unmask.b import y", "b/y.py": "def f():\n    import unmask.a.x"}),
    (
        gates.circle_complaints,
        {"a.py": "from unmask import b", "b.py": "from unmask.c import d", "c/d.py": "from ..a import e"},
    ),
    (gates.order_complaints, {"api.py": "from unmask.train import plan", "train/plan.py": ""}),
    (
        gates.order_complaints,
        {"api.py": "import unmask.decode.loop", "decode/loop.py": "from unmask.rl import a", "rl/a.py": ""},
    ),
    (gates.order_complaints, {"policies/top_k.py": "from unmask.model.dit import DiT", "model/dit.py": ""}),
    (gates.order_complaints, {"model/dit.py": "from ..policies import base", "policies/base.py": ""}),
    (gates.library_complaints, {"objective/masked.py": "import numpy as np"}),
    (gates.library_complaints, {"model/cache.py": "from einops import rearrange"}),
    (gates.door_complaints, {"api.py": "import transformers"}),
    (gates.door_complaints, {"cli/serve.py": "from fastapi import FastAPI"}),
    (gates.door_complaints, {"eval/report.py": "def f():\n    from matplotlib.figure import Figure"}),
    (gates.function_complaints, {"a.py": LONG}),
    (gates.function_complaints, {"a.py": USUAL}),
    (gates.file_complaints, {"data/a.py": "x = 1\n" * 351}),
    (gates.all_complaints, {"a.py": "def f(): ..."}),
    (gates.all_complaints, {"a.py": "__all__ = ['b', 'a']\na = b = 1"}),
    (gates.all_complaints, {"a.py": "__all__ = []\ndef f(): ..."}),
    (gates.all_complaints, {"a.py": "__all__ = ['g']"}),
    (gates.docstring_complaints, {"a.py": '"""Text."""\ndef f(): ...'}),
    (gates.docstring_complaints, {"a.py": "x = 1"}),
    (gates.print_complaints, {"cli/a.py": "print('text')"}),
    (gates.print_complaints, {"run/a.py": "def f():\n    sys.stderr.write('text')"}),
    (gates.print_complaints, {"run/a.py": "sys.__stdout__.flush()"}),
    (gates.print_complaints, {"cli/a.py": "Console(stderr=True)"}),
    (gates.print_complaints, {"cli/a.py": "rich.console.Console()"}),
    (gates.reading_complaints, {"cli/a.py": "import json\njson.loads(text)"}),
    (gates.reading_complaints, {"rl/a.py": "tomllib.load(file)"}),
    (gates.reading_complaints, {"rl/a.py": "path.read_text()"}),
    (gates.reading_complaints, {"rl/a.py": "Path(name).read_bytes()"}),
    (gates.reading_complaints, {"rl/a.py": "with open(path) as file: pass"}),
    (gates.reading_complaints, {"rl/a.py": "path.open('rb')"}),
    (gates.reading_complaints, {"rl/a.py": "gzip.open(path, 'rb')"}),
    (gates.identifier_complaints, {"a.py": "for one in rows: pass"}),
    (gates.identifier_complaints, {"a.py": "def f(given): ..."}),
    (gates.identifier_complaints, {"a.py": "class A:\n    kind: str"}),
    (gates.identifier_complaints, {"a.py": "self.found = 1"}),
    (gates.identifier_complaints, {"a.py": "f(kind=1)"}),
    (gates.identifier_complaints, {"a.py": "def _said(): ..."}),
    (gates.text_complaints, {"a.py": "x = 1  # the walls of the house"}),
    (gates.text_complaints, {"a.py": 'def f():\n    """As many as the text bears."""'}),
    (gates.text_complaints, {"README.md": "An honest automaton."}),
]


@pytest.mark.parametrize(("gate", "sources"), BAD)
def test_a_bad_source_turns_its_gate_red(gate: Gate, sources: dict[str, str]) -> None:
    assert gate(sources) != []


GOOD: list[tuple[Gate, dict[str, str]]] = [
    (gates.circle_complaints, {"a/x.py": "from unmask.b import y\nfrom unmask.a import z", "b/y.py": "import json"}),
    (gates.order_complaints, {"train/plan.py": "from unmask.api import Model", "api.py": "import unmask.decode.loop"}),
    (gates.library_complaints, {"data/a.py": "import numpy"}),
    (gates.door_complaints, {"plots.py": "from matplotlib.figure import Figure"}),
    (gates.function_complaints, {"a.py": USUAL + "def g(): ...\n" * 19}),
    (gates.file_complaints, {"policies/top_k.py": "x = 1\n" * 350}),
    (gates.all_complaints, {"a.py": "__all__ = ['A', 'f']\nA = 1\ndef f(): ...\ndef _g(): ..."}),
    (gates.docstring_complaints, {"a/__init__.py": ""}),
    (gates.reading_complaints, {"rl/a.py": "read_text(path)\npath.open('wb')\nopen(path, 'a')\nos.open(path, 1)"}),
    (gates.print_complaints, {"output.py": "print('text')", "cli/a.py": "show('text')\nsys.stdout.isatty()"}),
    (gates.identifier_complaints, {"a.py": "for row in rows: kinds = f(row)"}),
    (gates.identifier_complaints, {"a.py": "keyword = parameter.kind"}),
    (gates.text_complaints, {"a.py": "coin = 'A text.'  # there is no room for more"}),
]


@pytest.mark.parametrize(("gate", "sources"), GOOD)
def test_a_good_source_keeps_its_gate_green(gate: Gate, sources: dict[str, str]) -> None:
    assert gate(sources) == []


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


@pytest.mark.slow
@pytest.mark.long
def test_a_reader_of_generate_and_train_opens_few_files() -> None:
    """The limits stand in tools/count_files.py; the control is the count itself, which is not zero."""
    result = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "count_files.py")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SRC)},
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    counts = [int(line.rsplit(": ", 1)[1].split()[0]) for line in result.stdout.splitlines()]
    assert len(counts) == 2
    assert min(counts) > 15
