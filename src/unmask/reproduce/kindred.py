"""The questions about papers that are kin to MDLM: one function each, options -> the cells that answer it.

`unmask reproduce --list` prints the first line of a function's docstring. Imports no torch.
"""

__all__ = ["holes", "mask_agnostic"]

from dataclasses import dataclass, replace

from unmask.data.settings import DataSettings
from unmask.reproduce.holes import REFERENCE, Spanned
from unmask.reproduce.masks import MaskProbed
from unmask.reproduce.plan import plain
from unmask.reproduce.text import SCALES, Bounded, Claim, Fit, Scale, TextCell, TextOptions
from unmask.reproduce.trainings import Planned, trained
from unmask.train.settings import AgnosticSettings, ModelChoice, TextRun, TrainSettings

_TASKS = {
    "full": "few-shot:relevant=4,distractors=8,words=10",
    "fast": "few-shot:relevant=2,distractors=2,words=5",
    "published": "few-shot:relevant=10,distractors=40,words=10",
}
_FEW = {
    "full": replace(
        SCALES["full"],
        data=DataSettings(f"task:{_TASKS['full']}@40000", tokenizer="bpe", vocab_size=640, length=288),
        model=ModelChoice(size="nano", width=64, blocks=3, heads=4, dropout=0.0),
        train=replace(SCALES["full"].train, steps=1500, batch=64, eval_every=1500, ema=0.99),
        rates=dict.fromkeys(SCALES["full"].rates, 3e-3),
    ),
    "fast": replace(
        SCALES["fast"],
        data=DataSettings(f"task:{_TASKS['fast']}@2000", tokenizer="bpe", vocab_size=640, length=64),
        model=ModelChoice(size="nano", width=32, blocks=2, heads=2, dropout=0.0),
        rates=dict.fromkeys(SCALES["fast"].rates, 3e-3),
    ),
    "published": replace(
        SCALES["published"],
        data=DataSettings(f"task:{_TASKS['published']}@1000000", tokenizer="bpe", vocab_size=1024, length=1024),
        train=TrainSettings(steps=100_000, batch=512, patience=0, dtype="bfloat16"),
    ),
}
"""Scales for the few-shot task. Its trainings are validated once, at their end, so that no row chooses a checkpoint."""


@dataclass(frozen=True, slots=True)
class _FewShotOptions(TextOptions):
    @property
    def numbers(self) -> Scale:
        """The scale for the few-shot task."""
        return _FEW[self.scale]


@dataclass(frozen=True, slots=True)
class _Further:
    """How a model is trained further, and what it is asked."""

    steps: int
    batch: int
    rate: float
    length: int
    """Tokens of a row."""
    masks: int
    """Most MASKs behind a row."""
    count: int
    """Questions of a measurement."""


_FURTHER: dict[tuple[str, str], _Further] = {
    ("text", "full"): _Further(1000, 16, 3e-4, 64, 64, 800),
    ("few-shot", "full"): _Further(500, 32, 1e-3, 288, 200, 800),
    ("text", "fast"): _Further(20, 16, 3e-4, 32, 32, 40),
    ("few-shot", "fast"): _Further(20, 16, 1e-3, 64, 30, 40),
    ("text", "published"): _Further(930, 128, 1e-5, 256, 600, 1000),
    ("few-shot", "published"): _Further(930, 128, 1e-5, 1024, 600, 1000),
}
"""By part and scale; every model of a part has the same rate. Of the last two, steps, batch, rate and MASKs are those
of the paper."""
_COUNTS = (0, 1, 2, 5, 10, 20, 50, 100, 200)
_COST = 0.02  # nats a token that the bound may be worse


