"""What the pages show runs, and what pages, docstrings and messages name exists.

Each fence of README.md and docs/*.md declares itself in its first line (GitHub reads the first word only):

    ```sh run       each line is run, in order, offline, in the folder of the page, at most 60 s each; exit code 0
    ```sh dry       each line is run with --dry added; a line of a verb without --dry is only parsed
    ```sh parse     each line is accepted by the parser of its verb; names in capitals stand for the reader's own
    ```python run   the block is executed, in the same folder; it prints something
    ```python parse the block is Python
    ```json         (or toml) is read
    ```text         is output, ```text head its first lines; `make pictures` writes those of README.md

`SHARD=1/3 make docs` runs a third of the pages.
"""

import ast
import contextlib
import importlib
import json
import os
import re
import resource
import shlex
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tools.page_outputs import (
    PAGES,
    ROOT,
    Fence,
    commands_of,
    fences_of,
    folder_of,
    output_of,
    outputs,
    shell_words,
)

from unmask.cli.help import POLICIES, TASKS, arguments_of
from unmask.cli.main import VERBS
from unmask.cli.parse import fields_of, parse, typed_options, written
from unmask.cli.write import with_checkpoint
from unmask.errors import ConfigError, UnmaskError
from unmask.policies import registry

DECLARATIONS = {"sh run", "sh dry", "sh parse", "python run", "python parse", "json", "toml", "text", "text head"}
LIMIT = 60
"""Seconds that a command may run."""
TOO_LONG = f"it runs longer than {LIMIT} s; make it smaller, or declare it parse"


TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
FENCES = [fence for page, text in TEXTS.items() for fence in fences_of(page, text)]
_part, _of = (int(number) for number in os.environ.get("SHARD", "1/1").split("/"))


def declared(language: str, *how: str) -> list[Fence]:
    """The fences of a language with one of these declarations."""
    return [fence for fence in FENCES if fence.declaration in {f"{language} {word}" for word in how}]


def pages_with(*declarations: str) -> list[str]:
    """The pages of this shard that have a fence with one of these declarations."""
    pages = [page for page in PAGES if any(f.page == page and f.declaration in declarations for f in FENCES)]
    return pages[_part - 1 :: _of]


# ---- declarations ----------------------------------------------------------------------------------------------------


def undeclared(fences: list[Fence]) -> list[str]:
    """The places of fences without a declaration."""
    return [f"{fence}: ```{fence.declaration}" for fence in fences if fence.declaration not in DECLARATIONS]


def test_every_fence_declares_what_is_tested() -> None:
    assert undeclared(FENCES) == []
    bad = "```\nls\n```\n\n- a\n  ```sh\n  ls\n  ```\n"
    assert undeclared(fences_of("page", bad)) == ["page:1: ```", "page:6: ```sh"]
    assert len({fence.declaration for fence in FENCES}) > 3


def test_blocks_that_are_not_run_are_well_formed() -> None:
    for fence in FENCES:
        if fence.declaration == "python parse":
            ast.parse(fence.text)
        elif fence.declaration == "json":
            json.loads(fence.text)
        elif fence.declaration == "toml":
            tomllib.loads(fence.text)


# ---- commands that are parsed ----------------------------------------------------------------------------------------


def accept(line: str) -> None:
    """A line of a shell -> nothing. Raises UnmaskError or AssertionError for what no command accepts."""
    parts = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    parts.whitespace_split, parts.commenters = True, "#"
    words: list[str] = []
    for word in [*parts, ";"]:
        if set(word) <= set("|&;<>"):
            if words:
                accept_command(words)
            words = ["FILE"] if word[0] in "<>" else []
        else:
            words.append(word)


def accept_command(words: list[str]) -> None:
    """The words of a command -> nothing. Raises UnmaskError or AssertionError for what the command does not accept."""
    while re.fullmatch(r"\w+=.*", words[0]):
        words = words[1:]
    if words[0] == "torchrun":
        words = words[words.index("-m") + 1 :]
    if words[:3] == ["python", "-m", "unmask"]:
        words = words[2:]
    program, *rest = words
    if program == "unmask":
        accept_words(rest)
    elif program == "make":
        targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
        assert {word for word in rest if "=" not in word} <= targets, f"make has no target of {rest}"
    elif program in ("python", "bash") and rest and not rest[0].startswith("-"):
        assert (ROOT / rest[0]).exists(), f"there is no {rest[0]}"
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
        named = {extra for word in rest for match in re.findall(r"\[(.*?)\]", word) for extra in match.split(",")}
        assert named <= extras.keys(), f"there are no extras {named}"
    else:
        assert program in ("FILE", "cd", "git", "python", "head", "tail", "cat", "ls", "source"), f"what is {program}?"


