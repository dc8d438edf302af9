"""The state of the exact surgeon on some rows: what is left of each, and its own inverse Hessian."""

import torch
from torch import Tensor


class Bands:
    """Bands of r rows that lose the same tiles of c columns: weights (bands, r, n), inverses (bands, n, n)."""

    def __init__(self, weight: Tensor, inverse: Tensor, c: int, gone: Tensor, dead: Tensor) -> None:
        """weight: (bands, r, n); inverse: of the damped Gram, (n, n); gone: (bands, n / c) tiles that are zero;
        dead: (n,) inputs that never fire."""
        self.weight = weight.double().clone()
        self.inverse = inverse.double().expand(len(weight), -1, -1).clone()
        self.c = c
        self.gone = gone
        self.dead = dead.reshape(-1, c).all(1)
        self.left = torch.ones_like(gone)

    def saliency(self) -> Tensor:
        """1/2 w_P ([H^-1]_PP)^-1 w_P over the rows of a band, for each tile P: (bands, n / c); inf where removed.

        Source: Frantar and Alistarh 2022 (OBC), arXiv:2208.11580, eqs. 3 and 5. Tiles that were zero come first, then
        those whose inputs never fire: they cost nothing, whatever the damping makes of them.
        """
        bands, r, n = self.weight.shape
        tiles = self.weight.reshape(bands, r, n // self.c, self.c)
        if self.c == 1:
            cost = 0.5 * tiles[..., 0].square().sum(1) / self.inverse.diagonal(dim1=1, dim2=2).clamp_min(1e-300)
        else:
            on_tiles = self.inverse.reshape(bands, n // self.c, self.c, n // self.c, self.c)
            blocks = on_tiles.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)  # (bands, tiles, c, c)
            eye = torch.eye(self.c, dtype=blocks.dtype)
            safe = torch.where(self.left[..., None, None], blocks, eye)
            solved = torch.linalg.solve(safe, tiles.permute(0, 2, 3, 1))
            cost = 0.5 * (tiles.permute(0, 2, 3, 1) * solved).sum((2, 3))
        cost = cost.masked_fill(self.dead, 0.0)
        return cost.masked_fill(self.gone, -torch.inf).masked_fill(~self.left, torch.inf)

    def remove(self, tile: Tensor, active: Tensor) -> None:
        """Takes tile (bands,) out of each active band: eliminates its columns and lets the others make up for it.

        w <- w - w_P ([H^-1]_PP)^-1 [H^-1]_P:, H^-1 <- H^-1 - [H^-1]_:P ([H^-1]_PP)^-1 [H^-1]_P:.
        """
        index = active.nonzero()[:, 0]
        columns = (tile[index, None] * self.c + torch.arange(self.c))[:, None, :]  # (active, 1, c)
        inverse, weight = self.inverse[index], self.weight[index]
        n = inverse.shape[1]
        rows = inverse.gather(1, columns.transpose(1, 2).expand(-1, -1, n))  # (active, c, n)
        pivot = rows.gather(2, columns.expand(-1, self.c, -1))
        solved = torch.linalg.solve(pivot, rows)
        lost = weight.gather(2, columns.expand(-1, weight.shape[1], -1))
        weight = weight - lost @ solved
        inverse = inverse - rows.transpose(1, 2) @ solved
        self.weight[index] = weight.scatter(2, columns.expand(-1, weight.shape[1], -1), 0.0)
        self.inverse[index] = inverse
        self.left[index, tile[index]] = False
