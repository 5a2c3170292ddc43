"""Settings and data -> the plan of a training run, with a value for every setting that was left out."""

__all__ = ["TrainPlan", "flops_per_token", "make_plan", "memory_bytes"]

from dataclasses import dataclass
from typing import Any

from unmask.data.packed import Corpus
from unmask.denoiser import Trainable
from unmask.errors import ConfigError, did_you_mean
from unmask.model.load import parameter_count
from unmask.model.settings import SIZES, DiTSettings
from unmask.train.settings import ModelChoice, TextRun


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """All numbers of a training run."""

    model: Any
    """Settings of the network, of any architecture; `model.load.stored_settings` reads them back."""
    parameters: int
    steps: int
    lr: float
    warmup: int
    eval_every: int
    save_every: int
    draws: int
    """Maskings of each validation sequence."""
    train_tokens: int
    valid_tokens: int
    epochs: float
    """How often each training sequence is seen in the whole run."""


def make_plan(run: TextRun, corpus: Corpus, start: Trainable | None = None) -> TrainPlan:
    """Settings and a corpus -> the plan; `start` is the network to fine-tune, of any architecture.

    Raises ConfigError for impossible shapes, or for sequences longer than the window of `start`.
    """
    if start is None:
        settings = _new_model(run.model, corpus)
        parameters, width = parameter_count(settings), settings.width
    else:
        _check_length(run.data.length, start)
        settings, width = start.settings, start.width
        parameters = sum(p.numel() for p in start.parameters())
    rows = len(corpus.train)
    per_epoch = max(rows / run.train.batch, 1e-9)
    steps = run.train.steps or _default_steps(rows, run.train.batch)
    warmup = min(2500, max(1, steps // 20)) if run.train.warmup is None else run.train.warmup
    every = run.train.eval_every or max(25, steps // 40)
    return TrainPlan(
        model=settings,
        parameters=parameters,
        steps=steps,
        lr=run.train.lr or (1e-3 if width <= 384 else 3e-4),
        warmup=warmup,
        eval_every=every,
        save_every=run.train.save_every or every,
        draws=max(1, run.train.eval_draws // max(1, min(len(corpus.valid), run.train.eval_draws))),
        train_tokens=corpus.train.tokens,
        valid_tokens=corpus.valid.tokens,
        epochs=steps / per_epoch,
    )


def _check_length(length: int, network: Trainable) -> None:
    """Raises ConfigError for sequences longer than the window of the network to fine-tune."""
    if length > network.max_length:
        raise ConfigError(
            f"data.length is {length}, but the model's window is {network.max_length} tokens; "
            f"set --data.length {network.max_length} or less."
        )


def _new_model(choice: ModelChoice, corpus: Corpus) -> DiTSettings:
    size = _default_size(corpus.train.tokens) if choice.size == "auto" else choice.size
    if size not in SIZES:
        raise ConfigError(f"model.size is '{size}'; {did_you_mean(size, SIZES)}")
    width, blocks, heads = SIZES[size]
    return DiTSettings(
        vocab_size=corpus.tokenizer.vocab_size,
        mask_id=corpus.tokenizer.mask_id,
        max_length=corpus.train.length,
        width=choice.width or width,
        blocks=choice.blocks or blocks,
        heads=choice.heads or heads,
        dropout=choice.dropout,
        absolute=choice.absolute,
        modulation="time" if choice.time_conditioned else "none",
    )


def _default_size(tokens: int) -> str:
    """Number of training tokens -> the largest size for which they are enough."""
    limits = (("nano", 200_000), ("micro", 1_000_000), ("mini", 20_000_000), ("base", 200_000_000))
    return next((name for name, limit in limits if tokens < limit), "small")


def _default_steps(rows: int, batch: int) -> int:
    """Sixty passes over the text, but at least 600 and at most 20 000 steps; patience usually ends training earlier."""
    return int(min(20_000, max(600, 60 * rows / batch)))


def flops_per_token(model: DiTSettings) -> float:
    """Settings -> floating-point operations of a training step (forward and backward) for each position.

    6 for each weight of the blocks, the attention's two matmuls, and the head at the half of the positions that are
    masked on average.
    """
    blocks = 12 * model.width**2 * model.blocks
    attention = 12 * model.max_length * model.width * model.blocks
    return 6 * blocks + attention + 3 * model.vocab_size * model.width


def memory_bytes(plan: TrainPlan, batch: int) -> int:
    """A plan -> rough peak memory of a training step in float32, in bytes.

    Counts weights, gradient, two moments, the average, and the activations; the latter only for DiT.
    """
    model = plan.model
    activations = 0
    if isinstance(model, DiTSettings):
        per_block = batch * model.max_length * model.width * 20 + 2 * batch * model.heads * model.max_length**2
        activations = model.blocks * per_block
    return 4 * (5 * plan.parameters + activations) + 3 * 4 * 2**24
