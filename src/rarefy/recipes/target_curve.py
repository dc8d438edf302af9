"""How the time of a whole model follows the summed times of its layers: learnt from trials, one point each."""

from collections.abc import Sequence
from dataclasses import dataclass, field

_APART = 0.05  # points nearer to each other than this share tell more of the noise than of the slope
_INSIDE = 0.1  # a guess keeps this share of a bracket's width from its ends, so that every trial shrinks it


@dataclass
class Curve:
    """points: (ms of the layers alone, ms of the whole model). The second grows with the first, and not at the same
    rate: inside a model a layer finds other caches than alone, and what stands around it runs another way."""

    points: list[tuple[float, float]] = field(default_factory=list)
    expected: float = 1.0  # the slope as long as the points do not tell

    def add(self, layers: float, whole: float) -> None:
        self.points.append((layers, whole))

    def slope(self) -> float:
        """ms of the model a ms of the layers, over all points; as expected where these lie too close to tell."""
        low, high = min(self.points), max(self.points)
        rise, run = high[1] - low[1], high[0] - low[0]
        return max(0.2, rise / run) if run > _APART * low[0] and rise > 0 else self.expected

    def layers_for(self, whole: float) -> float:
        """ms that the layers may take for the model to take `whole`: between the nearest trials on both sides, or by
        the slope from the nearest where all lie on one side."""
        slower = min((p for p in self.points if p[1] > whole), key=lambda p: p[1], default=None)
        faster = max((p for p in self.points if p[1] <= whole), key=lambda p: p[1], default=None)
        if slower is None or faster is None:
            nearest = slower or faster
            assert nearest is not None, "no trial yet"
            return nearest[0] + (whole - nearest[1]) / self.slope()
        share = (whole - faster[1]) / (slower[1] - faster[1])
        return faster[0] + min(1 - _INSIDE, max(_INSIDE, share)) * (slower[0] - faster[0])


_NEAR = 0.1  # points further than this share from the wanted time count less than half


def corrected(
    points: Sequence[tuple[float, float]], wanted: float, slope: float, trust: Sequence[float] | None = None
) -> float:
    """ms that the layers may take for the model to take `wanted`, by the line that lies best through the points.

    points: (ms of the layers alone, ms of the whole model) as measured, with noise, of which several points average
    some out. Points near the wanted time weigh more, w = 1 / (1 + (miss / 10 %)^2); the slope is held to the one
    that is known from elsewhere as strongly as by a pair of points 10 % apart. trust: what else to weigh each point by.
    """
    near = [1.0 / (1.0 + ((whole - wanted) / (_NEAR * wanted)) ** 2) for _, whole in points]
    weights = [a * b for a, b in zip(near, trust or [1.0] * len(points), strict=True)]
    total = sum(weights)
    x = sum(w * layers for w, (layers, _) in zip(weights, points, strict=True)) / total
    y = sum(w * whole for w, (_, whole) in zip(weights, points, strict=True)) / total
    hold = (_NEAR * x) ** 2
    spread = sum(w * (layers - x) ** 2 for w, (layers, _) in zip(weights, points, strict=True))
    rise = sum(w * (layers - x) * (whole - y) for w, (layers, whole) in zip(weights, points, strict=True))
    found = max(slope / 3, (rise + hold * slope) / (spread + hold))
    return x + (wanted - y) / found
