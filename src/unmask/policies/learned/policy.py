"""A learned network as a policy: it sees what a View tells and decides what to reveal (arXiv:2512.09106).

A learned policy on disk: a folder of safetensors and JSON, well under 2 MB, with what it was trained on.
"""

__all__ = [
    "POLICY_FORMAT",
    "PRICED",
    "Calibration",
    "Learned",
    "alpha_of",
    "decide",
    "dial_of",
    "observe",
    "policy_config",
    "push_of",
    "read_policy",
    "read_policy_config",
]

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from unmask.batch import padded_size
from unmask.config import from_dict, to_dict
from unmask.errors import CheckpointError, ConfigError, RequestError
from unmask.policies.base import Decision, Needs, State, View
from unmask.policies.learned.network import (
    Observation,
    PolicyNetwork,
    bernoulli_log_prob,
    plackett_luce_log_prob,
    plackett_luce_rank,
)
from unmask.policies.learned.settings import LEAST_ALPHA, PolicySettings

PRICED = 0.8
"""Up to here the dial is a price that the network was trained on; from here to 1 the cut falls, down to one pass."""
_FURTHER = 5.0  # dial 1 stands for so many times the largest alpha
_SURE = 1e-6
_MOST = 1e4  # a logit that nothing outweighs


@dataclass(frozen=True, slots=True)
class Calibration:
    """What each place of the dial gave on validation problems."""

    task: str
    block_size: int | None
    problems: int
    last: float
    """The alpha at `PRICED`: with larger ones this policy is worse than with a lower cut."""
    dial: tuple[float, ...]
    passes: tuple[float, ...]
    accuracy: tuple[float, ...]

    def dial_for(self, passes: float) -> float:
        """The slowest place of the dial that spends at most so many passes on average.

        Raises RequestError where even the fastest spends more.
        """
        for n, spent in enumerate(self.passes):
            if spent <= passes:
                if n == 0:
                    return self.dial[0]
                share = (self.passes[n - 1] - passes) / max(self.passes[n - 1] - spent, 1e-9)
                return self.dial[n - 1] + share * (self.dial[n] - self.dial[n - 1])
        raise RequestError(
            f"{passes:g} passes are too few: this policy spends {self.passes[-1]:.1f} at its fastest on {self.task}; "
            "give at least that."
        )


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """A policy network at work.

    `cut` reveals where the probability is above it; with `sample` each position is drawn by itself (or the set by
    ranking, see `PolicySettings.head`). `temperature` divides the logits, `beta` scales the probabilities:
    min(1, beta p) (section 4.3). `dial` from 0 (accurate) to 1 (one pass) holds where a row's canvas does not say its
    own: up to `PRICED` the price of a pass, beyond it the last price and `push_of` on the logits; `last` is the alpha
    there, by default the largest. Where nothing is revealed the loop takes the position with the highest logit.
    """

    network: PolicyNetwork
    dial: float = 0.25
    sample: bool = False
    cut: float = 0.5
    temperature: float = 1.0
    beta: float = 1.0
    last: float | None = None
    calibration: Calibration | None = None
    name: str = "learned"

    def __post_init__(self) -> None:
        if not 0 <= self.dial <= 1:
            raise ConfigError(f"dial is {self.dial:g}; give a number from 0 (accurate) to 1 (fast).")
        if not 0 < self.cut < 1:
            raise ConfigError(f"cut is {self.cut:g}; give a probability between 0 and 1, usually 0.5.")
        if self.temperature <= 0 or self.beta <= 0:
            raise ConfigError(f"temperature is {self.temperature:g} and beta {self.beta:g}; give numbers above 0.")
        if self.beta != 1 and self.settings.head != "bernoulli":
            raise ConfigError("beta scales the coins of a Bernoulli head; a ranking has none.")

    def __repr__(self) -> str:
        return f"{self.name}:dial={self.dial:g}"

    @property
    def settings(self) -> PolicySettings:
        return self.network.settings

    @property
    def looks(self) -> bool:
        return True

    @property
    def needs(self) -> Needs:
        wanted = self.settings.features
        return Needs(top=self.settings.top if "top" in wanted else 0, hidden="hidden" in wanted)

    def price(self, dial: Tensor) -> Tensor:
        """(B,) the price of a pass at each dial, nan standing for this policy's own."""
        return alpha_of(dial.nan_to_num(self.dial), self._last) / self.settings.unit

    def dial_of(self, alpha: float) -> float:
        """The place of the dial that stands for a price, at most 1."""
        return dial_of(alpha, self._last, self.settings.largest)

    @property
    def _last(self) -> float:
        return self.settings.largest if self.last is None else self.last

    def push(self, dial: Tensor) -> Tensor:
        """(B,) what is added to the logits at each dial, nan standing for this policy's own; 0 without a dial."""
        found = push_of(dial.nan_to_num(self.dial))
        return found if self.settings.priced else torch.zeros_like(found)

    @torch.no_grad()
    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        return decide(self, self.logits(view), view), None

    def logits(self, view: View) -> Tensor:
        """(B, L); those of positions that are not eligible mean nothing."""
        self.network.to(view.eligible.device)  # read from a folder it is on the processor
        seen = observe(view, self.settings, self.price(_dial(view)))
        told = self.network(seen)
        return told.new_zeros(view.eligible.shape).scatter_(1, seen.places, told)


