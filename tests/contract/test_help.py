"""Help pages and completion scripts: every verb, every option, any width, without torch."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from unmask.cli.help import FIRST, POLICIES, TASKS, arguments_of, shown_fields, texts_of
from unmask.cli.main import EXIT_CODES, VERBS, main
from unmask.cli.parse import fields_of
from unmask.errors import ConfigError, RunError

SRC = Path(__file__).parents[2] / "src"
WITHOUT_TORCH = """
import sys
from unmask.cli.main import VERBS, main
for shell in ("bash", "zsh", "fish"):
    main(["completion", shell])
for verb in VERBS:
    assert main([*verb.split(), "--help"]) == 0
assert "torch" not in sys.modules
"""


def page(verb: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Verb -> the lines of its help."""
    capsys.readouterr()
    assert main([*verb.split(), "--help"]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("verb", VERBS)
def test_a_page_names_every_argument_and_begins_with_five_options(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines, fields = page(verb, capsys), shown_fields(arguments_of(verb), verb)
    assert lines[0].startswith(f"usage: unmask {verb}")
    options = [match[1] for line in lines if (match := re.match(r"  (?:-v, )?(--[\w.-]+)", line))]
    typed = ["--" + field.name.replace("_", "-") for field in fields if not field.positional]
    assert len(typed) == len(options)
    assert options[: len(FIRST[verb])] == ["--" + name.replace("_", "-") for name in FIRST[verb]]
    assert len(FIRST[verb]) == min(5, len(typed)) or verb in ("completion",)
    for field in fields:
        if field.positional:
            assert any(line.startswith(f"  {field.name.upper()}") for line in lines)
            assert field.name.upper() in VERBS[verb][1].upper() or field.type is not str


@pytest.mark.parametrize("columns", ["5", "40", "79", "400", "-3", "many"])
def test_a_page_ends_at_any_width(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    lines = page("train", capsys)
    assert max(map(len, lines)) <= 100
    assert any("--train.eval-every" in line for line in lines)


def test_defaults_and_choices_are_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = " ".join(" ".join(page("train", capsys)).split())
    assert "--train.batch N Sequences in an optimiser step, over all processes. (at least 1; default: 32)" in text
    assert "--train.shape cosine|constant The shape" in text
    assert "; default: 0.9 0.999)" in text
    assert "(required)" in " ".join(page("export", capsys))


def test_a_verb_that_measures_shows_no_defaults_of_training(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("eval", "pace"):
        text = "\n".join(page(verb, capsys))
        assert "(default: shakespeare)" not in text
        assert "--data.tokenizer" not in text  # it is the checkpoint's
        assert "by default as in training:" in text
    assert "(default: shakespeare)" in " ".join(page("train", capsys))


def test_a_policy_is_listed_with_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    """That of the knob of `frontier` comes first."""
    assert main(["list", "policies", "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)["policies"]
    assert lines["threshold"].endswith(" Options: threshold.")
    assert lines["klass"].endswith(" Options: threshold, history, kl.")


def test_every_option_has_a_text() -> None:
    for verb in VERBS:
        for field in fields_of(arguments_of(verb)):
            assert texts_of(field.owner).get(field.path[-1]), f"{verb}: {field.name}"
    assert "kind" not in texts_of(arguments_of("train"))  # the control


def test_completion_and_help_import_no_torch() -> None:
    environment = os.environ | {"PYTHONPATH": str(SRC)}
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH], env=environment, check=True, capture_output=True, timeout=60)


def test_the_names_are_those_of_the_registries() -> None:
    from unmask.policies import registry
    from unmask.tasks.registry import _BUILT_IN

    assert set(POLICIES) == {*registry.ENTRIES, *registry._WRAPPERS}
    assert set(TASKS) == set(_BUILT_IN)


COMPLETED = [
    (["gen"], {"generate"}),
    (["generate", "--policy", "kla"], {"klass"}),
    (["generate", "--tem"], {"--temperature"}),
    (["generate", "wor"], {"wordnet"}),
    (["train", "--data.source", "aus"], {"austen"}),
    (["train", "--train.sh"], {"--train.shape"}),
    (["train", "--train.shape", "cos"], {"cosine"}),
    (["frontier", "--task", "sud"], {"sudoku"}),
    (["learn", "auto"], {"automaton", "automaton_eos"}),
    (["fill", "--policy", "learned", ":", "from", "=", "su"], {"sudoku"}),
    (["fill", "--policy", "learned", ":", "from", "="], {"automaton", "automaton_eos", "sudoku"}),
    (["probe", "mas"], {"masks"}),
    (["probe", "masks", "--cou"], {"--counts", "--count"}),
    (["probe", "x", "--cou"], set[str]()),
    (["generate", "--no-such"], set[str]()),
]


def test_the_words_that_bash_completes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    for words, _ in COMPLETED:
        quoted = " ".join(f"'{word}'" for word in ["unmask", *words])
        script += f'\nCOMP_WORDS=({quoted}); COMP_CWORD={len(words)}; _unmask; echo "${{COMPREPLY[*]}}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert [set(line.split()) for line in done.stdout.splitlines()] == [offered for _, offered in COMPLETED]


def test_help_of_a_verb_by_either_word(capsys: pytest.CaptureFixture[str]) -> None:
    lines = page("info", capsys)
    assert main(["help", "info"]) == 0
    assert capsys.readouterr().out.splitlines() == lines


def test_info_shows_versions_and_files_with_v(capsys: pytest.CaptureFixture[str]) -> None:
    names: list[set[str]] = []
    for words in ([], ["-v"]):
        assert main(["info", "wordnet", *words]) == 0
        names.append({line.split("  ")[1] for line in capsys.readouterr().out.splitlines() if line[:2] == "  "})
    assert {"network", "bound", "can resume"} <= names[0]
    assert names[1] - names[0] == {"versions", "files"}


def test_exit_codes_stand_in_the_overview(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"  {code:<4} {meaning}" in text for code, meaning in EXIT_CODES.items())
    assert {ConfigError.exit_code, RunError.exit_code} < EXIT_CODES.keys()
