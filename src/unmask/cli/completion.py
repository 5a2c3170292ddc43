"""The options of the verbs -> completion scripts for bash, zsh and fish. Imports no torch."""

__all__ = ["CompletionArguments", "run"]

import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from unmask.cli.help import POLICIES, TASKS, arguments_of, sentence, switch, texts_of
from unmask.cli.main import VERBS
from unmask.cli.parse import Field, Positional, choices_of, fields_of, parse, written
from unmask.output import show_text


@dataclass(frozen=True, slots=True)
class CompletionArguments:
    """Print a script that completes the words of unmask in a shell.

    bash: source <(unmask completion bash), in ~/.bashrc. zsh: source <(unmask completion zsh), in ~/.zshrc, after
    compinit. fish: unmask completion fish > ~/.config/fish/completions/unmask.fish
    """

    shell: Positional[Literal["bash", "zsh", "fish"]]
    """The shell."""


def run(argv: Sequence[str]) -> int:
    """Words of the command line -> exit code; prints the completion script of a shell."""
    shell = parse(CompletionArguments, argv, "completion").shell
    show_text({"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]())
    return 0


def _values(verb: str, field: Field) -> list[str]:
    """Field -> the words that can be its value: of its type, or names by the name of the field; empty for any text."""
    from unmask.data.sources import CORPORA
    from unmask.disk.folders import bundled, bundled_policies
    from unmask.recipes import denoisers, policies
    from unmask.reproduce import questions, text_questions

    inner = typing.get_args(field.type)[0] if typing.get_origin(field.type) is tuple else field.type
    literals = [typing.get_args(choice) for choice in choices_of(inner) if typing.get_origin(choice) is Literal]
    rules = [*POLICIES, *(f"learned:from={name}" for name in bundled_policies())]
    named: dict[str, Iterable[str]] = {
        "checkpoint": bundled(),
        "init": bundled(),
        "policy": rules,
        "policies": rules,
        "task": TASKS,
        "data.source": CORPORA,
        "source": CORPORA if verb == "data prepare" else (),
        "recipe": policies.names() if verb == "learn" else denoisers.names(),
        "name": [*text_questions.names(), *questions.names()] if verb == "reproduce" else (),
    }
    return [str(value) for values in literals for value in values] or list(named.get(field.name, ()))


def _options(verb: str) -> list[str]:
    """Verb -> its options as they are typed."""
    return [
        "--help",
        *(switch(field).split(", ")[-1] for field in fields_of(arguments_of(verb)) if not field.positional),
    ]


def _arms() -> Iterator[tuple[str, list[str]]]:
    """(pattern of "VERB WORD-BEFORE", or of "VERB: WORD", and the words that are possible there), in order."""
    for verb in VERBS:
        fields = fields_of(arguments_of(verb))
        for field in fields:
            values = _values(verb, field)
            if values and not field.positional:
                yield f'"{verb} {written(field.name)}"', values
    for verb in VERBS:
        yield f'"{verb}: "-*', _options(verb)
        fields = fields_of(arguments_of(verb))
        second = [each.partition(" ")[2] for each in VERBS if each.startswith(f"{verb} ")]
        yield (
            f'"{verb}: "*',
            [*second, *(word for field in fields if field.positional for word in _values(verb, field))],
        )
    for word in _first_words():
        if word not in VERBS:
            yield f'"{word}: "*', [each.partition(" ")[2] for each in VERBS if each.startswith(f"{word} ")]


def _cases() -> str:
    """The lines of a `case` of bash or zsh that set `offered` from verb, previous and current."""
    arms = [f"            {pattern}) offered='{' '.join(words)}' ;;" for pattern, words in _arms()]
    before = [arm for arm in arms if ': "' not in arm.split(")")[0]]
    inside = [arm for arm in arms if ': "' in arm.split(")")[0]]
    from unmask.disk.folders import bundled_policies

    return "\n".join(
        [
            f"    if [ \"$at\" -eq 1 ]; then offered='{' '.join([*_first_words(), '--help', '--version'])}'",
            '    else case "$verb $previous" in',
            *before,
            f"            *=) offered='{' '.join(bundled_policies())}' ;;",
            '            *) case "$verb: $current" in',
            *inside,
            "            esac ;;",
            "        esac",
            "    fi",
        ]
    )


def _first_words() -> list[str]:
    """The first words of the verbs, in order."""
    return list(dict.fromkeys(verb.partition(" ")[0] for verb in VERBS))


def _two_words() -> str:
    """The verbs of two words, as a pattern of `case`."""
    return "|".join(f'"{verb}"' for verb in VERBS if " " in verb)


def _bash() -> str:
    """The script for bash. Where no word fits it completes file names."""
    return f"""# bash completion of unmask: source <(unmask completion bash)
_unmask() {{
    local at=$COMP_CWORD verb=${{COMP_WORDS[1]}} current=${{COMP_WORDS[COMP_CWORD]}} offered=
    local previous=${{COMP_WORDS[COMP_CWORD-1]}}
    if [ "$current" = "=" ]; then previous="=" current=; fi
    [ "$at" -gt 2 ] && case "$verb ${{COMP_WORDS[2]}}" in {_two_words()}) verb="$verb ${{COMP_WORDS[2]}}" ;; esac
{_cases()}
    COMPREPLY=($(compgen -W "$offered" -- "$current"))
}}
complete -o default -F _unmask unmask"""


def _zsh() -> str:
    """The script for zsh; it completes file names too, but for options."""
    return f"""#compdef unmask
# zsh completion of unmask: source <(unmask completion zsh), after compinit
_unmask() {{
    local at=$((CURRENT - 1)) verb=$words[2] current=$words[CURRENT] previous=$words[CURRENT-1] offered=
    [ "$at" -gt 2 ] && case "$verb $words[3]" in {_two_words()}) verb="$verb $words[3]" ;; esac
{_cases()}
    compadd -- ${{=offered}}
    [[ $current == -* || $at -eq 1 ]] || _files
}}
if [ "$funcstack[1]" = "_unmask" ]; then _unmask "$@"; else compdef _unmask unmask; fi"""


def _fish() -> str:
    """The script for fish."""
    lines = ["# fish completion of unmask: unmask completion fish > ~/.config/fish/completions/unmask.fish"]
    groups = [word for word in _first_words() if word not in VERBS]
    lines += [f"complete -c unmask -f -n __fish_use_subcommand -a {word}" for word in groups]
    for verb, (_, _, about) in VERBS.items():
        first, _, second = verb.partition(" ")
        seen = f"complete -c unmask -n '__fish_seen_subcommand_from {first}'"
        entry = f"{seen} -a {second}" if second else f"complete -c unmask -f -n __fish_use_subcommand -a {first}"
        lines.append(f"{entry} -d {_quoted(about)}")
        for field in fields_of(arguments_of(verb)):
            values = " ".join(_values(verb, field))
            if field.positional:
                lines += [f"{seen} -a '{values}'"] if values else []
                continue
            value_part = "" if field.type is bool else f" -r -a '{values}'" if values else " -r"
            name = switch(field).split("--")[-1]
            about_it = sentence(texts_of(field.owner).get(field.path[-1], ""))
            lines.append(f"{seen} -l {name}{value_part} -d {_quoted(about_it)}")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """Text -> a text of fish in single quotes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