def accept_words(words: list[str]) -> None:
    """The words after unmask -> nothing. Raises UnmaskError or AssertionError for what the parser does not accept."""
    if words in (["--help"], ["--version"], ["--version", "--json"]) or "--help" in words:
        assert words[0].startswith("--") or words[0] in VERBS
        return
    verb, rest = split(words)
    assert verb in VERBS, f"there is no verb {verb}"
    cls = arguments_of(verb)
    if verb in ("generate", "fill"):
        rest = with_checkpoint(cls, rest, verb)
    arguments = parse(cls, rest, verb)
    decoding = getattr(arguments, "decoding", None)
    for policy in [*([decoding.policy] if decoding and decoding.policy else []), *getattr(arguments, "policies", ())]:
        if "learned" not in policy and ":from=" not in policy:  # a folder that a command before it writes
            registry.make(policy)
    task = (getattr(arguments, "task", "") or "").partition(":")
    assert task[0] in ("", "TASK", *TASKS) or (ROOT / task[0]).exists() or task[0].isupper(), f"no task {task[0]}"


@pytest.mark.parametrize("fence", declared("sh", "run", "dry", "parse"), ids=str)
def test_every_command_is_accepted(fence: Fence) -> None:
    for line in commands_of(fence.text):
        accept(line)


@pytest.mark.parametrize(
    "line",
    [
        "unmask generat x",
        "unmask train --train.lrr 3",
        "unmask generate x y z",
        "unmask generate wordne",
        "unmask fill a[5] --policy klas",
        "make tea",
        "pip install 'unmask[no]'",
        "unmask list policies | unmask lst",
        "rm -r /",
    ],
)
def test_a_command_that_does_not_exist_is_noticed(line: str) -> None:
    with pytest.raises((UnmaskError, AssertionError)):
        accept(line)


# ---- blocks that are run ---------------------------------------------------------------------------------------------


