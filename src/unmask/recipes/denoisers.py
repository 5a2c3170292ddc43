"""Recipes of denoisers: functions that return the settings of a training run; imported without torch."""

__all__ = [
    "RECIPES",
    "adapt",
    "antibody",
    "arithmetic",
    "automaton",
    "automaton_eos",
    "automaton_long",
    "automaton_long_eos",
    "countdown",
    "dna",
    "mdlm_owt",
    "names",
    "read",
    "sudoku",
    "sudoku_9x9",
    "sums",
    "text",
    "wordnet",
]

from collections.abc import Callable
from pathlib import Path

from unmask.config import from_dict
from unmask.data.settings import DataSettings
from unmask.disk.json import read_toml
from unmask.errors import ConfigError, did_you_mean
from unmask.train.settings import AdaptSettings, ModelChoice, TextRun, TrainSettings


def adapt() -> TextRun:
    """A causal model (Llama, Qwen, SmolLM) made bidirectional and trained with the masked-diffusion bound.

        unmask train adapt --init smollm2-135m-instruct-q4_1 --data.source wordnet

    With --init, which may also be a folder as it is published. Low-rank terms are trained; --adapt.tuning full trains
    all weights. docs/models.md has the choices, docs/results.md the run above.
    """
    return TextRun(data=DataSettings(length=128), adapt=AdaptSettings(tuning="lora"))


def antibody() -> TextRun:
    """The heavy chains of human antibodies: the denoiser of antibody-cdr3:longest=12.

        unmask fetch human-heavy-chains
        unmask train antibody --out antibody

    650 chains of 390 lineages: few, so that the network is small, has dropout, and stops when the bound on the chains
    of the validation lineages no longer improves.
    """
    return TextRun(
        data=DataSettings("task:antibody-cdr3@10000", tokenizer="char", length=144, eos="none"),
        model=ModelChoice(width=96, blocks=4, heads=4, dropout=0.2),
        train=TrainSettings(steps=1500, batch=32, lr=2e-3, ema=0.99, patience=8, eval_every=100, dtype="float32"),
    )


def arithmetic() -> TextRun:
    """Chains of up to 8 operations modulo 5, each value written: a serial task whose end is visible.

        unmask train arithmetic --out arithmetic

    Six heads and three blocks: smaller networks stayed on a plateau of the loss for a thousand steps (docs/log.md).
    """
    return TextRun(
        data=DataSettings("task:arithmetic:modulus=5,length=8@300000", tokenizer="char", length=34, eos="none"),
        model=ModelChoice(width=96, blocks=3, heads=6, dropout=0.0),
        train=TrainSettings(steps=2400, batch=128, lr=2e-3, ema=0.99, patience=0, eval_every=400, dtype="float32"),
    )


def automaton() -> TextRun:
    """The trace of the automaton: a denoiser that is calibrated about the end of the trace (bundled).

        unmask train automaton

    Two blocks of width 64, trained on 400 000 problems with the natural lengths of traces. docs/log.md has its purpose:
    with this denoiser, threshold rules are hard to beat.
    """
    return TextRun(
        data=DataSettings("task:automaton@400000", tokenizer="char", length=49, eos="none"),
        model=ModelChoice(width=64, blocks=2, heads=2, dropout=0.0),
        train=TrainSettings(steps=4000, batch=128, lr=2e-3, ema=0.99, patience=0, eval_every=500, dtype="float32"),
    )


def automaton_eos() -> TextRun:
    """The trace of the automaton, fine-tuned on short traces: it overestimates an early end (bundled).

        unmask train automaton_eos --init automaton

    98 % of the traces have at most 10 letters. Like the instruction tuning of LLaDA, this makes the end of the text
    likely at every position, long before the trace is determined. The number of fine-tuning steps is fixed.
    """
    return TextRun(
        data=DataSettings("task:automaton:traces=short@75000", tokenizer="char", length=49, eos="none"),
        train=TrainSettings(steps=1200, batch=128, lr=1e-3, ema=0.99, patience=0, eval_every=200, dtype="float32"),
    )


