"""A model of what a kernel costs, fitted to measured times: for layers that are not timed, and to leave out kernels
that cannot win."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.engine.cache import TimingCache, known_layers
from rarefy.engine.cell import Cell, density
from rarefy.engine.cost_defaults import DEFAULTS
from rarefy.ops import KernelInfo, kernels

DENSE = "dense"
_ITEM_BYTES = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0, "int4": 0.5}
_INDEX_BYTES = 2.0  # of a stored entry
_TOGETHER = 16  # tokens in a tile, from which on tiles share what they read of the weight
_FEWEST = 4  # measured times of one kernel that make its fit better than the default
_STEPS = 400


@dataclass(frozen=True)
class Demand:
    """What a kernel has to do for a cell. work: multiply-adds, with those wasted on partly filled tiles of tokens;
    moved: bytes of weights, indices, inputs and outputs."""

    work: float
    moved: float


@dataclass(frozen=True)
class KernelCost:
    """time = overhead + max(work / rate, moved / bandwidth); milliseconds, multiply-adds and bytes a millisecond.

    Source: Williams, Waterman, Patterson 2009, the roofline model, with a constant for starting the threads.
    """

    overhead: float
    rate: float
    bandwidth: float

    def ms(self, demand: Demand) -> float:
        return self.overhead + max(demand.work / self.rate, demand.moved / self.bandwidth)


def demand_of(cell: Cell, kernel: KernelInfo | None) -> Demand:
    """What the dense layer (None) or a kernel must do."""
    out, width = cell.shape
    ends = 4.0 * cell.tokens * (out + width)
    if kernel is None:
        return Demand(float(out) * width * cell.tokens, 4.0 * out * width + ends)
    tile = max(1, kernel.tile[1]) if kernel.op != "spmv" else 1
    entries, stored = _held(cell, kernel)
    return Demand(entries * (-(-cell.tokens // tile) * tile), stored + ends)


def _held(cell: Cell, kernel: KernelInfo) -> tuple[float, float]:
    """(entries that are multiplied, bytes) of a weight. A bit mask is read whole, whatever it keeps; kernels that store
    zeros too multiply them and have no indices, and blocks are multiplied with the zeros in them."""
    whole, item = float(cell.shape[0]) * cell.shape[1], _ITEM_BYTES.get(kernel.weights, 4.0)
    if kernel.op == "block8":
        size, occupied = _blocks(cell, kernel)
        entries = max(float(cell.nnz), whole * occupied)
        return entries, entries * (item + _INDEX_BYTES / size)
    if "dense" in kernel.name or kernel.op == "neurons":
        return whole, whole * item
    if "bitmask" in kernel.name or kernel.op.startswith("expand"):
        return whole, cell.nnz * item + whole / 8
    return float(cell.nnz), cell.nnz * (item + _INDEX_BYTES)


def _blocks(cell: Cell, kernel: KernelInfo) -> tuple[int, float]:
    """(entries of a block, the share of the weight in blocks that hold any) of an 8-bit kernel. Strips of two rows are
    taken to lie between single entries and strips of four, what else a cell does not tell as if entries were scattered.
    """
    size = 4 if "cell" in kernel.name else kernel.tile[0]
    entries, four_rows, four_columns, sixteen_rows = cell.support
    at = four_columns if "cell" in kernel.name else {4: four_rows, 16: sixteen_rows}.get(size, -1)
    if size == 2 and four_rows >= 0:
        return size, (density(entries) * density(four_rows)) ** 0.5
    return size, density(at) if at >= 0 else 1.0 - (1.0 - density(entries)) ** size


def stored_bytes(cell: Cell, name: str) -> float:
    """Bytes of a weight as a kernel of this process stores it."""
    return _held(cell, next(kernel for kernel in kernels() if kernel.name == name))[1]


def fit(points: Sequence[tuple[Demand, float]]) -> KernelCost:
    """The cost whose logarithm is nearest to that of the measured milliseconds (Huber loss, so that a disturbed
    measurement weighs little)."""
    with torch.inference_mode(False), torch.enable_grad():  # tensors made in inference mode take part in no gradient
        work = torch.tensor([p.work for p, _ in points], dtype=torch.float64)
        moved = torch.tensor([p.moved for p, _ in points], dtype=torch.float64)
        ms = torch.tensor([t for _, t in points], dtype=torch.float64)
        start = torch.stack([ms.min() / 2, (work / ms).max(), (moved / ms).max()]).clamp(min=1e-9).log()
        found = _descend(start, work, moved, ms)
    overhead, rate, bandwidth = found.exp().tolist()
    return KernelCost(overhead, rate, bandwidth)


def _descend(start: Tensor, work: Tensor, moved: Tensor, ms: Tensor) -> Tensor:
    """Gradient descent over the logarithms of the three parameters."""
    parameters = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([parameters], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    for _ in range(_STEPS):
        overhead, rate, bandwidth = parameters.exp()
        guess = overhead + torch.maximum(work / rate, moved / bandwidth)
        loss = torch.nn.functional.huber_loss(guess.log(), ms.log(), delta=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return parameters.detach()


@dataclass(frozen=True)
class CostModel:
    """Costs by kernel name, `dense` among them. infos: the kernels of this process by name; fitted: names whose cost
    comes from measured times, not from a default."""

    costs: Mapping[str, KernelCost]
    infos: Mapping[str, KernelInfo]
    fitted: frozenset[str] = frozenset()

    @property
    def measured(self) -> "CostModel":
        """The part that rests on measured times."""
        return CostModel({name: self.costs[name] for name in self.fitted}, self.infos, self.fitted)

    def ms(self, name: str, cell: Cell) -> float | None:
        """Expected milliseconds; None for a kernel of which nothing is known."""
        cost = self.costs.get(name)
        if cost is None or (name != DENSE and name not in self.infos):
            return None
        return cost.ms(demand_of(cell, self.infos.get(name)))

    def predict(self, cell: Cell, names: Iterable[str]) -> dict[str, float]:
        """Expected milliseconds of those of the names that something is known of."""
        guesses = {name: self.ms(name, cell) for name in names}
        return {name: ms for name, ms in guesses.items() if ms is not None}


def fitted(points: Iterable[tuple[Cell, str, float]]) -> CostModel:
    """The model of measured times; kernels with too few of them take the default of their family."""
    infos = {kernel.name: kernel for kernel in kernels()}
    threads = torch.get_num_threads()
    by_name: dict[str, list[tuple[Demand, float]]] = {}
    for cell, name, ms in points:
        if name == DENSE or name in infos:
            by_name.setdefault(name, []).append((demand_of(cell, infos.get(name)), ms))
    costs: dict[str, KernelCost] = {}
    for name in (DENSE, *infos):
        known, family = by_name.get(name, []), _family(infos.get(name))
        if len(known) >= _FEWEST:
            costs[name] = fit(known)
        elif family in DEFAULTS:
            costs[name] = _default(DEFAULTS[family], threads)
    enough = frozenset(name for name in costs if len(by_name.get(name, [])) >= _FEWEST)
    return CostModel(costs, infos, enough)


def _default(of_one_thread: tuple[float, float, float], threads: int) -> KernelCost:
    overhead, rate, bandwidth = of_one_thread
    return KernelCost(overhead, rate * threads, bandwidth * threads**0.5)


def guesses(cell: Cell, names: Iterable[str]) -> dict[str, float]:
    """Milliseconds of kernels at the dense layer's rates: for layers that must run packed, whatever is known of them.

    Those that take a few tokens at once read the weight again for the next few, and keep fewer sums in registers; those
    that expand a weight write it out and read it; blocks are taken for full.
    """
    infos = {kernel.name: kernel for kernel in kernels()}
    cost = _default(DEFAULTS[DENSE], torch.get_num_threads())
    found = {}
    for name in names:
        entries, stored = _held(cell, infos[name])
        few = max(1, infos[name].tile[1])
        again, slower = (-(-cell.tokens // few), 2) if few < _TOGETHER else (1, 1)
        if infos[name].op.startswith("expand"):
            again = 2
        elif infos[name].op == "block8":
            entries = float(cell.shape[0]) * cell.shape[1]
        found[name] = cost.ms(Demand(entries * cell.tokens * slower, stored * again))
    return found


def cost_model(cache: TimingCache) -> CostModel:
    """The model fitted to everything that the cache knows of this machine."""
    return fitted(known_layers(cache))


def _family(kernel: KernelInfo | None) -> str:
    """What kernels share a default: the operation and its instruction set."""
    if kernel is None:
        return DENSE
    kind = "-bitmask" if "bitmask" in kernel.name else "-index" if "index" in kernel.name else ""
    return f"{kernel.op}{kind}/{kernel.isa}/{kernel.weights}/{kernel.activations}"
