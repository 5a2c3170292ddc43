"""`unmask generate` and `unmask fill`: text after prompts, text in holes, and probabilities of choices in a hole."""

__all__ = ["FillArguments", "GenerateArguments", "run_fill", "run_generate", "with_checkpoint"]

import math
import os
import shlex
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar

from unmask.cli.attempts import attempt_table, described
from unmask.cli.common import DecodingOptions, MachineOptions, RecordingOptions, StatisticsOptions, print_json
from unmask.cli.parse import Flat, Positional, parse, refuse, typed_options, typed_positionals
from unmask.disk.folders import DEFAULT_MODEL, bundled
from unmask.disk.json import read_lines
from unmask.errors import ConfigError, RequestError, RunError
from unmask.hf.names import is_name, locate
from unmask.limits import require_rows
from unmask.output import console, note, show, show_text
from unmask.ranges import Count, Draws

if TYPE_CHECKING:
    from unmask.api import Model
    from unmask.cli.watch import Tracing
    from unmask.decode.rows import Snapshot, Written

Row = TypeVar("Row", bound="Written")

_WITH_CHOICES = {"choices", "draws", "seed", "device", "dtype", "threads", "json", "verbose"}


@dataclass(frozen=True, slots=True)
class GenerateArguments:
    """Write text: continue a prompt, or start from an empty one.

    A lone argument is the CHECKPOINT if it is the name of a model or a path that exists; else it is the PROMPT,
    and the bundled model continues it.
    """

    checkpoint: Positional[str] = DEFAULT_MODEL
    """A checkpoint or run folder, or the name of a model: bundled, in the cache, or of the Hugging Face hub."""
    prompt: Positional[str] = ""
    """The start of the text."""
    prompts: str | None = None
    """A file with a prompt on each line."""
    length: Count = 128
    """Tokens to write after each prompt; a text longer than the model's window is written in sliding windows."""
    count: Count = 1
    """Number of texts for each prompt."""
    stride: Count | None = None
    """Tokens that each later window adds; by default half a window."""
    chat: bool = False
    """Write the prompt as a user's message in the conversation template of a published model."""
    decoding: Flat[DecodingOptions] = DecodingOptions()
    recording: Flat[RecordingOptions] = RecordingOptions()
    machine: Flat[MachineOptions] = MachineOptions()
    output: Flat[StatisticsOptions] = StatisticsOptions()


@dataclass(frozen=True, slots=True)
class FillArguments:
    r"""Fill the holes of a text, several at once, or compare choices for one.

    [5] is a hole of five tokens. [1-8] has 1 to 8, as the --length-rule chooses. [=old words]
    writes new words there in as many tokens, [4=old words] in 4, [1-8=old words] in 1 to 8. [?] is the hole for the
    --choices. \[ and \] are brackets that are text. Put the space before a word into its brackets: "My[= king] is".

    A likelihood favours shorter texts, because each additional token adds its own nats; cal and lr-dllm do not.

    A lone argument is the TEMPLATE unless it is the name of a model or a path that exists; the bundled model
    fills it.
    """

    checkpoint: Positional[str]
    """A checkpoint or run folder, or the name of a model: bundled, in the cache, or of the Hugging Face hub."""
    template: Positional[str]
    """The text with holes."""
    choices: tuple[str, ...] = ()
    """Texts for [?]: prints how probable each is there, and fills nothing. In a template with holes and without [?]:
    all holes together are one of them."""
    count: Count = 1
    """Number of fillings."""
    draws: Draws = 32
    """Random maskings to compare several lengths, or random orders of the tokens of a long choice."""
    length_rule: str = "likelihood"
    """likelihood: decode every length and keep the best bound. cal or lr-dllm: choose the length of one hole by a few
    passes (docs/decoding.md); cal:bias=FILE with a file of unmask probe holes."""
    decoding: Flat[DecodingOptions] = DecodingOptions()
    recording: Flat[RecordingOptions] = RecordingOptions()
    machine: Flat[MachineOptions] = MachineOptions()
    output: Flat[StatisticsOptions] = StatisticsOptions()


