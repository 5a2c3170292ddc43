"""Many settings over the same problems: what `frontier` measures, what warm starts and validation choose from.

Each setting is a policy by name with a block size. Problems, seeds and verifier are the same for all, so that settings
can be compared prompt by prompt. Workers are processes of one thread each; what is done is on disk and is not done
again.
"""

__all__ = [
    "Bench",
    "Outcome",
    "Problem",
    "Setting",
    "block_sizes",
    "every_policy",
    "fitting",
    "most_holes",
    "problems",
    "scored",
    "settings_of",
    "solve",
    "sweep",
]

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch

from unmask.decode.loop import Decoder
from unmask.decode.rows import decode_rows, finished
from unmask.disk.files import explained
from unmask.errors import ConfigError, RequestError
from unmask.noise import derive
from unmask.policies.learned.policy import Learned
from unmask.policies.registry import ENTRIES, Context, Entry, make
from unmask.tasks import judge_all
from unmask.tasks.base import Example, Task
from unmask.text.template import Hole, parse_template
from unmask.text.tokenizer import Tokenizer

TOKENS_A_PASS = (1, 2, 3, 4, 6, 8, 12)


@dataclass(frozen=True, slots=True)
class Setting:
    """A way to decode: a policy by name and a block size (None: the whole canvas)."""

    policy: str
    block_size: int | None = None

    @property
    def key(self) -> str:
        return f"{self.policy} @ {self.block_size or 'full'}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a setting achieved, problem by problem, in their order."""

    setting: Setting
    scores: list[float]
    passes: list[int]
    seconds: float
    """Of the processor, for all problems together, verifier included."""

    @property
    def accuracy(self) -> float:
        """Mean score."""
        return sum(self.scores) / len(self.scores)

    @property
    def mean_passes(self) -> float:
        """Mean number of forward passes a problem."""
        return sum(self.passes) / len(self.passes)


class Problem(NamedTuple):
    """An example as token ids."""

    example: Example
    row: list[int]  # MASK in its holes
    holes: list[int]  # the positions of these


def problems(examples: Sequence[Example], tokenizer: Tokenizer) -> list[Problem]:
    """Examples as rows. Raises RequestError where a hole has no fixed length."""
    return [_problem(example, tokenizer) for example in examples]


def fitting(
    task: Task, examples: Sequence[Example], tokenizer: Tokenizer, window: int | None, checkpoint: str
) -> list[Problem]:
    """`problems` of a task for a model.

    Raises RequestError where there are none, where none is in the model's characters, or one is longer than its window.
    """
    given = problems(examples, tokenizer)
    if not given:
        raise RequestError(f"{task.name} has no problems of the split that was asked for; choose another split.")
    if all(tokenizer.unknown_id in problem.row for problem in given):
        raise RequestError(
            f"The problems of {task.name} are written in characters that {checkpoint} does not know; "
            "name the model that was trained on them."
        )
    longest = max(len(problem.row) for problem in given)
    if window is not None and longest > window:
        raise RequestError(
            f"A problem of {task.name} has {longest} tokens, but the window of {checkpoint} is {window}; "
            "choose a task that fits the model."
        )
    return given


def most_holes(given: Sequence[Problem]) -> int:
    """L: how many positions the longest problem has to fill."""
    return max(len(problem.holes) for problem in given)


def _problem(example: Example, tokenizer: Tokenizer) -> Problem:
    row: list[int] = []
    for part in parse_template(example.template):
        if isinstance(part, str):
            row += tokenizer.encode(part)
        elif isinstance(part, Hole) and part.longest is None:
            row += [tokenizer.mask_id] * part.length
        else:
            raise RequestError(
                f"The problem '{example.template}' has a hole of no fixed length; write [5] for 5 tokens."
            )
    return Problem(example, row, [at for at, token in enumerate(row) if token == tokenizer.mask_id])


def solve(
    decoder: Decoder, task: Task, given: Sequence[Problem], tokenizer: Tokenizer, *, seed: int = 0, batch: int = 256
) -> tuple[list[float], list[int]]:
    """Decode the problems and judge them: a score and a number of passes each."""
    stream = decode_rows(
        decoder,
        [problem.row for problem in given],
        [derive(seed, number) for number in range(len(given))],
        pad_id=tokenizer.pad_id,
        batch=batch,
        device=torch.device("cpu"),
    )
    filled = finished(stream)
    scores = scored(task, given, [row.tokens for row in filled], tokenizer)
    return scores, [row.passes for row in filled]


