"""Settings of the training of a policy. Imports no torch."""

__all__ = ["LearnRun", "LearnSettings"]

import math
from dataclasses import dataclass, field
from typing import Literal

from unmask.errors import ConfigError
from unmask.policies.learned.settings import PolicySettings


@dataclass(frozen=True, slots=True)
class LearnSettings:
    """Settings of GRPO (arXiv:2512.09106, section 3) and its warm start. Raises ConfigError for impossible values."""

    rounds: int = 250
    """Rounds of rollouts, verification and update."""
    prompts: int = 16
    """Problems in a round."""
    group: int = 8
    """Rollouts of each problem, whose rewards are compared."""
    alphas: tuple[float, ...] = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    """Exponents of speed, one drawn for each problem: the reward is score * ((L - passes + 1) / L) ** alpha."""
    block_size: int | None = None
    """Fill blocks of this number of positions; none for the whole canvas at once."""
    reward: Literal["product", "sum"] = "product"
    """The reward of `alphas`, or score - alpha * passes / L (the paper's ablation)."""
    scale: Literal["alpha", "none", "std"] = "alpha"
    """Advantages are divided by a running deviation for each alpha, by nothing (the paper), or by their group's own."""
    weight: Literal["passes", "rollouts"] = "passes"
    """Every pass of a round counts the same, or every rollout does (the paper)."""
    clip: float = 0.5
    """Largest distance from 1 of the ratio of likelihoods of a pass."""
    inner: int = 2
    """Updates on the rollouts of a round."""
    temperature: float = 1.0
    """Divides the logits while rollouts are drawn."""
    entropy: float = 0.02
    """Bonus for each nat of entropy of the Bernoulli draws of a pass: without it they become certain too early."""
    lr: float = 5e-4
    """Learning rate of AdamW."""
    warmup: int = 10
    """Rounds of linear warm-up of the learning rate."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's decays of the means of gradients and of their squares."""
    weight_decay: float = 0.01
    """AdamW's weight decay."""
    max_norm: float = 0.5
    """Largest norm of the gradient."""
    warm: int = 50
    """Rounds of imitating the best heuristic for each alpha before GRPO; 0 for none."""
    warm_lr: float = 3e-3
    """Learning rate while imitating."""
    steering: int = 0
    """Rollouts of the best heuristic that join each group (expert steering, appendix F)."""
    scored: int = 128
    """Problems that the heuristics are compared on."""
    pool: int = 4096
    """Training problems made beforehand, from which the rounds draw."""
    valid_prompts: int = 128
    """Validation problems, each decoded at every alpha."""
    valid_every: int = 50
    """Rounds between validations; the policy with the best mean reward is kept."""
    calibrated: int = 256
    """Validation problems on which each dial value is measured in the end."""
    patience: int = 0
    """Stop after this number of validations without a better one; 0 for never."""
    save_every: int = 50
    """Rounds between checkpoints."""
    keep: int = 2
    """Latest checkpoints to keep."""
    seed: int = 0
    """Seed of the problems, the weights and the rollouts."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """Arithmetic of the denoiser; auto is what is fastest here. Policies are compared, so that the default is the same
    on every machine."""
    threads: int | None = None
    """Processor threads; by default all."""
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Also send the metrics there."""

    def __post_init__(self) -> None:
        if self.group < 2:
            raise ConfigError(
                f"group is {self.group}; a rollout is compared with others of its problem: give at least 2."
            )
        if not self.alphas or not all(0 <= alpha < math.inf for alpha in self.alphas):
            raise ConfigError(f"alphas are {list(self.alphas)}; give at least one, each 0 (accuracy alone) or more.")
        for name in (
            "rounds",
            "prompts",
            "inner",
            "scored",
            "pool",
            "calibrated",
            "valid_prompts",
            "valid_every",
            "save_every",
            "keep",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("warm", "steering", "patience", "warmup"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 or more.")
        for name in ("entropy", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 or more.")
        for name in ("lr", "warm_lr", "max_norm", "temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas are {list(self.betas)}; give two numbers from 0 to below 1, usually 0.9 0.99.")
        if not 0 < self.clip < 1:
            raise ConfigError(f"clip is {self.clip}; give a number between 0 and 1, usually 0.5.")
        if self.block_size is not None and self.block_size < 1:
            raise ConfigError(f"block_size is {self.block_size}; give at least 1, or none for the whole canvas.")


@dataclass(frozen=True, slots=True)
class LearnRun:
    """A denoiser, its problems, a policy, and the settings of its training."""

    checkpoint: str = "automaton_eos"
    """The denoiser, frozen: a checkpoint or run folder, or the name of a bundled model."""
    task: str = "automaton:traces=mixed"
    """The problems: a name, or name:key=value, or path.py:Class."""
    policy: PolicySettings = field(default_factory=PolicySettings)
    learn: LearnSettings = field(default_factory=LearnSettings)

    def __post_init__(self) -> None:
        if not self.policy.priced and len(self.learn.alphas) != 1:
            raise ConfigError(
                f"A policy without policy.priced is trained for one alpha, and there are {len(self.learn.alphas)}; "
                "give one alpha, or policy.priced."
            )
        if self.policy.head != "bernoulli" and self.learn.entropy:
            raise ConfigError(
                f"entropy is {self.learn.entropy:g}, a bonus for Bernoulli draws, and a ranking has none; "
                "give learn.entropy 0."
            )
