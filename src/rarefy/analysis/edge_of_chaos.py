"""Edge of chaos: where untrained deep nets keep their signals, and which layers pruning would empty."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rarefy.core.errors import unknown_name
from rarefy.core.registry import method
from rarefy.core.site import Site, find_sites

_EDGES = {"relu": (2.0, 0.0), "tanh": (1.0, 0.0), "linear": (1.0, 0.0)}


def chi(activation: str, weight_variance: float, bias_variance: float) -> tuple[float, float]:
    """(q, chi): the fixed point of the mean-field variance and chi = sigma_w^2 E[phi'(sqrt(q) Z)^2] there.

    Gradients grow over depth like chi^depth: below 1 they vanish, above they explode. Source: Hayou et al. 2021,
    arXiv:2002.08797, section 2; Gauss-Hermite quadrature of 64 points.
    """
    z, w = _gauss()
    phi, slope = _functions(activation)
    q = 1.0
    for _ in range(2000):
        q = weight_variance * float((w * phi(math.sqrt(q) * z).square()).sum()) + bias_variance
        if q > 1e12 or q < 1e-12:
            break
    return q, weight_variance * float((w * slope(math.sqrt(q) * z).square()).sum())


def _gauss() -> tuple[Tensor, Tensor]:
    """Nodes and weights of E[f(Z)], Z standard normal (Golub and Welsch: eigenvalues of the Jacobi matrix)."""
    steps = torch.arange(1, 64, dtype=torch.float64).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(steps, 1) + torch.diag(steps, -1))
    return values, vectors[0].square()


def _functions(activation: str) -> tuple[nn.Module, nn.Module]:
    class Slope(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if activation == "relu":
                return (x > 0).to(x.dtype)
            return 1 - torch.tanh(x).square() if activation == "tanh" else torch.ones_like(x)

    known: dict[str, nn.Module] = {"relu": nn.ReLU(), "tanh": nn.Tanh(), "linear": nn.Identity()}
    if activation not in known:
        raise unknown_name("activation", activation, known)
    return known[activation], Slope()


@method("edge-of-chaos", role="study", source="Hayou et al. 2021, arXiv:2002.08797, section 2 (definition 2)")
def initialise(
    model: nn.Module,
    activation: str = "relu",
    *,
    weight_variance: float | None = None,
    bias_variance: float | None = None,
    ignore: Sequence[str] = (),
    seed: int = 0,
) -> None:
    """Draws the weights of a model from N(0, sigma_w^2 / n_in) and its biases from N(0, sigma_b^2), in place.

    By default at the edge of chaos: sigma_w^2 = 2 for relu, 1 for tanh (q = 0) and linear; sigma_b = 0.
    """
    _functions(activation)
    edge = _EDGES[activation]
    moment = edge[0] if weight_variance is None else weight_variance
    spread = edge[1] if bias_variance is None else bias_variance
    generator = torch.Generator().manual_seed(seed)
    for site in find_sites(model, ignore)[0]:
        weight = torch.randn(site.shape, generator=generator) * math.sqrt(moment / site.shape[1])
        site.write(weight, torch.ones(site.shape, dtype=torch.bool))
        with torch.no_grad():
            for bias in site.biases:
                bias.copy_(torch.randn(bias.shape, generator=generator) * math.sqrt(spread))


def stable_branches(branches: Sequence[nn.Module]) -> None:
    """Divides the last layer of each residual branch by sqrt(branches): y_l = y_{l-1} + F(y_{l-1}) / sqrt(L).

    Source: Hayou et al. 2021, arXiv:2002.08797, section 5 (stable ResNet), in the weights in place of the forward pass.
    """
    for branch in branches:
        last = find_sites(branch)[0][-1]
        with torch.no_grad():
            last.parameter.div_(math.sqrt(len(branches)))
            for bias in last.biases:
                bias.div_(math.sqrt(len(branches)))


def critical_sparsity(scores: Mapping[str, Tensor]) -> float:
    """The largest sparsity of one ranking over all layers at which no layer is empty.

    The first layer to be emptied is the one whose largest score is least; everything below that goes before it.
    """
    last = min(float(score.max()) for score in scores.values())
    size = sum(score.numel() for score in scores.values())
    return sum(int((score < last).sum()) for score in scores.values()) / size


def survival(sites: Sequence[Site]) -> dict[str, float]:
    """{layer: share of its weights that are left}; 0 means that nothing passes the layer any more."""
    return {site.name: float((site.read() != 0).float().mean()) for site in sites}
