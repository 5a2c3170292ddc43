"""A model of definitions -> its measures as JSON, and as a table for its card.

    apt-get download wamerican && dpkg-deb -x wamerican_*.deb wamerican
    python tools/text_model.py wordnet --words wamerican/usr/share/dict/american-english
    python tools/text_model.py RUN --frontier --out frontier.json

A text is what the model writes after the word of a held-out row, `word:`; the reference is what the row has there. Both
have the same words in front, and are compared by three measures that need no other model: the share of words that a
dictionary has, the entropy of single tokens, and the perplexity under a 3-gram model of the training rows. `--frontier`
measures several ways of decoding; their seeds and words are not those of the table.
"""

__all__ = [
    "Passage",
    "compare",
    "frontier",
    "lookup",
    "main",
    "passages",
]

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from unmask.api import Model, load
from unmask.data.prepare import open_sources
from unmask.data.split import plan_split
from unmask.decode.rows import run_to_end
from unmask.disk.files import atomic_text
from unmask.eval.text import Text, Trigram, entropy, known_words
from unmask.hf.names import locate
from unmask.train.plan import corpus_of
from unmask.train.settings import trained_on

RULES = (  # policies with the size of their blocks
    ("left-to-right", None),
    ("entropy:steps=4", 8),
    ("confidence:steps=4", 8),
    ("random:steps=4", 8),
    ("entropy-bound:gamma=0.5", 8),
    ("entropy:steps=16", None),
)
TEMPERATURES, TOP_PS = (0.65, 0.8), (0.9, 1.0)
SHOWN = 20  # texts in the card
_HEADING = "## Measures"


class Passage(NamedTuple):
    """A held-out row in two parts."""

    prompt: str
    """The word and a colon."""
    rest: str


def passages(texts: Iterable[str]) -> list[Passage]:
    """Rows -> their passages, the first of each word, in the order of the rows."""
    first: dict[str, Passage] = {}
    for text in texts:
        word, colon, rest = text.partition(":")
        first.setdefault(word, Passage(word + colon, rest))
    return list(first.values())


@dataclass(frozen=True, slots=True)
class Material:
    """What all measures of a model use."""

    model: Model
    training: list[str]
    held_out: list[str]
    trigram: Trigram

    @classmethod
    def of(cls, model: Model) -> "Material":
        """A model -> the rows of its training and the others, split as it was trained, and the 3-gram of the former."""
        assert model.checkpoint is not None
        trained = trained_on(model.checkpoint)
        assert trained is not None
        plan = plan_split(open_sources(trained.data), trained.data.valid_share)
        units = list(plan.units())
        training = [unit.text for unit in units if not unit.valid]
        rows = (ended(model, text) for text in training)
        held_out = [unit.text for unit in units if unit.valid]
        return cls(model, training, held_out, Trigram(rows, model.tokenizer.vocab_size))


def ended(model: Model, text: str, inside: bool = False) -> list[int]:
    """A text -> its ids and EOS."""
    return [*model.tokenizer.encode(text, inside), *[i for i in (model.tokenizer.eos_id,) if i is not None]]


def written(material: Material, passages: Sequence[Passage], seed: int, decoding: dict[str, Any]) -> list[Any]:
    """Passages -> what the model writes after their prompts, one row each; `decoding` are keywords of `stream`."""
    model, prompts = material.model, [passage.prompt for passage in passages]
    length = model.window - max(len(model.tokenizer.encode(prompt)) for prompt in prompts)
    return run_to_end(model.stream(prompts, length=length, seed=seed, **decoding))


