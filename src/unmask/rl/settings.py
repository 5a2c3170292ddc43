"""Settings of the training of a policy. Imports no torch."""

__all__ = ["MOST_PAIRS", "LearnRun", "LearnSettings", "Pair"]

from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

from unmask.errors import ConfigError
from unmask.policies.learned.settings import PolicySettings
from unmask.ranges import Count, Natural, Seed, Threads, check_numbers, real, whole

MOST_PAIRS = 9
"""Pairs of a denoiser and a task that a policy can be trained on."""


class Pair(NamedTuple):
    """A denoiser and its problems."""

    checkpoint: str
    task: str

    @property
    def name(self) -> str:
        """TASK=CHECKPOINT, as it is typed."""
        return f"{self.task}={self.checkpoint}"


@dataclass(frozen=True, slots=True)
class LearnSettings:
    """Settings of GRPO (arXiv:2512.09106, section 3) and its warm start. Raises ConfigError for impossible values."""

    rounds: Natural = 250
    """Rounds of rollouts, verification and update; 0 for the warm start alone."""
    prompts: Count = 16
    """Problems in a round."""
    group: Annotated[int, whole(2, hint="a rollout is compared with others of its problem")] = 8
    """Rollouts of each problem, whose rewards are compared."""
    pairs: Count = 2
    """Most pairs of a mixture in a round: the rows of a pair are decoded together, so that fewer are faster."""
    alphas: Annotated[tuple[float, ...], real(0, 1e6, "0 is accuracy alone")] = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    """Exponents of speed, one drawn for each problem: the reward is score * ((L - passes + 1) / L) ** alpha."""
    between: bool = False
    """Draw alphas between two neighbours too, uniformly on the dial."""
    block_size: Count | None = None
    """Fill blocks of this number of positions; none for the whole canvas at once."""
    reward: Literal["product", "sum", "log"] = "product"
    """The reward of `alphas`; or score - alpha * passes / L (the paper's ablation); or score * passes ** -alpha."""
    scale: Literal["alpha", "none", "std"] = "alpha"
    """Advantages are divided by a running deviation for each alpha, by nothing (the paper), or by their group's own."""
    weight: Literal["passes", "rollouts"] = "passes"
    """Every pass of a round counts the same, or every rollout does (the paper)."""
    clip: Annotated[float, real(0, 1, "usually 0.5", above=True, below=True)] = 0.5
    """Largest distance from 1 of the ratio of likelihoods of a pass."""
    inner: Count = 2
    """Updates on the rollouts of a round."""
    temperature: Annotated[float, real(1e-4, 1e4)] = 1.0
    """Divides the logits while rollouts are drawn."""
    entropy: Annotated[float, real(0, 1000)] = 0.02
    """Bonus for each nat of entropy of the Bernoulli draws of a pass: without it they become certain too early."""
    lr: Annotated[float, real(0, 10, above=True)] = 5e-4
    """Learning rate of AdamW."""
    warmup: Natural = 10
    """Rounds of linear warm-up of the learning rate."""
    betas: Annotated[tuple[float, float], real(0, 1, "usually 0.9 0.99", below=True)] = (0.9, 0.99)
    """AdamW's decays of the means of gradients and of their squares."""
    weight_decay: Annotated[float, real(0, 1000)] = 0.01
    """AdamW's weight decay."""
    max_norm: Annotated[float, real(0, 1e9, above=True)] = 0.5
    """Largest norm of the gradient."""
    warm: Natural = 50
    """Rounds of imitation before GRPO; 0 for none."""
    teacher: Literal["rules", "final"] = "rules"
    """Who is imitated: the best heuristic for each alpha; or the final text, so that the network learns which
    predictions are those of a decoding of one token a pass (Learn2PD, arXiv:2509.25188)."""
    fastest: bool = False
    """Among the heuristics is also the rule that writes everything in one pass."""
    mixed: bool = False
    """Each round of imitation has problems of every alpha, else of one."""
    warm_lr: Annotated[float, real(0, 10, above=True)] = 3e-3
    """Learning rate while imitating."""
    steering: Natural = 0
    """Rollouts of the best heuristic that join each group (expert steering, appendix F)."""
    scored: Count = 128
    """Problems that the heuristics are compared on."""
    pool: Count = 4096
    """Training problems made beforehand, from which the rounds draw."""
    valid_prompts: Count = 128
    """Validation problems, each decoded at every alpha."""
    valid_every: Count = 50
    """Rounds between validations; the policy with the best mean reward is kept."""
    calibrated: Count = 256
    """Validation problems on which each dial value is measured in the end."""
    patience: Natural = 0
    """Stop after this number of validations without a better one; 0 for never."""
    save_every: Count = 50
    """Rounds between checkpoints."""
    keep: Count = 2
    """Latest checkpoints to keep."""
    seed: Seed = 0
    """Seed of the problems, the weights and the rollouts."""
    batch: Count = 256
    """Rows that go through the denoiser at once; rollouts do not depend on it. For large vocabularies the logits
    take memory: 1 GB for 64 rows in blocks of 32 of 126,464 tokens."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: Literal["auto", "float32", "bfloat16", "int8"] = "float32"
    """Arithmetic of the denoiser; auto is what is fastest here. Policies are compared, so that the default is the same
    on every machine."""
    threads: Threads | None = None
    """Processor threads; by default the faster of one and all, measured."""
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Also send the metrics there."""

    @property
    def imitated(self) -> str:
        """What the warm start imitates, in words."""
        return f"{self.warm} rounds of imitation" + (" of final texts" if self.teacher == "final" else "")

    def __post_init__(self) -> None:
        check_numbers(self)
        if not self.alphas:
            raise ConfigError("alphas is empty; give at least one, each 0 (accuracy alone) or more.")
        if self.between and list(self.alphas) != sorted(set(self.alphas)):
            raise ConfigError(f"alphas are {list(self.alphas)}; with between give them in rising order.")
        if self.between and self.steering:
            raise ConfigError("The heuristics of steering are chosen for each alpha; leave out steering, or between.")
        if not (self.rounds or self.warm):
            raise ConfigError("rounds and warm are 0: nothing is trained; give at least one of them.")
        if self.teacher == "final" and self.steering:
            raise ConfigError(
                f"steering is {self.steering}, rollouts of the best heuristic, and with the teacher final none is "
                "chosen; give steering 0."
            )


