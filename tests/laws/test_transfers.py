"""A pass waits for its device once. The device here is a pretended one, whose tensors are computed on the processor.

Every way to get a value from it is counted: `item`, `bool`, `tolist`, a copy to the processor, and the operations whose
result has a shape that depends on values. A tensor of the processor may not meet one of the device.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from unmask import batch
from unmask.batch import Checks, to_device
from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder
from unmask.errors import PluginError, RunError
from unmask.model import dit, inference
from unmask.model.cache import cached
from unmask.model.dit import DiT
from unmask.model.inference import compile_passes
from unmask.model.load import build
from unmask.model.settings import DiTSettings
from unmask.policies.base import Decision, State, View
from unmask.policies.registry import make

VOCABULARY, MASK, LENGTH, ROWS, BLOCK = 11, 10, 32, 2, 16
aten = torch.ops.aten
SHAPES = {aten.nonzero.default, aten.masked_select.default, aten._unique2.default, aten.unique_dim.default}


class Remote(torch.Tensor):
    """A tensor of the pretended device; `local` has its values."""

    local: Tensor

    @staticmethod
    def __new__(cls, local: Tensor) -> "Remote":
        return torch.Tensor._make_wrapper_subclass(
            cls,
            local.shape,
            strides=local.stride(),
            dtype=local.dtype,
            device=torch.device("meta"),
            requires_grad=False,
        )

    def __init__(self, local: Tensor) -> None:
        self.local = local

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} ran outside of the device")


class Device(TorchDispatchMode):
    """Runs operations on `Remote` tensors, and counts what has to wait for them."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        flat, _ = tree_flatten((args, kwargs))
        remote = {id(x.local): x for x in flat if isinstance(x, Remote)}
        device = kwargs.get("device")
        here = device is not None and torch.device(device).type == "cpu"
        away = device is not None and not here
        if remote and any(isinstance(x, Tensor) and not isinstance(x, Remote) and x.ndim for x in flat):
            raise AssertionError(f"{func} mixes tensors of both devices")
        if away or here:
            kwargs["device"] = torch.device("cpu")
        kwargs.pop("pin_memory", None)
        args, kwargs = tree_map(lambda x: x.local if isinstance(x, Remote) else x, (args, kwargs))
        if remote:
            self._count(func, args, here)
        result = func(*args, **kwargs)
        if (remote and not here) or away:
            return tree_map(lambda x: remote.get(id(x), Remote(x)) if isinstance(x, Tensor) else x, result)
        return result

    def _count(self, func: Any, args: Any, here: bool) -> None:
        by_mask = func in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default) and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if here or by_mask or func in SHAPES or func is aten._local_scalar_dense.default:
            self.waits.append(str(func))


class Torch:
    """The module torch, without autocast."""

    def __getattr__(self, name: str) -> Any:
        replaced = {"autocast": lambda *_, **__: nullcontext(), "is_autocast_enabled": lambda *_: False}
        return replaced[name] if name in replaced else getattr(torch, name)


@contextmanager
def device(monkeypatch: pytest.MonkeyPatch) -> Generator[Device]:
    """The pretended device; autocast does not know it."""
    for module in (dit, inference):
        monkeypatch.setattr(
            module, "torch", Torch()
        )  # torch itself stays: torch.compile knows its functions by identity
    with Device() as mode:
        yield mode


def network() -> DiT:
    torch.manual_seed(0)
    model = build(DiTSettings(VOCABULARY, MASK, LENGTH, 32, 2, 2)).eval()
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.3)
    return model.requires_grad_(False)


def remote_network() -> DiT:
    model = network()
    for module in model.modules():
        for name, value in list(module._parameters.items()):
            if value is not None:
                del module._parameters[name]
                setattr(module, name, Remote(value.data))
    return model


def canvas() -> Canvas:
    tokens = torch.full((ROWS, LENGTH), MASK)
    for row in range(ROWS):
        tokens[row, : 5 * row] = row
    return Canvas.start(tokens, torch.arange(ROWS))


def on_device(rows: Canvas) -> Canvas:
    return Canvas(**{name: Remote(getattr(rows, name)) for name in Canvas.__dataclass_fields__})


class Written:
    """A policy without state, by a function."""

    looks = True

    def __init__(self, rule: Callable[[View], Decision]) -> None:
        self.rule = rule

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        return self.rule(view), None


