"""Fitting of scaling laws: a robust loss on log L, from many starts."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rarefy.core.errors import DataError


def fit_log_law(
    predict: Callable[[Tensor], Tensor],
    losses: Tensor,
    starts: Sequence[Sequence[float]],
    *,
    delta: float,
    steps: int = 300,
) -> list[float]:
    """The parameters with the least mean Huber loss of `log predict(parameters) - log losses`, of all starts.

    predict: float64 parameters (p,) -> losses (runs,), all positive; L-BFGS with a strong-Wolfe line search from each
    start. Starts that run into infinities are left out; an error if all do.
    """
    wanted, best, found = losses.double().log(), float("inf"), None
    for begin in starts:
        values = torch.tensor(list(begin), dtype=torch.float64, requires_grad=True)
        search = torch.optim.LBFGS([values], max_iter=steps, history_size=20, line_search_fn="strong_wolfe")

        def objective(values: Tensor = values, search: torch.optim.LBFGS = search) -> Tensor:
            search.zero_grad()
            gap = predict(values).log() - wanted
            loss = torch.nn.functional.huber_loss(gap, torch.zeros_like(gap), delta=delta)
            loss.backward()
            return loss

        search.step(objective)
        with torch.no_grad():
            gap = predict(values).log() - wanted
            last = float(torch.nn.functional.huber_loss(gap, torch.zeros_like(gap), delta=delta))
        if last < best and bool(values.isfinite().all()):
            best, found = last, values.detach().tolist()
    if found is None:
        raise DataError("fit: no start led to finite losses; check that losses and counts are positive and finite")
    return found


def as_column(name: str, values: Sequence[float] | Tensor, runs: int | None = None) -> Tensor:
    """A float64 tensor of positive finite numbers, as many as there are runs."""
    column = torch.as_tensor(values, dtype=torch.float64)
    if column.dim() != 1 or (runs is not None and len(column) != runs):
        raise DataError(
            f"fit: {name} has shape {tuple(column.shape)}, it has to be one number for each of the {runs} runs"
        )
    if not bool((column.isfinite() & (column > 0)).all()):
        raise DataError(f"fit: {name} has to be positive and finite")
    return column
