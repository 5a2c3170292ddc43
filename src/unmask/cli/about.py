"""`unmask info` and `unmask list`: what a checkpoint is, what can be named. Reads headers and JSON; without torch."""

__all__ = ["InfoArguments", "ListArguments", "describe", "run_info", "run_list"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from unmask.cli.options import OutputOptions
from unmask.cli.parse import Flat, Positional, parse
from unmask.cli.show import print_json, size, table
from unmask.disk.checkpoint import Checkpoint, read_checkpoint
from unmask.disk.folders import locate, locate_policy
from unmask.disk.json import NotJson, parse_json

_LEARNED = "learned:from="
_KINDS = ("models", "policies", "tasks", "recipes", "policy-recipes", "corpora", "estimators", "schedules")


@dataclass(frozen=True, slots=True)
class InfoArguments:
    """What a checkpoint or policy is: network, tokenizer, step, bound, versions, files."""

    checkpoint: Positional[str]
    """A checkpoint, policy or run folder, the name of a bundled model, or learned:from=NAME for a bundled policy."""
    output: Flat[OutputOptions] = OutputOptions()


def run_info(argv: Sequence[str]) -> int:
    """Words of the command line -> exit code; prints what a checkpoint is."""
    arguments = parse(InfoArguments, argv, "info")
    name = arguments.checkpoint
    folder = locate_policy(name.removeprefix(_LEARNED)) if name.startswith(_LEARNED) else locate(name)
    checkpoint = read_checkpoint(folder)
    facts = describe(checkpoint)
    if arguments.output.json:
        print_json(facts)
        return 0
    print(table(_lines(facts)))
    if checkpoint.card is not None:
        print("\n" + checkpoint.card.strip())
    return 0


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Everything about a checkpoint, as plain data."""
    run_, config = checkpoint.run or {}, checkpoint.config
    settings = _part(run_, "settings")
    bound = _part(run_, "bound")
    nats = bound.get("nats_per_token")
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
        "model": _part(config, "model"),
        "policy": _part(config, "policy") or None,
        "trained_on": _part(config, "trained_on") or None,
        "calibrated": bool(_part(config, "calibration")),
        "process": _part(config, "process"),
        "tokenizer": _tokenizer(checkpoint),
        "step": run_.get("step"),
        "steps": _part(run_, "plan").get("steps"),
        "bound": bound or None,
        "best_step": run_.get("best_step"),
        "perplexity": math.exp(min(nats, 700.0)) if isinstance(nats, int | float) else None,
        "source": _part(settings, "data").get("source"),
        "settings": settings,
        "versions": checkpoint.versions,
        "files": files,
        "can_resume": "state/state.json" in files,
    }


def _part(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The object under a key; an empty one where there is none."""
    part = value.get(key)
    return cast(dict[str, Any], part) if isinstance(part, dict) else {}


def _tokenizer(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Kind and size, from the recorded facts where they are there, else from tokenizer.json."""
    if checkpoint.tokenizer_json is None:
        return None
    kind = _part(checkpoint.run or {}, "facts").get("tokenizer")
    try:
        record = parse_json(checkpoint.tokenizer_json, dict[str, Any])
    except NotJson:
        record = {}
    return {
        "kind": kind or str(_part(record, "model").get("type", "unknown")).lower(),
        "vocab_size": _part(checkpoint.config, "model").get("vocab_size"),
    }


def _lines(facts: dict[str, Any]) -> dict[str, str]:
    """The same for people."""
    if facts["policy"] is not None:
        return _policy_lines(facts)
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
    if facts["perplexity"] is not None:
        error = "" if bound.get("stderr") is None else f" ± {bound['stderr']:.4f}"
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


def _policy_lines(facts: dict[str, Any]) -> dict[str, str]:
    """`_lines` of a policy, which has neither window nor tokenizer but a denoiser and a task it was trained on."""
    policy, trained = facts["policy"], facts["trained_on"] or facts["settings"]
    shape = ", ".join(f"{name} {policy[name]}" for name in ("width", "heads", "head") if name in policy)
    features = policy.get("features")
    rows = {
        "checkpoint": facts["checkpoint"],
        "policy": f"learned, {facts['parameters']:,} parameters: {shape}",
        "features": ", ".join(map(str, features)) if isinstance(features, list) else "?",
        "dial": "calibrated" if facts["calibrated"] else "not calibrated",
    }
    rows |= {name: str(trained[key]) for name, key in (("denoiser", "checkpoint"), ("task", "task")) if key in trained}
    rows["versions"] = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    rows["files"] = ", ".join(f"{name} {size(count)}" for name, count in facts["files"].items())
    return rows | {"can resume": "yes" if facts["can_resume"] else "no; train another with unmask learn"}


@dataclass(frozen=True, slots=True)
class ListArguments:
    """What can be named: models, policies, tasks, recipes and policy-recipes, corpora, estimators, schedules."""

    kind: Positional[
        Literal["models", "policies", "tasks", "recipes", "policy-recipes", "corpora", "estimators", "schedules", "all"]
    ] = "all"
    """Which of them."""
    output: Flat[OutputOptions] = OutputOptions()


def run_list(argv: Sequence[str]) -> int:
    """Words of the command line -> exit code; prints names with a line each."""
    arguments = parse(ListArguments, argv, "list")
    kinds = _KINDS if arguments.kind == "all" else (arguments.kind,)
    tables = {kind: _listed(kind) for kind in kinds}
    if arguments.output.json:
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
        from unmask.disk.folders import bundled_policies
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
    from unmask.disk.folders import bundled

    lines: dict[str, str] = {}
    for name, folder in bundled().items():
        checkpoint = read_checkpoint(folder)
        window = checkpoint.config.get("model", {}).get("max_length", "?")
        lines[name] = f"{checkpoint.parameters:,} parameters, window {window} tokens"
    return lines
