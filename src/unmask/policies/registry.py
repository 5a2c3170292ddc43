"""Policies by name: the text NAME or NAME:key=value,key=value -> an UnmaskingPolicy.

`klass or confidence:steps=32` is a policy with a second one for rows where it reveals nothing; `early-stop over
threshold` is a wrapped policy. Other packages add policies through the entry-point group `unmask.policies`: a callable
that takes the options as keyword arguments, each a text.
"""

__all__ = ["ENTRIES", "Entry", "Knob", "learned_names", "make", "names"]

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import entry_points
from typing import Any, Literal, get_args

from unmask.disk.folders import locate_policy
from unmask.errors import ConfigError, RequestError, UnmaskError, did_you_mean, plugin_failure
from unmask.policies.ancestral import Ancestral
from unmask.policies.base import UnmaskingPolicy
from unmask.policies.dream import ALL, Dream
from unmask.policies.early_stop import EarlyStop
from unmask.policies.entropy_bound import EntropyBound
from unmask.policies.factor import Factor
from unmask.policies.klass import Klass
from unmask.policies.options import Context, Options, paced, plugin_line
from unmask.policies.or_else import OrElse
from unmask.policies.pc import PositionCalibrated
from unmask.policies.prefix import Prefix
from unmask.policies.remdm import ReMDM
from unmask.policies.reverse import Reverse
from unmask.policies.threshold import Threshold
from unmask.policies.top_k import SCORES

