"""The numbers of settings: every field has a range, and the command line, files and Python refuse the same values."""

import dataclasses
import math
import typing
from collections.abc import Iterator
from fractions import Fraction
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.cli.help import arguments_of
from unmask.cli.main import VERBS
from unmask.cli.parse import fields_of, parse
from unmask.config import from_dict, to_dict
from unmask.data.settings import DataSettings
from unmask.errors import ConfigError, RequestError, UnmaskError
from unmask.model.settings import DiTSettings
from unmask.policies.learned.settings import PolicySettings
from unmask.policies.registry import make
from unmask.ranges import LARGEST, Count, Temperature, check_numbers, checked, range_of, real, whole
from unmask.rl.settings import LearnRun, LearnSettings
from unmask.tasks.registry import make as make_task
from unmask.train.plan import TrainPlan
from unmask.train.settings import ModelChoice, TextRun, TrainSettings

SETTINGS = [DataSettings, ModelChoice, TrainSettings, DiTSettings, LearnSettings, PolicySettings, TrainPlan]
NEVER: list[Any] = [math.nan, math.inf, -math.inf, 10**30, 10**5000, True, "5", [1.0], 2**63]


@dataclasses.dataclass(frozen=True)
class Sample:
    """Settings with each form of a mark."""

    count: Count = 1
    share: Annotated[float, real(0, 1, "usually a half", above=True, below=True)] = 0.5
    pair: Annotated[tuple[float, float], real(0, 1, below=True)] = (0.0, 0.5)
    some: tuple[Count, ...] = ()
    maybe: Count | None = None
    heat: Temperature = 1.0
    name: str = "a"
    shape: Literal["round", "square"] = "round"
    tags: tuple[Literal["x", "y"], ...] = ()

    def __post_init__(self) -> None:
        check_numbers(self, "sample.")


WRONG = [
    ({"count": 0}, "sample.count is 0; give a whole number of at least 1."),
    ({"count": 1.0}, "sample.count is 1.0; give a whole number of at least 1."),
    ({"count": None}, "sample.count is None; give a whole number of at least 1."),
    ({"count": "1"}, "sample.count is '1'; give a whole number of at least 1."),
    ({"count": 2**63}, f"sample.count is {2**63}; give a whole number from 1 to {LARGEST}."),
    ({"share": 1}, "sample.share is 1; give a number between 0 and 1 (usually a half)."),
    ({"share": math.nan}, "sample.share is nan; give a number between 0 and 1 (usually a half)."),
    ({"pair": (0.5, 1.0)}, "a value of sample.pair is 1.0; give a number of at least 0 and below 1."),
    ({"some": (1, 0)}, "a value of sample.some is 0; give a whole number of at least 1."),
    ({"maybe": 0}, "sample.maybe is 0; give a whole number of at least 1."),
    ({"heat": 1e-40}, "sample.heat is 1e-40; give 0 or a number from 0.0001 to 10000."),
    ({"heat": math.inf}, "sample.heat is inf; give 0 or a number from 0.0001 to 10000."),
    ({"count": [1]}, "sample.count is [1]; give a whole number of at least 1."),
    ({"pair": (0.5,)}, "sample.pair is (0.5,); give 2 numbers."),
    ({"pair": 0.5}, "sample.pair is 0.5; give a list of numbers."),
    ({"name": 5}, "sample.name is 5; give a text."),
    ({"name": None}, "sample.name is None; give a text."),
    ({"shape": "oval"}, "sample.shape is 'oval'; give one of 'round', 'square'."),
    ({"tags": "x"}, "sample.tags is 'x'; give a list of 'x', 'y'."),
    ({"tags": ("x", "z")}, "sample.tags is ('x', 'z'); give a list of 'x', 'y'."),
]


@pytest.mark.parametrize(("values", "sentence"), WRONG, ids=[str(n) for n in range(len(WRONG))])
def test_python_is_told_in_a_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        Sample(**values)
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize("values", [values for values, _ in WRONG])
def test_files_and_python_refuse_the_same(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="here: "):
        from_dict(Sample, values, "here")


def test_a_number_that_cannot_be_printed_is_told_in_a_sentence() -> None:
    with pytest.raises(
        ConfigError, match=r"sample\.count is a number of thousands of digits; give a whole number from"
    ):
        Sample(count=10**5000)


def test_what_is_possible_is_taken() -> None:
    values: dict[str, Any] = {"count": np.int64(3), "share": np.float32(0.5)}
    assert Sample(**values, heat=0, maybe=None, pair=(0, 0.25)).count == 3
    assert from_dict(Sample, {"pair": [0, 0.5], "some": [1, 2], "heat": 0}, "here").some == (1, 2)
    assert not real().holds(Fraction(10**400, 1))


@pytest.mark.parametrize("cls", SETTINGS)
def test_every_number_of_the_settings_has_a_range(cls: type) -> None:
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        if _has_number(hint):
            limits = range_of(hint)
            assert limits is not None, f"{cls.__name__}.{name}"
            assert limits.integer == (float not in _members(hint)), f"{cls.__name__}.{name}"
    assert _has_number(tuple[float, ...])  # control
    assert range_of(int | None) is None


def _members(hint: Any) -> set[Any]:
    """Annotation -> the types in it, at any depth, without marks."""
    parts = [part for part in typing.get_args(hint) if isinstance(part, type) or typing.get_args(part)]
    return set[Any]().union(*map(_members, parts)) if parts else {hint}


