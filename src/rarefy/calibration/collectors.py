"""One collector a need: what is summed over the input rows of a site."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from rarefy.core.errors import DataError
from rarefy.core.evidence import Need
from rarefy.core.shapes import Float

Rows = Float[Tensor, "tokens groups n"]
Sum = Tensor  # float64: a token a thousand times as large as the others must not drown what comes after it

_STRIP = 384  # rows of a Gram matrix at once: right of the diagonal only, so little more than half of the product
_TOKENS = 256  # whose squares are held at once
_HUGE = 256.0  # times the median size: a token whose squares would cost the float32 sums of the others 1e-4 of them


def _add_square_norm(total: Float[Sum, "groups n"], rows: Rows) -> None:
    for part in rows.split(_TOKENS):
        total += part.square().sum(0)


def _add_gram(total: Float[Sum, "groups n n"], rows: Rows) -> None:
    """Adds the upper triangle, and in the strips some of the lower; `_mirror` makes it whole.

    Products are float32 but for tokens that are huge among these: those are float64, and are not summed with the others
    before both are added to the total. In float32 a token 10,000 times as large as the rest drowned 16 % of what the
    rest add (`tests/calibration/test_collectors.py`).
    """
    for (part,) in parted(rows):
        _add_products(total, part)


def parted(rows: Rows, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tokens that are huge in `rows`, of these and of what goes with them, in float64; then the others as they are.

    Huge is beyond `_HUGE` times the median size of those that are not zero. Without any, what was given.
    """
    size = torch.linalg.vector_norm(rows.flatten(1), dim=1)
    middle = size.median() if len(size) else size.sum()
    if middle == 0 and bool(size.any()):
        middle = size[size > 0].median()
    if not bool((size > _HUGE * middle).any()):
        yield rows, *others
        return
    huge = size > _HUGE * middle
    yield tuple(t[huge].double() for t in (rows, *others))
    yield tuple(t[~huge] for t in (rows, *others))


def _add_products(total: Float[Sum, "groups n n"], rows: Rows) -> None:
    if rows.shape[1] > 1:
        by_group = rows.transpose(0, 1)
        total += by_group.transpose(1, 2) @ by_group
        return
    x, n = rows[:, 0], rows.shape[2]
    for i in range(0, n, _STRIP):
        total[0, i : i + _STRIP, i:] += x[:, i : i + _STRIP].t() @ x[:, i:]


def _mirror(total: Float[Sum, "groups n n"]) -> None:
    for i in range(0, total.shape[1], _STRIP):
        end = i + _STRIP
        total[:, end:, i:end] = total[:, i:end, end:].transpose(1, 2)


def _add(total: Float[Sum, "groups n"], rows: Rows) -> None:
    total += rows.sum(0)


COLLECTORS: dict[Need, Callable[[Sum, Rows], None]] = {
    Need.INPUT_SQNORM: _add_square_norm,
    Need.INPUT_GRAM: _add_gram,
    Need.INPUT_MEAN: _add,  # divided by the token count at the end
}


def start(need: Need, groups: int, n: int) -> Sum:
    """The sum over no rows."""
    return torch.zeros((groups, n, n) if need is Need.INPUT_GRAM else (groups, n), dtype=torch.float64)


def finish(need: Need, total: Sum, tokens: int) -> Tensor:
    """The evidence, float32, from the sum over all rows, which is used up."""
    if need is Need.INPUT_GRAM:
        _mirror(total)
    return (total / tokens if need is Need.INPUT_MEAN else total).float()


def collected(need: Need, rows: Rows) -> Tensor:
    """The evidence of some rows alone, (groups, ...)."""
    total = start(need, *rows.shape[1:])
    COLLECTORS[need](total, rows)
    return finish(need, total, rows.shape[0])


def check_finite(site: str, rows: Rows) -> None:
    if not rows.sum().isfinite() and not rows.isfinite().all():
        raise DataError(f"{site}: its input holds NaN or infinity; check the data and the layers before it")
