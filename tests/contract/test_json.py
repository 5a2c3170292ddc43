"""The one reader of JSON files: a value of the shape asked for, or one sentence with the file and the field."""

import ast
import json
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import unmask
from unmask.disk.checkpoint import read_checkpoint, write_checkpoint
from unmask.disk.json import JSON_DEPTH, NotJson, json_lines, parse_json, read_json, read_toml
from unmask.errors import CheckpointError, ConfigError, DataError
from unmask.policies.learned.policy import read_policy

OBJECT = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """An object inside an object."""

    rows: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file might hold."""

    name: str
    part: Part
    sizes: tuple[int, ...] = ()


WHOLE = '{"name": "a", "part": {"rows": 3}, "sizes": [1, 2]}'
WRONG: list[tuple[bytes, str]] = [
    (b"\xff", "is damaged: it is not UTF-8 text"),
    (b"{", "is damaged: it is not JSON"),
    (b"", "is damaged: it is not JSON"),
    (b"[" * 100_000, f"is damaged: it is nested deeper than {JSON_DEPTH} levels"),
    (b'{"a":' * 100_000, f"is damaged: it is nested deeper than {JSON_DEPTH} levels"),
    (b"[" * 500 + b"]" * 500, f"is damaged: it is nested deeper than {JSON_DEPTH} levels"),
    (b'{"name": NaN}', "is damaged: it holds NaN, which is no JSON number"),
    (b'{"name": -Infinity}', "is damaged: it holds -Infinity, which is no JSON number"),
    (b'{"part": {"rows": 1, "rows": 2}}', "is damaged: it has the key 'rows' twice in one object"),
    (b'{"part": {"rows": 3}}', "is damaged: it has no field 'name'"),
    (b'{"name": "a", "part": {}}', "is damaged: it has no field 'part.rows'"),
    (
        b'{"name": "a", "part": {"rows": "three"}}',
        "is damaged: it has \"three\" in the field 'part.rows', which has to be a whole number",
    ),
    (
        b'{"name": "a", "part": {"rows": 3}, "sizes": [1, true]}',
        "is damaged: it has true in the field 'sizes.1', which has to be a whole number",
    ),
]


@pytest.mark.parametrize(("content", "sentence"), WRONG, ids=[content[:40].decode("latin-1") for content, _ in WRONG])
def test_what_is_wrong_is_one_sentence(content: bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_json(path, Facts, DataError, "write it again")
    assert str(error.value) == f"{path} {sentence}; write it again."


def test_what_is_right_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("\ufeff" + WHOLE, encoding="utf-8")
    assert read_json(path, Facts, DataError) == Facts("a", Part(3), (1, 2))
    assert read_json(path, OBJECT, DataError) == json.loads(WHOLE)
    with pytest.raises(DataError, match=r"none cannot be read \(no such file or directory\): copy or write the file"):
        read_json(tmp_path / "none", Facts, DataError)


def test_an_object_is_asked_for_without_pydantic_too() -> None:
    with pytest.raises(NotJson, match="is not a JSON object"):
        parse_json("[1]", OBJECT)
    deepest = "[" * JSON_DEPTH + "]" * JSON_DEPTH
    assert parse_json(deepest, list[Any]) == json.loads(deepest)
    with pytest.raises(NotJson, match="nested deeper"):
        parse_json(f"[{deepest}]", list[Any])


def test_the_size_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'{"a": "' + b"x" * (2 << 20) + b'"}')
    assert len(read_json(path, OBJECT, DataError)["a"]) == 2 << 20
    with pytest.raises(DataError) as error:
        read_json(path, OBJECT, DataError, limit=1 << 20)
    assert str(error.value) == f"{path} is damaged: it is larger than 1 MiB; copy or write the file again."


@given(content=st.binary(max_size=60) | st.text(alphabet='[]{}",:-01eNaIn\\u ', max_size=60).map(str.encode))
def test_any_bytes_are_a_value_or_one_sentence(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    for shape in (OBJECT, list[int], Facts):
        sentence = _refusal(path, shape)
        assert sentence is None or (sentence.startswith(f"{path} is damaged: it ") and "\n" not in sentence)


def _refusal(path: Path, shape: Any) -> str | None:
    """The sentence with which a file is refused; any other exception passes."""
    try:
        read_json(path, shape, CheckpointError)
    except CheckpointError as error:
        return str(error)
    return None


def test_the_parser_alone_would_not_do() -> None:
    """The control: what the library's json takes or dies of."""
    with pytest.raises(RecursionError):
        json.loads("[" * 100_000)
    assert json.loads('{"a": 1, "a": 2}') == {"a": 2}
    assert json.loads("[NaN]") != json.loads("[1]")


