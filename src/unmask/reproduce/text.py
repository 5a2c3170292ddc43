"""The cells of questions about masked diffusion on text (MDLM, arXiv:2406.07524), and the scales of experiments.

A scale has all numbers of the trainings and measurements: `full` fits two cores, `fast` shows in half an hour that all
of it works, `published` has the numbers of the paper, for GPUs. Nothing else differs. Imports no torch.
"""

__all__ = [
    "BUNDLED",
    "SCALES",
    "TEXT_CELLS",
    "Bounded",
    "Claim",
    "Diverged",
    "Fit",
    "Judged",
    "Lengthened",
    "Parameterization",
    "Raced",
    "Scale",
    "Spread",
    "TextCell",
    "TextOptions",
    "TextQuestion",
    "Wrote",
]

from dataclasses import dataclass, replace
from typing import Annotated, Literal, get_args

from unmask.data.settings import DataSettings
from unmask.errors import ConfigError
from unmask.ranges import Count, Natural, Seed, check_numbers, real
from unmask.train.settings import ModelChoice, TextRun, TrainSettings

BUNDLED = "bundled:"
"""Begins the name of a bundled model that is trained further."""
Parameterization = Literal["subs", "mlm", "zero-masking", "d3pm", "sedd", "ar"]


@dataclass(frozen=True, slots=True)
class Scale:
    """The numbers of a set of experiments."""

    data: DataSettings
    model: ModelChoice
    train: TrainSettings
    rates: dict[str, float]
    """The learning rate of each objective, and of "subs-timed", which is subs with a network that reads the time.

    They are chosen by `mdlm-rates` (at the published scale, by the authors). mlm has
    that of subs, since its loss is no bound, and zero-masking that of d3pm."""
    tried: tuple[float, ...]
    """The learning rates that `mdlm-rates` tries for each objective, on a quarter of the steps."""
    others: tuple[str, ...]
    """Texts for the zero-shot perplexity."""
    draws: Count
    """Maskings of each sequence in a measurement."""
    limit: Count | None
    """Sequences of a measurement; None for all."""
    grids: tuple[Count, ...]
    """Steps T of the reverse process."""
    passes: tuple[Count, ...]
    """Steps of the samplers."""
    texts: Count
    """Texts of each setting of a sampler."""
    written: Count
    """Tokens of a text."""


_TRAIN = TrainSettings(steps=1000, batch=16, ema=0.995, patience=0, eval_every=100, sample_every=0, keep=1, threads=1)
_EQUAL: dict[str, float] = dict.fromkeys([*get_args(Parameterization), "subs-timed"], 3e-4)
SCALES: dict[str, Scale] = {
    "full": Scale(
        data=DataSettings("sotu", tokenizer="char", length=128),
        model=ModelChoice(size="nano", dropout=0.0),
        train=_TRAIN,
        rates=dict.fromkeys(_EQUAL, 2e-3) | {"sedd": 4e-3, "subs-timed": 4e-3},
        tried=(5e-4, 1e-3, 2e-3, 4e-3, 8e-3),
        others=("austen", "shakespeare", "wordnet"),
        draws=4,
        limit=1536,
        grids=(10, 20, 50, 100, 200, 500, 1000),
        passes=(8, 16, 32, 64, 128),
        texts=64,
        written=128,
    ),
    "fast": Scale(
        data=DataSettings("shakespeare", tokenizer="char", length=64),
        model=ModelChoice(size="nano", width=64, blocks=2, heads=2, dropout=0.0),
        train=replace(_TRAIN, steps=60, eval_every=60, ema=0.9),
        rates=dict.fromkeys(_EQUAL, 2e-3),
        tried=(1e-3, 4e-3),
        others=("austen",),
        draws=1,
        limit=64,
        grids=(10, 100),
        passes=(4, 16),
        texts=8,
        written=32,
    ),
    "published": Scale(
        data=DataSettings("hf:Skylion007/openwebtext", length=1024, valid_share=0.0125),
        model=ModelChoice(size="small"),
        train=TrainSettings(steps=1_000_000, batch=512, warmup=2500, shape="constant", patience=0, dtype="bfloat16"),
        rates=_EQUAL,
        tried=(1e-4, 3e-4, 1e-3),
        others=("hf:EleutherAI/lambada_openai", "hf:Salesforce/wikitext", "hf:fancyzhx/ag_news"),
        draws=1,
        limit=None,
        grids=(10, 20, 50, 100, 200, 500, 1000),
        passes=(100, 500, 1000, 5000, 10_000),
        texts=64,
        written=1024,
    ),
}


@dataclass(frozen=True, slots=True)
class TextOptions:
    """What `unmask reproduce` can be asked for about masked diffusion on text."""

    scale: Literal["full", "fast", "published"] = "full"
    """The numbers: for two cores, for a look at whether all works, or those of the paper."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Seeds of the trainings."""
    judge: str | None = None
    """Name or folder of a causal language model that judges written texts too."""
    pairs: tuple[str, ...] = ()
    """Pairs of a denoiser and a task for kindred-general-policy, NAME=CHECKPOINT=TASK each."""
    rounds: Count | None = None
    """Rounds of the policies of that question; by default the recipe's number."""
    count: Count | None = None
    """Test problems of that question; by default its own number."""

    def __post_init__(self) -> None:
        check_numbers(self)
        if not self.seeds:
            raise ConfigError("There is nothing to train: give at least one of --seeds.")

    @property
    def numbers(self) -> Scale:
        """The scale by its name."""
        return SCALES[self.scale]