def processor_seconds() -> float:
    """Processor seconds of the processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_line(line: str, folder: Path) -> None:
    """Run a line in a shell, offline. Raises AssertionError for an exit code but 0, or after LIMIT seconds."""
    began, used = time.monotonic(), processor_seconds()
    try:
        done = output_of(shell_words(line), folder)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"{line}: {TOO_LONG}") from None
    assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    seconds = min(time.monotonic() - began, processor_seconds() - used)  # other programs do not count, nor do threads
    assert seconds <= LIMIT, f"{line}: {TOO_LONG}"


@pytest.mark.slow
@pytest.mark.fences
@pytest.mark.parametrize("page", pages_with("sh run", "python run"))
def test_the_blocks_of_a_page_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path / "page")
    monkeypatch.chdir(folder)
    for fence in FENCES:
        if fence.page == page and fence.declaration == "sh run":
            for line in commands_of(fence.text):
                run_line(line, folder)
        elif fence.page == page and fence.declaration == "python run":
            capsys.readouterr()
            exec(compile(fence.text, str(fence), "exec"), {"__name__": "example"})
            assert capsys.readouterr().out.strip(), f"{fence} prints nothing"


@pytest.mark.slow
@pytest.mark.fences
@pytest.mark.parametrize("page", pages_with("sh dry"))
def test_the_long_commands_of_a_page_run_dry(page: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "page")
    dry = {verb for verb in VERBS if any(field.name == "dry" for field in fields_of(arguments_of(verb)))}
    lines = [line for fence in declared("sh", "dry") if fence.page == page for line in commands_of(fence.text)]
    lines = [line for line in lines if (words := shlex.split(line))[0] == "unmask" and words[1] in dry]
    assert lines, f"{page} has no command with --dry: declare its fences `sh parse`"
    for line in lines:
        words = shlex.split(line, comments=True)
        run_line(shlex.join([*words, *([] if "--dry" in words else ["--dry"])]), folder)


def test_a_line_that_fails_is_noticed(tmp_path: Path) -> None:
    run_line("true", folder_of(tmp_path / "page"))
    for line in ("false", "false | true", "unmask-no-such"):
        with pytest.raises(AssertionError):
            run_line(line, tmp_path / "page")


def test_the_outputs_of_a_page_are_written_into_it(tmp_path: Path) -> None:
    page = "```sh run\necho a; echo b\necho c >&2\n```\n\n```text\nold\n```\n\nand\n\n```text\nmine\n```\n"
    python = "```python run\nprint(1 + 1)\n```\n```text\n```\n"
    written_in = outputs("page", page + python, folder_of(tmp_path / "page"))
    assert written_in == page.replace("old", "a\nb") + python.replace("text\n", "text\n2\n")  # `mine` is no output
    head = "```sh run\necho a; echo b; echo c\n```\n```text head\n1\n2\n```\n"
    assert outputs("page", head, tmp_path / "page") == head.replace("1\n2", "a\nb")
    with pytest.raises(RuntimeError, match="page:1: false"):
        outputs("page", "```sh run\nfalse\n```\n", tmp_path / "page")


def test_the_tour_ends_at_the_exact_likelihood(capsys: pytest.CaptureFixture[str]) -> None:
    [fence] = [fence for fence in declared("python", "run") if fence.page == "docs/tour.md"]
    exec(compile(fence.text, "tour", "exec"), {"__name__": "example"})
    estimate, exact = (float(x) for x in re.findall(r"(\d\.\d+)(?= nats|$)", capsys.readouterr().out.strip()))
    assert exact == pytest.approx(0.916, abs=1e-3)
    assert estimate == pytest.approx(exact, abs=0.02)


# ---- names -----------------------------------------------------------------------------------------------------------

PROSE = {"again", "cannot", "could", "did", "in", "never", "reads", "unmask", "wrote"}
"""Words that follow the word unmask in a sentence and are no verbs of the command line."""
SHARED = {"--help", "--version", "--json", "--device", "--dtype", "--threads", "--no-", "--minutes", "--sample-every"}
OTHERS = {"--frontier", "--learned", "--maskings", "--master-port", "--nproc-per-node", "--sweep", "--words"} | {
    *("--dest", "--disable-pip-version-check", "--no-binary", "--no-deps", "--no-input", "--only-binary", "--quiet"),
    *("--head", "--max-restarts", "--nnodes", "--rdzv-backend", "--rdzv-endpoint", "--rdzv-id"),
}
"""Options of other programs (those in tools, torchrun, pip, Ray) that pages and messages name."""
HISTORY = {"docs/log.md", "docs/papers.md"}
"""Pages that tell what was, with the names of its time."""


def split(words: list[str]) -> tuple[str, list[str]]:
    """The words after unmask -> the verb, of one word or of two, and the rest."""
    count = 2 if " ".join(words[:2]) in VERBS else 1
    return " ".join(words[:count]), words[count:]


def prose_of(path: Path) -> str:
    """A file -> the text in which names are looked for: the strings of Python code, a line each, or the whole page."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return text
    constants = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
    return "\n\0\n".join(value for value in constants if isinstance(value, str))