def automaton_long() -> TextRun:
    """The automaton with 48 positions, twice as many as `automaton`: the start of automaton_long_eos.

    unmask train automaton_long --out automaton_long
    """
    return TextRun(
        data=DataSettings("task:automaton:length=48@300000", tokenizer="char", length=97, eos="none"),
        model=ModelChoice(width=64, blocks=2, heads=2, dropout=0.0),
        train=TrainSettings(steps=3000, batch=128, lr=2e-3, ema=0.99, patience=0, eval_every=500, dtype="float32"),
    )


def automaton_long_eos() -> TextRun:
    """automaton_long, fine-tuned on short traces: it overestimates an early end on 48 positions.

    unmask train automaton_long_eos --init automaton_long --out automaton_long_eos
    """
    source = "task:automaton:length=48,traces=short@75000"
    return TextRun(
        data=DataSettings(source, tokenizer="char", length=97, eos="none"),
        train=TrainSettings(steps=1200, batch=128, lr=1e-3, ema=0.99, patience=0, eval_every=200, dtype="float32"),
    )


def countdown() -> TextRun:
    """Countdown with 3 numbers up to 20: reach a target with + - * and /; many answers are right.

        unmask train countdown --out countdown

    It solved 55 % of 64 validation problems with a bound of 0.23 nats per token (docs/log.md).
    """
    return TextRun(
        data=DataSettings("task:countdown:largest=20@300000", tokenizer="char", length=22, eos="none"),
        model=ModelChoice(width=96, blocks=4, heads=3, dropout=0.0),
        train=TrainSettings(steps=4000, batch=128, lr=2e-3, ema=0.99, patience=0, eval_every=500, dtype="float32"),
    )


def dna() -> TextRun:
    """The genome of E. coli K-12 by single bases, a mini network.

        unmask train dna

    `unmask train dna --dry` prints the time it takes on this machine. We have not measured a full run; four equally
    likely bases have ln 4 = 1.386 nats per token, and the bound must be lower.
    """
    return TextRun(
        data=DataSettings("ecoli-k12", tokenizer="dna", length=512),
        model=ModelChoice(size="mini"),
        train=TrainSettings(steps=4000),
    )


def mdlm_owt() -> TextRun:
    """MDLM's OpenWebText model (arXiv:2406.07524): 110M parameters, window 1024, a million steps of 512; for GPUs.

        torchrun --nproc-per-node 8 -m unmask.cli.main train mdlm_owt --data.tokenizer gpt2/tokenizer.json \
            --data.mask-token '<mask>' --train.accumulate 2

    Needs `pip install 'unmask[hf]'`, the data set over the network, and GPT-2's tokenizer.json on disk; without that
    file a BPE of 32768 ids is trained on the text, and figures are not comparable with the paper's. `unmask train
    mdlm_owt --dry` prints the time it takes on this machine. The paper reports a perplexity of at most 23.05 without
    time conditioning; we have not repeated that run.
    """
    return TextRun(
        data=DataSettings("hf:Skylion007/openwebtext", length=1024, valid_share=0.0125),
        model=ModelChoice(size="small"),
        train=TrainSettings(
            steps=1_000_000,
            batch=512,
            lr=3e-4,
            warmup=2500,
            shape="constant",
            ema=0.9999,
            estimator="stratified",
            patience=0,
            eval_every=10_000,
            dtype="bfloat16",
        ),
    )


def sudoku() -> TextRun:
    """Sudoku 6x6: a denoiser that is trained on full grids with random cells masked (bundled).

    unmask train sudoku
    """
    return TextRun(
        data=DataSettings("task:sudoku:side=6@200000", tokenizer="char", length=36, eos="none"),
        model=ModelChoice(width=128, blocks=6, heads=4, dropout=0.0, absolute=True),
        train=TrainSettings(steps=3200, batch=128, lr=1.5e-3, ema=0.999, patience=0, eval_every=500, dtype="float32"),
    )


