"""Settings of a training run on text, and what a checkpoint records of its text. Imports no torch for `--help`."""

__all__ = [
    "AdaptSettings",
    "AgnosticSettings",
    "ModelChoice",
    "Recorded",
    "RecordedMachine",
    "TextRun",
    "TrainSettings",
    "Trained",
    "recorded_paths",
    "refuse_changes",
    "run_of",
    "trained_on",
]

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from unmask.data.settings import BUILT_IN_TOKENIZERS, SPLIT_RULE, DataSettings
from unmask.errors import CheckpointError, ConfigError, did_you_mean
from unmask.model.settings import SIZES
from unmask.ranges import Count, Natural, Seed, Threads, check_numbers, real

if TYPE_CHECKING:
    from unmask.disk.checkpoint import Checkpoint

_PLACES = frozenset({"source", "valid"})
_FREE = frozenset(
    {"steps", "minutes", "sample_every", "patience", "device", "threads", "keep", "save_every", "log_every", "track"}
) | {"fsdp", "replicas", "recompute", "accumulate", "wait"}
"""Settings that may change when a run is resumed. Of these only `steps` and `minutes` change a step: they set
the learning rate."""


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """The network to train."""

    size: str = "auto"
    """auto (by the number of training tokens), or nano, micro, mini, base, tiny, small, medium."""
    width: Count | None = None
    """Size of the residual stream; overrides the size's."""
    blocks: Count | None = None
    """Number of transformer blocks; overrides the size's."""
    heads: Count | None = None
    """Number of attention heads; overrides the size's."""
    dropout: Annotated[float, real(0, 1, below=True)] = 0.1
    """Probability of dropping an element of a branch."""
    absolute: bool = False
    """Learned absolute positions beside the rotary ones: for canvases of a fixed form, such as a grid."""
    time_conditioned: bool = False
    """Give the network the time through adaLN, as in MDLM's Table 12; off is simpler and no worse there."""
    parameterization: Literal["subs", "mlm", "zero-masking", "d3pm", "sedd", "ar"] = "subs"
    """What it predicts, and so by what it is trained: subs is MDLM, ar an autoregressive model, mlm hides a fixed 15 %
    of the tokens (BERT), sedd and d3pm are other diffusions, zero-masking lies between d3pm and subs (MDLM, Table
    8)."""
    soft: Natural = 0
    """Soft masks (arXiv:2510.17206): so many of the best tokens of the last pass are mixed into a MASK; 3 as published,
    0 for plain masks. With --init it adds them to a checkpoint."""

    def __post_init__(self) -> None:
        check_numbers(self, "model.")
        if self.soft and self.parameterization != "subs":
            raise ConfigError(
                f"model.soft is {self.soft}, and model.parameterization {self.parameterization}: soft masks are for "
                "subs, which is MDLM; leave one of the two out."
            )
        if self.size != "auto" and self.size not in SIZES:
            raise ConfigError(f"model.size is '{self.size}'; {did_you_mean(self.size, ['auto', *SIZES])}")


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How the network is trained."""

    steps: Count | None = None
    """Optimiser steps; by default by the size of the text (see --dry); `patience` can end training earlier."""
    minutes: Annotated[float | None, real(0, 1e6, "for example 10", above=True)] = None
    """Minutes of the whole run instead of steps: they choose the size of the network (where it is auto) and the number
    of steps, and the learning rate follows the clock."""
    batch: Count = 32
    """Sequences in an optimiser step, over all processes."""
    accumulate: Count = 1
    """Parts in which a process runs its share of the batch, one after the other, to save memory."""
    lr: Annotated[float | None, real(0, 1, "for example 1e-3", above=True, below=True)] = None
    """Peak learning rate; by default 1e-3 up to a width of 384 and 3e-4 above, and a tenth of that with --init, but for
    low-rank terms."""
    warmup: Natural | None = None
    """Steps of linear warm-up; by default a twentieth of the steps, at most 2500."""
    shape: Literal["cosine", "constant"] = "cosine"
    """The shape of the learning rate after the warm-up."""
    weight_decay: Annotated[float, real(0, 1000)] = 0.0
    """AdamW's decoupled weight decay, on matrices only."""
    betas: Annotated[tuple[float, float], real(0, 1, below=True)] = (0.9, 0.999)
    """AdamW's moment decays."""
    clip: Annotated[float, real(0, 1e9, above=True)] = 1.0
    """Largest norm of the gradient."""
    ema: Annotated[float, real(0, 1, below=True)] = 0.9999
    """Decay of the averaged weights, which are the ones that are evaluated and saved; 0 turns averaging off."""
    estimator: Literal["uniform", "stratified", "count", "bernoulli"] = "count"
    """How maskings are drawn: all have the same expectation, the default has the least variance (docs/math.md)."""
    schedule: Literal["linear", "cosine", "cosine-squared", "geometric", "polynomial"] = "linear"
    """The schedule alpha(t) of the two time-based estimators, and of the time input of a time-conditioned model."""
    grid: Count | None = None
    """Steps of the reverse process, T in MDLM's Table 8; by default time is continuous, but for d3pm and zero-masking,
    where it is 1000."""
    two_pass: Annotated[float, real(0, 1)] = 0.8
    """Share of the steps in which a network with soft masks runs twice: the second time it sees what it predicted."""
    reverse_complement: bool = False
    """DNA: read each row from the other strand with probability 1/2."""
    seed: Seed = 1
    """Seed of weights, order of the data, maskings and dropout."""
    eval_every: Count | None = None
    """Steps between validations; by default a fortieth of the steps, at least 25."""
    eval_draws: Count = 512
    """Maskings in a validation, shared by the validation sequences."""
    patience: Natural = 8
    """Validations without a better bound after which training ends; 0 never ends it."""
    sample_every: Natural | None = None
    """Steps between samples of the model's text; 0 for none; by default one at each validation, in at most a thirtieth
    of the time."""
    save_every: Count | None = None
    """Steps between checkpoints; by default those between validations."""
    keep: Count = 2
    """Latest checkpoints to keep, beside the best."""
    log_every: Count = 1
    """Steps between lines in metrics.jsonl."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network; auto measures which is faster here."""
    compile: bool = False
    """Compile the network with torch.compile first (a minute, and a C++ compiler on a CPU)."""
    recompute: bool = False
    """Compute the activations of blocks again in the backward pass: less memory, a third more time."""
    fsdp: Literal["auto", "on"] = "auto"
    """Divide the network among processes: auto, among several; on, also with one, to measure what it costs."""
    replicas: Count = 1
    """Copies of the network, each divided among a part of the processes (HSDP), for example one a machine."""
    wait: Annotated[float, real(1, 1e6)] = 600.0
    """Seconds that a process waits for the others before the run ends with a sentence that names the missing one."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    threads: Threads | None = None
    """Processor threads; by default the faster of one and all, measured; a run that goes on keeps its number."""
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Also send the metrics there."""

    def __post_init__(self) -> None:
        check_numbers(self, "train.")
        if self.minutes is not None and self.steps is not None:
            raise ConfigError(
                f"train.minutes {self.minutes:g} and train.steps {self.steps} both say when the run ends; "
                "give only one of them."
            )
        if self.batch % self.accumulate:
            raise ConfigError(
                f"train.batch {self.batch} cannot be run in {self.accumulate} equal parts; "
                "choose a train.accumulate that divides it."
            )
        if self.warmup is not None and self.steps is not None and self.warmup > self.steps:
            raise ConfigError(f"train.warmup is {self.warmup} and train.steps {self.steps}; give at most as many.")


