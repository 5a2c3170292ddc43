"""`unmask info` and `unmask list`: what a checkpoint is, what can be named. Reads headers and JSON; without torch."""

__all__ = ["InfoArguments", "ListArguments", "describe", "run_info", "run_list"]

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from unmask.assets.bundled import locate
from unmask.cli.parse import Positional, parse
from unmask.cli.show import print_json, size, table
from unmask.disk.checkpoint import Checkpoint, read_checkpoint

_KINDS = ("models", "policies", "tasks", "recipes", "policy-recipes", "corpora", "estimators", "schedules")


@dataclass(frozen=True, slots=True)
class InfoArguments:
    """What a checkpoint is: network, tokenizer, step, bound, versions, files."""

    checkpoint: Positional[str]
    """A checkpoint or run folder, or the name of a bundled model."""
    json: bool = False
    """Print one JSON object on stdout."""


def run_info(argv: Sequence[str]) -> int:
    """Words of the command line -> exit code; prints what a checkpoint is."""
    arguments = parse(InfoArguments, argv, "info")
    checkpoint = read_checkpoint(locate(arguments.checkpoint))
    facts = describe(checkpoint)
    if arguments.json:
        print_json(facts)
        return 0
    print(table(_lines(facts)))
    if checkpoint.card is not None:
        print("\n" + checkpoint.card.strip())
    return 0


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Everything about a checkpoint, as plain data."""
    run_, config = checkpoint.run or {}, checkpoint.config
    settings = run_.get("settings", {})
    bound = run_.get("bound")
    files = {
        path.relative_to(checkpoint.folder).as_posix(): path.stat().st_size
        for path in sorted(checkpoint.folder.rglob("*"))
        if path.is_file()
    }
    return {
        "checkpoint": str(checkpoint.folder),
        "format": checkpoint.format,
        "architecture": config.get("architecture"),
        "parameters": checkpoint.parameters,
        "model": config.get("model", {}),
        "process": config.get("process", {}),
        "tokenizer": _tokenizer(checkpoint),
        "step": run_.get("step"),
        "steps": run_.get("plan", {}).get("steps"),
        "bound": bound,
        "best_step": run_.get("best_step"),
        "perplexity": None if not bound else math.exp(min(bound["nats_per_token"], 700.0)),
        "source": settings.get("data", {}).get("source"),
        "settings": settings,
        "versions": checkpoint.versions,
        "files": files,
        "can_resume": "state/state.json" in files,
    }


def _tokenizer(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Kind and size, from the recorded facts where they are there, else from tokenizer.json."""
    if checkpoint.tokenizer_json is None:
        return None
    kind = (checkpoint.run or {}).get("facts", {}).get("tokenizer")
    try:
        record: dict[str, Any] = json.loads(checkpoint.tokenizer_json)
    except ValueError:
        record = {}
    return {
        "kind": kind or str(record.get("model", {}).get("type", "unknown")).lower(),
        "vocab_size": checkpoint.config.get("model", {}).get("vocab_size"),
    }


def _lines(facts: dict[str, Any]) -> dict[str, str]:
    """The same for people."""
    model, tokenizer, bound = facts["model"], facts["tokenizer"], facts["bound"]
    shape = ", ".join(f"{name} {model[name]}" for name in ("width", "blocks", "heads") if name in model)
    rows = {
        "checkpoint": facts["checkpoint"],
        "network": f"{facts['architecture']}, {facts['parameters']:,} parameters: {shape}",
        "window": f"{model.get('max_length', '?')} tokens",
        "tokenizer": "none" if tokenizer is None else f"{tokenizer['kind']}, {tokenizer['vocab_size']:,} ids",
    }
    if facts["step"] is not None:
        rows["step"] = f"{facts['step']:,} of {facts['steps']:,}" if facts["steps"] else f"{facts['step']:,}"
    if bound:
        error = "" if bound["stderr"] is None else f" ± {bound['stderr']:.4f}"
        rows["bound"] = (
            f"{bound['nats_per_token']:.4f}{error} nats/token on held-out text (step {facts['best_step']:,}), "
            f"perplexity {facts['perplexity']:.2f}"
        )
    if facts["source"]:
        rows["trained on"] = str(facts["source"])
    rows["versions"] = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    rows["files"] = ", ".join(f"{name} {size(count)}" for name, count in facts["files"].items())
    rows["can resume"] = "yes" if facts["can_resume"] else "no; fine-tune it with unmask train --init"
    return rows


@dataclass(frozen=True, slots=True)
class ListArguments:
    """What can be named: models, policies, tasks, recipes and policy-recipes, corpora, estimators, schedules."""

    kind: Positional[
        Literal["models", "policies", "tasks", "recipes", "policy-recipes", "corpora", "estimators", "schedules", "all"]
    ] = "all"
    """Which of them."""
    json: bool = False
    """Print one JSON object on stdout."""


def run_list(argv: Sequence[str]) -> int:
    """Words of the command line -> exit code; prints names with a line each."""
    arguments = parse(ListArguments, argv, "list")
    kinds = _KINDS if arguments.kind == "all" else (arguments.kind,)
    tables = {kind: _listed(kind) for kind in kinds}
    if arguments.json:
        print_json(tables)
        return 0
    for number, (kind, names) in enumerate(tables.items()):
        if len(tables) > 1:
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
        shown = [f"{key}={value}" if value else key for key, value in known.items()]
        lines[name] += f" Options: {', '.join(shown) or 'none'}."
    return lines


def _models() -> dict[str, str]:
    from unmask.assets.bundled import bundled

    lines: dict[str, str] = {}
    for name, folder in bundled().items():
        checkpoint = read_checkpoint(folder)
        window = checkpoint.config.get("model", {}).get("max_length", "?")
        lines[name] = f"{checkpoint.parameters:,} parameters, window {window} tokens"
    return lines
