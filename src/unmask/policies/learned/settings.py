"""Settings of a learned policy: its features and the size of its network. Imported without torch."""

__all__ = ["FEATURES", "LEAST_ALPHA", "Feature", "PolicySettings"]

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from unmask.errors import ConfigError
from unmask.ranges import Count, Natural, check_numbers, real

Feature = Literal["confidence", "top", "entropy", "margin", "hidden"]
FEATURES: tuple[str, ...] = get_args(Feature)
LEAST_ALPHA = 0.03
"""Dial values, and the network's input, are logarithmic in alpha + LEAST_ALPHA, so that alpha = 0 is finite."""


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """The network of arXiv:2512.09106, section 4 and appendix A: one transformer block over features of positions.

    The cost of a pass is alpha / `unit`; alpha is the weight of speed in the reward. The paper's own network has width
    128, raw confidences (`scale="raw"`) and no cost among its inputs; the defaults are ours, with about 22 thousand
    parameters.
    Raises ConfigError for impossible values.
    """

    network: Literal["transformer", "mlp"] = "transformer"
    """A transformer block; or the two layers of Learn2PD (arXiv:2509.25188) over the confidences of `unit` positions
    side by side, for which width, heads, mask, time, length and positions have no effect."""
    width: Count = 32
    """Size of the residual stream."""
    heads: Count = 2
    """Number of attention heads."""
    features: tuple[Feature, ...] = ("confidence", "top", "entropy", "margin")
    """Of each position: confidence (of the proposal), top (the `top` highest probabilities), entropy, margin, hidden
    (the denoiser's hidden state)."""
    top: Count = 4
    """Number of probabilities in the feature `top`."""
    hidden: Natural = 0
    """Width of the denoiser's hidden state, for the feature of that name."""
    scale: Literal["log-odds", "raw"] = "log-odds"
    """Scale of probabilities: log(p / (1 - p)) / 4, or p itself."""
    entropy: Literal["nats", "bounded"] = "nats"
    """Scale of the entropy H: nats, or H / (1 + H), which is below 1 for every size of the vocabulary."""
    mask: bool = True
    """Whether the state of a position (written, eligible, or neither) is an input."""
    time: bool = True
    """Whether the number of passes so far is an input."""
    length: bool = False
    """Whether the logarithm of the number of positions to fill is an input."""
    positions: bool = True
    """Whether attention has rotary positions; without them the positions are a set."""
    priced: bool = True
    """Whether the cost of a pass is an input, so that one network has a dial; else it has one behaviour and no dial."""
    head: Literal["bernoulli", "plackett-luce"] = "bernoulli"
    """A Bernoulli draw for each position, or a ranking with a STOP among the positions (appendix E)."""
    hides: Natural = 0
    """How often the policy may hide a written position again; 0: never. Above 0 the network has a second output, for
    written positions, and two more inputs: the probability of the token that this pass would write there, and how often
    the position was hidden."""
    unit: Annotated[float, real(0, 1e9, above=True)] = 24.0
    """The length that the policy was trained on: alpha = cost of a pass * `unit`."""
    largest: Annotated[float, real(0, 1e9, above=True)] = 30.0
    """The largest alpha of training, at the dial value `TRAINED_DIAL`."""

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.width % (2 * self.heads):
            raise ConfigError(
                f"width is {self.width} and heads {self.heads}; give a width that is a multiple of 2 heads."
            )
        if not self.features or set(self.features) - set(FEATURES):
            raise ConfigError(f"features are {list(self.features)}; choose at least one of {', '.join(FEATURES)}.")
        if "top" in self.features and self.top < 2:
            raise ConfigError(f"top is {self.top}; give at least 2 probabilities, or the feature confidence alone.")
        plain = self.features == ("confidence",) and not (self.priced or self.hides) and self.head == "bernoulli"
        if self.network == "mlp" and not plain:
            raise ConfigError(
                "A policy with network mlp reads the confidence alone and has one behaviour; give features "
                "confidence, priced false, hides 0 and the head bernoulli, as the recipe learn2pd does."
            )
        if ("hidden" in self.features) != (self.hidden > 0):
            raise ConfigError(f"hidden is {self.hidden}; give the denoiser's width with the feature hidden, else 0.")
        if self.hides and self.head != "bernoulli":
            raise ConfigError(
                f"hides is {self.hides}, and a ranking hides nothing again; give head bernoulli, or hides 0."
            )

    @property
    def inputs(self) -> int:
        """Number of features of a position."""
        sizes = {"top": self.top, "hidden": self.hidden}
        return sum(sizes.get(feature, 1) for feature in self.features) + 2 * (self.hides > 0)