def alpha_of(dial: Tensor, last: float) -> Tensor:
    """Dial 0 to `PRICED` -> alpha 0 to `last`, by equal factors but for the beginning; beyond it stays there."""
    return LEAST_ALPHA * ((1 + last / LEAST_ALPHA) ** (dial.clamp(max=PRICED) / PRICED) - 1)


def dial_of(alpha: float, last: float, largest: float) -> float:
    """The inverse of `alpha_of`; above `last` by equal factors from `PRICED` to 1, which is 5 times `largest`."""
    if alpha <= last:
        return PRICED * math.log(1 + alpha / LEAST_ALPHA) / math.log(1 + last / LEAST_ALPHA)
    beyond = math.log(alpha / last) / math.log(_FURTHER * largest / last)
    return min(1.0, PRICED + (1 - PRICED) * beyond)


def push_of(dial: Tensor) -> Tensor:
    """What is added to the logits: 0 up to `PRICED`, from there to dial 1 up to 10, and at 1 enough for anything.

    A network hardly learns to reveal everything at once: near one pass rewards differ little between actions. Its order
    is good there all the same, so a lower cut is worth more than a higher price (docs/log.md).
    """
    beyond = 10 * ((dial - PRICED) / (1 - PRICED)).clamp(min=0)
    return torch.where(dial < 1, beyond, _MOST)


def decide(policy: Learned, logits: Tensor, view: View) -> Decision:
    """What the logits (B, L) mean to a policy with its knobs."""
    logits = logits / policy.temperature
    if policy.beta != 1:
        logits = (policy.beta * logits.sigmoid()).clamp(_SURE, 1 - _SURE).logit()
    logits = logits + policy.push(_dial(view))[:, None]
    if policy.settings.head == "plackett-luce":
        rank = plackett_luce_rank(logits, view.eligible, view.noise if policy.sample else None)
        drawn = plackett_luce_log_prob(logits, view.eligible, rank) if policy.sample else None
        return Decision(rank > 0, fallback=logits, log_prob=drawn)
    chance = logits.sigmoid()
    reveal = (view.noise < chance if policy.sample else chance > policy.cut) & view.eligible
    drawn = bernoulli_log_prob(logits, view.eligible, reveal) if policy.sample else None
    return Decision(reveal, fallback=logits, log_prob=drawn)


