"""Linear layers: every kernel, support, size, thread count; against sums in float64 of the stored weight."""

import random
from typing import Any

import torch
from draw import normal, refusals, size, spoil, support, threads
from guard import guarded, outputs
from oracle import EPS, expected
from torch import Tensor

from rarefy import ops
from rarefy.core.quantized import QuantizedWeight
from rarefy.ops.reference import ACTIVATIONS

_SLOPE = 1.13  # no activation but the square is steeper


def case(rng: random.Random) -> None:
    kernel = rng.choice(ops.kernels())
    out, width = size(rng, 200), size(rng, 600)
    weight = _weight(rng, kernel, out, width)
    scale = (
        (rng.uniform(0.01, 0.1), rng.randint(0, 255)) if kernel.activations == "int8" and rng.random() < 0.4 else None
    )
    packed = None
    with refusals(), outputs():
        packed = ops.pack(weight, kernel.name, input_scale=scale)
    if packed is None:
        return
    stored = packed.to_dense()
    _check_stored(weight, stored, kernel)
    tokens = size(rng, 140)
    x, bias = normal(rng, tokens, width), normal(rng, out) if rng.random() < 0.6 else None
    x.mul_(rng.choice((1.0, 1.0, 30.0, 1e-3)))
    activation = rng.choice(ops.ACTIVATIONS)
    threads(rng)

    def run(given: Tensor) -> Tensor:
        with outputs():
            return torch.ops.rarefy.packed_linear(given, packed.handle, bias, activation, out)

    clean = run(x)
    error = (clean.double() - expected(_read(x, kernel), stored, bias, activation)).abs()
    allowed = _allowed(x, stored, bias, kernel, scale)
    if activation == "relu2":  # the square of what may be off by so much
        before = expected(_read(x, kernel), stored, bias, "relu")
        allowed = (2 * before + allowed) * allowed + 4 * EPS * before.square()
    assert clean.shape == (tokens, out)
    assert not (error > allowed).any() and not clean.isnan().any(), f"error {error.max():.3e}, {kernel.name}"
    if rng.random() < 0.4:
        _check_spoiled(rng, run, x, clean, stored, kernel, scale)


def _weight(rng: random.Random, kernel: Any, out: int, width: int) -> Tensor | QuantizedWeight:
    mask = support(rng, out, width)
    if kernel.weights in ("fp32", "bf16"):
        weight = normal(rng, out, width) * mask
        if rng.random() < 0.1:
            spoil_zero = weight.abs() < 0.05
            weight[spoil_zero] *= 1e-38  # denormals are dropped
        return guarded(weight)
    most = 127 if kernel.weights == "int8" else 7
    groups = rng.choice([g for g in (1, width // 16, width // 32, width // 2, 3) if g > 0 and width % g == 0] or [1])
    groups = 1 if rng.random() < 0.5 else groups
    codes = (normal(rng, out, width) * most / 2).round().clamp(-most, most) * mask
    scales = normal(rng, out, groups).abs().add(0.01) * 0.02
    return QuantizedWeight(guarded(codes.to(torch.int8)), guarded(scales), 8 if most == 127 else 4)


def _check_stored(weight: Tensor | QuantizedWeight, stored: Tensor, kernel: Any) -> None:
    want = weight.dequantize() if isinstance(weight, QuantizedWeight) else weight
    want = want.bfloat16().float() if kernel.weights == "bf16" else want
    want = torch.where(want.abs() < torch.finfo(torch.float32).tiny, 0.0, want)
    close = (
        torch.equal(stored, want) if kernel.weights == "fp32" else torch.allclose(stored, want, rtol=1e-6, atol=1e-37)
    )
    if kernel.weights == "int4":  # scales are stored as 16-bit steps of the row's largest
        close = not ((stored - want).abs() > weight.largest * weight.scale.amax(1, keepdim=True) * 1e-5).any()
    assert close, f"{kernel.name} gives another weight back"


def _read(x: Tensor, kernel: Any) -> Tensor:
    return x.bfloat16().float() if kernel.activations == "bf16" else x


def _allowed(x: Tensor, weight: Tensor, bias: Tensor | None, kernel: Any, scale: Any) -> Tensor:
    """The float bound, and for 8-bit inputs what their rounding may cost."""
    total = _read(x, kernel).double().abs() @ weight.double().abs().T
    if bias is not None:
        total = total + bias.double().abs()
    allowed = 2 * EPS * (weight.shape[1] + 4) * total
    if kernel.activations == "int8" and x.numel():
        low, high = x.amin(1).clamp(max=0).double(), x.amax(1).clamp(min=0).double()
        step = (high - low) / 255
        lost = 1.02 * step  # the zero point is rounded too
        if scale is not None:
            step = torch.full_like(step, scale[0])
            beyond = torch.maximum(-scale[1] * scale[0] - low, high - (255 - scale[1]) * scale[0]).clamp(min=0)
            lost = 0.51 * step + beyond
        allowed = allowed + lost[:, None] * weight.double().abs().sum(1) + 1e-5 * total
    return _SLOPE * allowed + 2e-6 + 4 * EPS * total + 1e-30


def _check_spoiled(
    rng: random.Random, run: Any, x: Tensor, clean: Tensor, weight: Tensor, kernel: Any, scale: Any
) -> None:
    """What is not finite stays in its own token, and is not lost there."""
    broken = guarded(x)
    bad = spoil(rng, broken)
    touched = (broken != x).any(1) | broken.isnan().any(1)
    got = run(broken)
    assert torch.equal(got[~touched], clean[~touched]), f"{kernel.name}: a token changed another"
    if kernel.activations == "fp32" and kernel.op not in ("expand32", "expand16", "dense16"):
        reached = (bad.float() @ (weight != 0).float().T) > 0
        lost = reached & got.isfinite() & (got.abs() > 1e-6)  # an activation takes -inf to 0
        assert not lost.any(), f"{kernel.name}: NaN or infinity was lost"
    if kernel.activations == "int8" and scale is None and weight.shape[1]:
        hit = broken.isnan().any(1) | broken.isinf().any(1)
        assert got[hit].isnan().all(), f"{kernel.name}: a token that is not finite gave numbers"


assert set(ops.ACTIVATIONS) == set(ACTIVATIONS)
