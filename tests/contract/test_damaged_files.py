"""Each kind of file that is read, with each kind of damage: one sentence of an UnmaskError, and never a traceback."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from unmask.cli import about
from unmask.cli.about import describe
from unmask.cli.write import GenerateArguments, _prompts
from unmask.config import from_dict, to_dict
from unmask.data.settings import DataSettings
from unmask.disk.checkpoint import read_checkpoint, write_checkpoint
from unmask.disk.json import read_toml
from unmask.errors import UnmaskError
from unmask.model.load import build, load_denoiser, model_config
from unmask.model.settings import DiTSettings
from unmask.policies.learned.network import PolicyNetwork
from unmask.policies.learned.policy import Calibration, policy_config, read_policy
from unmask.policies.learned.settings import PolicySettings
from unmask.policies.registry import make
from unmask.recipes import denoisers, policies
from unmask.reproduce import results
from unmask.reproduce.plan import Arena, Heuristics, Measured
from unmask.rl.session import recorded_learning
from unmask.run.metrics import plot_curves
from unmask.solve.settings import Setting
from unmask.solve.sweep import recorded
from unmask.tasks.gsm8k import Gsm8k
from unmask.text.build import byte_tokenizer
from unmask.text.tokenizer import Tokenizer
from unmask.trace import events
from unmask.train.plan import corpus_of
from unmask.train.session import recorded_run
from unmask.train.settings import TextRun, trained_on

TINY = DiTSettings(vocab_size=259, mask_id=256, max_length=8, width=8, blocks=1, heads=1)
ARENA = Arena("automaton", "automaton", 2, 1)
CELL = Heuristics("h", ARENA, (), ("full",))


def _model(folder: Path) -> Path:
    """A run folder with a checkpoint, whose run.json has what a resumed run reads."""
    run = {
        "settings": to_dict(TextRun(data=DataSettings(source=str(folder / "text.txt")))),
        "plan": {},
        "data": "00",
        "dtype": "float32",
        "step": 3,
        "best_step": 2,
        "bound": {"nats_per_token": 1.5, "stderr": 0.1},
        "split": {"rule": 2, "source": "00"},
        "typed": {"source": "text.txt"},
        "facts": {"tokenizer": "byte"},
        "record": {"versions": {"torch": "2"}, "threads": 1},
    }
    return write_checkpoint(
        folder / "run" / "checkpoints" / "step-00000003",
        build(TINY).state_dict(),
        model_config(TINY, "linear"),
        tokenizer_json=byte_tokenizer().to_json(),
        run=run,
        state={"raw": {"a": torch.ones(1)}},
        state_facts={"step": 3},
    )


def _policy(folder: Path) -> Path:
    settings = PolicySettings()
    calibration = Calibration("automaton", None, 2, 30.0, (0.0, 1.0), (4.0, 1.0), (1.0, 0.5))
    config = policy_config(settings, {"learn": {"alphas": [1.0]}}, [calibration])
    return write_checkpoint(folder / "policy", PolicyNetwork(settings).state_dict(), config)


def _outcome() -> dict[str, Any]:
    setting = {"policy": "random", "block_size": None}
    return {"setting": setting, "scores": [1.0, 0.5], "passes": [3, 4], "seconds": 1.0}


def _cell(folder: Path) -> Path:
    result = {"length": 4, "outcomes": [_outcome()]}
    record = results.Record("done", "", 1.0, result)
    (folder / "cells").mkdir()
    results.write(folder, CELL, record)
    return folder / "cells" / "h.json"


def _written(name: str, value: object, *more: object) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / name
        path.write_text("".join(f"{json.dumps(line)}\n" for line in (value, *more)))
        return path

    return write


def _trace(folder: Path) -> Path:
    header = events.Header(256, (events.Row((256, 256), 0),), {65: "A"}, {66: "42"}, columns=2, box=(1, 2))
    event = events.Event(1, 0, 1, 65, 0.5, "committed", 0, 1, ((65, 0.5),))
    path = folder / "a.jsonl"
    path.write_text(events.to_jsonl(events.Trace(header, (event, event))))
    return path


def _toml(text: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / "a.toml"
        path.write_text(text)
        return path

    return write


def _network(path: Path) -> None:
    about._lines(describe(load_denoiser(str(path.parent)).checkpoint))


def _run(path: Path) -> None:
    checkpoint = read_checkpoint(path.parent)
    about._lines(describe(checkpoint))
    trained_on(checkpoint)
    checkpoint.fact(str, "run.json", "settings", "data", "source")
    recorded_run(path.parent)


def _policy_read(path: Path) -> None:
    about._lines(describe(read_checkpoint(path.parent)))
    read_policy(path.parent)


def _sweep(path: Path) -> None:
    for outcome in recorded(path, {"a": 1}, [Setting("random")], lambda _: "").values():
        assert outcome.accuracy >= 0
        assert outcome.mean_passes >= 0


def _cell_read(path: Path) -> None:
    record = results.read(path.parents[1], CELL)
    results.read_cell(path.parents[1], "h")
    if record.state == "done":
        assert results.outcomes_of(record.result)[0].accuracy >= 0


def _corpus(path: Path) -> None:
    corpus_of(DataSettings(source=str(path), tokenizer="byte", length=4, valid_share=0.5))


def _unigram(path: Path) -> None:
    make(f"pc:steps=2,unigram={path}")


Reader = Callable[[Path], object]
FILES: dict[str, tuple[Callable[[Path], Path], str, Reader]] = {
    "config.json": (_model, "config.json", _network),
    "run.json": (_model, "run.json", _run),
    "tokenizer.json": (_model, "tokenizer.json", _network),
    "policy": (_policy, "config.json", _policy_read),
    "trace": (_trace, "", lambda path: events.replay(events.read(path))),
    "metrics": (
        _written("metrics.jsonl", {"step": 1, "loss": 2}, {"step": 2, "loss": 1}),
        "",
        lambda path: _plot(path),
    ),
    "sweep": (_written("sweep.jsonl", {"a": 1}, _outcome() | {"stamp": ""}), "", _sweep),
    "cell": (_cell, "", _cell_read),
    "pace": (_written("a.json", {"paces": {"2": [1, 3]}}), "", lambda path: make(f"random:pace={path}")),
    "unigram": (_written("a.json", [0.5, 0.5]), "", _unigram),
    "gsm8k": (
        _written("a.jsonl", {"question": "1+1?", "answer": "#### 2"}, {"question": "2+1?", "answer": "#### 3"}),
        "",
        lambda path: Gsm8k(str(path)).examples("train", 1),
    ),
    "rows": (_written("a.jsonl", {"text": "one"}, {"text": "two"}), "", _corpus),
    "json list": (_written("a.json", [{"text": "one"}, {"text": "two"}]), "", _corpus),
    "pairs": (_written("a.jsonl", {"prompt": "p", "answer": "a"}, {"prompt": "q", "answer": "b"}), "", _corpus),
    "recipe": (_toml("[train]\nsteps = 3\nbetas = [0.9, 0.99]\n"), "", lambda path: denoisers.read(str(path))),
    "policy recipe": (_toml("[learn]\nrounds = 3\nalphas = [0.0]\n"), "", lambda path: policies.read(str(path))),
    "prompts": (_written("a.txt", "a prompt"), "", lambda path: _prompts(GenerateArguments(prompts=str(path)))),
}


def _plot(path: Path) -> None:
    plot_curves(path, path.with_suffix(".png"))


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """JSON value -> the paths of everything in it, inner values too."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(leaf for key, inner in items for leaf in _leaves(inner, (*path, key)))]