def observe(view: View, settings: PolicySettings, price: Tensor) -> Observation:
    """What a network with these settings is told of a View; price (B,).

    Of each row the positions that were to fill, moved together: prompt and padding would cost as much and tell nothing.
    Raises RequestError for a feature that the View does not have.
    """
    present = view.masked | view.written
    most = padded_size(int(present.sum(-1).max()))
    places = (~present).long().argsort(dim=-1, stable=True)[:, :most]
    eligible, written = view.eligible.gather(1, places), view.written.gather(1, places)
    parts = [_feature(view, feature, settings, places) for feature in settings.features]
    features = torch.cat(parts, -1).masked_fill(~(eligible | written)[..., None], 0)
    time = view.step / view.total.clamp(min=1)
    state = torch.where(written, 0, torch.where(eligible, 1, 2))
    return Observation(features, state, present.gather(1, places), time, price.float(), places)


def _feature(view: View, feature: str, settings: PolicySettings, places: Tensor) -> Tensor:
    """(B, A, ·) float32 at places (B, A)."""
    value: Tensor | None = getattr(view, feature)
    if feature == "hidden" and (value is None or value.shape[-1] != settings.hidden):
        width = "none" if value is None else f"{value.shape[-1]} wide"
        raise RequestError(
            f"This policy reads hidden states of width {settings.hidden}, and those of the denoiser are {width}; "
            "use the denoiser it was trained on."
        )
    if value is None or (feature == "top" and value.shape[-1] < settings.top):
        raise RequestError(
            f"This policy reads the {settings.top} highest probabilities of a position, and there are fewer tokens; "
            "use a denoiser with more."
        )
    value = value.float().view(*view.eligible.shape, -1)
    if feature == "top":
        value = value[..., : settings.top]  # another policy of the same request may want more
    value = value.gather(1, places[..., None].expand(-1, -1, value.shape[-1]))
    if settings.scale == "raw" or feature not in ("confidence", "top"):
        return value
    return value.clamp(_SURE, 1 - _SURE).logit() / 4


def _dial(view: View) -> Tensor:
    return torch.full_like(view.step, torch.nan, dtype=torch.float32) if view.dial is None else view.dial


POLICY_FORMAT = 1
_CONFIG, _MODEL = "config.json", "model.safetensors"


def policy_config(
    settings: PolicySettings, trained_on: dict[str, Any], calibration: Calibration | None
) -> dict[str, Any]:
    """What config.json says beside format and versions."""
    told = None if calibration is None else asdict(calibration)
    return {"policy_format": POLICY_FORMAT, "policy": to_dict(settings), "trained_on": trained_on, "calibration": told}


def read_policy_config(path: str | Path) -> dict[str, Any]:
    """config.json of a policy folder. Raises CheckpointError where that is none."""
    folder = Path(path)
    if not (folder / _CONFIG).is_file() or not (folder / _MODEL).is_file():
        raise CheckpointError(
            f"{folder} is no policy folder: it holds {_MODEL} and {_CONFIG}, as unmask learn writes them."
        )
    try:
        facts = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{folder / _CONFIG} cannot be read: {error}.") from None
    if "policy" not in facts:
        raise CheckpointError(
            f"{folder} is a checkpoint of another kind; a policy folder is one that unmask learn wrote."
        )
    if facts.get("policy_format", 0) > POLICY_FORMAT:
        raise CheckpointError(f"{folder} has policy format {facts['policy_format']}; upgrade unmask to read it.")
    return facts


def read_policy(path: str | Path) -> Learned:
    """The policy in a folder. Raises CheckpointError, in one sentence, for whatever is not a whole one."""
    facts, told = read_policy_config(path), f"{path}/{_CONFIG}"
    try:
        settings = from_dict(PolicySettings, facts["policy"], told)
        given = facts.get("calibration")
        calibration = None if given is None else from_dict(Calibration, given, told)
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    network = PolicyNetwork(settings)
    try:
        network.load_state_dict(load_file(Path(path) / _MODEL))
    except (SafetensorError, RuntimeError):
        raise CheckpointError(
            f"{Path(path) / _MODEL} cannot be read, or its weights are not those that {_CONFIG} describes; "
            "copy the folder again, or train the policy anew."
        ) from None
    last = None if calibration is None else calibration.last
    return replace(Learned(network.eval()), last=last, calibration=calibration, name=f"learned:from={path}")
