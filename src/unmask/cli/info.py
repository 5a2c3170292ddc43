"""`unmask info`: what a checkpoint is. Reads headers and JSON only; torch is not imported."""

__all__ = ["InfoArguments", "describe", "run"]

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tyro

from unmask.assets.bundled import locate
from unmask.cli.parse import parse
from unmask.cli.show import print_json, size, table
from unmask.disk.checkpoint import Checkpoint, read_checkpoint


@dataclass(frozen=True, slots=True)
class InfoArguments:
    """What a checkpoint is: network, tokenizer, step, bound, versions, files."""

    checkpoint: tyro.conf.Positional[str]
    """A checkpoint or run folder, or the name of a bundled model."""
    json: bool = False
    """Print one JSON object on stdout."""


def run(argv: Sequence[str]) -> int:
    """Print it."""
    arguments = parse(InfoArguments, argv, "info")
    checkpoint = read_checkpoint(locate(arguments.checkpoint))
    told = describe(checkpoint)
    if arguments.json:
        print_json(told)
        return 0
    print(table(_lines(told)))
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


def _lines(told: dict[str, Any]) -> dict[str, str]:
    """The same for people."""
    model, tokenizer, bound = told["model"], told["tokenizer"], told["bound"]
    shape = ", ".join(f"{name} {model[name]}" for name in ("width", "blocks", "heads") if name in model)
    rows = {
        "checkpoint": told["checkpoint"],
        "network": f"{told['architecture']}, {told['parameters']:,} parameters: {shape}",
        "window": f"{model.get('max_length', '?')} tokens",
        "tokenizer": "none" if tokenizer is None else f"{tokenizer['kind']}, {tokenizer['vocab_size']:,} ids",
    }
    if told["step"] is not None:
        rows["step"] = f"{told['step']:,} of {told['steps']:,}" if told["steps"] else f"{told['step']:,}"
    if bound:
        error = "" if bound["stderr"] is None else f" ± {bound['stderr']:.4f}"
        rows["bound"] = (
            f"{bound['nats_per_token']:.4f}{error} nats/token on held-out text (step {told['best_step']:,}), "
            f"perplexity {told['perplexity']:.2f}"
        )
    if told["source"]:
        rows["trained on"] = str(told["source"])
    rows["versions"] = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    rows["files"] = ", ".join(f"{name} {size(count)}" for name, count in told["files"].items())
    rows["can resume"] = "yes" if told["can_resume"] else "no; fine-tune it with unmask train --init"
    return rows