def with_checkpoint(cls: type, argv: Sequence[str], verb: str) -> list[str]:
    """Words -> the same; before a lone argument that is a text, or none, the folder of the bundled model as CHECKPOINT.

    A lone argument is a checkpoint if it is the name of a model or a path that exists. Raises RequestError for
    a word that looks like a path (it has a / or begins with . or ~), and for one that is nearly the name of a model.
    """
    alone = typed_positionals(cls, argv, verb)
    # its folder: nobody typed the name, so that it is not ambiguous
    model = str(bundled().get(DEFAULT_MODEL, DEFAULT_MODEL))
    if not alone and verb == "generate":
        return [model, *argv]
    if len(alone) != 1 or is_name(alone[0]) or os.path.exists(os.path.expanduser(alone[0])):
        return list(argv)
    word = alone[0]
    if word and "[" not in word and not any(sign.isspace() for sign in word):
        as_text = f"If it is a text, write: unmask {verb} {DEFAULT_MODEL} {shlex.quote(word)}"
        if "/" in word or word[0] in ".~":
            try:
                locate(word)
            except (ConfigError, RequestError, RunError) as error:
                raise RequestError(f"{error} {as_text}") from None
            return list(argv)
        near = get_close_matches(word.lower(), bundled(), n=1, cutoff=0.8)
        if near:
            raise RequestError(f"There is no bundled model '{word}'; did you mean '{near[0]}'? {as_text}")
    return [model, *argv]


# ---- both ------------------------------------------------------------------------------------------------------------


def _open(arguments: GenerateArguments | FillArguments) -> "tuple[Model, Tracing | None, dict[str, Any]]":
    """Arguments -> the model, what records its stream (None without --trace), and the keywords of the stream."""
    tracing = None
    if arguments.recording.trace is not None:
        from unmask.cli.watch import Tracing

        tracing = Tracing(arguments.recording.trace)  # before the model is loaded: it refuses a wrong file name
    model = arguments.machine.load(arguments.checkpoint)
    alternatives = 0 if tracing is None else tracing.alternatives
    return model, tracing, {"alternatives": alternatives, **arguments.decoding.keywords(model)}


def _decode(
    arguments: GenerateArguments | FillArguments,
    model: "Model",
    tracing: "Tracing | None",
    stream: "Generator[Snapshot, None, list[Row]]",
    *,
    prompt: Sequence[int] = (),
    total: int,
    template: str | None = None,
) -> "tuple[list[Row], float]":
    """Stream -> its finished rows and the seconds that they took; the first one is shown while it is written.

    That needs --watch. `prompt` and `total` are those of `LiveText`; `template` is the text that is filled, if any.
    """
    from unmask.decode.rows import run_to_end

    began = time.perf_counter()
    if tracing is not None:
        stream = tracing.record(model, stream, template)
    if arguments.recording.watch:
        from unmask.cli.live import LiveText

        on_stdout = _live_on_stdout(arguments)
        screen = console(stderr=not on_stdout, soft_wrap=not sys.stderr.isatty() and not on_stdout)
        with LiveText(model.tokenizer, screen, prompt=prompt, total=total) as live:
            rows = live.follow(stream)
    else:
        rows = run_to_end(stream)
    seconds, decoding = time.perf_counter() - began, arguments.decoding
    if tracing is not None:
        policy, block_size = model.defaults.rule(model.denoiser, decoding.policy, decoding.block_size)
        tracing.save(rows, policy=policy, seed=decoding.seed, block_size=block_size)
    return rows, seconds


def _live_on_stdout(arguments: GenerateArguments | FillArguments) -> bool:
    """Whether --watch shows the first text on stdout, which then has it already; else it is shown on stderr."""
    return arguments.recording.watch and sys.stdout.isatty() and not arguments.output.json


# ---- generate --------------------------------------------------------------------------------------------------------


def run_generate(argv: Sequence[str]) -> int:
    """Words of the command line -> exit code; prints texts after prompts."""
    arguments = parse(GenerateArguments, with_checkpoint(GenerateArguments, argv, "generate"), "generate")
    starts = _prompts(arguments)
    require_rows(len(starts) * arguments.count, arguments.length)
    prompts = [text for text in starts for _ in range(arguments.count)]

    from unmask.results import Generation

    model, tracing, keywords = _open(arguments)
    keywords |= {"length": arguments.length, "stride": arguments.stride, "chat": arguments.chat}
    stream = model.stream(prompts, **keywords)
    prompt = model.defaults.prompt_ids(model.tokenizer, model.network, prompts[:1], arguments.chat)[0]
    rows, seconds = _decode(arguments, model, tracing, stream, prompt=prompt, total=arguments.length)
    result = Generation.of(rows, model.tokenizer, seconds)
    tokens = sum(map(len, result.log_probs))
    if arguments.output.json:
        print_json(
            {
                **result.to_dict(),
                "prompts": prompts,
                "outside_alphabet": model.tokenizer.unknown(*starts),
                "policy": arguments.decoding.policy or model.defaults.policy,
                "seed": arguments.decoding.seed,
                "tokens": tokens,
                "tokens_per_second": tokens / seconds,
            }
        )
    else:
        _print_texts(result.texts, skip_first=_live_on_stdout(arguments))
    if arguments.output.verbose:
        note(
            "",
            f"{tokens:,} token{'s' * (tokens != 1)} in {sum(result.passes):,} passes of a row, "
            f"{seconds:.1f} s ({tokens / seconds:,.0f} tokens/s); unigram entropy {result.entropy:.2f} of at most "
            f"{math.log(max(tokens, 1)):.2f} nats",
        )
    return 0


