"""Which layers add their output to a residual stream, found by watching one run.

Layer output y, a later tensor z, an earlier tensor u: if z = y + u to rounding, then u is the stream that y is
added to. What the stream of the sparse model lacks by then, u_dense - u_sparse, is something that the layer can
give back, so it belongs to the layer's wanted output.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.calibration.observe import Spot, everything


def _close(a: Tensor, b: Tensor) -> bool:
    scale = b.abs().max().clamp_min(1e-12)
    return bool(((a - b).abs().max() / scale) < 1e-5)


def residual_spots(
    module: nn.Module, sites: Sequence[str], args: Sequence[Any], kwargs: dict[str, Any]
) -> dict[str, Spot]:
    """For each site (dotted name inside `module`) that feeds a residual sum: where the other summand is seen."""
    seen = [(spot, value) for spot, value, _ in everything(module, args, kwargs, copies=True)]
    found: dict[str, Spot] = {}
    for name in sites:
        at = next((i for i, (spot, _) in enumerate(seen) if spot == Spot(name, "out")), None)
        if at is None:
            continue
        y = seen[at][1]
        streams = [(spot, u) for spot, u in seen[:at] if u.shape == y.shape and u.is_floating_point()]
        sums = [z for _, z in seen[at + 1 :] if z.shape == y.shape and z.is_floating_point()]
        found_spot = next((spot for z in sums for spot, u in streams if _adds_up(z, y, u)), None)
        if found_spot is not None:
            found[name] = found_spot
    return found


def _adds_up(z: Tensor, y: Tensor, u: Tensor) -> bool:
    """z = y + u, told first on a sample (most candidates fail there), then on the whole."""
    z, y, u = z.reshape(-1), y.reshape(-1), u.reshape(-1)
    sample = torch.arange(0, z.numel(), max(1, z.numel() // 64), device=z.device)
    return _close(y[sample] + u[sample], z[sample]) and _close(y + u, z)
