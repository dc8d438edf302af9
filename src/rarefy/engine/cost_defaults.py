"""Costs of kernel families before anything was measured here: one thread of a server CPU with AVX-512.

(overhead in ms, multiply-adds a ms, bytes a ms), from which the model starts; `rarefy cache --fill` replaces them.
"""

DEFAULTS: dict[str, tuple[float, float, float]] = {
    "dense": (0.004, 6.0e7, 1.0e7),
}
