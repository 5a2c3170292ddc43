"""The questions about DNA (MDLM, Tables 6 and 7): options -> the cells that answer them, and their scales.

Imports no torch.
"""

__all__ = ["dna", "dna_rates"]

from dataclasses import dataclass, replace

from unmask.data.settings import DataSettings
from unmask.reproduce.dna import Composition, Probed
from unmask.reproduce.plan import plain
from unmask.reproduce.text import SCALES, Claim, Fit, Scale, TextCell, TextOptions
from unmask.reproduce.trainings import COMPARED, Planned, bounded, rates, trained, training_of
from unmask.train.settings import ModelChoice, TrainSettings

_FULL = replace(
    SCALES["full"],
    data=DataSettings("ecoli-k12", length=128, eos="none", valid_share=0.1),
    model=ModelChoice(size="nano", width=64, blocks=3, heads=2, dropout=0.0),
    train=replace(SCALES["full"].train, steps=1000, batch=32, eval_every=250, ema=0.995),
    rates=dict.fromkeys([*COMPARED.values(), "mlm"], 4e-3) | {"sedd": 8e-3, "d3pm": 8e-3},
    tried=(2e-3, 4e-3, 8e-3, 1.6e-2),
    draws=4,
    limit=2048,
    passes=(64,),
    texts=256,
    written=128,
)
_DNA_SCALES: dict[str, Scale] = {
    "full": _FULL,
    "fast": replace(
        _FULL,
        data=replace(_FULL.data, length=64),
        model=SCALES["fast"].model,
        train=SCALES["fast"].train,
        tried=SCALES["fast"].tried,
        draws=1,
        limit=64,
        passes=(16,),
        texts=16,
        written=64,
    ),
    "published": replace(
        _FULL,
        data=DataSettings("hg38.fa.gz", tokenizer="dna", length=1024, eos="none", valid_share=0.05),
        model=ModelChoice(size="nano", width=98, blocks=4, heads=7, dropout=0.0),
        train=TrainSettings(steps=50_000, batch=1024, patience=0, dtype="bfloat16"),
        rates=dict.fromkeys([*COMPARED.values(), "mlm"], 6e-4),
        tried=(6e-4, 2e-3, 8e-3),
        limit=None,
        passes=(128, 1024),
        texts=256,
        written=1024,
    ),
}
"""Scales for DNA. A genome of few records is one text, cut by regions: its end is held out; the first held-out rows
choose the checkpoint, and the rows after them are the test. hg38.fa.gz is a file to bring; whole chromosomes of it are
held out, which is not the split of the paper."""


@dataclass(frozen=True, slots=True)
class _DnaOptions(TextOptions):
    @property
    def numbers(self) -> Scale:
        """The scale for DNA."""
        return _DNA_SCALES[self.scale]


def dna_rates(options: TextOptions) -> Planned:
    """The learning rate of each objective on DNA: as mdlm-rates, with a single seed."""
    return rates(_DnaOptions(options.scale, options.seeds), "DNA ", most=1)


def dna(options: TextOptions) -> Planned:
    """Perplexity on DNA of AR, MDLM, SEDD and D3PM, k-mers of what they write, and probes (MDLM, Tables 6 and 7).

    "DNA MDLM both" is trained on both strands; its prediction is also averaged over both. Probes compare with a masked
    language model, and with counts of letters and of 3-mers.
    """
    options, cells = _DnaOptions(options.scale, options.seeds), list[TextCell]()
    for seed in options.seeds:
        fits = [trained(options, f"DNA {name}", seed, objective) for name, objective in COMPARED.items()]
        for fit in fits:
            cells += [fit, bounded(options, fit), *_written(options, fit)]
        both, masked = _both_strands(options, seed), trained(options, "DNA MLM", seed, "mlm")
        cells += [*both, masked]
        cells += [probe for fit in (*fits, masked) for probe in _probes(options, fit)]
    first = trained(options, "DNA MDLM", options.seeds[0])
    cells += [probe for size in (1, 3) for probe in _probes(options, first, size)]
    pairs = (("AR", "MDLM"), ("MDLM", "SEDD"), ("SEDD", "D3PM"), ("MDLM both", "MDLM"))
    pairs += (("MDLM both, averaged", "MDLM both"),)
    return cells, [Claim(f"DNA: {low} < {high}", f"DNA {low}", f"DNA {high}") for low, high in pairs]


def _written(options: TextOptions, fit: Fit) -> list[TextCell]:
    """A training -> the cells of the sequences that its model writes."""
    numbers = options.numbers
    rule = {"ar": "left-to-right", "subs": "ancestral"}.get(fit.run.model.parameterization, "reverse")
    policies = [f"{rule}:steps={count}" for count in numbers.passes] if rule != "left-to-right" else [rule]
    cells: list[TextCell] = []
    for policy in policies:
        name, label = plain(f"{fit.label} {policy} seed {fit.seed}"), f"{fit.label} {policy}"
        size, length, skip = numbers.texts, numbers.written, numbers.train.eval_draws
        cells.append(Composition(name, label, fit.seed, fit.name, policy, size, length, skip))
    return cells


def _both_strands(options: TextOptions, seed: int) -> list[TextCell]:
    """MDLM trained on both strands, measured on one and averaged over both."""
    numbers = options.numbers
    fit = training_of(options, "DNA MDLM both", seed, numbers.model, replace(numbers.train, reverse_complement=True))
    bound = bounded(options, fit)
    averaged = replace(bound, name=f"{bound.name}-averaged", label=f"{fit.label}, averaged", both_strands=True)
    return [fit, bound, averaged]


def _probes(options: TextOptions, fit: Fit, kmer: int = 0) -> list[TextCell]:
    """A training -> the probes of its features, or of the counts of k-mers."""
    numbers, cells = options.numbers, list[TextCell]()
    for task in ("species", "coding"):
        label = f"{f'DNA {kmer}-mers' if kmer else fit.label}: {task}"
        name, skip = plain(f"{label} seed {fit.seed}"), numbers.train.eval_draws
        count = 200 if options.scale == "fast" else 3000
        cells.append(Probed(name, label, fit.seed, fit.name, task, numbers.data.length, count, skip, kmer))
    return cells