def waits(policy: str, cache: str | None, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], Tensor, Tensor]:
    """How often each pass waited, and the tokens of the device and of the processor."""

    def decoder(model: DiT) -> Decoder:
        return Decoder(model if cache is None else cached(model, cache), make(policy), 1.0, block_size=BLOCK)

    with sdpa_kernel(SDPBackend.MATH):  # the kernel that the pretended device has
        local = decoder(network()).decode(canvas())
    model, rows = remote_network(), on_device(canvas())
    each: list[int] = []
    with device(monkeypatch) as mode:
        for _ in decoder(model).steps(rows):
            each.append(len(mode.waits))
            mode.waits.clear()
            rows = _[0]
    return each, rows.tokens.local, local.tokens  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("policy", "cache"),
    [("confidence:steps=4", None), ("confidence:steps=4", "dual"), ("threshold:threshold=0.4", "prefix"),
     ("random:steps=4", None), ("random:steps=4", "delayed"), ("ancestral:steps=4", None)],
)  # fmt: skip
def test_a_pass_waits_for_its_device_once(policy: str, cache: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    each, remote, local = waits(policy, cache, monkeypatch)
    assert torch.equal(remote, local)
    assert each[0] <= 2  # which rows have something to do
    assert max(each[1:]) <= 2
    assert sum(each) <= len(each) + 1 + ROWS  # once more where rows have finished and leave


def test_control_a_policy_that_looks_at_a_value_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    each, _, _ = waits("confidence:steps=4", None, monkeypatch)

    curious = Written(
        lambda view: Decision(make("confidence:steps=4")(view, None)[0].reveal & bool(view.eligible.any()))
    )
    model, rows = remote_network(), on_device(canvas())
    with device(monkeypatch) as mode:
        for _ in Decoder(model, curious, 1.0, block_size=BLOCK).steps(rows):
            pass
        assert len(mode.waits) > sum(each)


def test_errors_of_a_device_come_with_the_next_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a policy breaks, and logits that are not finite, are raised by the step that has them."""

    wrong = Written(lambda view: Decision(~view.eligible))
    model, rows = remote_network(), on_device(canvas())
    with device(monkeypatch):
        with pytest.raises(PluginError, match="not eligible"):
            Decoder(model, wrong).step(rows)
        model.head.bias.fill_(torch.nan)
        with pytest.raises(RunError, match="NaN"):
            Decoder(model, make("confidence")).step(rows)
        with pytest.raises(RunError, match="NaN"):
            Decoder(model, make("confidence")).decode(rows)


def test_flags_and_values_are_read_together() -> None:
    checks = Checks()
    with Device() as mode:
        checks.refuse(Remote(torch.tensor(False)), lambda: ValueError("never"))
        values = checks.read(Remote(torch.tensor([[1, 2], [3, 4]])), Remote(torch.tensor([True, False])))
        assert values == [[1, 2, 3, 4], [True, False]]
        assert len(mode.waits) == 1
        checks.refuse(Remote(torch.tensor(True)), lambda: ValueError("late"))
        with pytest.raises(ValueError, match="late"):
            checks.read()
        assert checks.read() == []  # an error is raised once
    with pytest.raises(ValueError, match="now"):
        checks.refuse(torch.tensor(True), lambda: ValueError("now"))


def test_tensors_go_to_a_gpu_from_pinned_memory_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: calls.append("pinned") or self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *where, **how: calls.append((where, how)) or self)
    gpu = torch.device("cuda")
    to_device(torch.ones(3), gpu)
    batch.placed([1, 2], gpu)
    assert calls == 2 * ["pinned", ((gpu,), {"non_blocking": True})]
    calls.clear()
    to_device(torch.ones(3), torch.device("cpu"))
    assert calls == [((torch.device("cpu"),), {"non_blocking": True})]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, where it compiles
def test_compiled_passes_are_those_that_are_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in one graph, with and without a cache; the control is another network."""
    compiled: list[Any] = []

    def in_one_graph(function: Any, **_: Any) -> Any:
        compiled.append(function)
        return torch_compile(function, backend="eager", fullgraph=True, dynamic=False)

    torch_compile = torch.compile
    monkeypatch.setattr(torch, "compile", in_one_graph)
    quick, plain, control = network(), network(), network()
    control.head.weight.mul_(1.5)
    compile_passes(quick, decoding=True)
    assert len(compiled) == 2
    for cache in (None, "dual"):

        def decoded(model: DiT, cache: str | None = cache) -> Canvas:
            decoder = Decoder(model if cache is None else cached(model, cache), make("confidence"), block_size=BLOCK)
            return decoder.decode(canvas().keep(torch.tensor([1, 1])))

        same, expected = decoded(quick), decoded(plain)
        assert torch.equal(same.tokens, expected.tokens)
        torch.testing.assert_close(same.log_prob, expected.log_prob, equal_nan=True, rtol=1e-5, atol=1e-5)
        assert not torch.equal(decoded(control).log_prob.nan_to_num(), expected.log_prob.nan_to_num())


@pytest.mark.parametrize("padded", [False, True])
def test_the_fused_attention_is_the_one_that_is_written_out(padded: bool) -> None:
    """In inference, and on a GPU in training, against two products and a softmax, the rotation included."""
    model, tokens = network(), canvas().tokens
    valid = torch.ones_like(tokens).bool()
    valid[0, -9:] = not padded
    written = model.hidden(tokens, valid=valid)  # with gradients, on a processor
    with torch.no_grad():
        fused = model.hidden(tokens, valid=valid)
        torch.testing.assert_close(fused[valid], written[valid], rtol=1e-4, atol=1e-4)
        assert (model.hidden(tokens.roll(1, 1), valid=valid) - written)[valid].abs().max() > 1e-2  # the control
