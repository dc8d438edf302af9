"""Logistic regression with a ridge, exactly minimised: what a probe is."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.shapes import Bool, Float


@dataclass(frozen=True, eq=False)
class Logistic:
    """P(1 | x) = sigmoid(x @ weight + bias)."""

    weight: Tensor
    bias: Tensor

    def calls(self, x: Float[Tensor, "samples width"]) -> Bool[Tensor, "samples"]:
        """Whether each sample is called 1."""
        return x @ self.weight + self.bias > 0


def fit_logistic(x: Float[Tensor, "samples width"], label: Bool[Tensor, "samples"], ridge: float = 1e-3) -> Logistic:
    """The minimum of mean log loss + ridge / 2 |weight|^2, classes weighted equally, by Newton's method in float64."""
    design = torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.float64)], 1)
    sign = label.double() * 2 - 1
    share = label.double().mean().clamp(1e-9, 1 - 1e-9)
    each = torch.where(label, 0.5 / share, 0.5 / (1 - share)) / len(x)
    penalty = torch.full((design.shape[1],), ridge, dtype=torch.float64)
    penalty[-1] = 1e-9
    point = torch.zeros(design.shape[1], dtype=torch.float64)

    def objective(at: Tensor) -> Tensor:
        return (each * torch.nn.functional.softplus(-sign * (design @ at))).sum() + 0.5 * (penalty * at * at).sum()

    value = objective(point)
    for _ in range(50):
        chance = torch.sigmoid(design @ point)
        slope = design.T @ (each * (chance - label.double())) + penalty * point
        curve = (design.T * (each * chance * (1 - chance))) @ design + penalty.diag()
        step = torch.linalg.solve(curve, slope)
        size = 1.0
        while size > 1e-6 and objective(point - size * step) > value - 1e-4 * size * float(slope @ step):
            size /= 2
        point = point - size * step
        value = objective(point)
        if float(slope.abs().max()) < 1e-8:
            break
    return Logistic(point[:-1].to(x.dtype), point[-1].to(x.dtype))