def _replaced(value: Any, path: tuple[Any, ...], new: object) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _replaced(copy[path[0]], path[1:], new)
    return copy


def _without(value: Any, path: tuple[Any, ...]) -> Any:
    if len(path) == 1:
        copy = dict(value) if isinstance(value, dict) else list(value)
        del copy[path[0]]
        return copy
    return _replaced(value, path[:1], _without(value[path[0]], path[1:]))


BYTES = {
    "empty": b"",
    "not UTF-8": b"\xff\xfe\x00{",
    "a NUL": b"{\x00}",
    "cut": b'{"a": [1, ',
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "deep TOML": b"a = " + b"[" * 5000 + b"]" * 5000,
    "nan": b'{"step": NaN, "paces": NaN}',
    "a long number": b'{"step": ' + b"9" * 5000 + b"}",
    "a long TOML number": b"[train]\nsteps = " + b"9" * 5000,
    "infinite": b'{"step": 1e999}',
    "twice": b'{"a": 1, "a": 2}',
    "a list": b"[1, 2]",
    "a number": b"7",
    "a text": b'"text"',
    "null": b"null",
}
WRONG: list[object] = [None, True, -1, 0, 1.5, 10**30, 10**400, 1e308, "text", "", [], [[]], {}, {"a": {}}, [1, "a"]]


def _sentence(read: Reader, path: Path) -> str | None:
    """What a reader says of a file: None where it takes it, else the sentence. Other exceptions pass."""
    sentence = None
    try:
        read(path)
    except UnmaskError as error:
        sentence = str(error)
    assert sentence is None or (sentence.strip() and "\n" not in sentence and len(sentence) < 800)
    return sentence


