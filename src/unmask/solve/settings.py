"""Which settings a sweep has: policies by name with their knobs, and block sizes."""

__all__ = ["TOKENS_A_PASS", "Setting", "block_sizes", "every_policy", "settings_of"]

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from unmask.batch import ceil_div
from unmask.errors import RequestError
from unmask.policies.learned.policy import Learned
from unmask.policies.registry import ENTRIES, Context, Entry, make

TOKENS_A_PASS = (1, 2, 3, 4, 6, 8, 12)


@dataclass(frozen=True, slots=True)
class Setting:
    """A way to decode: a policy by name and a block size (None: the whole canvas)."""

    policy: str
    block_size: int | None = None

    @property
    def key(self) -> str:
        return f"{self.policy} @ {self.block_size or 'full'}"


def every_policy(temperature: float) -> list[str]:
    """Every policy that needs no folder; at temperature 0 the best token is the drawn one, so one of two twins."""
    return [
        name
        for name, entry in ENTRIES.items()
        if not entry.needs_folder and (temperature > 0 or name != "best-confidence")
    ]


def block_sizes(texts: Sequence[str], length: int) -> list[int | None]:
    """Block sizes from what was typed, `length` the most positions that a problem has to fill.

    Raises RequestError for what is none.
    """
    found: list[int | None] = []
    for text in texts:
        head, slash, tail = text.partition("/")
        if text == "full":
            found.append(None)
        elif slash and head == "1" and tail.isdecimal() and int(tail) > 0:
            found.append(max(1, round(length / int(tail))))
        elif not slash and text.isdecimal() and int(text) > 0:
            found.append(int(text))
        else:
            raise RequestError(f"'{text}' is no block size; give full, a number such as 8, or a share such as 1/4.")
    return list(dict.fromkeys(found))


def settings_of(names: Iterable[str], blocks: Sequence[int | None], length: int) -> list[Setting]:
    """Every knob of the named policies with every block size; `length` is the most positions that a problem has.

    A name whose options say the knob is taken as it stands, and so is one that has none: a learned policy that is not
    told the price, for example. Raises RequestError for a name that is none.
    """
    found: dict[str, Setting] = {}
    for name in names:
        entry, given = ENTRIES.get(name.partition(":")[0]), name.partition(":")[2]
        swept = entry is not None and " or " not in name and entry.knob is not None and not _said(entry, given)
        if given or not swept:
            rule = make(name, Context(unigram=lambda: torch.ones(1)))
            swept = swept and not (isinstance(rule, Learned) and not rule.settings.priced)
        for block in blocks:
            texts = _knobs(name, entry, min(block or length, length)) if swept and entry is not None else [name]
            for text in texts:
                one = Setting(text, None if block is None or block >= length else block)
                found.setdefault(one.key, one)
    return list(found.values())


def _said(entry: Entry, given: str) -> bool:
    """Whether the options say the knob, or what stands for it: passes for a dial, a saved pace for its steps."""
    assert entry.knob is not None
    options = [option.partition("=") for option in given.split(",")]
    said = {"steps" if key.strip() == "pace" and value.endswith(".json") else key.strip() for key, _, value in options}
    return bool(said & {entry.knob.option, "passes" if entry.needs_folder else entry.knob.option})


def _knobs(name: str, entry: Entry, size: int) -> list[str]:
    """The texts of a policy's settings in blocks of `size` positions; `name` may have other options."""
    assert entry.knob is not None
    name = f"{name}," if ":" in name else f"{name}:"
    if entry.knob.values:
        return [f"{name}{entry.knob.option}={value:g}" for value in entry.knob.values]
    counts = sorted({ceil_div(size, tokens) for tokens in (*TOKENS_A_PASS, size) if tokens <= size})
    return [f"{name}{entry.knob.option}={count}" for count in counts]
