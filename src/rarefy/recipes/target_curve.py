"""How the time of a whole model follows the summed times of its layers: learnt from trials, one point each."""

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
