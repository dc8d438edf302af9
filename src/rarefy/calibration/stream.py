"""The rows that enter the sites, summed in large portions, and only once for all sites that read the same."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from rarefy.calibration.collectors import COLLECTORS, Rows, check_finite, finish, start
from rarefy.core.evidence import Need

_TOKENS = 2048  # a portion: fewer make adding to the sums cost as much as the products
_BYTES = 64 << 20  # of a portion


class Stream:
    """What some sites have read so far, all the same: sums, and what was read last, which is not in the sums yet.

    Where sums are matrices, many rows wait for being summed: a copy of them, for the model may change them in place.
    """

    def __init__(self, needs: Sequence[Need]) -> None:
        self.needs = needs
        self.read: dict[str, int] = {}  # site: how many times
        self.times, self.last = 0, object()  # how many times at all; what was read last
        self.tokens, self.newest = 0, 0  # rows in all; those read last
        self.buffer: Tensor | None = None
        self.held = 0  # rows in the buffer
        self.part: dict[Need, Tensor] = {}  # sums over the last rows where no rows are held
        self.sums: dict[Need, Tensor] = {}
        self._found: dict[Need, Tensor] | None = None

    def without_last(self) -> "Stream":
        """Takes those sites out that have not read the last rows: a stream of them, which has not either."""
        other = Stream(self.needs)
        other.times, other.tokens = self.times - 1, self.tokens - self.newest
        other.sums = {need: total.clone() for need, total in self.sums.items()}
        other.held = max(0, self.held - self.newest)
        if self.buffer is not None and other.held:
            other.buffer = self.buffer.clone()
        other.read = {site: times for site, times in self.read.items() if times < self.times}
        self.read = {site: times for site, times in self.read.items() if times == self.times}
        return other

    def append(self, rows: Rows, what: object) -> None:
        if Need.INPUT_GRAM in self.needs:
            self._hold(rows)
        else:
            self._sum_up()
            self.part = self._sums_over(rows, {})
        self.tokens, self.newest = self.tokens + len(rows), len(rows)
        self.times, self.last = self.times + 1, what

    def _hold(self, rows: Rows) -> None:
        count, groups, n = rows.shape
        fits = self.buffer is not None and self.buffer.dtype == rows.dtype
        if self.buffer is None or not fits or self.held + count > len(self.buffer):
            self._sum_up()
        if self.buffer is None or not fits or count > len(self.buffer):
            self.buffer = rows.new_empty(max(count, min(_TOKENS, _BYTES // max(1, 4 * groups * n))), groups, n)
        self.buffer[self.held : self.held + count] = rows
        self.held += count

    def _sum_up(self) -> None:
        """Brings the sums up to what was read last."""
        if self.buffer is not None and self.held:
            self.sums = self._sums_over(self.buffer[: self.held], self.sums)
        for need, part in self.part.items():
            self.sums[need] = self.sums[need].add_(part) if need in self.sums else part
        self.held, self.part = 0, {}

    def _sums_over(self, rows: Rows, sums: dict[Need, Tensor]) -> dict[Need, Tensor]:
        for need in self.needs:
            if need not in sums:
                sums[need] = start(need, *rows.shape[1:])
            COLLECTORS[need](sums[need], rows)
        return sums

    def values(self) -> dict[Need, Tensor]:
        """The evidence over all rows, with a leading axis of groups; nothing is appended after."""
        if self._found is None:
            self._sum_up()
            self.buffer = None
            self._found = {need: finish(need, total, self.tokens) for need, total in self.sums.items()}
            self.sums = {}
        return self._found


class Streams:
    """The stream of each site: all begin in one and part when they read different rows."""

    def __init__(self, sites: Iterable[str], needs: Iterable[Need]) -> None:
        whole = Stream([need for need in COLLECTORS if need in set(needs)])
        self.of = dict.fromkeys(sites, whole)
        whole.read = dict.fromkeys(self.of, 0)

    def add(self, site: str, rows: Rows, what: object) -> None:
        """Adds rows that the site has read; `what` is the same object where other sites of its stream read the same."""
        stream = self.of[site]
        if stream.read[site] == stream.times or stream.last is not what:
            stream = self._parted(site)
            check_finite(site, rows)
            stream.append(rows, what)
        stream.read[site] += 1

    def take(self, site: str) -> tuple[dict[Need, Tensor], int]:
        """(evidence, rows) of a site, which is done with."""
        stream = self._parted(site)
        del self.of[site], stream.read[site]
        return stream.values(), stream.tokens

    def _parted(self, site: str) -> Stream:
        """The stream of a site once all of its sites have read the same."""
        stream = self.of[site]
        if any(times < stream.times for times in stream.read.values()):
            other = stream.without_last()
            self.of.update(dict.fromkeys(other.read, other))
        return self.of[site]
