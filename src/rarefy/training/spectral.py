"""A linear layer that is stored as its singular vectors and values, a few of which are being trained."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _Product(torch.autograd.Function):
    """y = x V diag(s) U^T with [U, V] = [trained | waiting] columns, s in the same order.

    ds_i = u_i^T G v_i for all i; the trained columns get the enhanced gradients G v_i and G^T u_i, not scaled by s_i
    (G = dy^T x is never formed).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, s: Tensor, u: Tensor, v: Tensor, waiting_u: Tensor, waiting_v: Tensor) -> Tensor:
        ctx.save_for_backward(x, s, u, v, waiting_u, waiting_v)
        z = torch.cat([x @ v, x @ waiting_v], -1) * s
        r = u.shape[1]
        return z[..., :r] @ u.t() + z[..., r:] @ waiting_u.t()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, s, u, v, waiting_u, waiting_v = ctx.saved_tensors
        rows, inputs = dy.reshape(-1, dy.shape[-1]).to(s.dtype), x.reshape(-1, x.shape[-1]).to(s.dtype)
        left, waiting_left = rows @ u, rows @ waiting_u  # (tokens, r), (tokens, k - r)
        right, waiting_right = inputs @ v, inputs @ waiting_v
        ds = torch.cat([(left * right).sum(0), (waiting_left * waiting_right).sum(0)])
        dx, r = None, u.shape[1]
        if ctx.needs_input_grad[0]:
            dx = (left * s[:r]) @ v.t() + (waiting_left * s[r:]) @ waiting_v.t()
            dx = dx.to(x.dtype).view(x.shape)
        return dx, ds, rows.t() @ right, inputs.t() @ left, None, None


class SpectralLinear(nn.Module):
    """`x W^T + bias` with W = U diag(s) V^T, U (out, k), V (in, k), k = min(out, in).

    s: all k values, trained at every step; u (out, rank), v (in, rank): the columns that are trained now; waiting_u,
    waiting_v: the others; order: (k,) which of s each column has, those of u and v first; plain: the kind of layer
    that it stands for.
    """

    order: Tensor
    waiting_u: Tensor
    waiting_v: Tensor
    bias: nn.Parameter | None

    def __init__(self, weight: Tensor, bias: nn.Parameter | None, rank: int) -> None:
        super().__init__()
        u, s, v = _decomposed(weight)
        self.s = nn.Parameter(s)
        self.u, self.v = nn.Parameter(u[:, :rank].clone()), nn.Parameter(v[:, :rank].clone())
        self.register_buffer("waiting_u", u[:, rank:].clone())
        self.register_buffer("waiting_v", v[:, rank:].clone())
        self.register_buffer("order", torch.arange(len(s)))
        self.bias = bias
        self.plain: type[nn.Module] = nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Product.apply(x, self.s[self.order], self.u, self.v, self.waiting_u, self.waiting_v)
        return y if self.bias is None else y + self.bias

    def columns(self) -> tuple[Tensor, Tensor]:
        """U and V in the order of s."""
        back = self.order.argsort()
        u = torch.cat([self.u.detach(), self.waiting_u], 1)[:, back]
        return u, torch.cat([self.v.detach(), self.waiting_v], 1)[:, back]

    def dense_weight(self) -> Tensor:
        """W, (out, in)."""
        u, v = self.columns()
        return (u * self.s.detach()) @ v.t()

    @torch.no_grad()
    def settle(self) -> None:
        """Gives the trained columns unit length."""
        for columns in (self.u, self.v):
            columns.div_(columns.norm(dim=0).clamp_min(1e-12))

    @torch.no_grad()
    def train_columns(self, chosen: Tensor) -> None:
        """Puts other columns, `(rank,)` places in s, into u and v; those that were there wait as they are."""
        u, v = self.columns()
        waits = torch.ones(len(self.s), dtype=torch.bool)
        waits[chosen] = False
        others = waits.nonzero().flatten()
        self.order.copy_(torch.cat([chosen, others]))
        self._fill(u, v)

    @torch.no_grad()
    def orthogonalise(self) -> None:
        """Decomposes W anew: the same product, with orthogonal columns; the first `rank` are those being trained."""
        u, s, v = _decomposed(self.dense_weight())
        self.s.copy_(s)
        self.order.copy_(torch.arange(len(s)))
        self._fill(u, v)

    def _fill(self, u: Tensor, v: Tensor) -> None:
        rank = self.u.shape[1]
        self.u.copy_(u[:, self.order[:rank]])
        self.v.copy_(v[:, self.order[:rank]])
        self.waiting_u.copy_(u[:, self.order[rank:]])
        self.waiting_v.copy_(v[:, self.order[rank:]])

    def extra_repr(self) -> str:
        return f"{self.v.shape[0]}, {self.u.shape[0]}, rank={self.u.shape[1]}"


def _decomposed(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, s and V (not transposed) in float64, rounded to the weight's type."""
    u, s, vt = torch.linalg.svd(weight.detach().double(), full_matrices=False)
    return u.to(weight.dtype), s.to(weight.dtype), vt.t().to(weight.dtype)
