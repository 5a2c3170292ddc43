"""What the processes of a run have to have in common: settings before its first step, and the success of a work."""

__all__ = ["all_or_none", "require_same"]

import hashlib
import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from unmask.disk.json import parse_json
from unmask.errors import ConfigError, SaidElsewhere
from unmask.run.parallel import Group

_Facts = dict[str, Any]


def require_same(group: Group, device: torch.device, facts: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ConfigError, in all processes, where these facts differ between them; `facts` are by part and by name.

    Short hashes are compared; the facts of a part travel where its hashes differ.
    """
    if group.size == 1:
        return
    texts = {part: json.dumps(values, sort_keys=True, default=str) for part, values in facts.items()}
    sums = {part: hashlib.sha256(text.encode()).hexdigest()[:16] for part, text in texts.items()}
    records = [parse_json(text, _Facts) for text in group.gather(json.dumps(sums), device)]
    for part in texts:
        others = [rank for rank, record in enumerate(records) if record.get(part) != records[0].get(part)]
        if not others:
            continue
        values = [parse_json(text, _Facts) for text in group.gather(texts[part], device)]
        first, other = values[0], values[others[0]]
        name = next(name for name in sorted({*first, *other}) if first.get(name) != other.get(name))
        ranks = ", ".join(map(str, others[:8])) + (", ..." if len(others) > 8 else "")
        raise ConfigError(
            f"The {group.size} processes of the run have different {part}: {name} is {first.get(name)} in process 0 "
            f"and {other.get(name)} in process {others[0]} (other than process 0: {ranks}); start all of them with the "
            "same command, library versions and files."
        )


@contextmanager
def all_or_none(group: Group, device: torch.device) -> Generator[None]:
    """Context of work in which a process can fail alone: then all fail, and the first one that did says why.

    All processes enter it together. Raises the error of this process where it is the first that failed, and
    SaidElsewhere, with the same exit code, in the others.
    """
    if group.size == 1:
        yield
        return
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    own = torch.zeros(group.size, device=device)
    own[group.rank] = 0 if failure is None else getattr(failure, "exit_code", 1)
    codes = [round(code) for code in group.sum(own).tolist()]
    first = next((rank for rank, code in enumerate(codes) if code), None)
    if first is not None and first == group.rank and failure is not None:
        raise failure
    if first is not None:
        raise SaidElsewhere(codes[first]) from failure
