"""Learned policies: a View -> the input of a network -> a Decision (arXiv:2512.09106); and their folders.

A dial from 0 (accurate) to 1 (fast) sets the speed. Up to `TRAINED_DIAL` it sets alpha, the weight of speed in the
reward that the network was trained on; above, a number is added to the logits. On disk a policy is a checkpoint as any
other, well under 2 MB.
"""

__all__ = [
    "POLICY_FORMAT",
    "TRAINED_DIAL",
    "Calibration",
    "Learned",
    "alpha_of",
    "changeable",
    "decide",
    "dial_of",
    "observe",
    "policy_config",
    "read_policy",
    "shift_of",
]

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from unmask.batch import padded_size
from unmask.config import from_dict, to_dict
from unmask.disk.checkpoint import load_tensors, read_checkpoint
from unmask.disk.folders import reading
from unmask.errors import CheckpointError, ConfigError, RequestError
from unmask.limits import require_finite
from unmask.policies.base import Decision, Needs, State, View
from unmask.policies.learned.network import (
    FilterNetwork,
    Observation,
    PolicyNetwork,
    bernoulli_log_prob,
    make_network,
    plackett_luce_log_prob,
    plackett_luce_rank,
)
from unmask.policies.learned.settings import LEAST_ALPHA, PolicySettings
from unmask.ranges import Count, Dial, check_numbers, real

TRAINED_DIAL = 0.8
"""The largest dial value that sets a cost of training; from here to 1 the reveal threshold falls, down to one pass."""
_FURTHER = 5.0  # dial 1 corresponds to the largest alpha times this
_SMALLEST = 1e-6  # probabilities are clamped to this and 1 minus this
_LARGEST = 1e4  # a logit larger than any other


@dataclass(frozen=True, slots=True)
class Calibration:
    """Passes and accuracy at each dial value, measured on validation problems."""

    task: str
    block_size: Count | None
    problems: Count
    last: Annotated[float, real(0, above=True)]
    """The alpha at `TRAINED_DIAL`: above it a larger alpha is worse than a lower threshold."""
    dial: tuple[Dial, ...]
    passes: Annotated[tuple[float, ...], real(0)]
    accuracy: Annotated[tuple[float, ...], real(0, 1)]

    def __post_init__(self) -> None:
        if not self.dial or not len(self.dial) == len(self.passes) == len(self.accuracy):
            raise ConfigError("dial, passes and accuracy of a calibration need as many numbers each, at least one.")

    def dial_for(self, passes: float) -> float:
        """Number of passes -> the lowest dial value with at most so many passes on average, interpolated.

        Raises RequestError where even the fastest has more.
        """
        for n, mean in enumerate(self.passes):
            if mean <= passes:
                if n == 0:
                    return self.dial[0]
                share = (self.passes[n - 1] - passes) / max(self.passes[n - 1] - mean, 1e-9)
                return self.dial[n - 1] + share * (self.dial[n] - self.dial[n - 1])
        raise RequestError(
            f"{passes:g} passes are too few: this policy takes {self.passes[-1]:.1f} at its fastest on {self.task}; "
            "give at least that."
        )


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """The policy of a network.

    Positions with a probability above `cut` are revealed; with `sample` each position is drawn independently (or the
    set as a ranking, see `PolicySettings.head`). `temperature` divides the logits, `beta` scales the probabilities:
    min(1, beta p) (section 4.3). `dial`, from 0 (accurate) to 1 (one pass), is the value for rows that have none of
    their own: up to `TRAINED_DIAL` it sets the cost of a pass, above it the cost stays and `shift_of` is added to the
    logits. `last` is the alpha at `TRAINED_DIAL`, by default the largest of training. Where none is revealed the loop
    reveals the position with the highest logit.
    """

    network: PolicyNetwork | FilterNetwork
    dial: Dial = 0.25
    sample: bool = False
    cut: Annotated[float, real(0, 1, "usually 0.5", above=True, below=True)] = 0.5
    temperature: Annotated[float, real(0, above=True)] = 1.0
    beta: Annotated[float, real(0, above=True)] = 1.0
    last: float | None = None
    calibration: Calibration | None = None
    tables: tuple[Calibration, ...] = ()
    """Of a policy that was trained on several tasks: the calibration on each."""
    name: str = "learned"

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.beta != 1 and self.settings.head != "bernoulli":
            raise ConfigError("beta scales the probabilities of a Bernoulli head; leave it out for a ranking.")

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
        features = self.settings.features
        top = self.settings.top if "top" in features else 0
        return Needs(top=top, hidden="hidden" in features, written=self.settings.hides > 0, noise=self.sample)

    def cost(self, dial: Tensor) -> Tensor:
        """Dial values (B,) -> the cost of a pass (B,); nan is this policy's own dial."""
        return alpha_of(dial.nan_to_num(self.dial), self._last) / self.settings.unit

    def dial_of(self, alpha: float) -> float:
        """Alpha -> the dial value, at most 1."""
        return dial_of(alpha, self._last, self.settings.largest)

    def dial_for(self, passes: float) -> float:
        """Passes -> dial, see `Calibration`. Raises RequestError where there are several tasks and none was chosen."""
        if self.calibration is None:
            tables = "; ".join(f"{n}: {table.task}" for n, table in enumerate(self.tables, 1))
            raise RequestError(
                f"{self.name} was trained on several tasks, and passes differ between them; add table=NUMBER to it, as "
                f"in {self.name},table=1. {tables}."
            )
        return self.calibration.dial_for(passes)

    @property
    def _last(self) -> float:
        return self.settings.largest if self.last is None else self.last

    def shift(self, dial: Tensor) -> Tensor:
        """Dial values (B,) -> the shift of the logits (B,); nan is this policy's own dial. 0 without `priced`."""
        shift = shift_of(dial.nan_to_num(self.dial))
        return shift if self.settings.priced else torch.zeros_like(shift)

    @torch.no_grad()
    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        return decide(self, self.logits(view), view), None

    def logits(self, view: View) -> Tensor:
        """View -> logits (B, L); those of positions that are not eligible have no meaning."""
        device = view.eligible.device
        if self.network.head.weight.device != device:  # `read_policy` loads it on the CPU
            self.network.to(device)
        seen = observe(view, self.settings, self.cost(_dial(view)))
        logits = self.network(seen)
        return logits.new_zeros(view.eligible.shape).scatter_(1, seen.positions, logits)


