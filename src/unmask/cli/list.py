"""`unmask list`: what can be named on the command line, with one line each."""

__all__ = ["ListArguments", "run"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import tyro

from unmask.cli.parse import parse
from unmask.cli.show import print_json, table

_KINDS = ("models", "policies", "tasks", "recipes", "policy-recipes", "corpora", "estimators", "schedules")


@dataclass(frozen=True, slots=True)
class ListArguments:
    """What can be named: models, policies, tasks, recipes and policy-recipes, corpora, estimators, schedules."""

    kind: tyro.conf.Positional[
        Literal["models", "policies", "tasks", "recipes", "policy-recipes", "corpora", "estimators", "schedules", "all"]
    ] = "all"
    """Which of them."""
    json: bool = False
    """Print one JSON object on stdout."""


def run(argv: Sequence[str]) -> int:
    """Print names and lines."""
    arguments = parse(ListArguments, argv, "list")
    kinds = _KINDS if arguments.kind == "all" else (arguments.kind,)
    found = {kind: _listed(kind) for kind in kinds}
    if arguments.json:
        print_json(found)
        return 0
    for number, (kind, names) in enumerate(found.items()):
        if len(found) > 1:
            print(f"{chr(10) if number else ''}{kind}")
        print(table(names) if names else "  none yet")
    return 0


def _listed(kind: str) -> dict[str, str]:
    """Names with their lines; a kind's module is imported only when it is asked for."""
    if kind == "models":
        return _models()
    if kind == "recipes":
        from unmask.recipes import denoisers

        return denoisers.names()
    if kind == "policy-recipes":
        from unmask.recipes import policies

        return policies.names()
    if kind == "corpora":
        from unmask.data.sources import CORPORA

        return {name: corpus.about for name, corpus in CORPORA.items()}
    if kind == "policies":
        from unmask.assets.bundled import bundled_policies
        from unmask.policies.registry import names

        bundled = {f"learned:from={name}": f"A bundled policy for {name}." for name in bundled_policies()}
        return dict(sorted((names() | bundled).items()))
    if kind == "tasks":
        return _tasks()
    if kind == "estimators":
        from unmask.objective.masked import ESTIMATORS

        return dict(ESTIMATORS)
    from unmask.process import SCHEDULES

    return {name: (schedule.__doc__ or "").splitlines()[0] for name, schedule in SCHEDULES.items()}


def _tasks() -> dict[str, str]:
    from unmask.errors import PluginError
    from unmask.tasks.registry import names, options

    lines = names()
    for name in lines:
        try:
            known = options(name)
        except PluginError:  # the line says already why it cannot be loaded
            continue
        told = [f"{key}={value}" if value else key for key, value in known.items()]
        lines[name] += f" Options: {', '.join(told) or 'none'}."
    return lines


def _models() -> dict[str, str]:
    from unmask.assets.bundled import bundled
    from unmask.disk.checkpoint import read_checkpoint

    lines: dict[str, str] = {}
    for name, folder in bundled().items():
        checkpoint = read_checkpoint(folder)
        window = checkpoint.config.get("model", {}).get("max_length", "?")
        lines[name] = f"{checkpoint.parameters:,} parameters, window {window} tokens"
    return lines
