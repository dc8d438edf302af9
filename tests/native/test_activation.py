"""The vectorised activations on a fine grid, every instruction set: identity weight, so that only they can err."""

import pytest
import torch
from oracle import ACTIVATION_SLACK

from rarefy import ops
from rarefy.ops.reference import ACTIVATIONS

EXACT = [kernel for kernel in ops.kernels() if (kernel.weights, kernel.activations) == ("fp32", "fp32")]
EXACT = [kernel for kernel in EXACT if kernel.op != "nmg"]  # whose pattern an identity does not have
FIRST_OF_EACH = {(kernel.isa, kernel.op): kernel.name for kernel in reversed(EXACT)}  # others round what goes in
pytestmark = pytest.mark.skipif(not FIRST_OF_EACH, reason="the native module is not built")


@pytest.mark.parametrize("name", FIRST_OF_EACH.values())
@pytest.mark.parametrize("activation", [a for a in ops.ACTIVATIONS if a != "none"])
def test_absolute_error(name, activation):
    x = torch.cat(
        [
            torch.linspace(-12, 12, 160_000),
            torch.linspace(-1000, 1000, 3_968),
            torch.tensor([0.0, -0.0, 1e-30, -1e-30]),
            torch.tensor([1e4, -1e4, 1e30, -1e30, 3e38, -3e38, 6.5, -6.5]),
            torch.zeros(20),
        ]
    ).view(-1, 16)
    packed = ops.pack(torch.eye(16), name)
    got = torch.ops.rarefy.packed_linear(x, packed.handle, None, activation, 16).double()
    want = ACTIVATIONS[activation](x.double())
    beyond = want > torch.finfo(torch.float32).max  # of a square
    assert torch.equal(got[beyond], torch.full_like(got[beyond], float("inf")))
    error = ((got - want).abs() / want.abs().clamp(min=1.0)).masked_fill(beyond, 0.0)
    assert error.max() < ACTIVATION_SLACK, (error.max().item(), x.flatten()[error.argmax()].item())


@pytest.mark.parametrize("name", FIRST_OF_EACH.values())
@pytest.mark.parametrize("activation", [a for a in ops.ACTIVATIONS if a != "none"])
def test_nan_stays_nan_and_plus_infinity_stays(name, activation):
    x = torch.tensor([[float("nan")], [float("inf")]])
    packed = ops.pack(torch.ones(1, 1), name)
    got = torch.ops.rarefy.packed_linear(x, packed.handle, None, activation, 1)
    assert got[0].isnan().all()
    assert got[1].item() == float("inf")
