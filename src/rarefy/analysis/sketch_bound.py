"""A generalisation bound for magnitude-pruned nets: few non-zeros a row and column can be sketched into few numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rarefy.core.errors import DataError, SparsityError
from rarefy.core.registry import method
from rarefy.core.shapes import Float, Weight
from rarefy.core.site import find_sites


def magnitude_compression(weight: Weight, psi: float, generator: torch.Generator) -> Weight:
    """Drops entry a with probability exp(-a^2 / (d psi)), d = max(out, in), and keeps a as it is otherwise.

    Large entries hardly ever go, so the change stays small: E|A - S|^2 = sum a^2 exp(-a^2 / (d psi)) is at most
    out * in * d * psi / e. Source: Guha et al. 2023, arXiv:2305.18789, section 4.
    """
    d = max(weight.shape)
    gone = torch.exp(-weight.double().square() / (d * psi))
    kept = torch.rand(weight.shape, generator=generator, dtype=torch.float64) >= gone
    return weight * kept


def left_regular(m: int, d: int, delta: int, generator: torch.Generator) -> Float[Tensor, "m d"]:
    """A random 0/1 matrix with `delta` ones in every column: the adjacency of a left-regular bipartite graph."""
    if not 0 < delta <= m:
        raise SparsityError(f"left_regular: delta={delta} ones do not fit into columns of {m}; give 1..{m}")
    rows = torch.stack([torch.randperm(m, generator=generator)[:delta] for _ in range(d)], 1)
    return torch.zeros(m, d, dtype=torch.float64).scatter(0, rows, 1.0)


def decode(
    sketch: Float[Tensor, "m m"], left: Float[Tensor, "m d"], right: Float[Tensor, "m d"], steps: int = 4000
) -> Float[Tensor, "d d"]:
    """argmin sum |Z| subject to left Z right^T = sketch, float64.

    Basis pursuit by ADMM (Boyd et al. 2011, section 6.2), then least squares on the support that it settled on, which
    is taken where it satisfies the constraint with no larger norm. For matrices of a few hundred entries.
    """
    a = torch.kron(left, right)  # vec by rows: (left Z right^T)_ab = sum_ij left_ai right_bj Z_ij
    y = sketch.double().reshape(-1)
    inverse = torch.linalg.pinv(a)
    start = inverse @ y
    z, u, x = start.clone(), torch.zeros_like(start), start
    level = float(start.abs().max()) * 0.1 or 1.0
    for _ in range(steps):
        v = z - u
        x = v - inverse @ (a @ v - y)
        z = torch.nn.functional.softshrink(x + u, level)
        u = u + x - z
        if float((x - z).abs().max()) < 1e-12:
            break
    support = (z != 0).nonzero().flatten()
    if 0 < len(support) <= len(y):
        polished = torch.zeros_like(x)
        polished[support] = torch.linalg.lstsq(a[:, support], y[:, None], driver="gelsd").solution[:, 0]
        if float((a @ polished - y).abs().max()) < 1e-8 and float(polished.abs().sum()) <= float(x.abs().sum()) + 1e-8:
            x = polished
    return x.view(left.shape[1], right.shape[1])


@dataclass(frozen=True)
class SketchBound:
    """complexity: q = sum over layers of m_l^2, the numbers that describe the pruned net; term: sqrt(q ln(levels) / n).

    bound: margin loss plus the term (constants of the theorem left out, as there); sizes: m_l of each layer.
    """

    complexity: float
    term: float
    bound: float
    sizes: tuple[float, ...]


@method("sketch-magnitude-bound", role="study", source="Guha et al. 2023, arXiv:2305.18789, sections 4-5")
def sketch_bound(
    model: nn.Module, samples: int, margin_loss: float, *, levels: int = 2**16, ignore: Sequence[str] = ()
) -> SketchBound:
    """L_0(f) <= L_margin(f) + O(sqrt(q ln(levels) / n)), q = sum m_l^2, m_l = sqrt(d_l j_l) ln d_l.

    d_l: the larger side of a layer; j_l: the most non-zeros of a row or column. samples: n; margin_loss: L_margin on
    them; levels: values that a stored number may take. The term falls as zeros fall on every row and column alike,
    and says more than counting the weights of the dense net only where j < d / (ln d)^2: wide and very sparse ones.
    Differs: up to the constants that the theorem hides; a number to compare nets by, not a guarantee.
    """
    if samples < 1 or not 0 <= margin_loss <= 1:
        raise DataError(
            f"sketch_bound: samples={samples}, margin_loss={margin_loss}; give n >= 1 and a share in [0, 1]"
        )
    sizes = []
    for site in find_sites(model, ignore)[0]:
        kept = site.read() != 0
        d, j = max(site.shape), int(max(kept.sum(0).max(), kept.sum(1).max()))
        sizes.append(math.sqrt(d * j) * math.log(max(2, d)))
    q = sum(m**2 for m in sizes)
    term = math.sqrt(q * math.log(levels) / samples)
    return SketchBound(q, term, margin_loss + term, tuple(sizes))
