"""One collector a need: what is accumulated over the input rows of a site."""

from collections.abc import Callable

from torch import Tensor

from rarefy.core.errors import DataError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.shapes import Float

Rows = Float[Tensor, "tokens groups n"]
Outputs = Float[Tensor, "tokens groups out"]


def _square_norm(rows: Rows) -> Float[Tensor, "groups n"]:
    return rows.square().sum(0)


def _gram(rows: Rows) -> Float[Tensor, "groups n n"]:
    by_group = rows.transpose(0, 1)
    return by_group.transpose(1, 2) @ by_group


def _sum(rows: Rows) -> Float[Tensor, "groups n"]:
    return rows.sum(0)


def _cross(rows: Rows, wanted: Outputs | None) -> Float[Tensor, "groups out n"]:
    assert wanted is not None, "only the paired walk collects WANTED_CROSS"
    return wanted.transpose(0, 1).transpose(1, 2) @ rows.transpose(0, 1)


COLLECTORS: dict[Need, Callable[[Rows], Tensor]] = {
    Need.INPUT_SQNORM: _square_norm,
    Need.INPUT_GRAM: _gram,
    Need.INPUT_MEAN: _sum,  # divided by the token count at the end
}


class Accumulator:
    """Sums of the collectors of one site over all batches, in float32 a batch and float64 across batches
    where that is cheap (vectors); Gram matrices stay float32."""

    def __init__(self, site: str, needs: frozenset[Need], seed: int = 0) -> None:
        self.site, self.seed, self.tokens = site, seed, 0
        self.needs = [need for need in needs if need.of_the_inputs]
        self.sums: dict[Need, Tensor] = {}

    def add(self, rows: Rows, wanted: Outputs | None = None, shared: dict[Need, Tensor] | None = None) -> None:
        """Adds a batch of input rows, and of the outputs wanted for them where the walk is paired.

        shared: what was computed from the same rows for another site already; filled here.
        """
        shared = {} if shared is None else shared
        if not shared and not rows.isfinite().all():
            raise DataError(f"{self.site}: its input holds NaN or infinity; check the data and the layers before it")
        self.tokens += rows.shape[0]
        for need in self.needs:
            if need is Need.WANTED_CROSS:
                self._sum(need, _cross(rows, wanted))
            else:
                if need not in shared:
                    shared[need] = COLLECTORS[need](rows)
                self._sum(need, shared[need])

    def _sum(self, need: Need, part: Tensor) -> None:
        part = part.double() if need in (Need.INPUT_SQNORM, Need.INPUT_MEAN) else part
        if need in self.sums:
            self.sums[need] += part
        else:
            self.sums[need] = part.clone()

    def evidence(self, groups: int) -> Evidence:
        """The evidence of the site; the leading axis of groups stays only for grouped convolutions."""
        if self.needs and self.tokens == 0:
            raise DataError(
                f"{self.site}: no calibration batch reaches this layer; "
                "give data that uses it, or leave it alone with ignore="
            )
        values = {k: v.float() for k, v in self.sums.items()}
        if Need.INPUT_MEAN in values:
            values[Need.INPUT_MEAN] = (self.sums[Need.INPUT_MEAN] / self.tokens).float()
        return Evidence(
            self.site, values if groups > 1 else {k: v[0] for k, v in values.items()}, self.tokens, self.seed
        )