def alpha_of(dial: Tensor, last: float) -> Tensor:
    """Dial 0 to `TRAINED_DIAL` -> alpha 0 to `last`, logarithmic in alpha + `LEAST_ALPHA`; constant above."""
    return LEAST_ALPHA * ((1 + last / LEAST_ALPHA) ** (dial.clamp(max=TRAINED_DIAL) / TRAINED_DIAL) - 1)


def dial_of(alpha: float, last: float, largest: float) -> float:
    """Alpha -> dial: the inverse of `alpha_of`; above `last` logarithmic, up to dial 1 at 5 times `largest`."""
    if alpha <= last:
        return TRAINED_DIAL * math.log(1 + alpha / LEAST_ALPHA) / math.log(1 + last / LEAST_ALPHA)
    beyond = math.log(alpha / last) / math.log(_FURTHER * largest / last)
    return min(1.0, TRAINED_DIAL + (1 - TRAINED_DIAL) * beyond)


def shift_of(dial: Tensor) -> Tensor:
    """Dial values -> what is added to the logits: 0 up to `TRAINED_DIAL`, rising to 10 below dial 1, and 10 000 at 1.

    A network hardly learns to reveal everything at once, because near one pass the rewards of different actions are
    almost equal. Its order of positions is still good there, so a lower threshold gives more than a higher cost
    (docs/log.md).
    """
    beyond = 10 * ((dial - TRAINED_DIAL) / (1 - TRAINED_DIAL)).clamp(min=0)
    return torch.where(dial < 1, beyond, _LARGEST)


def decide(policy: Learned, logits: Tensor, view: View) -> Decision:
    """Logits (B, L) -> decision, with the policy's temperature, beta, dial, and threshold or sampling."""
    logits = logits / policy.temperature
    if policy.beta != 1:
        logits = (policy.beta * logits.sigmoid()).clamp(_SMALLEST, 1 - _SMALLEST).logit()
    open_, shift = changeable(view, policy.settings), policy.shift(_dial(view))[:, None]
    logits = logits + (torch.where(view.eligible, shift, -shift) if policy.settings.hides else shift)
    if policy.settings.head == "plackett-luce":
        rank = plackett_luce_rank(logits, view.eligible, view.noise if policy.sample else None)
        log_prob = plackett_luce_log_prob(logits, view.eligible, rank) if policy.sample else None
        return Decision(rank > 0, fallback=logits, log_prob=log_prob)
    p = logits.sigmoid()
    changed = (view.noise < p if policy.sample else p > policy.cut) & open_
    log_prob = bernoulli_log_prob(logits, open_, changed) if policy.sample else None
    if not policy.settings.hides:
        return Decision(changed, fallback=logits, log_prob=log_prob)
    reveal, remask = changed & view.eligible, changed & ~view.eligible
    left = view.eligible.sum(-1) - reveal.sum(-1).clamp(min=1)  # the loop reveals a position where the policy does not
    return Decision(reveal, remask=remask, done=(left == 0) & ~remask.any(-1), fallback=logits, log_prob=log_prob)


def changeable(view: View, settings: PolicySettings) -> Tensor:
    """View -> (B, L) bool: the positions that may be revealed, and those that may be hidden again.

    A written position of the block may be hidden `hides` times. Every pass reveals a position, so a block of L
    positions takes at most L (1 + hides) passes.
    """
    if not settings.hides:
        return view.eligible
    assert view.hidings is not None
    return view.eligible | (view.erasable & (view.hidings < settings.hides))