def test_lines_are_numbered_and_a_wrong_one_does_not_hide_the_next() -> None:
    file = BytesIO(b'\xef\xbb\xbf{"rows": 1}\n\n{"ro\n{"rows": "a"}\n\xff\n{"rows": 2}')
    lines = list(json_lines(file, Part))
    assert [number for number, _ in lines] == [1, 3, 4, 5, 6]
    assert (lines[0][1], lines[4][1]) == (Part(1), Part(2))
    problems = [line for _, line in lines if isinstance(line, NotJson)]
    assert [problem.cut for problem in problems] == [True, False, True]
    assert "in the field 'rows'" in problems[1].reason


def test_a_line_that_is_too_long_ends_the_reading() -> None:
    lines = list(json_lines(BytesIO(b'{"rows": 1}\n{"rows": 1' + b" " * 50 + b"}\n"), Part, limit=20))
    assert lines[0] == (1, Part(1))
    assert isinstance(lines[1][1], NotJson)
    assert len(lines) == 2


@pytest.mark.parametrize("name", ["config.json", "run.json"])
def test_a_checkpoint_is_read_through_it(name: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", {}, {}, run={})
    (folder / name).write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=rf"{name} is damaged: it is nested deeper than 100 levels"):
        read_checkpoint(folder)


def test_a_policy_folder_is_a_checkpoint(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", {}, {"architecture": "dit"})
    with pytest.raises(CheckpointError, match="is a checkpoint of another kind"):
        read_policy(folder)
    write_checkpoint(folder, {}, {"policy": {}, "policy_format": -1})
    with pytest.raises(CheckpointError, match="is a checkpoint of another kind"):
        read_policy(folder)
    write_checkpoint(folder, {}, {"policy": {}, "policy_format": 2})
    with pytest.raises(CheckpointError, match="has policy format 2 and this unmask reads up to 1"):
        read_policy(folder)
    write_checkpoint(folder, {}, {"policy": {"width": "wide"}})
    with pytest.raises(CheckpointError, match=r"config\.json: the setting 'width' cannot be \"wide\""):
        read_policy(folder)
    write_checkpoint(folder, {}, {"policy": {}})
    with pytest.raises(CheckpointError, match=r"holds weights that are not those that its config\.json describes"):
        read_policy(folder)


def test_deep_toml_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("a = " + "[" * 100_000)
    with pytest.raises(ConfigError, match="is nested deeper than 100 levels"):
        read_toml(path)


def test_no_other_module_parses_json_of_a_file() -> None:
    """Two places parse what this process, or its child, has just made itself; two run isolated, without the library,
    and parse what their parent sends and what the program under test answers."""
    source = Path(unmask.__file__).parent
    own = {
        "disk/json.py",
        "text/tokenizer.py",
        "bench/train.py",
        "tasks/sandbox_check.py",
        "tasks/sandbox_server.py",
    } | {
        *("data/packer.py", "hf/schemas.py"),  # what this process wrote: a tokenizer; a text by its own constraint
    }
    users = {path.relative_to(source).as_posix() for path in source.rglob("*.py") if _parses(path.read_text("utf-8"))}
    assert users <= own
    assert _parses("import json\njson.loads('1')")  # control


def _parses(code: str) -> bool:
    """Whether `json.load` or `json.loads` stands in the code."""
    return any(
        isinstance(node, ast.Attribute) and node.attr in ("load", "loads") and ast.unparse(node.value) == "json"
        for node in ast.walk(ast.parse(code))
    )
