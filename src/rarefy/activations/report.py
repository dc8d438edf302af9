"""What sparsifying the activations of a model did: asked and measured, place by place and block by block."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class ActivationSite:
    """One selector. Shares of zeros: asked, over the calibration text, over held-out text (None: none was given).

    threshold: of |x_j| times the place's weight (the median where every input has its own); k: the exact count a
    token. Each is None where the other decides. size: numbers of the weights that its zeros save from being read.
    """

    name: str
    side: str
    asked: float
    measured: float
    held_out: float | None
    threshold: float | None
    k: int | None
    size: int


@dataclass(frozen=True)
class ActivationReport:
    """What `sparsify_activations` did.

    weights: numbers in all projections of the model; added: numbers that the method reads on top (low-rank paths,
    rotations); block_errors: ||f - f_dense|| / ||f_dense|| of each block on its dense inputs; tokens: calibrated on.
    """

    method: str
    asked: float
    sites: tuple[ActivationSite, ...]
    weights: int
    added: int
    block_errors: dict[int, float]
    tokens: int

    @property
    def sparsity(self) -> float:
        """The share of the projections' weights that a token does not read, on the calibration text."""
        return self._saved([site.measured for site in self.sites])

    @property
    def held_out(self) -> float | None:
        """The same on held-out text; None where none was given."""
        found = [site.held_out for site in self.sites]
        return None if any(share is None for share in found) else self._saved([share or 0.0 for share in found])

    def _saved(self, shares: list[float]) -> float:
        saved = sum(site.size * share for site, share in zip(self.sites, shares, strict=True))
        return (saved - self.added) / max(1, self.weights)

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"sparsity": self.sparsity, "held_out": self.held_out})

    def __str__(self) -> str:
        out = "" if self.held_out is None else f", {self.held_out:.1%} on held-out text"
        errors = self.block_errors.values()
        worst = f"; block errors up to {max(errors):.3f}" if errors else ""
        head = (
            f"{self.method}: {len(self.sites)} places, asked {self.asked:.1%}: {self.sparsity:.1%} of the weights are "
            f"not read{out}{worst} ({self.tokens} tokens)"
        )
        return "\n".join([head, *map(_line, self.sites)])


def _line(site: ActivationSite) -> str:
    how = f"k {site.k}" if site.k is not None else f"> {site.threshold:.4g}"
    out = "" if site.held_out is None else f"{site.held_out:8.1%}"
    return f"  {site.name:44} {site.side:6} {site.asked:7.1%} {site.measured:7.1%}{out}  {how}"
