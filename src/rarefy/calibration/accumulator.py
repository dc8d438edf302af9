"""The evidence about the inputs of some sites while it is being collected."""

from collections.abc import Iterable

from torch import Tensor

from rarefy.calibration.collectors import Rows, parted
from rarefy.calibration.stream import Streams
from rarefy.core.errors import DataError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.shapes import Float

Outputs = Float[Tensor, "tokens groups out"]

_NEVER_CALLED = " (nn.MultiheadAttention never calls its out_proj: rarefy.split_attention(model) makes layers that are)"


class Accumulators:
    """Sums over all batches, float32 within a portion of rows and float64 across portions.

    Products of huge tokens are float64 too (`collectors.parted`).
    Sites that read the same tensors share their sums, and the evidence is one tensor for all of them.
    """

    def __init__(self, sites: Iterable[str], needs: Iterable[Need], seed: int = 0) -> None:
        self.seed = seed
        self.needs = frozenset(need for need in needs if need.of_the_inputs)
        self.streams = Streams(sites, self.needs)
        self.cross: dict[str, Tensor] = {}

    def add(self, site: str, rows: Rows, wanted: Outputs | None = None, what: object = None) -> None:
        """Adds a batch of input rows, and of the outputs wanted for them where the walk is paired.

        what: one object for the same rows at several sites; None where no other site has them.
        """
        self.streams.add(site, rows, object() if what is None else what)
        if Need.WANTED_CROSS in self.needs:
            assert wanted is not None, "only the paired walk collects WANTED_CROSS"
            for x, t in parted(rows, wanted):
                part = t.transpose(0, 1).transpose(1, 2) @ x.transpose(0, 1)
                self.cross[site] = self.cross[site].add_(part) if site in self.cross else part.double()

    def take(self, site: str, groups: int) -> Evidence:
        """The evidence of a site, which is done with; a leading axis of groups only for grouped convolutions."""
        values, tokens = self.streams.take(site)
        if self.needs and tokens == 0:
            raise DataError(
                f"{site}: no calibration batch reaches this layer; "
                "give data that uses it, or leave it alone with ignore="
                + (_NEVER_CALLED if site.endswith("out_proj") else "")
            )
        if site in self.cross:
            values = {**values, Need.WANTED_CROSS: self.cross.pop(site).float()}
        return Evidence(site, values if groups > 1 else {k: v[0] for k, v in values.items()}, tokens, self.seed)