def compare(material: Material, passages: Sequence[Passage], seed: int, decoding: dict[str, Any]) -> dict[str, Any]:
    """Passages -> entropy and perplexity of what the model writes, beside those of what the rows have there."""
    began = time.process_time()
    rows = written(material, passages, seed, decoding)
    seconds = time.process_time() - began
    tokenizer = material.model.tokenizer
    end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    samples = [(row.tokens[: row.prompt], row.tokens[row.prompt :] + end * row.stopped) for row in rows]
    held_out = [(tokenizer.encode(prompt), ended(material.model, rest, inside=True)) for prompt, rest in passages]
    ours, theirs = ([token for _, tokens in texts for token in tokens] for texts in (samples, held_out))
    size = min(len(ours), len(theirs))  # the entropy of frequencies grows with the number of tokens
    texts = [tokenizer.decode([*before, *tokens]) for before, tokens in samples]
    return {
        "texts": texts,
        "rests": [tokenizer.decode(tokens) for _, tokens in samples],
        "tokens": [len(ours) / len(samples), len(theirs) / len(samples)],
        "passes": sum(row.passes for row in rows) / len(rows),
        "ended": sum(row.stopped for row in rows) / len(rows),
        "entropy": [entropy(ours[:size]), entropy(theirs[:size])],
        "perplexity": [perplexity(material, samples), perplexity(material, held_out)],
        "seconds": seconds,
    }


def perplexity(material: Material, texts: Iterable[tuple[Sequence[int], Sequence[int]]]) -> float:
    """(Tokens before, tokens) of each text -> the perplexity of the tokens under the 3-gram model."""
    nats, counts = material.trigram.nats([Text(before, tokens, "") for before, tokens in texts])
    return math.exp(sum(nats) / sum(counts))


def lookup(material: Material, count: int) -> dict[str, Any]:
    """How often `fill "[1]: DEFINITION"` writes the word of a held-out row, has it among the five most probable, and
    prefers it to the words of the nine next rows.

    The rows are the first `count` whose word is one token. The definition is without its example, which has the word;
    the temperature is 0.
    """
    model, tokenizer = material.model, material.model.tokenizer
    answers: list[dict[str, Any]] = []
    orders: list[list[int]] = []
    for prompt, rest in passages(material.held_out):
        word = prompt[:-1]
        if len(tokenizer.encode(word)) > 1 or len(answers) == count:
            continue
        definition = rest.split(' "')[0]
        *_, last = model.stream_fill(f"[1]:{definition}", temperature=0.0, alternatives=tokenizer.vocab_size)
        assert last.step.candidates is not None
        ids = [token for token in last.step.candidates[0, 0].tolist() if token not in tokenizer.special_ids]
        answers.append({"word": word, "definition": definition, "five": [tokenizer.decode([i]) for i in ids[:5]]})
        orders.append(ids)
    targets = [tokenizer.encode(answer["word"])[0] for answer in answers]
    tens = [{targets[(row + further) % len(targets)] for further in range(10)} for row in range(len(targets))]
    firsts = [next(token for token in order if token in ten) for order, ten in zip(orders, tens, strict=True)]
    return {
        "count": len(answers),
        "first": sum(answer["word"] == answer["five"][0] for answer in answers) / len(answers),
        "five": sum(answer["word"] in answer["five"] for answer in answers) / len(answers),
        "among_ten": sum(map(int.__eq__, firsts, targets)) / len(answers),
        "answers": answers,
    }


def dictionary_of(path: Path) -> frozenset[str]:
    """A file with a word on each line -> its words in lower case."""
    return frozenset(word.lower() for word in path.read_text("utf-8").split())


def frontier(
    material: Material, rows: Sequence[Passage], seeds: Sequence[int], dictionary: frozenset[str]
) -> list[dict[str, Any]]:
    """Ways of decoding -> means over `seeds`: entropy, perplexity and length relative to those of the rows, the share
    of words in the dictionary, and passes.
    """
    points: list[dict[str, Any]] = []
    for (policy, block_size), temperature, top_p in itertools.product(RULES, TEMPERATURES, TOP_PS):
        decoding = {"policy": policy, "block_size": block_size, "temperature": temperature, "top_p": top_p}
        results = [compare(material, rows, seed, decoding) for seed in seeds]
        means = {
            name: sum(result[name][0] / result[name][1] for result in results) / len(results)
            for name in ("entropy", "perplexity", "tokens")
        }
        means["words"] = known_words((text for result in results for text in result["rests"]), dictionary) or 0.0
        points.append(decoding | means | {"passes": sum(result["passes"] for result in results) / len(results)})
        print(json.dumps(points[-1] | {"text": results[0]["texts"][0]}), flush=True)
    return points


