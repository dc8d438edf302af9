"""An instance of everything that is registered, and evidence of every kind, for tests that run over the index.

A new registered thing is tested as soon as it exists. If it has a required argument of a new name, put an example
of that argument into ARGUMENTS (or give it a default, which is better).
"""

import inspect
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rarefy.calibration.collectors import COLLECTORS, collected
from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Pattern
from rarefy.core.registry import Entry, entries, load_all
from rarefy.core.site import Site
from rarefy.patterns.block import Block
from rarefy.patterns.fanin import FanIn
from rarefy.patterns.nm import NM
from rarefy.patterns.unstructured import Layerwise, Rowwise
from rarefy.scores.magnitude import Magnitude
from rarefy.solvers.sparsegpt import SparseGPT

load_all()

ARGUMENTS: dict[str, Any] = {
    "n": 2,
    "m": 4,
    "r": 4,
    "c": 1,
    "value": 0.3,
    "initial": 0.9,
    "final": 0.1,
    "begin": 0,
    "end": 10,
    "score": Magnitude(),
    "solver": SparseGPT(),
}
ALWAYS: dict[tuple[str, str], dict[str, Any]] = {
    ("allocation", "global"): {"score": Magnitude()},  # optional, but nothing works without it alone
    ("pattern", "sten"): {"n": 1, "m": 4, "g": 1},  # chunks of 16 columns, which the examples' matrices have
}
PATTERNS: tuple[Pattern, ...] = (Layerwise(), Rowwise(), FanIn(), NM(2, 4), Block(4, 1), Block(1, 4), Block(2, 2))


def make(entry: Entry) -> Any:
    """An instance of a registered thing, its required arguments taken from ARGUMENTS."""
    wanted = dict(ALWAYS.get((entry.role, entry.id), {}))
    for name, parameter in inspect.signature(entry.factory).parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in wanted:
            assert name in ARGUMENTS, (
                f"{entry.role} {entry.id}: no example for {name!r}; see tests/contracts/examples.py"
            )
            wanted[name] = ARGUMENTS[name]
    return entry.factory(**wanted)


def all_of(role: str, *families: str) -> list[Any]:
    """pytest parameters, one a registered entry of the role."""
    import pytest

    found = [e for e in entries(role) if not families or e.family in families]
    assert found, f"nothing is registered as {role}"
    return [pytest.param(e, id=e.id) for e in found]


def evidence_of(weight: Tensor, x: Tensor, *, site: str = "layer", seed: int = 0) -> Evidence:
    """Evidence of every kind there is for a weight `(out, in)` and inputs `(tokens, in)`."""
    generator = torch.Generator().manual_seed(seed)
    values = {need: collected(need, x[:, None])[0] for need in COLLECTORS}
    values[Need.WANTED_CROSS] = weight.float() @ values[Need.INPUT_GRAM]  # the layer's own dense output is wanted
    values[Need.PER_SAMPLE_GRADIENT] = _cancelling_gradients(weight, x, generator)
    for need in Need:
        if need not in values:
            shape = weight.shape if need.of_the_weights else ()
            values[need] = torch.randn(shape, generator=generator).square()
    return Evidence(site, values, len(x), seed)


def _cancelling_gradients(weight: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
    """Gradients (out, in, samples) of a layer at an optimum: outer products that add up to nothing."""
    errors = torch.randn(len(x), len(weight), generator=generator)
    grads = torch.einsum("so,si->ois", errors, x.float())
    return grads - grads.mean(2, keepdim=True)


def evidence_for(sites: Sequence[Site], tokens: int = 64) -> dict[str, Evidence]:
    """Evidence of every kind for every site, from correlated random inputs, its own for each name."""
    return {site.name: _evidence_at(site, tokens) for site in sites}


def _evidence_at(site: Site, tokens: int) -> Evidence:
    parts = []
    for group, rows in enumerate(site.read().chunk(site.groups)):
        seed = zlib.crc32(f"{site.name} {group}".encode())
        x = torch.randn(tokens, site.shape[1], generator=torch.Generator().manual_seed(seed))
        x = x + x.roll(1, dims=1)
        x[:, 0] *= 20.0
        parts.append(evidence_of(rows, x, site=site.name, seed=seed))
    if site.groups == 1:
        return parts[0]
    values = {}
    for need in parts[0]:
        of_all = [part[need] for part in parts]
        values[need] = torch.cat(of_all) if need.of_the_weights else torch.stack(of_all)
        if not (need.of_the_weights or need.of_the_inputs):
            values[need] = of_all[0]
    return Evidence(site.name, values, tokens)