def _prompts(arguments: GenerateArguments) -> list[str]:
    """Arguments -> the prompts. Raises RequestError for prompt and file at once, or a missing file."""
    if arguments.prompts is None:
        return [arguments.prompt]
    if arguments.prompt:
        raise RequestError("A prompt and a file of prompts were both given; give one of them.")
    return read_lines(arguments.prompts, RequestError, "a text file with a prompt on each line")


def _print_texts(texts: list[str], *, skip_first: bool) -> None:
    """Print the texts on stdout, under headings where there are several."""
    for number, text in enumerate(texts, start=1):
        if skip_first and number == 1:
            continue
        if len(texts) > 1:
            show(*([] if number == 1 else [""]), f"=== {number} of {len(texts)} ===")
        show_text(text)


# ---- fill ------------------------------------------------------------------------------------------------------------


def run_fill(argv: Sequence[str]) -> int:
    """Words of the command line -> exit code; prints fillings, or how probable each choice is."""
    words = with_checkpoint(FillArguments, argv, "fill")
    arguments = parse(FillArguments, words, "fill")
    chosen = bool(arguments.choices) and _has_holes(arguments.template)
    if arguments.choices and not chosen:
        refuse(
            typed_options(FillArguments, words, "fill") - _WITH_CHOICES,
            "--choices, which writes nothing: it computes the probability of each choice.",
        )
        return _print_choices(arguments)
    model, tracing, keywords = _open(arguments)
    template = arguments.template
    if chosen:
        if keywords["constraint"] is not None:
            raise RequestError("--choices cannot go with --only, --regex or --json-schema; give one of them.")
        keywords["constraint"] = model.matching(choices=arguments.choices)
    total = model.canvas_of(template).count(model.tokenizer.mask_id)
    keywords |= {"count": arguments.count, "draws": arguments.draws, "length_rule": arguments.length_rule}
    stream = model.stream_fill(template, **keywords)
    rows, seconds = _decode(arguments, model, tracing, stream, total=total, template=template)
    fills = [described(model, row) for row in rows]
    if arguments.output.json:
        print_json(
            {
                "fills": fills,
                "outside_alphabet": model.tokenizer.unknown(*model.filler.sketch(template).texts),
                "policy": arguments.decoding.policy or model.defaults.policy,
                "seed": arguments.decoding.seed,
                "seconds": seconds,
            }
        )
        return 0
    for number, fill in enumerate(fills, start=1):
        if not (_live_on_stdout(arguments) and number == 1) or fill["attempts"]:
            show_text(fill["text"])
        if arguments.output.verbose:
            holes = " | ".join(f"{text!r}" for text in fill["holes"])
            note(f"  filled {holes}: {fill['nats']:.2f} nats in all, {fill['passes']} passes")
            if fill["attempts"]:
                note(*attempt_table(fill["attempts"]))
            if fill["length_scores"]:
                scores = sorted(fill["length_scores"].items(), key=lambda pair: -pair[1])
                note(f"  {arguments.length_rule}: " + ", ".join(f"{n} tokens {score:.3f}" for n, score in scores))
    return 0


def _has_holes(template: str) -> bool:
    """Whether a template has holes to be written, and no [?]."""
    from unmask.text.template import Slot, parse_template

    parts = parse_template(template)
    return not any(isinstance(part, Slot) for part in parts) and not all(isinstance(part, str) for part in parts)


def _print_choices(arguments: FillArguments) -> int:
    """Print how probable each choice is, the most probable first -> exit code 0."""
    model, seed = arguments.machine.load(arguments.checkpoint), arguments.decoding.seed
    began = time.perf_counter()
    choices = model.score(arguments.template, arguments.choices, orders=arguments.draws, seed=seed)
    if arguments.output.json:
        seconds = time.perf_counter() - began
        print_json({"choices": [asdict(choice) for choice in choices], "seed": seed, "seconds": seconds})
        return 0
    width = max(len(repr(choice.text)) for choice in choices)
    show(f"{'':{width}}  probability    nats          tokens")
    for choice in sorted(choices, key=lambda choice: -choice.probability):
        show(
            f"{choice.text!r:{width}}  {choice.probability:11.4f}  {choice.nats:6.2f} ± {choice.stderr:<5.2f}  "
            f"{choice.tokens:>6}"
        )
    if arguments.output.verbose:
        note(f"  {arguments.draws} random orders of each choice, {time.perf_counter() - began:.1f} s")
    return 0