def _has_number(hint: Any) -> bool:
    return bool(_members(hint) & {int, float})


@pytest.mark.parametrize("verb", VERBS)
def test_every_number_of_the_command_line_has_a_range(verb: str) -> None:
    cls = arguments_of(verb)
    for field in fields_of(cls):
        if not _has_number(field.type):
            continue
        assert field.limits is not None, field.name
        option = f"--{field.name.replace('_', '-')}"
        for word in ("nan", "inf", "1" * 400, "1e400", "x"):
            words = ["x"] * sum(each.positional and each.required for each in fields_of(cls))
            words += [option, *[word] * (2 if field.type == tuple[float, float] else 1)]
            with pytest.raises(ConfigError) as error:
                parse(cls, words, verb)
            assert str(error.value).startswith(f"{option} cannot be '{word[:10]}")
            assert len(str(error.value)) < 250


def _constructed() -> Iterator[tuple[type, str, Any]]:
    for cls in SETTINGS:
        for name, hint in typing.get_type_hints(cls, include_extras=True).items():
            if _has_number(hint):
                yield cls, name, hint


REQUIRED: dict[type, dict[str, Any]] = {
    DiTSettings: {"vocab_size": 10, "mask_id": 9},
    TrainPlan: to_dict(TrainPlan(None, 1, 1, 1e-3, 0, 1, 1, 1, 1, 1, 1.0)),
}


@pytest.mark.parametrize(
    ("cls", "name", "hint"), [pytest.param(*case, id=f"{case[0].__name__}.{case[1]}") for case in _constructed()]
)
def test_no_number_of_the_settings_can_be_impossible(cls: Any, name: str, hint: Any) -> None:
    several = typing.get_origin(typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint) is tuple
    plan = cls.__name__ == "TrainPlan"
    for value in NEVER if not plan else [math.nan, math.inf, "5"]:
        data = REQUIRED.get(cls, {}) | {name: [value, value] if several else value}
        with pytest.raises((UnmaskError, ValueError)):
            from_dict(cls, data, "here")
        if not plan and value != [1.0]:
            with pytest.raises(ConfigError):
                cls(**REQUIRED.get(cls, {}) | {name: (value, value) if several else value})


def test_settings_that_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match=r"train\.warmup is 20 and train\.steps 10; give at most as many\."):
        TrainSettings(steps=10, warmup=20)
    assert TrainSettings(steps=20, warmup=20).warmup == 20
    with pytest.raises(ConfigError, match=r"r\.toml: train\.warmup is 20"):
        from_dict(TextRun, {"train": {"steps": 10, "warmup": 20}}, "r.toml")
    with pytest.raises(ConfigError, match="alphas is empty"):
        LearnRun(learn=LearnSettings(alphas=()))


POLICIES = [
    *("threshold:threshold=nan", "threshold:threshold=2", "confidence:steps=0", "confidence:steps=1e9"),
    *("confidence:steps=-1", "confidence:steps=" + "9" * 40, "klass:history=0", "klass:kl=inf", "remdm:eta=2"),
    *("entropy-bound:gamma=-1", "factor:factor=0", "prefix:threshold=-0.1", "random:steps=4,pace=power,power=0"),
    *("learned:from=automaton,dial=2", "learned:from=automaton,cut=1", "learned:from=automaton,temperature=0"),
    *("learned:from=automaton,passes=0", "learned:from=automaton,beta=nan", "early-stop:early=-1 over confidence"),
]


@pytest.mark.parametrize("text", POLICIES)
def test_options_of_policies(text: str) -> None:
    with pytest.raises(RequestError) as error:
        make(text)
    assert "; give" in str(error.value) or "too few" in str(error.value)
    assert make("confidence:steps=4")


@pytest.mark.parametrize(
    "text",
    [
        *("sudoku:side=-3", "sudoku:side=6.5", "sudoku:clues=-1", "automaton:length=0", "arithmetic:modulus=1e3"),
        *("arithmetic:length=" + "9" * 5000, "countdown:numbers=nan", "countdown:low=0", "automaton:length=1e400"),
    ],
)
def test_options_of_tasks(text: str) -> None:
    with pytest.raises(RequestError, match="give a whole number") as error:
        make_task(text)
    assert len(str(error.value)) < 6000
    assert make_task("sudoku:side=4")


def test_arguments_of_a_function() -> None:
    @checked
    def function(count: Count, heat: Temperature | typing.Sequence[Temperature] = 1.0, free: int | None = None) -> int:
        return count

    assert function(3, heat=[0, 1.0], free=-1) == 3
    wrong: list[dict[str, Any]] = [{"count": 0}, {"count": 1, "heat": math.nan}, {"count": 1, "heat": [1.0, -1]}]
    for values in wrong:
        with pytest.raises(RequestError, match="; give"):
            function(**values)


@given(low=st.integers(-(10**6), 10**6), size=st.integers(0, 10**6), value=st.integers(-(10**7), 10**7))
def test_a_range_is_what_it_says(low: int, size: int, value: int) -> None:
    assert whole(low, low + size).holds(value) == (low <= value <= low + size)
    assert real(low, low + size, above=True).holds(float(value)) == (low < value <= low + size)
    assert not whole(low).holds(value + 0.5)