def measure(material: Material, options: argparse.Namespace, decoding: dict[str, Any]) -> dict[str, Any]:
    """The options of the command -> all measures of the table, and the texts of the card."""
    dictionary = dictionary_of(options.words)
    rows = passages(material.held_out)[: options.count]
    result = compare(material, rows, 0, decoding)
    assert material.model.checkpoint is not None
    trained = trained_on(material.model.checkpoint)
    assert trained is not None
    bound = material.model.bound_packed(corpus_of(trained.data, material.model.tokenizer).valid, draws=options.draws)
    looked_up = lookup(material, options.headwords)
    texts, rests = result.pop("texts"), result.pop("rests")
    return {
        "decoding": decoding,
        "count": len(rows),
        **result,
        "words": [known_words(rests, dictionary), known_words((rest for _, rest in rows), dictionary)],
        "bound": bound.to_dict(),
        "lookup": looked_up,
        "samples": texts[:SHOWN],
    }


def _percent(rate: float, count: int) -> str:
    """A rate among `count` answers -> per cent, with the standard error."""
    return f"{100 * rate:.1f} ± {100 * math.sqrt(rate * (1 - rate) / count):.1f} %"


def table(measures: dict[str, Any]) -> str:
    """Measures -> the table of the card, and its texts, as Markdown."""
    lookup, bound, count = measures["lookup"], measures["bound"], measures["count"]
    error = bound["bits_per_byte"] * bound["stderr"] / bound["nats_per_token"]
    how = ", ".join(f"{name} {value}" for name, value in measures["decoding"].items())
    rows = [
        ("words that the dictionary has", *(f"{100 * value:.1f} %" for value in measures["words"])),
        ("entropy of single tokens, nats", *(f"{value:.2f}" for value in measures["entropy"])),
        ("perplexity under the 3-gram model", *(f"{value:.0f}" for value in measures["perplexity"])),
        ("tokens of a text", *(f"{value:.1f}" for value in measures["tokens"])),
    ]
    first, five, ten = (_percent(lookup[name], lookup["count"]) for name in ("first", "five", "among_ten"))
    return "\n".join(
        [
            f"Texts after the words of {count} held-out rows ({how or 'the default decoding'}), beside those rows:",
            "",
            "| measure | model | held-out rows |",
            "|---|---|---|",
            *(f"| {name} | {ours} | {theirs} |" for name, ours, theirs in rows),
            "",
            f"- passes a text: {measures['passes']:.1f}; texts that end: {100 * measures['ended']:.0f} %",
            f"- {bound['bits_per_byte']:.3f} ± {error:.3f} bits/byte on the held-out rows",
            f'- `fill "[1]: DEFINITION"` for {lookup["count"]} held-out words: first {first}, among five {five};',
            f"  before the words of nine other rows {ten} (by chance 10 %)",
            f"- the first {len(measures['samples'])} texts, seed 0:",
            "",
            *(f"      {text}" for text in measures["samples"]),
        ]
    )


def main() -> None:
    """Read the command line, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a checkpoint or run folder, or the name of a bundled model")
    parser.add_argument("--words", type=Path, default=Path("/usr/share/dict/american-english"))
    parser.add_argument("--count", type=int, default=400, help="texts")
    parser.add_argument("--headwords", type=int, default=200, help="words that are looked up by their definition")
    parser.add_argument("--draws", type=int, default=4, help="maskings of each held-out row for the bound")
    parser.add_argument("--policy")
    parser.add_argument("--block-size", type=int)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--frontier", action="store_true", help="compare ways of decoding instead")
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102], help="of the frontier")
    parser.add_argument("--card", action="store_true", help="write the table at the end of the card of the model")
    parser.add_argument("--out", type=Path, help="also write the JSON there")
    options = parser.parse_args()
    material = Material.of(load(options.model, dtype="float32"))
    if options.frontier:
        validation = passages(material.held_out)[options.count : 2 * options.count]
        result: Any = frontier(material, validation, options.seeds, dictionary_of(options.words))
        text = ""
    else:
        named = {name: getattr(options, name) for name in ("policy", "block_size", "temperature", "top_p")}
        result = measure(material, options, {name: value for name, value in named.items() if value is not None})
        text = table(result)
        if options.card:
            card = Path(locate(options.model)) / "card.md"
            atomic_text(card, card.read_text("utf-8").partition(f"\n{_HEADING}")[0] + f"\n{_HEADING}\n\n{text}\n")
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(text or json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
