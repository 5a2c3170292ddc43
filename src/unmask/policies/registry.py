"""Names for policies: what `--policy NAME` or `--policy NAME:key=value,key=value` means, wherever text arrives."""

__all__ = ["make", "names"]

from collections.abc import Callable
from functools import partial

from unmask.errors import RequestError, UnmaskError, did_you_mean
from unmask.policies.ancestral import Ancestral
from unmask.policies.base import UnmaskingPolicy
from unmask.policies.pace import PACES, Pace, Power
from unmask.policies.saved import read_schedule
from unmask.policies.scores import SCORES
from unmask.policies.top_k import TopK
from unmask.process import Schedule, make_schedule

Options = dict[str, str]


def _steps(options: Options) -> int | None:
    """The option `steps`: a whole number, or inf (also by leaving it out) for a pass for every position."""
    text = options.pop("steps", "inf")
    if text in ("inf", "none"):
        return None
    try:
        steps = int(text)
    except ValueError:
        raise RequestError(f"steps is '{text}'; give a whole number of at least 1, or inf.") from None
    if steps < 1:
        raise RequestError(f"steps is {steps}; give a whole number of at least 1, or inf.")
    return steps


def _top_k(name: str, options: Options, schedule: Schedule | None) -> UnmaskingPolicy:
    named, power = options.pop("pace", None), options.pop("power", None)
    if power is not None and named != "power":
        raise RequestError("The option power goes with pace=power only; add that, or leave power out.")
    asked, steps = "steps" in options, _steps(options)
    if named is not None and named.endswith(".json"):
        if asked and steps is None:
            raise RequestError(
                f"A schedule has its own passes; give their number as steps, or leave it out with {named}."
            )
        saved = read_schedule(named, steps)
        return TopK(SCORES[name], len(saved.sizes), saved)
    pace = _pace(named or "linear", power)
    if named is not None and steps is None:
        raise RequestError(f"pace={named} needs steps; give for example {name}:steps=16,pace={named}.")
    return TopK(SCORES[name], steps, pace)


def _pace(name: str, power: str | None) -> Pace:
    """The pace of that name, and for pace=power its number."""
    if name == "power":
        try:
            return Power(2.0 if power is None else float(power))
        except ValueError:
            raise RequestError(f"power is '{power}'; give a number above 0, for example 2.") from None
    if name not in PACES:
        hint = did_you_mean(name, [*PACES, "power"]).removesuffix(".")
        end = "" if hint.startswith("did") else ", or a file that ends in .json."
        raise RequestError(f"There is no pace named '{name}'; {hint}{end}")
    return PACES[name]


def _ancestral(options: Options, schedule: Schedule | None) -> UnmaskingPolicy:
    steps, named = _steps(options), options.pop("schedule", None)
    chosen = make_schedule(named) if named else schedule
    return Ancestral(steps) if chosen is None else Ancestral(steps, chosen)


_MAKERS: dict[str, tuple[Callable[[Options, Schedule | None], UnmaskingPolicy], frozenset[str], str]] = {
    **{
        name: (partial(_top_k, name), frozenset({"steps", "pace", "power"}), (score.__doc__ or "").splitlines()[0])
        for name, score in SCORES.items()
    },
    "ancestral": (
        _ancestral,
        frozenset({"steps", "schedule"}),
        "The reverse process on `steps` grid steps, or inf (MDLM, arXiv:2406.07524; first hitting, arXiv:2409.02908).",
    ),
}


def names() -> dict[str, str]:
    """Every policy's name with its one line: what it does and where it comes from."""
    return {name: line for name, (_, _, line) in sorted(_MAKERS.items())}


def make(text: str, schedule: Schedule | None = None) -> UnmaskingPolicy:
    """The policy that `text` names, for example "random:steps=32"; `schedule` is that of the model, where it matters.

    Raises RequestError for an unknown name or option, or a value that cannot be.
    """
    name, _, rest = text.partition(":")
    if name not in _MAKERS:
        raise RequestError(f"There is no policy named '{name}'; {did_you_mean(name, _MAKERS)}")
    maker, known, _ = _MAKERS[name]
    options: Options = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise RequestError(f"'{item}' in the policy '{text}' is not key=value; write for example {name}:steps=32.")
        if key not in known:
            raise RequestError(f"The policy '{name}' has no option '{key}'; {did_you_mean(key, known)}")
        options[key] = value
    try:
        return maker(options, schedule)
    except UnmaskError as error:
        raise RequestError(str(error)) from None
