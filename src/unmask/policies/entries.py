"""The policies that have a name: options -> policy, one line about each, and the option that a sweep varies."""

__all__ = ["ENTRIES", "Entry", "Knob"]

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

from unmask.disk.folders import locate_policy
from unmask.errors import RequestError
from unmask.policies.ancestral import Ancestral
from unmask.policies.attention import ADAS, DAWN
from unmask.policies.base import UnmaskingPolicy
from unmask.policies.credit import Credit
from unmask.policies.dream import ALL, Dream
from unmask.policies.entropy_bound import EntropyBound
from unmask.policies.factor import Factor, Frechet
from unmask.policies.hiding import P2, RCR, Saber
from unmask.policies.klass import Klass
from unmask.policies.lookahead import WINO, InfoGain
from unmask.policies.options import Options, paced
from unmask.policies.pc import PositionCalibrated
from unmask.policies.prefix import Prefix
from unmask.policies.remdm import ReMDM
from unmask.policies.reverse import Reverse
from unmask.policies.threshold import Hierarchy, LocalLeap, Threshold
from unmask.policies.top_k import SCORES

Joint = Literal["yes", "one a pass", "limit", "no"]
"""Whether samples at temperature 1 have the model's joint law: always; with one reveal a pass; in the limit; never."""


@dataclass(frozen=True, slots=True)
class Knob:
    """The option that sets speed against accuracy, with the values of a sweep, the fastest first.

    Where `values` is empty the option is a number of passes a block, and a sweep sets it from tokens per pass.
    """

    option: str
    values: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """The definition of a policy that has a name."""

    build: Callable[[Options], UnmaskingPolicy]
    options: frozenset[str]
    line: str
    """What the policy does, and its paper."""
    joint: Joint
    knob: Knob | None = None
    nested: bool = True
    """Whether a stricter value of the knob reveals a subset on one View."""
    needs_folder: bool = False
    """Whether the option `from=FOLDER` is required."""


def _top_k(name: str, options: Options) -> UnmaskingPolicy:
    return paced(SCORES[name], name, options)


def _pc(options: Options) -> UnmaskingPolicy:
    score = PositionCalibrated(options.unigram(), options.number("decay", 0.25), options.number("cap", 10.0))
    return paced(score, "pc", options)


def _threshold(feature: Any, default: float, options: Options) -> UnmaskingPolicy:
    return Threshold(options.number("threshold", default), feature)


def _entropy_bound(options: Options) -> UnmaskingPolicy:
    return EntropyBound(
        options.number("gamma", 0.1), options.choice("order", "entropy", ("entropy", "confidence", "margin"))
    )


def _remdm(options: Options) -> UnmaskingPolicy:
    variant = options.choice("kind", "cap", get_args(ReMDM.__annotations__["variant"]))
    return ReMDM(options.count("steps", 128), variant, options.number("eta", 0.02), options.schedule())


def _reverse(options: Options) -> UnmaskingPolicy:
    usual = "d3pm" if options.context.parameterization == "d3pm" else "analytic"
    rule = options.choice("rule", usual, get_args(Reverse.__annotations__["rule"]))
    return Reverse(options.count("steps", 128), rule, options.schedule())


def _filter(options: Options) -> UnmaskingPolicy:
    from unmask.policies.learned.filter import read_filter

    return read_filter(options.values.get("from"), options.number("threshold", 0.96))


def _learned(options: Options) -> UnmaskingPolicy:
    from unmask.policies.learned.policy import read_policy

    name = options.values.get("from")
    if name is None:
        raise RequestError("learned needs its folder; write for example learned:from=runs/learn-1, or a bundled name.")
    policy = replace(
        read_policy(locate_policy(name)),
        sample=options.choice("mode", "cut", ("cut", "sample")) == "sample",
        cut=options.number("cut", 0.5),
        temperature=options.number("temperature", 1.0),
        beta=options.number("beta", 1.0),
        **({"last": options.number("last", 1.0)} if "last" in options.values else {}),
        name=f"learned:from={name}",
    )
    if "table" in options.values:
        number = options.count("table", 1)
        if number > len(policy.tables):
            raise RequestError(f"table is {number}, and '{name}' has {len(policy.tables)} tables, one for each task.")
        policy = replace(policy, calibration=policy.tables[number - 1])
    if "passes" in options.values:
        if "dial" in options.values:
            raise RequestError("passes sets the dial of a calibrated policy; give one of the two, dial or passes.")
        if policy.calibration is None and not policy.tables:
            raise RequestError(
                f"The dial of '{name}' was not measured, so none is known for {options.values['passes']} passes; "
                "give a dial, or let its training end (unmask learn --resume)."
            )
        return replace(policy, dial=policy.dial_for(options.number("passes", 1.0)))
    return replace(policy, dial=options.number("dial", policy.dial))


