"""What the kernels are compared with: the same sums in float64, and the error that float32 arithmetic may make."""

import torch
from torch import Tensor

from rarefy.ops.reference import ACTIVATIONS

EPS = 2.0**-24  # half a unit in the last place
ACTIVATION_SLACK = 1e-6  # absolute error of the vectorised activations (tests/native/test_activation.py)


def sparse(out: int, width: int, density: float, seed: int = 0) -> Tensor:
    """A random (out, width) weight with about `density` non-zeros."""
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(out, width, generator=generator) < density
    return torch.randn(out, width, generator=generator) * keep


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def expected(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """act(x W^T + b) in float64."""
    before = x.double() @ weight.double().T
    return ACTIVATIONS[activation](before if bias is None else before + bias.double())


def tolerance(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """eps (t + 1) sum |a w| for a sum of t terms, elementwise; every activation here has slope below 1.13, but for the
    square, whose slope is twice its input."""
    terms = (weight != 0).sum(1) + (bias is not None)
    size = x.double().abs() @ weight.double().abs().T
    if bias is not None:
        size = size + bias.double().abs()
    error = 2 * EPS * (terms + 1) * size
    if activation == "relu2":
        return (2 * expected(x, weight, bias, "relu") + error) * error + 4 * EPS * expected(x, weight, bias, "relu2")
    return error if activation == "none" else 1.13 * error + ACTIVATION_SLACK + 4 * EPS * size


def assert_close(got: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> None:
    error = (got.double() - expected(x, weight, bias, activation)).abs()
    worst = (error - tolerance(x, weight, bias, activation)).max() if error.numel() else torch.tensor(-1.0)
    assert got.shape == error.shape
    assert worst <= 0, f"error {error.max():.3e} beyond the bound by {worst:.3e}"
