"""A finished run -> a bundled checkpoint: bf16 weights, the bound measured on them, and a card.

    unmask train wordnet --out runs/wordnet
    python tools/bundle_model.py runs/wordnet src/unmask/assets/models/wordnet --recipe wordnet \
        --policy confidence:steps=4 --block-size 8 --temperature 0.8 --top-p 0.9
    python tools/text_model.py wordnet --card --words FILE          # adds its measures to the card

The bound is measured with the rounded weights, on all validation rows, with `--draws` maskings each. `--policy`,
`--block-size`, `--temperature` and `--top-p` become the defaults of `generate` and `fill` with this model.
"""

import argparse
from pathlib import Path

from unmask.api import Model, load
from unmask.config import from_dict, to_dict
from unmask.disk.checkpoint import load_tensors, read_checkpoint, write_checkpoint
from unmask.run.metrics import read_metrics
from unmask.solve.problems import problems, solve
from unmask.tasks import make
from unmask.train.plan import corpus_of
from unmask.train.settings import TextRun

_DECODING = {"policy": str, "block_size": int, "temperature": float, "top_p": float}


def origin(run: dict) -> str:
    """The record of a run -> the line of the card about its training data."""
    source, plan = run["settings"]["data"]["source"], run["plan"]
    sizes = f"{plan['train_tokens']:,} training tokens, {plan['valid_tokens']:,} validation tokens"
    if source.startswith("task:"):
        return f"- problems: `{source}`, made by the library ({sizes} of problems kept apart)"
    return (
        f"- text: the bundled corpus `{source}` (its card names origin and licence),\n  {sizes} of documents kept apart"
    )


def solved(model: Model, source: str, count: int = 512) -> str:
    """A model of a task -> the lines of the card about how many test problems it solves; empty for a model of text."""
    if not source.startswith("task:"):
        return ""
    task = make(source.removeprefix("task:").partition("@")[0])
    canvases = problems(task.examples("test", count), model.tokenizer)
    lines = ""
    for policy in ("random", "confidence"):
        decoder = model.decoder(policy, temperature=0)
        scores, _, _ = solve(decoder, task, canvases, model.tokenizer, device=model.device)
        lines += f"- solves {sum(scores):.0f} of {count} test problems of `{task.name}`, one token a pass, {policy}\n"
    return lines


def card(name: str, recipe: str, run: dict, bound: dict, parameters: int, seconds: float, remark: str) -> str:
    """The card, as Markdown."""
    processor, versions = run["record"]["processor"], run["record"]["versions"]
    size = run["settings"]["train"]["batch"]
    plan, record = run["plan"], run["record"]
    return f"""# {name}

A masked diffusion language model for the library's demo and tests; far too small for anything else.

- command: `unmask train {recipe}`, then `tools/bundle_model.py`
{origin(run)}
- network: {parameters:,} parameters, bf16, window {plan["model"]["max_length"]} tokens
- training: {run["step"]:,} steps of {size} sequences, {seconds / 60:.0f} minutes of stepping
  on {record["threads"]} threads of "{processor}", torch {versions["torch"]}, {run["dtype"]},
  seed {run["settings"]["train"]["seed"]}, machine shared with other work{remark}
- bound on the validation part: {bound["nats_per_token"]:.4f} ± {bound["stderr"]:.4f} nats/token
  ({bound["tokens"]:,} tokens, {bound["sequences"]} sequences, {bound["draws"]} maskings each),
  {bound["bits_per_byte"]:.3f} bits/byte, as `unmask eval {name} --draws {bound["draws"]}` prints it
{run["solved"]}- licence: Apache-2.0, as the library
"""


def main() -> None:
    """Read the command line, and write and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("target", type=Path)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--remark", default="", help="a remark about the training, for the card")
    for name, type_ in _DECODING.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type_)
    args = parser.parse_args()
    decoding = {name: value for name in _DECODING if (value := getattr(args, name)) is not None}
    source = read_checkpoint(args.run)
    assert source.run is not None
    rounded = {name: value.bfloat16() for name, value in load_tensors(args.run).items()}
    config = source.config | ({"decoding": decoding} if decoding else {})
    write_checkpoint(args.target, rounded, config, tokenizer_json=source.tokenizer_json, run=source.run, card="")
    model = load(str(args.target), dtype="float32")
    data = corpus_of(from_dict(TextRun, source.run["settings"], "run.json").data, model.tokenizer)
    bound = to_dict(model.bound_packed(data.valid, draws=args.draws))
    steps = [line for line in read_metrics(Path(args.run) / "metrics.jsonl") if "tokens_per_second" in line]
    per_step = source.run["settings"]["train"]["batch"] * source.run["settings"]["data"]["length"]
    seconds = sum(per_step / line["tokens_per_second"] for line in steps)
    source.run["solved"] = solved(model, source.run["settings"]["data"]["source"])
    text = card(
        args.target.name, args.recipe, source.run, bound, source.parameters, seconds, args.remark and f"; {args.remark}"
    )
    write_checkpoint(
        args.target,
        rounded,
        config,
        tokenizer_json=source.tokenizer_json,
        run={name: part for name, part in source.run.items() if name != "solved"} | {"bound": bound},
        card=text,
    )
    print(text)


if __name__ == "__main__":
    main()