@dataclass(frozen=True, slots=True)
class LearnRun:
    """A denoiser and its problems, or several such pairs; a policy, and the settings of its training."""

    checkpoint: str = "automaton_eos"
    """The denoiser, frozen: a checkpoint or run folder, or the name of a bundled model."""
    task: str = "automaton:traces=mixed"
    """The problems: a name, or name:key=value, or path.py:Class."""
    policy: PolicySettings = field(default_factory=PolicySettings)
    learn: LearnSettings = field(default_factory=LearnSettings)
    others: tuple[str, ...] = ()
    """Further pairs, TASK=CHECKPOINT each: one policy is trained on a mixture of all pairs, at most nine."""

    def __post_init__(self) -> None:
        for text in self.others:
            task, _, checkpoint = text.rpartition("=")
            if not (task and checkpoint):
                raise ConfigError(f"others has '{text}'; write TASK=CHECKPOINT, for example sudoku=sudoku.")
        if len(self.pairs) > MOST_PAIRS:
            raise ConfigError(f"There are {len(self.pairs)} pairs of a denoiser and a task; give at most {MOST_PAIRS}.")
        if twice := next((pair for pair in self.pairs if self.pairs.count(pair) > 1), None):
            raise ConfigError(f"The pair {twice.name} is in the mixture twice; give each pair once.")
        if not self.policy.priced and len(self.learn.alphas) != 1:
            raise ConfigError(
                f"A policy without policy.priced is trained for one alpha, and there are {len(self.learn.alphas)}; "
                "give one alpha, or policy.priced."
            )
        if self.policy.head != "bernoulli" and self.learn.teacher == "final":
            raise ConfigError(
                "The teacher final has a label for each position, and a ranking takes none; use bernoulli."
            )
        if self.policy.head != "bernoulli" and self.learn.entropy:
            raise ConfigError(
                f"entropy is {self.learn.entropy:g}, a bonus for Bernoulli draws, and a ranking has none; "
                "give learn.entropy 0."
            )

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """All pairs of a denoiser and a task, the first one first."""
        parts = (text.rpartition("=") for text in self.others)
        return Pair(self.checkpoint, self.task), *(Pair(checkpoint, task) for task, _, checkpoint in parts)