def sources() -> Iterator[tuple[str, str]]:
    """(path, text) of every Python file in src and examples, and of every page but those of HISTORY."""
    code = [*(ROOT / "src").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
    pages = [ROOT / page for page in [*PAGES, "CHANGELOG.md"] if page not in HISTORY]
    for path in [*code, *pages]:
        yield path.relative_to(ROOT).as_posix(), prose_of(path)


def unknown_verbs(text: str) -> list[str]:
    """The words after "unmask" in a text that neither begin a verb nor are in PROSE."""
    known = {verb.split()[0] for verb in VERBS} | PROSE
    return [word for word in re.findall(r"\bunmask ([a-z][a-z-]*)", text) if word not in known]


def all_options() -> set[str]:
    """Every option of every verb, those that turn a switch off included."""
    fields = [field for verb in VERBS for field in fields_of(arguments_of(verb)) if not field.positional]
    off = {re.sub(r"([^.-][^.]*)$", r"no-\1", written(field.name)) for field in fields if field.type is bool}
    groups = {f"--{field.name.split('.')[0]}" for field in fields if "." in field.name}  # as in f"--data.{name}"
    return {written(field.name) for field in fields} | off | groups | SHARED | OTHERS


def unknown_options(text: str, known: set[str]) -> list[str]:
    """The options in a text that no verb has."""
    typed = re.findall(r"(?<![\w-])--[a-z][\w-]*(?:\.[a-z][\w-]*)*", text)
    return [option for option in typed if option.replace("_", "-") not in known]


def misplaced_options(text: str) -> list[str]:
    """The commands between backticks whose verb does not have one of their options."""
    complaints: list[str] = []
    for span in re.findall(r"`unmask ([^`|]+)`", text):
        with contextlib.suppress(ValueError):  # a quotation mark that does not end: the span is a piece of prose
            verb, words = split(shlex.split(span))
            try:
                if verb in VERBS and "..." not in words:
                    typed_options(arguments_of(verb), words, verb)
            except ConfigError as error:
                complaints.append(str(error))
    return complaints


def exists(dotted: str) -> bool:
    """Whether a dotted name such as unmask.api.Model can be imported or looked up."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        with contextlib.suppress(ImportError):
            value: object = importlib.import_module(".".join(parts[:end]))
            for name in parts[end:]:
                if not hasattr(value, name):
                    return False
                value = getattr(value, name)
            return True
    return False


PACKAGES = [init.parent.name for init in ROOT.glob("src/unmask/*/__init__.py")]
FOLDERS = "|".join(["src", "docs", "tests", "tools", "examples", *PACKAGES])
FILE = re.compile(rf"(?<![\w/.@:-])(?:{FOLDERS})/[\w/.-]+\.(?:py|md|html|json|toml)\b(?!:[A-Z])")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")
POLICY = re.compile(r"--polic(?:y|ies) \"?([a-z][a-z-]*)")
DOTTED = re.compile(r"`(unmask(?:\.\w+)+)(?:\([^`]*\))?`")
NAMES = {*POLICIES, "outside-in"}  # the second is that of examples/plugin-policy
GROUPS = ("unmask.policies", "unmask.tasks")
"""Groups of entry points."""


def missing_files(path: str, text: str) -> list[str]:
    """The files of this repository that a text names (a folder, a slash, a name) and that do not exist."""
    named = {*FILE.findall(text), *(LINK.findall(text) if path.endswith(".md") else ())}
    places = (ROOT, ROOT / "src" / "unmask", ROOT / "docs", (ROOT / path).parent)
    return sorted(name for name in named if not any((place / name).exists() for place in places))


@pytest.mark.slow
def test_no_text_names_what_does_not_exist() -> None:
    known = all_options()
    complaints: list[str] = []
    for path, text in sources():
        complaints += [f"{path}: unmask {word}" for word in unknown_verbs(text)]
        complaints += [f"{path}: {option}" for option in unknown_options(text, known)]
        complaints += [f"{path}: {error}" for error in misplaced_options(text)]
        complaints += [f"{path}: policy {name}" for name in POLICY.findall(text) if name not in NAMES]
        complaints += [f"{path}: {name}" for name in missing_files(path, text)]
        complaints += [f"{path}: {name}" for name in {*DOTTED.findall(text)} - {*GROUPS} if not exists(name)]
    assert sorted(complaints) == []


def test_names_that_do_not_exist_are_noticed() -> None:
    known = all_options()
    assert unknown_verbs("bring it in with 'unmask convert'; unmask cannot; `unmask train`") == ["convert"]
    assert unknown_options("use --train.lrr or --data.source, --train.eval_every, a--b", known) == ["--train.lrr"]
    assert misplaced_options("`unmask eval --steps 3` and `unmask pace --steps 3`") != []
    assert misplaced_options("`unmask pace CHECKPOINT --steps 3`") == []
    assert not exists("unmask.decode.no_such")
    assert not exists("unmask.api.Modell")
    assert exists("unmask.api.Model")
    named = "see `policies/no.py`, policies/prefix.py, [x](no.md), mine/policies/no.py"
    assert missing_files("docs/a.md", named) == ["no.md", "policies/no.py"]
