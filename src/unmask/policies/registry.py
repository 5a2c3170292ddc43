"""Policies by name: the text NAME or NAME:key=value,key=value -> an UnmaskingPolicy.

`klass or confidence:steps=32` is a policy with a second one for rows where it reveals nothing; `early-stop over
threshold` is a wrapped policy. Other packages add policies through the entry-point group `unmask.policies`: a callable
that takes the options as keyword arguments, each a text.
"""

__all__ = ["learned_names", "make", "may_hide", "names"]

from functools import cache
from importlib.metadata import entry_points
from typing import Any

from unmask.errors import ConfigError, RequestError, UnmaskError, did_you_mean, plugin_failure
from unmask.policies.base import UnmaskingPolicy
from unmask.policies.early_stop import EarlyStop
from unmask.policies.entries import ENTRIES
from unmask.policies.hiding import P2, RCR, Saber
from unmask.policies.lookahead import WINO, FreeDave, InfoGain
from unmask.policies.options import Context, Options, plugin_line
from unmask.policies.or_else import OrElse
from unmask.policies.remdm import ReMDM
from unmask.policies.reverse import Reverse

GROUP = "unmask.policies"

_NO_MODEL = Context()
_OWN_END = (FreeDave, InfoGain, P2, RCR, ReMDM, Reverse, Saber, WINO)  # policies that return `done` or candidates
_HIDING = (P2, RCR, ReMDM, Saber, WINO)
_ALONE = "ends its blocks itself or looks ahead; freedave, info-gain, p2, rcr, remdm, reverse, saber and wino"
_EARLY_STOP, _FREEDAVE = "early-stop", "freedave"
_WRAPPERS = {
    _EARLY_STOP: "`early-stop over POLICY`: all the rest once its logit gaps are large (Prophet, arXiv:2508.19982).",
    _FREEDAVE: "`freedave over POLICY`: its text at temperature 0 in fewer passes, by drafts (arXiv:2510.00294).",
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
            raise RequestError(f"'{text}' joins a policy that {_ALONE} cannot be.")
        return OrElse(first, second)
    outer, word, inner = text.partition(" over ")
    if word:
        name, options = _split(outer.strip())
        if name not in (_EARLY_STOP, _FREEDAVE):
            raise RequestError(f"'{name}' is no wrapper; write {_EARLY_STOP} over POLICY, or {_FREEDAVE} over POLICY.")
        if name == _FREEDAVE:
            return _freedave(text, options, make(inner.strip(), context))
        return _early_stop(text, options, make(inner.strip(), context))
    name, options = _split(text)
    if name in (_EARLY_STOP, _FREEDAVE):
        raise RequestError(f"{name} wraps a policy; write for example: {name} over confidence:steps=32")
    if name in _plugins():
        return _from_plugin(name, options)
    if name not in ENTRIES:
        raise RequestError(f"There is no policy named '{name}'; {did_you_mean(name, [*ENTRIES, *_plugins()])}")
    _check(name, options, ENTRIES[name].options)
    try:
        return ENTRIES[name].build(Options(options, context))
    except UnmaskError as error:
        raise RequestError(str(error)) from None


def may_hide(policy: Any) -> bool:
    """Whether a policy may hide written tokens again; that of another package is assumed to."""
    parts = [getattr(policy, name) for name in ("first", "second", "inner") if hasattr(policy, name)]
    if parts:
        return any(map(may_hide, parts))
    if (settings := getattr(policy, "settings", None)) is not None:
        return getattr(settings, "hides", 0) > 0
    return isinstance(policy, _HIDING) or not type(policy).__module__.startswith("unmask.")


def learned_names(text: str) -> list[str]:
    """Policy text -> the folders or bundled names of the trained policies in it."""
    parts = [_split(part.rpartition(" over ")[2].strip()) for part in text.split(" or ")]
    return [options["from"] for name, options in parts if name in ("filter", "learned") and "from" in options]


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
        raise RequestError(f"'{text}' would stop a policy that {_ALONE} cannot be.")
    options = Options(values, _NO_MODEL)
    try:
        return EarlyStop(
            inner, *(options.number(bar, default) for bar, default in zip(bars, (7.5, 5, 2.5), strict=True))
        )
    except ConfigError as error:
        raise RequestError(str(error)) from None


def _freedave(text: str, values: dict[str, str], inner: UnmaskingPolicy) -> UnmaskingPolicy:
    _check(_FREEDAVE, values, frozenset({"drafts"}))
    if isinstance(inner, _OWN_END):
        raise RequestError(f"'{text}' drafts a policy that {_ALONE} cannot be.")
    try:
        return FreeDave(inner, Options(values, _NO_MODEL).count("drafts", 4))
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