def observe(view: View, settings: PolicySettings, cost: Tensor) -> Observation:
    """View and the cost of a pass (B,) -> the input of a network with these settings.

    It has the positions to fill of each row, side by side; prompt and padding would take time and carry no information.
    Raises RequestError for a feature that the View does not have.
    """
    present = view.masked | view.written
    most = padded_size(int(present.sum(-1).max()))
    positions = (~present).long().argsort(dim=-1, stable=True)[:, :most]
    eligible, written = view.eligible.gather(1, positions), view.written.gather(1, positions)
    parts = [_feature(view, feature, settings, positions) for feature in settings.features]
    if settings.hides:
        assert view.fresh is not None
        assert view.hidings is not None
        fresh, hidings = (value.float().gather(1, positions)[..., None] for value in (view.fresh, view.hidings))
        parts += [fresh if settings.scale == "raw" else _log_odds(fresh), (hidings / settings.hides).clamp(max=1)]
    features = torch.cat(parts, -1).masked_fill(~(eligible | written)[..., None], 0)
    time = view.step / view.total.clamp(min=1)
    state = torch.where(written, 0, torch.where(eligible, 1, 2))
    return Observation(features, state, present.gather(1, positions), time, cost.float(), positions)


def _feature(view: View, feature: str, settings: PolicySettings, positions: Tensor) -> Tensor:
    """The feature at positions (B, A): float32 (B, A, n), with n numbers a position."""
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
        value = value[..., : settings.top]  # another policy of the same request may need more
    value = value.gather(1, positions[..., None].expand(-1, -1, value.shape[-1]))
    if feature == "entropy" and settings.entropy == "bounded":
        return value / (1 + value)
    if settings.scale == "raw" or feature not in ("confidence", "top"):
        return value
    return _log_odds(value)


def _log_odds(value: Tensor) -> Tensor:
    return value.clamp(_SMALLEST, 1 - _SMALLEST).logit() / 4


def _dial(view: View) -> Tensor:
    """The dial values (B,) of a view, all nan where it has none."""
    return torch.full_like(view.step, torch.nan, dtype=torch.float32) if view.dial is None else view.dial


POLICY_FORMAT = 1


def policy_config(
    settings: PolicySettings, trained_on: dict[str, Any], tables: Sequence[Calibration]
) -> dict[str, Any]:
    """Settings, facts of training and calibrations -> the content of config.json, without format and versions."""
    return {
        "policy_format": POLICY_FORMAT,
        "policy": to_dict(settings),
        "trained_on": trained_on,
        "calibration": asdict(tables[0]) if len(tables) == 1 else None,
        **({"calibrations": [asdict(table) for table in tables]} if len(tables) > 1 else {}),
    }


def read_policy(path: str | os.PathLike[str]) -> Learned:
    """A checkpoint folder that `unmask learn` wrote -> the policy in it.

    Raises CheckpointError for a folder without a policy, a newer format, or settings and weights that do not agree.
    """
    return replace(reading(path, _read), name=f"learned:from={path}")


def _read(folder: Path) -> Learned:
    """A checkpoint folder -> the policy in it."""
    checkpoint = read_checkpoint(folder)
    where = f"{checkpoint.folder}/config.json"
    stored_form = checkpoint.fact(int, "config.json", "policy_format")
    form = POLICY_FORMAT if stored_form is None else stored_form
    policy = checkpoint.fact(dict[str, Any], "config.json", "policy")
    if policy is None or form < 1:
        raise CheckpointError(
            f"{checkpoint.folder} is a checkpoint of another kind; a policy folder is one that unmask learn wrote."
        )
    if form > POLICY_FORMAT:
        raise CheckpointError(
            f"{checkpoint.folder} has policy format {form} and this unmask reads up to {POLICY_FORMAT}: upgrade unmask."
        )
    settings = from_dict(PolicySettings, policy, where, CheckpointError)
    stored = checkpoint.fact(dict[str, Any], "config.json", "calibration")
    calibration = None if stored is None else from_dict(Calibration, stored, where, CheckpointError)
    several = checkpoint.fact(list[dict[str, Any]], "config.json", "calibrations") or []
    tables = tuple(from_dict(Calibration, table, where, CheckpointError) for table in several)
    stored_tensors = load_tensors(checkpoint.folder)
    for name, value in stored_tensors.items():
        require_finite(value, name, str(checkpoint.folder))
    network = make_network(settings)
    try:
        network.load_state_dict(stored_tensors)
    except RuntimeError as error:
        raise CheckpointError(
            f"{checkpoint.folder} holds weights that are not those that its config.json describes; "
            "copy the folder again, or train the policy anew."
        ) from error
    last = next((table.last for table in (calibration, *tables) if table is not None), None)
    return replace(Learned(network.eval()), last=last, calibration=calibration, tables=tables)
