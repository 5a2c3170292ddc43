"""Rules that read attention against slow twins, and the attention that a network gives against its definition."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder, Step
from unmask.denoiser import Guided
from unmask.errors import RequestError
from unmask.model.dit import DiT
from unmask.model.load import build
from unmask.model.settings import DiTSettings
from unmask.policies.attention import ADAS, DAWN
from unmask.policies.base import View

L = 9


def views(count: int) -> list[View]:
    """Views of one row: sharp confidences, random attention, some written positions, padding at the end."""
    generator = torch.Generator().manual_seed(2)
    out: list[View] = []
    for _ in range(count):
        eligible = torch.rand(1, L, generator=generator) < 0.7
        eligible[:, 0], eligible[:, -1] = True, False
        valid = torch.ones(1, L, dtype=torch.bool)
        valid[:, -1] = False
        scores = 3 * torch.randn(1, L, L, generator=generator) + 4 * torch.eye(L)[3]
        attention = scores.masked_fill(~valid[:, None], -torch.inf).softmax(-1) * valid[..., None]
        confidence = 0.4 + 0.6 * torch.rand(1, L, generator=generator)
        erasable = ~eligible & valid
        numbers = torch.zeros(1, L)
        out.append(
            View(
                eligible,
                eligible,
                erasable,
                erasable,
                numbers.long(),
                confidence,
                numbers,
                numbers,
                torch.tensor([0]),
                eligible.sum(-1),
                numbers,
                fresh=confidence,
                attention=attention,
            )
        )
    return out


def slow_adas(view: View, steps: int, alpha: float) -> list[int]:
    places = view.eligible[0].nonzero().squeeze(-1).tolist()
    sure, attention = view.confidence[0].tolist(), view.attention
    assert attention is not None
    chosen: list[int] = []
    for _ in range(max(1, -(-len(places) // min(steps, len(places))))):
        score = {i: sure[i] - alpha * sum(float(attention[0, i, s]) * (1 - sure[s]) for s in chosen) for i in places}
        left = [i for i in places if i not in chosen]
        chosen.append(max(left, key=lambda i, of=score: (of[i], -i)))
    return sorted(chosen)


@pytest.mark.parametrize(("steps", "alpha"), [(2, 0.5), (3, 5.0), (1, 5.0)])
def test_adas_equals_its_slow_twin(steps: int, alpha: float) -> None:
    fast = [ADAS(steps, alpha)(view, None)[0].reveal[0].nonzero().squeeze(-1).tolist() for view in views(60)]
    assert fast == [slow_adas(view, steps, alpha) for view in views(60)]
    if steps > 1:
        assert fast != [slow_adas(view, steps, 0.0) for view in views(60)]  # the control: without attention


def slow_dawn(view: View, high: float, low: float, edge: float, sink: float) -> list[int]:
    sure, attention = view.confidence[0].tolist(), view.attention
    assert attention is not None
    a: list[list[float]] = attention[0].tolist()
    used = [i for i in range(L) if sum(a[i]) > 0]
    sinks = [j for j in range(L) if sum(a[i][j] for i in range(L)) / len(used) > sink / len(used)]
    open_, written = (x[0].nonzero().squeeze(-1).tolist() for x in (view.eligible, view.erasable))

    def has_edge(i: int, j: int) -> bool:
        return a[i][j] >= edge and j not in sinks

    out = [i for i in open_ if sure[i] >= high]
    likely = [i for i in open_ if low <= sure[i] < high]
    tied = [i for i in likely if any(has_edge(i, j) and sure[j] >= high for j in written)]
    alone: list[int] = []
    for i in sorted((i for i in likely if i not in tied), key=lambda i: (-sure[i], i)):
        if not any(has_edge(i, j) or has_edge(j, i) for j in alone):
            alone.append(i)
    return sorted({*out, *tied, *alone}) or [max(open_, key=lambda i: (sure[i], -i))]


@pytest.mark.parametrize(("high", "low", "edge", "sink"), [(0.9, 0.6, 0.07, 2.0), (0.95, 0.5, 0.2, 5.0)])
def test_dawn_equals_its_slow_twin(high: float, low: float, edge: float, sink: float) -> None:
    rule = DAWN(high, low, edge, sink)
    fast = [rule(view, None)[0].reveal[0].nonzero().squeeze(-1).tolist() for view in views(80)]
    assert fast == [slow_dawn(view, high, low, edge, sink) for view in views(80)]
    assert fast != [slow_dawn(view, high, low, 1.0, sink) for view in views(80)]  # the controls: no edges, no sinks
    assert sink > 4 or fast != [slow_dawn(view, high, low, edge, 99.0) for view in views(80)]


# ---- what a network gives ------------------------------------------------------------------------------------------


def network() -> DiT:
    model = build(DiTSettings(11, 10, 32, 16, 4, 2), 0)
    assert isinstance(model, DiT)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel())))
    return model


def first_view(model: Any, share: float, monkeypatch: pytest.MonkeyPatch | None = None) -> tuple[View, list[Tensor]]:
    """The View of a pass over two rows, one with padding; and the attention of each block as SDPA computes it."""
    canvas = Canvas.start(torch.full((2, 16), 10), torch.arange(2), torch.arange(16) < torch.tensor([[16], [12]]))
    weights: list[Tensor] = []
    real = F.scaled_dot_product_attention

    def recording(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        eye = torch.eye(k.shape[-2]).expand(*k.shape[:-2], -1, -1)
        weights.append(real(q, k, eye.contiguous(), **options).mean(1))
        return real(q, k, v, **options)

    if monkeypatch is not None:
        monkeypatch.setattr(F, "scaled_dot_product_attention", recording)
    rule = replace(DAWN()) if share > 0.1 else ADAS()
    step: Step = Decoder(model, rule).step(canvas)[2]
    return step.view, weights


@pytest.mark.parametrize("share", [1e-9, 1 / 8])
def test_the_attention_is_that_of_the_last_layer(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    view, weights = first_view(network(), share, monkeypatch)
    assert view.attention is not None
    assert len(weights) == 4
    expected = weights[-1] * (torch.arange(16) < torch.tensor([[16], [12]]))[..., None]
    torch.testing.assert_close(view.attention, expected, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(view.attention, weights[0], atol=1e-3)  # the control: another layer


def test_nobody_keeps_the_attention_afterwards() -> None:
    model = network()
    first_view(model, 1e-9)
    assert model.maps is None


def test_what_has_no_attention_is_refused() -> None:
    with pytest.raises(RequestError, match="does not give its attention"):
        first_view(Guided(network(), 1.0), 1e-9)