@pytest.fixture(autouse=True)
def _quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("unmask.run.metrics.can_draw", lambda: True)
    monkeypatch.setattr("unmask.run.metrics.save_figure", lambda path, figure: None)


def _file(name: str, tmp_path: Path) -> tuple[Path, Reader]:
    write, inside, read = FILES[name]
    path = write(tmp_path)
    return path / inside if inside else path, read


@pytest.mark.parametrize("name", FILES)
def test_what_is_whole_is_read(name: str, tmp_path: Path) -> None:
    path, read = _file(name, tmp_path)
    assert _sentence(read, path) is None


@pytest.mark.parametrize("name", FILES)
def test_damaged_bytes_are_one_sentence(name: str, tmp_path: Path) -> None:
    path, read = _file(name, tmp_path)
    refused = 0
    for content in BYTES.values():
        path.write_bytes(content)
        refused += _sentence(read, path) is not None
    assert refused >= (1 if name in ("prompts", "sweep") else len(BYTES) // 2)  # a line of prompts can be any text
    path.unlink()
    path.mkdir()
    assert _sentence(read, path) is not None or name == "tokenizer.json"


JSON = [name for name in FILES if name not in ("prompts", "recipe", "policy recipe")]


@pytest.mark.parametrize("name", JSON)
def test_wrong_values_are_taken_or_one_sentence(name: str, tmp_path: Path) -> None:
    _damage_values(name, tmp_path, 20)


@pytest.mark.slow
@pytest.mark.parametrize("name", JSON)
def test_every_wrong_value_is_taken_or_one_sentence(name: str, tmp_path: Path) -> None:
    _damage_values(name, tmp_path, 120)


def _damage_values(name: str, tmp_path: Path, most: int) -> None:
    """Each value of a file, up to `most` of them, is replaced by wrong ones and left out."""
    path, read = _file(name, tmp_path)
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.suffix == ".jsonl" else None
    whole: Any = json.loads(path.read_text()) if lines is None else lines
    where = _some([leaf for leaf in _leaves(whole) if leaf], most)
    for at, leaf in enumerate(where):
        news = (
            WRONG
            if len(where) < 6
            else WRONG[at % 3 :: 3]
            if most > 100
            else [WRONG[(at + step) % len(WRONG)] for step in (0, 5, 10)]
        )
        for changed in [*(_replaced(whole, leaf, new) for new in news), _without(whole, leaf)]:
            text = json.dumps(changed) if lines is None else "\n".join(map(json.dumps, changed)) + "\n"
            path.write_text(text)
            _sentence(read, path)


def _some(items: list[Any], most: int) -> list[Any]:
    """At most so many of the items, evenly spread."""
    return items if len(items) <= most else [items[at * len(items) // most] for at in range(most)]


def test_a_reader_that_dies_would_be_seen(tmp_path: Path) -> None:
    """The control: another exception than an UnmaskError passes, and a page of text is no sentence."""
    with pytest.raises(KeyError):
        _sentence(lambda path: {}["a"], tmp_path)

    def much(path: Path) -> None:
        raise UnmaskError("word " * 200)

    with pytest.raises(AssertionError):
        _sentence(much, tmp_path)


@pytest.mark.parametrize("end", ["\r\n", "\r"])
@pytest.mark.parametrize("name", ["trace", "metrics", "gsm8k", "rows", "recipe", "policy recipe", "prompts", "pace"])
def test_lines_end_by_lf_crlf_or_cr_and_a_mark_is_no_text(name: str, end: str, tmp_path: Path) -> None:
    path, read = _file(name, tmp_path)
    before = read(path)
    content = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + content.replace(b"\n", end.encode()))
    assert _sentence(read, path) is None
    assert read(path) == before
    path.write_bytes(content.replace(b"\n", b"\x0b"))  # control: a vertical tab ends no line
    assert name == "pace" or _sentence(read, path) is not None or read(path) != before


def test_a_cell_of_each_kind_has_a_shape() -> None:
    from unmask.reproduce.plan import CELLS

    assert results._RESULTS.keys() == CELLS.keys()
    measured = Measured("m", ARENA, "label", 1, ("t",), (1.0,), None, "h")
    assert from_dict(Measured, to_dict(measured), "here") == measured
    assert asdict(measured)["against"] == "h"


def test_a_run_of_learn_is_no_run_of_train(tmp_path: Path) -> None:
    path, _ = _file("run.json", tmp_path)
    assert _sentence(lambda _: recorded_learning(tmp_path / "run"), path) is not None
    assert _sentence(lambda _: read_toml(tmp_path), path) is not None
    assert Tokenizer.from_json((path.parent / "tokenizer.json").read_text()).mask_id == 256