Joint = Literal["yes", "one a pass", "limit", "no"]
"""Whether samples at temperature 1 have the model's joint law: always; with one reveal a pass; in the limit; never."""
GROUP = "unmask.policies"


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
        name=f"learned:from={name}",
    )
    if "passes" in options.values:
        if "dial" in options.values:
            raise RequestError("passes sets the dial of a calibrated policy; give one of the two, dial or passes.")
        if policy.calibration is None:
            raise RequestError(
                f"The dial of '{name}' was not measured, so none is known for {options.values['passes']} passes; "
                "give a dial, or let its training end (unmask learn --resume)."
            )
        return replace(policy, dial=policy.calibration.dial_for(options.number("passes", 1.0)))
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
    "ancestral": Entry(
        lambda options: Ancestral(options.steps(), options.schedule()),
        frozenset({"steps", "schedule"}),
        "The reverse process on `steps` grid steps, or inf (MDLM, arXiv:2406.07524; first hitting, arXiv:2409.02908).",
        "limit",
        Knob("steps"),
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
        "All with an entropy below the threshold in nats, at least one (a threshold rule as in arXiv:2505.22618).",
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
    "klass": Entry(
        lambda typed: Klass(typed.number("kl", 0.01), typed.number("threshold", 0.9), typed.count("history", 2)),
        frozenset({"kl", "threshold", "history"}),
        "All with a high confidence and a distribution that no longer changes (KLASS, arXiv:2511.05664).",
        "no",
        Knob("threshold", (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)),
    ),
    "learned": Entry(
        _learned,
        frozenset({"from", "dial", "passes", "mode", "cut", "temperature", "beta"}),
        "A trained network, from=FOLDER or a bundled one; dial 0 to 1 or passes=N (arXiv:2512.09106).",
        "no",
        Knob("dial", tuple(round(1 - n / 40, 3) for n in range(41))),
        nested=False,
        needs_folder=True,
    ),
    "margin-threshold": Entry(
        partial(_threshold, "margin", 0.9),
        frozenset({"threshold"}),
        "All whose best probability exceeds the second by more than the threshold (margin: arXiv:2502.06768).",
        "no",
        Knob("threshold", _PROBABILITIES),
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
    "threshold": Entry(
        lambda options: Threshold(options.number("threshold", 0.9)),
        frozenset({"threshold"}),
        "All with a confidence above the threshold, at least one (Fast-dLLM, arXiv:2505.22618).",
        "no",
        Knob("threshold", _PROBABILITIES),
    ),
}
_NO_MODEL = Context()
_OWN_END = (ReMDM, Reverse)  # policies that return `done`
_EARLY_STOP = "early-stop"
_WRAPPERS = {
    _EARLY_STOP: "`early-stop over POLICY`: all the rest once its logit gaps are large (Prophet, arXiv:2508.19982).",
    "or": "`POLICY or POLICY`: the second in rows where the first reveals nothing.",
}


@cache
def _plugins() -> dict[str, Any]:
    """Name -> entry point of another package."""
    return {point.name: point for point in entry_points(group=GROUP)}


def names() -> dict[str, str]:
    """Name of every policy -> one line: what it does, and its paper or package."""
    own = {name: entry.line for name, entry in ENTRIES.items()} | _WRAPPERS
    return dict(sorted((own | {name: plugin_line(point) for name, point in _plugins().items()}).items()))


def make(text: str, context: Context = _NO_MODEL) -> UnmaskingPolicy:
    """Text such as "random:steps=32" -> the policy; `context` has the defaults of the model.

    Raises RequestError for an unknown name or option, or an impossible value; PluginError for a plugin that fails.
    """
    left, word, right = text.partition(" or ")
    if word:
        first, second = make(left.strip(), context), make(right.strip(), context)
        if isinstance(first, _OWN_END) or isinstance(second, _OWN_END):
            raise RequestError(
                f"'{text}' joins a policy that ends its blocks itself; remdm and reverse cannot be combined."
            )
        return OrElse(first, second)
    outer, word, inner = text.partition(" over ")
    if word:
        name, options = _split(outer.strip())
        if name != _EARLY_STOP:
            raise RequestError(f"'{name}' is no wrapper; write {_EARLY_STOP} over POLICY.")
        return _early_stop(text, options, make(inner.strip(), context))
    name, options = _split(text)
    if name == _EARLY_STOP:
        raise RequestError(f"{_EARLY_STOP} wraps a policy; write for example: {_EARLY_STOP} over confidence:steps=32")
    if name in _plugins():
        return _from_plugin(name, options)
    if name not in ENTRIES:
        raise RequestError(f"There is no policy named '{name}'; {did_you_mean(name, [*ENTRIES, *_plugins()])}")
    _check(name, options, ENTRIES[name].options)
    try:
        return ENTRIES[name].build(Options(options, context))
    except UnmaskError as error:
        raise RequestError(str(error)) from None


def learned_names(text: str) -> list[str]:
    """Policy text -> the folders or bundled names of the learned policies in it."""
    parts = [_split(part.rpartition(" over ")[2].strip()) for part in text.split(" or ")]
    return [options["from"] for name, options in parts if name == "learned" and "from" in options]


def _split(text: str) -> tuple[str, dict[str, str]]:
    """The text "name:key=value,key=value" -> name and options. Raises RequestError for an option that is no pair."""
    name, _, rest = text.partition(":")
    options: dict[str, str] = {}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            knob = ENTRIES[name].knob if name in ENTRIES else None
            example = "steps=32" if knob is None or not knob.values else f"{knob.option}={knob.values[-1]:g}"
            raise RequestError(f"'{pair}' in the policy '{text}' is not key=value; write for example {name}:{example}.")
        options[key.strip()] = value.strip()
    return name, options


def _check(name: str, options: dict[str, str], known: frozenset[str]) -> None:
    for key in options:
        if key not in known:
            raise RequestError(f"The policy '{name}' has no option '{key}'; {did_you_mean(key, known)}")


def _early_stop(text: str, values: dict[str, str], inner: UnmaskingPolicy) -> UnmaskingPolicy:
    bars = ("early", "middle", "late")
    _check(_EARLY_STOP, values, frozenset(bars))
    if isinstance(inner, _OWN_END):
        raise RequestError(
            f"'{text}' would stop a policy that ends its blocks itself; remdm and reverse cannot be combined."
        )
    options = Options(values, _NO_MODEL)
    try:
        return EarlyStop(
            inner, *(options.number(bar, default) for bar, default in zip(bars, (7.5, 5, 2.5), strict=True))
        )
    except ConfigError as error:
        raise RequestError(str(error)) from None


def _from_plugin(name: str, options: dict[str, str]) -> UnmaskingPolicy:
    """A policy of another package. Raises PluginError where it cannot be loaded, RequestError for wrong options."""
    with plugin_failure(f"The policy '{name}' of another package", "cannot be loaded"):
        build = _plugins()[name].load()
    with plugin_failure(f"The policy '{name}' of another package", "cannot be made"):
        try:
            return build(**options)
        except (TypeError, ValueError) as error:
            raise RequestError(f"The policy '{name}' does not take these options: {error}") from None
