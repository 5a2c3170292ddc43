"""A pass has the same bits with one thread and with two, so that the load of the machine may decide the number."""

from collections.abc import Iterator

import pytest
import torch

from unmask.model.inference import computing_in
from unmask.model.load import build
from unmask.model.settings import DiTSettings
from unmask.run.machine import bfloat16_works


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("width", "heads"), [(128, 2), (512, 8)])
def test_a_pass_has_the_same_bits_with_one_thread_and_with_two(dtype: torch.dtype, width: int, heads: int) -> None:
    if dtype == torch.bfloat16 and not bfloat16_works():
        pytest.skip("bfloat16 products fail on this machine")
    torch.manual_seed(0)
    network = build(DiTSettings(100, 99, 144, width, 1, heads)).eval()
    for value in network.parameters():
        if value.ndim > 1:
            torch.nn.init.normal_(value, std=value.shape[1] ** -0.5)
    denoiser = computing_in(network, dtype)
    for rows, length in ((1, 144), (3, 64)):
        tokens = torch.randint(99, (rows, length))
        hidden = []
        for count in (1, 2):
            torch.set_num_threads(count)
            with torch.no_grad():
                hidden.append(denoiser.logits(denoiser.hidden(tokens)))
        assert torch.equal(*hidden)
        assert not torch.equal(hidden[0], torch.nextafter(hidden[1], torch.full_like(hidden[1], torch.inf)))  # control
