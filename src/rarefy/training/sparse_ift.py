"""Sparse-IFT: larger sparse layers that cost as many multiplications as the dense layer they replace."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from rarefy.core.errors import ModelError, SparsityError, unknown_name
from rarefy.core.registry import method
from rarefy.core.slicing import weight_rows
from rarefy.training.linears import is_linear, places


class Parallel(nn.Module):
    """Branches of one shape, each with its non-linearity, summed."""

    def __init__(
        self, inputs: int, outputs: int, branches: int, activation: Callable[[], nn.Module], bias: bool
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Linear(inputs, outputs, bias=bias), activation()) for _ in range(branches)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = sum(branch(x) for branch in self.branches)
        return out


class Doped(nn.Module):
    """A low-rank pair beside a sparse matrix."""

    def __init__(self, inputs: int, outputs: int, rank: int, bias: bool) -> None:
        super().__init__()
        self.low_rank = nn.Sequential(nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False))
        self.sparse = nn.Linear(inputs, outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.low_rank(x) + self.sparse(x)
        return out


@dataclass(frozen=True)
class IsoFlop:
    """The larger model and the density of each of its linear layers (by name), for `allocation=Given(densities)`."""

    model: nn.Module
    densities: dict[str, float]

    @property
    def products(self) -> int:
        """Multiplications of the linear layers for one token, at these densities."""
        return products(self.model, self.densities)


def products(model: nn.Module, densities: dict[str, float] | None = None) -> int:
    """Multiplications of the linear layers for one token."""
    layers = ((name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear) or is_linear(m))
    found = {name: weight_rows(m).numel() for name, m in layers}
    return round(sum(size * (densities or {}).get(name, 1.0) for name, size in found.items()))


def factor_size(inputs: int, outputs: int, density: float) -> int:
    """Inner width of two factors of a density whose products are those of the dense layer."""
    return max(1, round(inputs * outputs / ((inputs + outputs) * density)))


def doped_rank(inputs: int, outputs: int, density: float) -> int:
    """Rank of the pair that takes the products which the sparse matrix leaves."""
    return max(1, round((1.0 - density) * inputs * outputs / (inputs + outputs)))


def _replacement(kind: str, layer: nn.Module, density: float, activation: Callable[[], nn.Module]) -> IsoFlop:
    (o, i), bias = weight_rows(layer).shape, layer.bias is not None
    size = i * o
    if kind == "parallel":
        count = round(1.0 / density)
        names = {f"branches.{k}.0": 1.0 / count for k in range(count)}
        return IsoFlop(Parallel(i, o, count, activation, bias), names)
    if kind == "factorized":
        inner = factor_size(i, o, density)
        pair = nn.Sequential(nn.Linear(i, inner, bias=False), nn.Linear(inner, o, bias=bias))
        return IsoFlop(pair, dict.fromkeys(("0", "1"), min(1.0, size / (inner * (i + o)))))
    rank = doped_rank(i, o, density)
    left = max(1.0 / size, 1.0 - rank * (i + o) / size)
    return IsoFlop(Doped(i, o, rank, bias), {"low_rank.0": 1.0, "low_rank.1": 1.0, "sparse": left})


def _wide(model: nn.Module, density: float) -> IsoFlop:
    """Hidden widths times sqrt(1 / density); the first and last layer, wider on one side, get the density for it."""
    if not isinstance(model, nn.Sequential):
        raise ModelError(
            f"sparse_ift: which widths of a {type(model).__name__} belong together is not known; give an "
            f"nn.Sequential of layers, or another kind: {_OTHERS}"
        )
    at = [k for k, m in enumerate(model) if isinstance(m, nn.Linear)]
    allowed = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Dropout, nn.Identity, nn.Linear)
    for k, m in enumerate(model):
        if not isinstance(m, allowed):
            raise ModelError(
                f"sparse_ift: layer {k} is a {type(m).__name__}, whose width cannot be changed here; take another "
                f"kind: {_OTHERS}"
            )
    if len(at) < 2:
        raise ModelError(f"sparse_ift: fewer than two linear layers have no hidden width; take another kind: {_OTHERS}")
    wider, densities = copy.deepcopy(model), {}
    scale = math.sqrt(1.0 / density)
    for k in at:
        old = model[k]
        assert isinstance(old, nn.Linear)
        i = old.in_features if k == at[0] else round(old.in_features * scale)
        o = old.out_features if k == at[-1] else round(old.out_features * scale)
        wider[k] = nn.Linear(i, o, bias=old.bias is not None)
        densities[str(k)] = min(1.0, old.in_features * old.out_features / (i * o))
    return IsoFlop(wider, densities)


_KINDS = ("wide", "parallel", "factorized", "doped")
_OTHERS = ", ".join(map(repr, _KINDS[1:]))


@method("sparse-ift", role="study", source="Thangarasa et al. 2023, arXiv:2303.11525, section 2 and table 1")
def sparse_ift(
    model: nn.Module,
    kind: str = "wide",
    *,
    sparsity: float,
    activation: Callable[[], nn.Module] = nn.ReLU,
    ignore: Sequence[str] = (),
) -> IsoFlop:
    """A larger model with freshly drawn weights that costs as many products at the sparsity as the dense one.

    kind: "wide" scales hidden widths by sqrt(1 / density); "parallel" sums 1 / density branches, each with
    `activation`; "factorized" is two sparse factors; "doped" a low-rank pair beside a sparse matrix. The given model
    stays as it is. ignore: layers that stay as they are, of all kinds but "wide"; heads tied to an embedding have to.
    Train the result with `rarefy.sparse_training(found.model, optimizer, "rigl", sparsity=sparsity,
    allocation=Given(found.densities), ignore=ignore)`, everything else as for the dense one.
    Differs: layers that cannot grow on both sides (first and last of "wide") get the density that keeps their cost.
    """
    if not 0.0 < sparsity < 1.0:
        raise SparsityError(f"sparse_ift: sparsity {sparsity} is outside (0, 1); at 0 the layer is the dense one")
    if kind not in _KINDS:
        raise unknown_name("kind", kind, _KINDS)
    density = 1.0 - sparsity
    if kind == "wide":
        if ignore:
            raise ModelError(f"sparse_ift: ignore={ignore!r} with 'wide', where layers share widths; take {_OTHERS}")
        return _wide(model, density)
    if kind == "parallel" and abs(round(1.0 / density) * density - 1.0) > 1e-6:
        raise SparsityError(f"sparse_ift: sparsity {sparsity} is no whole number of branches; take 0.5, 0.75, 0.8, 0.9")
    if is_linear(model):
        return _replacement(kind, model, density, activation)
    found, densities = copy.deepcopy(model), {}
    for place in places(found, "sparse_ift", ignore):
        new = _replacement(kind, place.module, density, activation)
        densities.update({f"{place.name}.{inner}": d for inner, d in new.densities.items()})
        place.put(new.model)
    return IsoFlop(found, densities)
