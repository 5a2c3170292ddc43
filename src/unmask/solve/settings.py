"""The settings of a sweep: each is a policy with a value of its knob, and a block size.

The knob of a policy is the option that trades accuracy against passes.
"""

__all__ = ["TOKENS_A_PASS", "Setting", "block_sizes", "every_policy", "settings_of"]

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from unmask.batch import ceil_div
from unmask.errors import RequestError
from unmask.policies.entries import ENTRIES, Entry
from unmask.policies.learned.policy import Learned
from unmask.policies.options import Context
from unmask.policies.registry import make
from unmask.ranges import Count

TOKENS_A_PASS = (1, 2, 3, 4, 6, 8, 12)
"""Tokens a pass, for knobs that count passes."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A way to decode: the text of a policy, and a block size (None: one block)."""

    policy: str
    block_size: Count | None = None

    @property
    def key(self) -> str:
        """The setting as text; different settings have different keys."""
        return f"{self.policy} @ {self.block_size or 'full'}"


def every_policy(temperature: float) -> list[str]:
    """Temperature -> the names of all policies that need no folder.

    best-confidence is left out at temperature 0, where the drawn token is the best one and it equals confidence.
    """
    return [
        name
        for name, entry in ENTRIES.items()
        if not entry.needs_folder and (temperature > 0 or name != "best-confidence")
    ]


def block_sizes(texts: Sequence[str], length: int) -> list[int | None]:
    """Texts (full, 8, 1/4) -> block sizes without repetition; `length` is the number of positions of the full canvas.

    Raises RequestError for a text that is no block size.
    """
    sizes: list[int | None] = []
    for text in texts:
        head, slash, tail = text.partition("/")
        if text == "full":
            sizes.append(None)
        elif slash and head == "1" and tail.isdecimal() and int(tail) > 0:
            sizes.append(max(1, round(length / int(tail))))
        elif not slash and text.isdecimal() and int(text) > 0:
            sizes.append(int(text))
        else:
            raise RequestError(f"'{text}' is no block size; give full, a number such as 8, or a share such as 1/4.")
    return list(dict.fromkeys(sizes))


def settings_of(names: Iterable[str], blocks: Sequence[int | None], length: int) -> list[Setting]:
    """Names of policies, perhaps with options -> their settings: every value of the knob with every block size.

    `length` is the largest number of positions that a problem has to fill. A name is one setting (a block size) where
    its options fix the knob or the policy has no knob, such as a learned policy without the cost of a pass among its
    inputs. Raises RequestError for an unknown name.
    """
    settings: dict[str, Setting] = {}
    for name in names:
        entry, options = ENTRIES.get(name.partition(":")[0]), name.partition(":")[2]
        swept = entry is not None and " or " not in name and entry.knob is not None and not _fixes_knob(entry, options)
        if options or not swept:
            rule = make(name, Context(unigram=lambda: torch.ones(1)))
            swept = swept and not (isinstance(rule, Learned) and not rule.settings.priced)
        for block in blocks:
            texts = _knobs(name, entry, min(block or length, length)) if swept and entry is not None else [name]
            for text in texts:
                setting = Setting(text, None if block is None or block >= length else block)
                settings.setdefault(setting.key, setting)
    return list(settings.values())


def _fixes_knob(entry: Entry, options: str) -> bool:
    """Whether the options fix the knob: by its own name, by passes for a dial, or by a pace file for steps."""
    assert entry.knob is not None
    pairs = [option.partition("=") for option in options.split(",")]
    names = {"steps" if key.strip() == "pace" and value.endswith(".json") else key.strip() for key, _, value in pairs}
    return bool(names & {entry.knob.option, "passes" if entry.needs_folder else entry.knob.option})


def _knobs(name: str, entry: Entry, size: int) -> list[str]:
    """Policy -> its text with each value of the knob, for blocks of `size` positions; `name` may have other options."""
    assert entry.knob is not None
    name = f"{name}," if ":" in name else f"{name}:"
    if entry.knob.values:
        return [f"{name}{entry.knob.option}={value:g}" for value in entry.knob.values]
    counts = sorted({ceil_div(size, tokens) for tokens in (*TOKENS_A_PASS, size) if tokens <= size})
    return [f"{name}{entry.knob.option}={count}" for count in counts]
