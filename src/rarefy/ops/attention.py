"""`rarefy::attention(q, k, v, mask, scale)`: softmax(scale q k^T + mask) v for every batch and head.

q (batch, heads, queries, d), k and v (batch, heads, keys, d), of any strides: the views that a model makes of its
projections are read in place. mask is None, bool (True = attend) or float32 (added to the scores), broadcastable to
(batch, heads, queries, keys). Gives (batch, heads, queries, d), laid out (batch, queries, heads, d), so that the
model's transpose and reshape after it copy nothing. A query that may attend to no key gives zeros, as in torch.
"""

from typing import Any

import torch
from torch import Tensor

from rarefy.core.errors import DTypeError, ShapeError
from rarefy.ops import native
from rarefy.ops.checks import require_floats

_WHERE = "rarefy::attention"
_library = torch.library.Library("rarefy", "FRAGMENT")
_library.define("attention(Tensor q, Tensor k, Tensor v, Tensor? mask, float scale) -> Tensor")


def _require(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> None:
    require_floats(_WHERE, q=q, k=k, v=v)
    if q.dim() != 4 or k.shape != v.shape or k.dim() != 4 or (*q.shape[:2], q.shape[3]) != (*k.shape[:2], k.shape[3]):
        raise ShapeError(
            f"{_WHERE}: q, k, v have shapes {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}; they must be "
            "(batch, heads, queries, d) and twice (batch, heads, keys, d) with one d and one number of heads"
        )
    if mask is None:
        return
    if mask.dtype != torch.bool:
        require_floats(_WHERE, mask=mask)
    elif mask.device.type != "cpu" or mask.layout != torch.strided:
        raise DTypeError(f"{_WHERE}: mask is {mask.layout} on {mask.device}; call mask.to_dense().cpu()")
    full = (*q.shape[:3], k.shape[2])
    ends = zip(reversed(mask.shape), reversed(full), strict=False)
    if mask.dim() > 4 or any(size not in (1, whole) for size, whole in ends):
        raise ShapeError(
            f"{_WHERE}: mask has shape {tuple(mask.shape)}; it must broadcast to (batch, heads, queries, keys)={full}"
        )


def _weights(q: Tensor, k: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """softmax(scale q k^T + mask), a row of zeros for a query that may attend to nothing."""
    scores = (q * scale) @ k.transpose(-1, -2)
    if mask is None:
        return scores.softmax(-1)
    scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    hidden = (scores == float("-inf")).all(-1, keepdim=True)
    return scores.softmax(-1).masked_fill(hidden, 0.0)


def _rows_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _native(
    module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, out: Tensor, eight: bool = False
) -> None:
    """Writes `out` (batch, heads, queries, d), whose strides it takes as they are."""
    q, k, v = _rows_contiguous(q), _rows_contiguous(k), _rows_contiguous(v)
    batch, heads, queries, depth = q.shape
    keys = k.shape[2]
    if mask is not None:
        mask = _rows_contiguous(mask.expand(batch, heads, queries, keys))
    module.attention(
        q.data_ptr(),
        q.stride()[:3],
        k.data_ptr(),
        k.stride()[:3],
        v.data_ptr(),
        v.stride()[:3],
        0 if mask is None else mask.data_ptr(),
        mask is not None and mask.dtype == torch.bool,
        (0, 0, 0) if mask is None else mask.stride()[:3],
        out.data_ptr(),
        out.stride()[:3],
        (batch, heads, queries, keys, depth),
        scale,
        eight,
        torch.get_num_threads(),
    )


def _empty(q: Tensor) -> Tensor:
    batch, heads, queries, depth = q.shape
    return q.new_empty(batch, queries, heads, depth).transpose(1, 2)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """softmax(scale q k^T + mask) v, natively where the native module is there."""
    _require(q, k, v, mask)
    out, module = _empty(q), native.module()
    if module is None:
        out.copy_(_weights(q, k, mask, scale) @ v)
    else:
        _native(module, q, k, v, mask, scale, out)
    return out


def attention8(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """The same through 8-bit products, what programs of 8-bit models use; no torch operation.

    q and k are rounded with a scale a token, v with a scale a feature, the exponentials to 255 steps. In float32 where
    the CPU has no 8-bit dot products, d is no multiple of 16, or the mask is not one of truth values over keys alone.
    """
    _require(q, k, v, mask)
    module = native.module()
    if module is None:
        return attention(q, k, v, mask, scale)
    out = _empty(q)
    _native(module, q, k, v, mask, scale, out, eight=True)
    return out


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    q, k, v, mask, ctx.scale = inputs
    ctx.save_for_backward(q, k, v, mask)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """With P the weights: dv = P^T g, dS = P (dP - sum(dP P)), dq = scale dS k, dk = scale dS^T q."""
    q, k, v, mask = ctx.saved_tensors
    weights = _weights(q, k, mask, ctx.scale)
    dweights = grad @ v.transpose(-1, -2)
    dscores = weights * (dweights - (dweights * weights).sum(-1, keepdim=True))
    dq, dk = ctx.scale * (dscores @ k), ctx.scale * (dscores.transpose(-1, -2) @ q)
    dmask = dscores.sum_to_size(mask.shape) if ctx.needs_input_grad[3] else None
    return dq, dk, weights.transpose(-1, -2) @ grad, dmask, None


_library.impl("attention", attention, "CPU")
torch.library.register_fake("rarefy::attention", lambda q, k, v, mask, scale: _empty(q), lib=_library)
torch.library.register_autograd("rarefy::attention", _backward, setup_context=_save, lib=_library)
