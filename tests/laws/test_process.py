"""Each schedule falls from 1 to 0, its derivative and inverse are exact, and tokens are hidden at its rate."""

import math
from typing import Any

import pytest
import torch

from unmask.errors import ConfigError
from unmask.process import SCHEDULES, Geometric, Linear, MaskedDiffusion, Polynomial, Schedule, make_schedule

T = torch.linspace(0, 1, 1001, dtype=torch.float64)
ALL: dict[str, Schedule] = {
    **{name: make_schedule(name) for name in SCHEDULES},
    "cubic": Polynomial(3.0),
    "steep": Geometric(1e-4, 30.0),
}
each = pytest.mark.parametrize("name", ALL)


def derivative_error(schedule: Schedule, other: Schedule) -> float:
    """Largest gap between the derivative of `schedule` and the finite difference of `other`, over the largest slope."""
    t, h = T[1:-1], 1e-6
    slope = (other.alpha(t + h) - other.alpha(t - h)) / (2 * h)
    return float((schedule.dalpha(t) - slope).abs().max() / slope.abs().max())


@each
def test_it_runs_from_one_to_zero_and_falls(name: str) -> None:
    alpha = ALL[name].alpha(T)
    assert float(alpha[0]) == pytest.approx(1, abs=1e-15)
    assert float(alpha[-1]) == pytest.approx(0, abs=1e-18)
    assert float(1 - alpha[-1]) == 1  # at t = 1 everything is hidden
    assert bool((alpha.diff() < 0).all())
    assert bool((ALL[name].dalpha(T) <= 0).all())


@each
def test_dalpha_is_the_derivative(name: str) -> None:
    assert derivative_error(ALL[name], ALL[name]) < 1e-6


def test_dalpha_control() -> None:
    assert derivative_error(Polynomial(2.0), Polynomial(2.01)) > 1e-6


@each
def test_time_of_is_the_inverse(name: str) -> None:
    times = ALL[name].time_of(ALL[name].alpha(T))
    torch.testing.assert_close(times, T, rtol=0, atol=1e-7)
    assert bool(((times >= 0) & (times <= 1)).all())
    alpha = torch.tensor([1e-15, 1e-3, 0.5, 1 - 1e-12], dtype=torch.float64)
    torch.testing.assert_close(ALL[name].alpha(ALL[name].time_of(alpha)), alpha, rtol=0, atol=1e-11)


@each
def test_shape_and_dtype_are_kept(name: str) -> None:
    for dtype in (torch.float32, torch.float64):
        t = torch.full((2, 3), 0.5, dtype=dtype)
        for function in (ALL[name].alpha, ALL[name].dalpha, ALL[name].time_of):
            assert function(t).dtype == dtype
            assert function(t).shape == t.shape


@each
def test_tokens_are_hidden_at_the_rate(name: str) -> None:
    """At every time, ends included; the control below: 0.98 of the rate is noticed."""
    process, count = MaskedDiffusion(9, ALL[name]), 200_000
    u = torch.rand(1, count, generator=torch.Generator().manual_seed(1)).expand(5, count)
    t = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
    share = process.hide(t, u).double().mean(-1)
    p = 1 - ALL[name].alpha(t)
    error = (p * (1 - p) / count).clamp(min=0).sqrt()
    assert bool(((share - p).abs() <= 4 * error + 1e-12).all())
    assert float(share[0]) == 0
    assert float(share[-1]) == 1


def test_rate_control() -> None:
    u = torch.rand(1, 200_000, generator=torch.Generator().manual_seed(1))
    share = float(MaskedDiffusion(9).hide(torch.tensor([0.5]), u).double().mean())
    assert abs(share - 0.98 * 0.5) > 4 * math.sqrt(0.25 / 200_000)


def test_corrupt_hides_what_may_be_hidden_and_copies_the_rest() -> None:
    x = torch.arange(12).view(2, 6)
    maskable = torch.tensor([[True] * 6, [False, True] * 3])
    process, end = MaskedDiffusion(99), torch.ones(2)
    assert process.corrupt(x, end, torch.rand(2, 6)).tolist() == [[99] * 6] * 2
    assert process.corrupt(x, end, torch.rand(2, 6), maskable).tolist() == [[99] * 6, [6, 99, 8, 99, 10, 99]]
    assert torch.equal(process.corrupt(x, 0 * end, torch.rand(2, 6)), x)


@each
def test_reveal_probabilities_undo_the_process(name: str) -> None:
    """A token that no step from 1 to s reveals is hidden at s; at time 0 every token is revealed."""
    process = MaskedDiffusion(9, ALL[name])
    grid = torch.linspace(1, 0, 21, dtype=torch.float64)
    p = process.reveal_probability(grid[1:], grid[:-1])
    assert bool(((p >= 0) & (p <= 1 + 1e-12)).all())
    assert float(p[-1]) == pytest.approx(1, abs=1e-12)
    hidden = (1 - p).cumprod(0)
    torch.testing.assert_close(hidden, 1 - ALL[name].alpha(grid[1:]), rtol=0, atol=1e-12)
    other = MaskedDiffusion(9, Polynomial(2.5)).reveal_probability(grid[1:], grid[:-1])  # the control
    assert float(((1 - other).cumprod(0) - hidden).abs().max()) > 1e-3


@each
def test_weight_is_the_rate_of_reveal(name: str) -> None:
    """-alpha'/(1 - alpha) is the limit of the reveal probability over its step."""
    process, t, h = MaskedDiffusion(9, ALL[name]), T[100:-1], 1e-7
    rate = process.reveal_probability(t - h, t) / h
    torch.testing.assert_close(process.weight(t), rate, rtol=1e-3, atol=1e-6)


def test_float32_times_are_computed_in_float64() -> None:
    """1 - alpha is a difference that cancels: at t = 1e-7 float32 would be off by a fifth."""
    t = torch.tensor([1e-7])
    assert float(MaskedDiffusion(9).weight(t)) == pytest.approx(1e7, rel=1e-6)
    assert float(1 / (1 - Linear().alpha(t))) != pytest.approx(1e7, rel=1e-2)  # the control


@pytest.mark.parametrize("name, hint", [("cosin", "did you mean 'cosine'?"), ("x", "known: ")])
def test_unknown_schedule_is_refused(name: Any, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_schedule(name)
    assert str(caught.value).startswith(f"There is no schedule named '{name}'; {hint}")