def mask_agnostic(options: TextOptions) -> Planned:
    """MASKs behind a text: does the mask-agnostic loss make predictions independent of them (arXiv:2511.21338)?

    A text model and a few-shot task. Each model is trained further by the bound, by the bound for twice the steps, by
    the cross-entropy of two copies alone, and by the whole loss.
    """
    cells: list[TextCell] = []
    parts = {"text": options, "few-shot": _FewShotOptions(options.scale, options.seeds)}
    for part, own in parts.items():
        further = _FURTHER[part, options.scale]
        for seed in options.seeds:
            base = trained(own, "MDLM" if part == "text" else part, seed)
            fits = {"before": base} | {name: _trained_further(base, part, name, further) for name in _RUNS}
            cells += fits.values()
            for name, fit in fits.items():
                cells += [_bounded(own, base, fit, f"{part} {name}", further), _probed(own, base, fit, part, name)]
    claims: list[Claim] = []
    for part in parts:
        ours = f"{part} mask-agnostic"
        for name in ("bound", "bound, twice", "cross-entropy"):
            text = f"{part}: total variation, mask-agnostic < {name}"
            claims.append(Claim(text, f"{ours}: variation", f"{part} {name}: variation"))
        claims.append(Claim(f"{part}: bound, mask-agnostic < bound + {_COST:g}", ours, f"{part} bound", _COST))
    for name in ("before", "bound", "bound, twice", "cross-entropy"):
        text = f"few-shot: accuracy with the most MASKs, {name} < mask-agnostic"
        claims.append(Claim(text, f"few-shot {name}: accuracy", "few-shot mask-agnostic: accuracy"))
    return cells, claims


_RUNS = ("bound", "bound, twice", "cross-entropy", "mask-agnostic")
"""How a model is trained further."""


def _trained_further(base: Fit, part: str, name: str, further: _Further) -> Fit:
    """A training and one of `_RUNS` -> the training that starts from its weights; its last step is taken."""
    steps = further.steps * (2 if name == "bound, twice" else 1)
    sizes = {"steps": steps, "batch": further.batch, "warmup": None}
    train = replace(base.run.train, **sizes, lr=further.rate, eval_every=steps, ema=0.99)
    agnostic = AgnosticSettings()
    if name in ("cross-entropy", "mask-agnostic"):
        variation = 0.0 if name == "cross-entropy" else AgnosticSettings().variation
        agnostic = AgnosticSettings(further.masks, steps // 2, variation=variation)
    data = replace(base.run.data, tokenizer="auto", vocab_size=None, length=further.length)
    run = TextRun(data, base.run.model, train, agnostic=agnostic)
    label = f"{part} {name}"
    return Fit(f"{plain(label)}-seed-{base.seed}", label, base.seed, run, base.name)


def _skipped(base: Fit, length: int) -> int:
    """Rows of `length` that hold those by which a checkpoint of the text model was chosen; no row of the task."""
    rows, task = base.run.train.eval_draws, base.run.data.source.startswith("task:")
    return 0 if task else rows * base.run.data.length // length


def _bounded(options: TextOptions, base: Fit, fit: Fit, label: str, further: _Further) -> Bounded:
    """A training -> its bound on held-out rows of the length of the further training."""
    skip, numbers = _skipped(base, further.length), options.numbers
    length = further.length if fit is base else None
    name = f"bound-{plain(label)}-seed-{fit.seed}"
    return Bounded(name, label, fit.seed, fit.name, numbers.draws, numbers.limit, skip=skip, length=length)


def _probed(options: TextOptions, base: Fit, fit: Fit, part: str, name: str) -> MaskProbed:
    """A training -> both curves; the questions about the text are those of rows of the further training."""
    further, label = _FURTHER[part, options.scale], f"{part} {name}"
    cell = MaskProbed(f"masks-{plain(label)}-seed-{fit.seed}", label, fit.seed, fit.name, None, _COUNTS, further.count)
    if part == "few-shot":
        return replace(cell, task=_TASKS[options.scale])
    context, skip = further.length // 2, _skipped(base, further.length)
    return replace(cell, length=further.length, context=context, skip=skip)


def holes(options: TextOptions) -> Planned:
    """Holes of free length: do CAL and LR-DLLM choose better lengths than a likelihood (arXiv:2602.00476, 2602.07546)?

    Spans of 1 to 12 tokens of the held-out part of the text of the bundled model; each seed has other rows. No
    training; the bias of CAL is measured on rows of their own.
    """
    calibrated, count, draws = (10, 12, 4) if options.scale == "fast" else (100, 100, 16)
    cells: list[TextCell] = []
    for number, seed in enumerate(options.seeds):
        sizes = (1, 12, 52, calibrated, calibrated + number * count, count, draws)
        cells.append(Spanned(f"spanned-seed-{seed}", "wordnet", seed, "wordnet", *sizes, "confidence"))
    pairs = [(rule, name) for rule in ("cal", "lr-dllm") for name in ("exact", "within 1", "recovered")]
    claims = [Claim(f"{name}: {REFERENCE} < {rule}", f"{REFERENCE}: {name}", f"{rule}: {name}") for rule, name in pairs]
    return cells, [*claims, Claim("recovered: cal, no bias < cal", "cal, no bias: recovered", "cal: recovered")]