@dataclass(frozen=True, slots=True)
class AdaptSettings:
    """How a causal model (Llama, Qwen, SmolLM) becomes a masked one, with --init."""

    tuning: Literal["none", "lora", "full"] = "none"
    """lora: low-rank terms and MASK's row are trained (arXiv:2106.09685), and merged into the weights of checkpoints.
    full: all weights. none: nothing is converted."""
    rank: Count = 16
    """Rank of the terms."""
    alpha: Annotated[float, real(0, 1e6, above=True)] = 32.0
    """A term is scaled by alpha / rank."""
    shift: bool = True
    """Whether the hidden state at position i goes on predicting token i + 1."""
    anneal: Natural = 0
    """Steps over which attention becomes bidirectional: at step s each later position is visible with probability
    min(1, (s + 1) / anneal). 0: from the first step."""
    mask_row: str = "mean"
    """Start of MASK's row of the embedding: mean, that of all rows plus noise; or the token whose row it begins as."""
    hide_prompt: bool = False
    """Whether prompts of pairs are masked and predicted too."""
    pad_eos: bool = False
    """Whether rows are filled with EOS tokens, which are predicted, as in LLaDA's instruction tuning."""

    def __post_init__(self) -> None:
        check_numbers(self, "adapt.")


@dataclass(frozen=True, slots=True)
class AgnosticSettings:
    """The mask-agnostic loss, for predictions that do not depend on the number of MASKs behind a text."""

    masks: Natural = 0
    """Most MASKs behind a row, in the window's space (a new network has so many positions more); 0: the plain bound."""
    rise: Natural = 0
    """Steps in which this number rises from 1."""
    cross_entropy: Annotated[float, real(0, 1e6)] = 0.1
    """Weight of the cross-entropy."""
    variation: Annotated[float, real(0, 1e6)] = 1.0
    """Weight of the distance between the two predictions; in the paper 1, and 10 for a model of instructions."""
    shares: Annotated[tuple[float, float], real(0, 1, above=True)] = (0.2, 0.8)
    """The least and the largest probability with which a token of a row is hidden."""

    def __post_init__(self) -> None:
        check_numbers(self, "agnostic.")
        if self.shares[0] > self.shares[1]:
            raise ConfigError("agnostic.shares are {:g} and {:g}; give the smaller one first.".format(*self.shares))
        if not self.cross_entropy and not self.variation:
            raise ConfigError("agnostic.cross_entropy and agnostic.variation are both 0; nothing would be learned.")


