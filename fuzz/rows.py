"""Compressed rows that change at every call, right ones and lying ones."""

import random

import torch
from draw import normal, refusals, size, support, threads
from guard import guarded, outputs
from oracle import EPS

_LIES = (-1, 0, 1, 7, 2**31 - 1, -(2**31), 2**31, 2**62, -(2**63))


def case(rng: random.Random) -> None:
    out, width, tokens = size(rng, 150), size(rng, 300), size(rng, 70)
    weight = normal(rng, out, width) * support(rng, out, width)
    sparse = weight.to_sparse_csr()
    kind = rng.choice((torch.int32, torch.int64))
    offsets, columns = guarded(sparse.crow_indices().to(kind)), guarded(sparse.col_indices().to(kind))
    values = guarded(sparse.values())
    x, grad, bias = normal(rng, tokens, width), normal(rng, tokens, out), normal(rng, out)
    threads(rng)
    ops = torch.ops.rarefy
    with outputs():
        y = ops.csr_linear(x, values, columns, offsets, bias, out)
        dx = ops.csr_input_grad(grad, values, columns, offsets, width)
        dv = ops.sddmm(grad, x, columns, offsets)
    _close(y, x.double() @ weight.double().T + bias, x.abs() @ weight.abs().T + bias.abs(), width + 2)
    _close(dx, grad.double() @ weight.double(), grad.abs() @ weight.abs(), out + 2)
    where = weight != 0
    _close(dv, (grad.double().T @ x.double())[where], (grad.abs().T @ x.abs())[where], tokens + 2)
    _lie(rng, x, grad, values, columns, offsets, bias, out, width)


def _close(got: torch.Tensor, want: torch.Tensor, total: torch.Tensor, terms: int) -> None:
    assert got.shape == want.shape and not got.isnan().any()
    assert not ((got.double() - want).abs() > 2 * EPS * terms * total.double() + 1e-30).any()


def _lie(rng, x, grad, values, columns, offsets, bias, out, width) -> None:  # type: ignore[no-untyped-def]
    """One index, offset or size that is wrong: refused, unless the lie is the truth."""
    columns, offsets = columns.clone(), offsets.clone()
    which = [t for t in (columns, offsets) if t.numel()]
    told = False
    if rng.random() < 0.8 and which:
        tensor = rng.choice(which)
        value, place = rng.choice((*_LIES, width, width - 1)), rng.randrange(tensor.numel())
        if not torch.iinfo(tensor.dtype).min <= value <= torch.iinfo(tensor.dtype).max:
            return
        beyond = not 0 <= value < width
        told = beyond if tensor is columns else value != int(tensor[place]) and place in (0, tensor.numel() - 1)
        tensor[place] = value
    else:
        out, told = rng.choice((-1, 0, out + 1, 2**31, 2**40)), True
        told = out != offsets.numel() - 1
    accepted = 0
    for call in (
        lambda: torch.ops.rarefy.csr_linear(x, values, columns, offsets, bias, out),
        lambda: torch.ops.rarefy.csr_input_grad(grad, values, columns, offsets, width),
        lambda: torch.ops.rarefy.sddmm(grad, x, columns, offsets),
    ):
        with refusals(), outputs():
            call()
            accepted += 1
        if told and out != offsets.numel() - 1:
            break
    assert not told or accepted == 0, f"{accepted} calls took what is wrong: {columns} {offsets} {out} {width}"