_PACED = frozenset({"steps", "pace", "power"})


def _top_k_entry(name: str) -> Entry:
    line = (SCORES[name].__doc__ or "").splitlines()[0]
    joint: Joint = "no" if name == "confidence" else "one a pass"
    return Entry(partial(_top_k, name), _PACED, line, joint, Knob("steps"))


_PROBABILITIES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99, 0.995, 0.998, 0.999, 0.9995)
_NATS = (1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.01, 0.003, 0.001)
ENTRIES: dict[str, Entry] = {
    **{name: _top_k_entry(name) for name in SCORES},
    "adas": Entry(
        lambda options: ADAS(options.steps(), options.number("alpha", 40.0)),
        frozenset({"steps", "alpha"}),
        "Positions that pay little attention to unsure ones beside them (ADAS, arXiv:2606.10829).",
        "no",
        Knob("steps"),
        nested=False,
    ),
    "ancestral": Entry(
        lambda options: Ancestral(options.steps(), options.schedule()),
        frozenset({"steps", "schedule"}),
        "The reverse process on `steps` grid steps, or inf (MDLM, arXiv:2406.07524; first hitting, arXiv:2409.02908).",
        "limit",
        Knob("steps"),
    ),
    "credit": Entry(
        lambda options: Credit(
            options.number("threshold", 0.9),
            options.number("decay", 0.8),
            options.number("power", 0.2),
            options.number("weight", 0.7),
        ),
        frozenset({"threshold", "decay", "power", "weight"}),
        "All with a high probability after credit for predictions that stay (CreditDecoding, arXiv:2510.06133).",
        "no",
        Knob("threshold", _PROBABILITIES),
    ),
    "dawn": Entry(
        lambda options: DAWN(
            options.number("high", 0.9),
            options.number("low", 0.7),
            options.number("edge", 0.07),
            options.number("sink", 5.0),
        ),
        frozenset({"high", "low", "edge", "sink"}),
        "The sure, those that attend to sure tokens, and others that do not attend to each other (arXiv:2602.06953).",
        "no",
        Knob("high", _PROBABILITIES),
        nested=False,
    ),
    "dream": Entry(
        lambda options: Dream(
            options.count("steps", 512),
            options.number("temperature", 0.0),
            options.number("top_p", 1.0),
            options.count("top_k", ALL),
            options.number("alg_temp", 0.0),
        ),
        frozenset({"steps", "temperature", "top_p", "top_k", "alg_temp"}),
        "Low entropy after temperature and top-p, as Dream's own program (arXiv:2508.15487).",
        "no",
        Knob("steps"),
    ),
    "entropy-bound": Entry(
        _entropy_bound,
        frozenset({"gamma", "order"}),
        "As many as an error budget of gamma nats permits, low entropy first (EB-Sampler, arXiv:2505.24857).",
        "limit",
        Knob("gamma", (3.0, 1.0, 0.5, 0.3, 0.1, 0.05, 0.03, 0.01, 0.005, 0.001)),
    ),
    "entropy-threshold": Entry(
        partial(_threshold, "entropy", 0.1),
        frozenset({"threshold"}),
        "All with an entropy below the threshold in nats, at least one (dParallel, arXiv:2509.26488, with 0.5).",
        "no",
        Knob("threshold", _NATS),
    ),
    "factor": Entry(
        lambda options: Factor(options.number("factor", 1.0)),
        frozenset({"factor"}),
        "The n most confident with (n + 1)(1 - confidence) below the factor (Fast-dLLM, arXiv:2505.22618).",
        "no",
        Knob("factor", (3.0, 2.0, 1.0, 0.6, 0.3, 0.1, 0.03, 0.01, 0.003)),
    ),
    "filter": Entry(
        _filter,
        frozenset({"from", "threshold"}),
        "All that a trained filter takes for final, from=FOLDER, and the most confident (Learn2PD, arXiv:2509.25188).",
        "no",
        Knob("threshold", _PROBABILITIES),
        needs_folder=True,
    ),
    "frechet": Entry(
        lambda options: Frechet(options.number("delta", 0.25)),
        frozenset({"delta"}),
        "The n most confident while Fréchet bounds of being jointly right differ by delta (arXiv:2606.02955).",
        "no",
        Knob("delta", (-2.0, -1.0, 0.0, 0.4, 0.7, 0.9, 0.97, 0.99, 0.997)),
    ),
    "hierarchy": Entry(
        lambda options: Hierarchy(options.number("threshold", 0.9), options.number("low", 0.4)),
        frozenset({"threshold", "low"}),
        "All with a high confidence, and the best of each run of masked positions (dInfer, its program).",
        "no",
        Knob("threshold", _PROBABILITIES),
    ),
    "info-gain": Entry(
        lambda options: InfoGain(
            options.steps(), options.count("actions", 8), options.number("spread", 0.1), options.number("sure", 0.9)
        ),
        frozenset({"steps", "actions", "spread", "sure"}),
        "The action after which the rest is surest, by a look-ahead over 8 actions (Info-Gain, arXiv:2602.18176).",
        "no",
        Knob("steps"),
        nested=False,
    ),
    "klass": Entry(
        lambda typed: Klass(typed.number("kl", 0.01), typed.number("threshold", 0.9), typed.count("history", 2)),
        frozenset({"kl", "threshold", "history"}),
        "All with a high confidence and a distribution that no longer changes (KLASS, arXiv:2511.05664).",
        "no",
        Knob("threshold", (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)),
    ),
    "learned": Entry(
        _learned,
        frozenset({"from", "dial", "passes", "table", "mode", "cut", "temperature", "beta", "last"}),
        "A trained network, from=FOLDER or a bundled one; dial 0 to 1 or passes=N (arXiv:2512.09106).",
        "no",
        Knob("dial", tuple(round(1 - n / 40, 3) for n in range(41))),
        nested=False,
        needs_folder=True,
    ),
    "local-leap": Entry(
        lambda options: LocalLeap(
            options.number("threshold", 0.9), options.number("near", 0.75), options.count("radius", 4)
        ),
        frozenset({"threshold", "near", "radius"}),
        "All with a high confidence, and near these all with a lower one (LocalLeap, arXiv:2510.07081).",
        "no",
        Knob("threshold", _PROBABILITIES),
    ),
    "margin-threshold": Entry(
        partial(_threshold, "margin", 0.9),
        frozenset({"threshold"}),
        "All whose best probability exceeds the second by more than the threshold (margin: arXiv:2502.06768).",
        "no",
        Knob("threshold", _PROBABILITIES),
    ),
    "p2": Entry(
        lambda options: P2(options.steps()),
        frozenset({"steps"}),
        "The surest of all positions after each pass; hides others again (path planning, P2, arXiv:2502.03540).",
        "no",
        Knob("steps"),
        nested=False,
    ),
    "pc": Entry(
        _pc,
        _PACED | {"decay", "cap", "unigram"},
        "Early positions and rare tokens first, by confidence (PC-Sampler, arXiv:2508.13021).",
        "no",
        Knob("steps"),
    ),
    "prefix": Entry(
        lambda options: Prefix(options.number("threshold", 0.9)),
        frozenset({"threshold"}),
        "The longest run from the left with confidence above the threshold (the best untrained rule of our trials).",
        "limit",
        Knob("threshold", _PROBABILITIES),
    ),
    "rcr": Entry(
        lambda options: RCR(options.steps()),
        frozenset({"steps"}),
        "The surest of all positions, each since it was written; hides others again (RCR, MDPO, arXiv:2508.13148).",
        "no",
        Knob("steps"),
        nested=False,
    ),
    "remdm": Entry(
        _remdm,
        frozenset({"steps", "kind", "eta", "schedule"}),
        "The reverse process that masks again: kind cap, rescale, conf or loop (ReMDM, arXiv:2503.00307).",
        "limit",
        Knob("steps", (8, 16, 32, 64, 128)),
        nested=False,
    ),
    "reverse": Entry(
        _reverse,
        frozenset({"steps", "rule", "schedule"}),
        "The reverse process of a model whose predictions do not sum to 1: rule d3pm, analytic or euler (SEDD, D3PM).",
        "limit",
        Knob("steps", (8, 16, 32, 64, 128)),
        nested=False,
    ),
    "saber": Entry(
        lambda options: Saber(options.count("least", 2)),
        frozenset({"least"}),
        "All surer than the mean so far; hides tokens whose confidence fell (Saber, arXiv:2510.18165).",
        "no",
        Knob("least", (16, 12, 8, 6, 4, 3, 2, 1)),
        nested=False,
    ),
    "threshold": Entry(
        lambda options: Threshold(options.number("threshold", 0.9)),
        frozenset({"threshold"}),
        "All with a confidence above the threshold, at least one (Fast-dLLM, arXiv:2505.22618).",
        "no",
        Knob("threshold", _PROBABILITIES),
    ),
    "wino": Entry(
        lambda options: WINO(options.number("draft", 0.6), options.number("verify", 0.9), options.count("most", 20)),
        frozenset({"draft", "verify", "most"}),
        "Drafts many tokens and hides those that the others do not confirm in the next pass (WINO, arXiv:2507.18578).",
        "no",
        Knob("draft", (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)),
        nested=False,
    ),
}