@dataclass(frozen=True, slots=True)
class TextRun:
    """Train a masked diffusion language model on text."""

    data: DataSettings = field(default_factory=DataSettings)
    """The text."""
    model: ModelChoice = field(default_factory=ModelChoice)
    """The network."""
    train: TrainSettings = field(default_factory=TrainSettings)
    """The training."""
    adapt: AdaptSettings = field(default_factory=AdaptSettings)
    """The conversion of a causal model."""
    agnostic: AgnosticSettings = field(default_factory=AgnosticSettings)
    """The mask-agnostic loss."""

    def __post_init__(self) -> None:
        if not self.model.soft and self.train.two_pass != TrainSettings().two_pass:
            raise ConfigError(
                f"train.two_pass is {self.train.two_pass:g}, but masks are plain, with which each step has one pass; "
                "leave it out, or set model.soft to 3."
            )


@dataclass(frozen=True, slots=True)
class Trained:
    """What the run.json of a checkpoint says about the text of its training."""

    folder: Path
    data: DataSettings
    """The paths in it are absolute, but for runs that recorded no rule."""
    fingerprint: str
    """That of the corpus, see `data.prepare.corpus_key`."""
    rule: int = 1
    """That of the split; 1 where no rule is recorded."""
    source: str | None = None
    """The fingerprint of the content of `data.source`; None where it is not recorded."""
    typed: Mapping[str, str] = field(default_factory=dict[str, str])
    """What was typed for the fields of `data` that are recorded as absolute paths."""


@dataclass(frozen=True, slots=True)
class RecordedMachine:
    """What a run recorded of the machine; see `config.run_record`."""

    versions: dict[str, str] = field(default_factory=dict[str, str])
    processor: str | None = None
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """What is read of run.json when a run goes on."""

    settings: dict[str, Any]
    plan: dict[str, Any]
    data: str
    dtype: Literal["auto", "float32", "bfloat16"]
    record: RecordedMachine
    step: Natural = 0
    init: str | None = None


def run_of(checkpoint: "Checkpoint") -> Recorded:
    """A checkpoint -> its run.json. Raises CheckpointError if a part is missing, or of another type."""
    record = checkpoint.run
    if record is None or not {field.name for field in fields(Recorded) if field.default is MISSING} <= record.keys():
        raise CheckpointError(
            f"{checkpoint.folder} does not say what was asked (run.json); "
            f"start a new run with --init {checkpoint.folder}"
        )
    return cast(Recorded, checkpoint.fact(Recorded, "run.json"))


def trained_on(checkpoint: "Checkpoint") -> Trained | None:
    """A checkpoint -> what it says about the text of its training; None if it says nothing.

    Raises CheckpointError for a rule of a later version, and for a damaged record.
    """
    from unmask.config import from_dict

    recorded = checkpoint.fact(dict[str, Any], "run.json", "settings", "data")
    fingerprint = checkpoint.fact(str, "run.json", "data")
    if recorded is None or fingerprint is None:
        return None
    where = f"{checkpoint.folder}/run.json"
    data = from_dict(DataSettings, recorded, where, CheckpointError)
    rule = checkpoint.fact(int, "run.json", "split", "rule")
    if rule is None:
        return Trained(checkpoint.folder, data, fingerprint)
    if not 1 <= rule <= SPLIT_RULE:
        raise CheckpointError(
            f"{where}: the text was split by rule {rule}, and this version knows 1 to {SPLIT_RULE}: "
            "install a newer unmask."
        )
    source = checkpoint.fact(str, "run.json", "split", "source")
    typed = checkpoint.fact(dict[str, str], "run.json", "typed")
    return Trained(checkpoint.folder, data, fingerprint, rule, source, typed or {})


def recorded_paths(data: DataSettings, before: Mapping[str, str]) -> tuple[DataSettings, dict[str, str]]:
    """Settings as they were typed -> the same with absolute paths, and what was typed for each of these, by field.

    `before` is what was typed for paths that are absolute because they come from a record.
    """
    from unmask.config import absolute_path
    from unmask.data.sources import CORPORA

    paths, typed = dict[str, str](), dict[str, str]()
    for name, fixed in (("source", CORPORA), ("valid", CORPORA), ("tokenizer", BUILT_IN_TOKENIZERS)):
        value = getattr(data, name)
        if value is None or value in fixed or value.startswith(("hf:", "task:")):
            continue
        paths[name] = absolute_path(value)
        typed[name] = before.get(name, value)
    return replace(data, **paths), typed


def refuse_changes(before: TextRun, now: TextRun) -> None:
    """Raise ConfigError for a setting that differs and may not change when a run is resumed.

    The place of a text may change; that the text is the same is checked when it is read.
    """
    for section in ("data", "model", "train", "adapt", "agnostic"):
        old, new = getattr(before, section), getattr(now, section)
        for name in (entry.name for entry in fields(old)):
            if (section == "train" and name in _FREE) or (section == "data" and name in _PLACES):
                continue
            if getattr(old, name) != getattr(new, name):
                raise ConfigError(
                    f"{section}.{name} was {getattr(old, name)} and cannot become {getattr(new, name)} when a run "
                    "goes on; start a new run with --init, or leave it out (what may change: "
                    f"{', '.join(sorted(_FREE))})."
                )
