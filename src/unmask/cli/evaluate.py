"""`unmask eval`: how well a model knows a text."""

__all__ = ["EvalArguments", "over_training", "run"]

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from unmask.cli.parse import Positional, parse, typed_options
from unmask.cli.show import duration, note, print_json, table
from unmask.data.settings import DataSettings
from unmask.errors import RequestError

if TYPE_CHECKING:
    from unmask.api import Model
    from unmask.objective.bound import Bound

_FIXED = ("data.tokenizer", "data.vocab_size", "data.mask_token")

Arguments = TypeVar("Arguments")


@dataclass(frozen=True, slots=True)
class EvalArguments:
    """The bound on -log p of a text: nats/token, perplexity, bits/byte.

    By default of the text that was held out when the checkpoint was trained.
    """

    checkpoint: Positional[str]
    """A checkpoint or run folder, or the name of a bundled model."""
    data: DataSettings = field(default_factory=DataSettings)
    """The text; what is not given is as it was in training."""
    split: Literal["valid", "train", "all"] = "valid"
    """Which part of the text."""
    draws: int = 4
    """Random maskings of each sequence."""
    limit: int | None = None
    """Measure only the first so many sequences of each part."""
    batch: int = 32
    """Sequences measured together."""
    seed: int = 0
    """Seed of the maskings."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network."""
    threads: int | None = None
    """Processor threads; by default torch's own choice."""
    json: bool = False
    """Print one JSON object on stdout."""


def run(argv: Sequence[str]) -> int:
    """Measure and print."""
    arguments = over_training(EvalArguments, argv, "eval")
    for name in ("draws", "limit", "batch"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise RequestError(f"{name} is {value}; give at least 1.")

    import unmask
    from unmask.objective.bound import Bound
    from unmask.train.problems import corpus_of

    model = unmask.load(arguments.checkpoint, device=arguments.device, dtype=arguments.dtype, threads=arguments.threads)
    if arguments.data.length > model.window:
        raise RequestError(
            f"data.length is {arguments.data.length}, but the model's window is {model.window} tokens; "
            f"set --data.length {model.window} or less."
        )
    corpus = corpus_of(replace(arguments.data, tokenizer="auto", vocab_size=None), model.tokenizer, note)
    parts = {"valid": [corpus.valid], "train": [corpus.train], "all": [corpus.train, corpus.valid]}[arguments.split]
    count = sum(len(part) if arguments.limit is None else min(len(part), arguments.limit) for part in parts)
    note(f"measuring {count:,} sequences of {arguments.data.source}, {arguments.draws} maskings each.")
    began = time.perf_counter()
    measured = [
        model.bound_packed(
            part, limit=arguments.limit, draws=arguments.draws, seed=arguments.seed, batch=arguments.batch
        )
        for part in parts
    ]
    result = measured[0] if len(measured) == 1 else Bound.combined(measured)
    _print(model, arguments, result, time.perf_counter() - began)
    return 0


def over_training(cls: type[Arguments], argv: Sequence[str], verb: str) -> Arguments:
    """Read the words of a verb over the data settings that its `checkpoint` was trained with; they are its `data`."""
    first: Any = parse(cls, argv, verb)
    given = typed_options(cls, argv, verb)
    for name in _FIXED:
        if name in given:
            raise RequestError(
                f"--{name.replace('_', '-')} does not go with {verb}: the tokenizer is the checkpoint's."
            )

    from unmask.assets.bundled import locate
    from unmask.config import from_dict
    from unmask.disk.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(locate(first.checkpoint))
    settings: dict[str, Any] = (checkpoint.run or {}).get("settings", {})
    if "data" in settings:
        base = from_dict(DataSettings, settings["data"], f"{checkpoint.folder}/run.json")
    elif "data.source" in given:
        base = DataSettings(length=checkpoint.config.get("model", {}).get("max_length", 256))
    else:
        raise RequestError(f"{checkpoint.folder} does not say what it was trained on; give a text with --data.source.")
    if "data.source" in given and "data.valid" not in given:
        base = replace(base, valid=None)
    return parse(cls, argv, verb, replace(first, data=base))


def _print(model: "Model", arguments: EvalArguments, found: "Bound", seconds: float) -> None:
    """The figures, for people or programs."""
    if arguments.json:
        print_json(
            {
                "checkpoint": str(model.checkpoint.folder) if model.checkpoint else arguments.checkpoint,
                "source": arguments.data.source,
                "split": arguments.split,
                **asdict(found),
                "perplexity": found.perplexity,
                "seconds": seconds,
            }
        )
        return
    error, bits = "" if found.stderr is None else f" ± {found.stderr:.4f}", found.bits_per_byte
    rows = {
        "text": f"{arguments.data.source} ({arguments.split})",
        "bound": f"{found.nats_per_token:.4f}{error} nats/token",
        "perplexity": f"{found.perplexity:.2f}",
        "bits/byte": "only on whole parts (no --limit)" if bits is None else f"{bits:.4f}",
        "measured": f"{found.tokens:,} tokens in {found.sequences:,} sequences, {found.draws} maskings each, "
        f"{duration(seconds)}",
    }
    print(table(rows))