@dataclass(frozen=True, slots=True)
class TextCell:
    """A unit of work about text; other modules have classes of cells too. Cells of other seeds have the same label."""

    name: str
    label: str
    seed: int

    @property
    def needs(self) -> tuple[str, ...]:
        """The names of the cells that have to be done before it."""
        return ()


@dataclass(frozen=True, slots=True)
class Fit(TextCell):
    """A training, in the folder runs/NAME."""

    run: TextRun
    start: str | None = None
    """Name of the `Fit` that is trained further, or `BUNDLED` and the name of a bundled model."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The training that it starts from."""
        return (self.start,) if self.start and not self.start.startswith(BUNDLED) else ()


@dataclass(frozen=True, slots=True)
class Bounded(TextCell):
    """The bound of a trained model on a text: that of its training, held out, or another."""

    training: str
    draws: Count
    limit: Count | None
    source: str | None = None
    """A text of which all is measured; None for the held-out part of the text of the training."""
    grid: Count | None = None
    """Steps of the reverse process; None for the model's own objective."""
    skip: Natural = 0
    """Rows at the beginning that are not measured: those of the held-out part that validations of the training had."""
    both_strands: bool = False
    """Whether the prediction is averaged over both strands of DNA."""
    length: Count | None = None
    """Tokens of a row; None for those of the training."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The training."""
        return (self.training,)


@dataclass(frozen=True, slots=True)
class Spread(TextCell):
    """The variance of one draw of the bound of a sequence under a schedule, and its mean (MDLM, Table 9)."""

    training: str
    schedule: str
    draws: Count
    limit: Count | None
    skip: Natural = 0

    @property
    def needs(self) -> tuple[str, ...]:
        """The training."""
        return (self.training,)


@dataclass(frozen=True, slots=True)
class Wrote(TextCell):
    """Texts that a trained model writes, judged by the 3-gram model of its training text and by an AR model."""

    training: str
    line: str
    """Name of the sampler; settings that differ in their steps have the same."""
    policy: str
    temperature: Annotated[float, real(0)]
    texts: Count
    length: Count
    judge: str
    """Name of the `Fit` of an autoregressive model."""
    window: Count | None = None
    """Positions that are filled together; the next window keeps the second half as its prompt. None: the whole text."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Both trainings."""
        return tuple(dict.fromkeys([self.training, self.judge]))


@dataclass(frozen=True, slots=True)
class Judged(TextCell):
    """The measures of written texts under another judge, and those of as many held-out texts."""

    wrote: str
    """Name of the `Wrote`."""
    training: str
    judge: str
    """Name or folder of a causal language model."""
    texts: Count
    """Texts that it reads, each up to `length` tokens of the model that wrote it."""
    length: Count

    @property
    def needs(self) -> tuple[str, ...]:
        """The texts."""
        return (self.wrote,)


@dataclass(frozen=True, slots=True)
class Diverged(TextCell):
    """MAUVE of many texts of one setting against as many held-out texts, and of two halves of the held-out ones."""

    wrote: Wrote
    """The setting, with the number of texts."""
    clusters: Count

    @property
    def needs(self) -> tuple[str, ...]:
        """Both trainings."""
        return self.wrote.needs


@dataclass(frozen=True, slots=True)
class Lengthened(TextCell):
    """Texts of several windows, in parts that see the window before them alone: quality and time by window."""

    training: str
    texts: Count
    windows: Count
    """Length in windows of the model."""
    block: Count
    """Positions that are filled together, after the last tokens that the window has room for."""
    whole: bool
    """Whether the first window is filled at once: windows that slide."""
    pace: Count
    """Tokens of a pass."""
    cached: bool
    """Whether the keys and values of earlier tokens are computed once for each part."""
    judge: str
    """Name of the `Fit` of an autoregressive model."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Both trainings."""
        return tuple(dict.fromkeys([self.training, self.judge]))


@dataclass(frozen=True, slots=True)
class Raced(TextCell):
    """Texts by ancestral sampling as published programs do it, by a maximum over Gumbel noise of a format."""

    training: str
    dtype: Literal["float32", "float64"]
    steps: Count
    texts: Count
    length: Count
    judge: str
    """Name of the `Fit` of an autoregressive model."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Both trainings."""
        return tuple(dict.fromkeys([self.training, self.judge]))


TEXT_CELLS: dict[str, type[TextCell]] = {
    cls.__name__.lower(): cls for cls in (Fit, Bounded, Spread, Wrote, Judged, Diverged, Lengthened, Raced)
}
"""The classes of cells about text in general, by name."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A statement of the paper: of these labels, in this order, the bound rises, or the accuracy of a classifier."""

    text: str
    lower: str
    higher: str
    margin: float = 0.0
    """By so much less may the second be all the same."""


@dataclass(frozen=True, slots=True)
class TextQuestion:
    """A question and all of its cells in the order of work."""

    name: str
    about: str
    cells: tuple[TextCell, ...]
    claims: tuple[Claim, ...]
    options: TextOptions
    parts: tuple["TextQuestion", ...] = ()
    """The questions of which this one is the union."""