def scored(task: Task, given: Sequence[Problem], rows: Sequence[Sequence[int]], tokenizer: Tokenizer) -> list[float]:
    """The scores of rows whose holes were filled: what was written, up to EOS."""
    texts: list[str] = []
    for problem, tokens in zip(given, rows, strict=True):
        written = [tokens[at] for at in problem.holes]
        if tokenizer.eos_id in written:
            written = written[: written.index(tokenizer.eos_id)]
        texts.append(tokenizer.decode(written))
    verdicts = judge_all(task, [(problem.example, text) for problem, text in zip(given, texts, strict=True)])
    return [verdict.score for verdict in verdicts]


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
    """Whether the options say the knob, or what stands for it: passes for a dial, a saved schedule for its steps."""
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
    counts = sorted({math.ceil(size / tokens) for tokens in (*TOKENS_A_PASS, size) if tokens <= size})
    return [f"{name}{entry.knob.option}={count}" for count in counts]


# ---- many of them ----------------------------------------------------------------------------------------------------


class Bench(NamedTuple):
    """What a worker needs, made once in each: see `sweep`."""

    decoder: Callable[[Setting], Decoder]
    task: Task
    problems: list[Problem]
    tokenizer: Tokenizer
    seed: int


_bench: Bench | None = None


def _open(build: Callable[..., Bench], arguments: Mapping[str, Any]) -> None:
    global _bench
    torch.set_num_threads(1)
    _bench = build(**arguments)


def _work(setting: Setting) -> Outcome:
    assert _bench is not None
    began = time.process_time()
    scores, passes = solve(_bench.decoder(setting), _bench.task, _bench.problems, _bench.tokenizer, seed=_bench.seed)
    return Outcome(setting, scores, passes, time.process_time() - began)


def sweep(
    build: Callable[..., Bench],
    arguments: Mapping[str, Any],
    settings: Sequence[Setting],
    *,
    workers: int,
    record: Path | None = None,
    stamp: Callable[[Setting], str] = lambda _: "",
) -> Iterator[Outcome]:
    """The outcome of each setting, as they come; those on `record` (a .jsonl file) first, without doing them again.

    `build(**arguments)` makes the Bench in each of `workers` processes (it has to be importable, its arguments
    picklable); with one worker it is made here. The record begins with the arguments, and one of others is refused; an
    outcome on it whose `stamp` is another than that of its setting now is not used.
    """
    known = _read(record, arguments, {one.key: stamp(one) for one in settings})
    yield from (known[one.key] for one in settings if one.key in known)
    open_ = [one for one in settings if one.key not in known]
    if not open_:
        return
    if workers <= 1 or len(open_) == 1:
        before = torch.get_num_threads()
        try:
            _open(build, arguments)
            for one in open_:
                yield _noted(_work(one), record, stamp)
        finally:
            torch.set_num_threads(before)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _open, (build, dict(arguments)))
    try:
        for future in as_completed([pool.submit(_work, one) for one in open_]):
            yield _noted(future.result(), record, stamp)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _read(record: Path | None, arguments: Mapping[str, Any], stamps: Mapping[str, str]) -> dict[str, Outcome]:
    """The outcomes on a record, made if it is not there. Raises ConfigError for the record of something else."""
    if record is None:
        return {}
    head = json.dumps(dict(arguments), sort_keys=True)
    if not record.exists():
        with explained(record):
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(head + "\n", encoding="utf-8")
        return {}
    lines = record.read_text(encoding="utf-8").splitlines()
    if not lines or lines[0] != head:
        raise ConfigError(f"{record} holds the outcomes of another sweep; choose another folder with --out.")
    found: dict[str, Outcome] = {}
    for line in lines[1:]:
        try:
            one = json.loads(line)
        except json.JSONDecodeError:
            continue  # cut off in the middle of a line: it is done again
        made_of = one.pop("stamp", "")
        outcome = Outcome(Setting(**one.pop("setting")), **one)
        if stamps.get(outcome.setting.key) == made_of:
            found[outcome.setting.key] = outcome
    return found


def _noted(outcome: Outcome, record: Path | None, stamp: Callable[[Setting], str]) -> Outcome:
    if record is not None:
        line = json.dumps({**asdict(outcome), "stamp": stamp(outcome.setting)})
        with explained(record), record.open("a", encoding="utf-8") as file:
            file.write("\n" * (not _ends_line(record)) + line + "\n")
    return outcome


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"
