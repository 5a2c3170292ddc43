"""What a learned policy looks at, and how large it is; no torch here."""

__all__ = ["FEATURES", "LEAST_ALPHA", "Feature", "PolicySettings"]

from dataclasses import dataclass
from typing import Literal, get_args

from unmask.errors import ConfigError

Feature = Literal["confidence", "top", "entropy", "margin", "hidden"]
FEATURES: tuple[str, ...] = get_args(Feature)
LEAST_ALPHA = 0.03
"""Prices are told, and dialled, by equal factors of alpha plus this much: no jump at alpha 0."""


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """The network of arXiv:2512.09106, section 4 and appendix A: one transformer block over features of positions.

    The paper's own size is width 128 with raw confidences (`scale="raw"`) and no price; the defaults are ours, about
    22 thousand parameters. Raises ConfigError for what cannot be.
    """

    width: int = 32
    heads: int = 2
    features: tuple[Feature, ...] = ("confidence", "top", "entropy", "margin")
    """Of each position: confidence (of the proposal), top (the `top` highest probabilities), entropy, margin, hidden
    (what the denoiser made of it)."""
    top: int = 4
    """How many probabilities the feature `top` has."""
    hidden: int = 0
    """Width of the denoiser's hidden state, for the feature of that name."""
    scale: Literal["log-odds", "raw"] = "log-odds"
    """How a probability is told: log(p / (1 - p)) / 4, or as it is."""
    mask: bool = True
    """Whether it is told what is written already."""
    time: bool = True
    """Whether it is told how many passes were spent."""
    positions: bool = True
    """Whether attention knows places (rotary), or sees a set."""
    priced: bool = True
    """Whether one network serves every price of a pass, told which; else it has one behaviour and no dial."""
    head: Literal["bernoulli", "plackett-luce"] = "bernoulli"
    """A coin for each position, or a ranking with a STOP among the positions (appendix E)."""
    unit: float = 24.0
    """Prices are told in units of 1 / `unit`, the length that the policy was trained on: alpha = price * unit."""
    largest: float = 30.0
    """The largest alpha that it is trained on, at `PRICED` on the dial."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.heads < 1 or self.width % (2 * self.heads):
            raise ConfigError(
                f"width is {self.width} and heads {self.heads}; give a width that is a multiple of 2 heads."
            )
        if not self.features or set(self.features) - set(FEATURES):
            raise ConfigError(f"features are {list(self.features)}; choose at least one of {', '.join(FEATURES)}.")
        if "top" in self.features and self.top < 2:
            raise ConfigError(f"top is {self.top}; give at least 2 probabilities, or the feature confidence alone.")
        if ("hidden" in self.features) != (self.hidden > 0):
            raise ConfigError(f"hidden is {self.hidden}; give the denoiser's width with the feature hidden, else 0.")
        if self.unit <= 0 or self.largest <= 0:
            raise ConfigError(f"unit is {self.unit} and largest {self.largest}; give numbers above 0.")

    @property
    def inputs(self) -> int:
        """Numbers told of each position."""
        sizes = {"top": self.top, "hidden": self.hidden}
        return sum(sizes.get(feature, 1) for feature in self.features)