def sudoku_9x9() -> TextRun:
    """Sudoku 9x9, a network of 6.4 million parameters: for a GPU.

        unmask train sudoku_9x9 --train.device cuda --out sudoku_9x9

    The network is large beside a policy of 22 thousand parameters, so that the time of the policy hardly counts. No
    bound is below .620 nats a cell, the entropy of a grid among all 6.67 10^21.
    """
    return TextRun(
        data=DataSettings("task:sudoku:side=9@600000", tokenizer="char", length=81, eos="none"),
        model=ModelChoice(width=256, blocks=8, heads=8, dropout=0.0, absolute=True),
        train=TrainSettings(steps=6000, batch=256, lr=1e-3, ema=0.999, patience=0, eval_every=1000, dtype="bfloat16"),
    )


def sums() -> TextRun:
    """Sums of three numbers from reasoning-gym: carries go from right to left, against the order of reading.

        unmask train sums --out sums

    Needs `pip install 'unmask[tasks]'`. A first training left it with a bound of 1.147 nats: it had learned the form of
    an answer and its first digits, not the sum (docs/log.md).
    """
    source = (
        "task:gym:dataset=basic_arithmetic,size=200000,length=6,tail=true,min_terms=3,max_terms=3,min_digits=4,"
        "max_digits=4,operators=+,allow_parentheses=false,allow_negation=false@200000"
    )
    return TextRun(
        data=DataSettings(source, tokenizer="char", length=36, eos="none"),
        model=ModelChoice(width=128, blocks=4, heads=4, dropout=0.0),
        train=TrainSettings(steps=4000, batch=128, lr=2e-3, ema=0.99, patience=0, eval_every=500, dtype="float32"),
    )


def text() -> TextRun:
    """Any text: the defaults, which adapt to its size.

        unmask train --data.source FILE

    Network, vocabulary and number of steps depend on the size of the text. Training stops when the bound on the
    validation text has not improved in eight validations. `--dry` prints the plan, and how long it takes here.
    """
    return TextRun()


def wordnet() -> TextRun:
    """Words and their definitions: 48 197 rows of WordNet 3.0 (bundled).

        unmask train wordnet

    With 8192 ids most words are one token. Rows of 64 tokens hold whole definitions, so that a text begins with a word.
    `unmask info wordnet` prints the card of the bundled weights, with the bound that they reached.
    """
    return TextRun(
        data=DataSettings("wordnet", vocab_size=8192, length=64, rows="whole"),
        model=ModelChoice(size="micro", dropout=0.0),
        train=TrainSettings(
            steps=4000, batch=64, lr=2e-3, ema=0.999, patience=0, eval_every=500, dtype="bfloat16", threads=1
        ),
    )


RECIPES: dict[str, Callable[[], TextRun]] = {
    "adapt": adapt,
    "antibody": antibody,
    "arithmetic": arithmetic,
    "automaton": automaton,
    "automaton_eos": automaton_eos,
    "automaton_long": automaton_long,
    "automaton_long_eos": automaton_long_eos,
    "countdown": countdown,
    "dna": dna,
    "mdlm_owt": mdlm_owt,
    "sudoku": sudoku,
    "sudoku_9x9": sudoku_9x9,
    "sums": sums,
    "text": text,
    "wordnet": wordnet,
}


def names() -> dict[str, str]:
    """The name of every recipe -> the first line of its docstring."""
    return {name: (recipe.__doc__ or "").splitlines()[0] for name, recipe in RECIPES.items()}


def read(name_or_path: str) -> TextRun:
    """The name of a recipe, or a .toml file with the tables data, model, train and adapt -> the settings of the run.

    Raises:
        ConfigError: for an unknown name, or an unknown key or impossible value in the file.
    """
    if name_or_path.endswith(".toml"):
        return from_dict(TextRun, read_toml(name_or_path), name_or_path)
    if name_or_path in RECIPES:
        return RECIPES[name_or_path]()
    if Path(name_or_path).exists():
        command = f"unmask train --data.source {name_or_path}"
        raise ConfigError(f"'{name_or_path}' is not a recipe; to train on that text, say: {command}")
    raise ConfigError(f"There is no recipe named '{name_or_path}'; {did_you_mean(name_or_path, RECIPES)}")
