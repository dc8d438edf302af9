"""What a step of a compiled model has to do, and one that was timed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Demand:
    """What a step has to do at least. kernel: its name, "" where it has none; flops: two for each multiply-add with a
    stored non-zero; nbytes: of weights, inputs and outputs. None where it is not known."""

    kernel: str = ""
    flops: float | None = None
    nbytes: float | None = None


@dataclass(frozen=True)
class Step:
    """One step as it was timed: its place in the model, what it does, milliseconds."""

    name: str
    kind: str
    ms: float
    demand: Demand = Demand()
