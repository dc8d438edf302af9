"""An instance of everything that is registered, and evidence of every kind, for tests that run over the index.

A new registered thing is tested as soon as it exists. If it has a required argument of a new name, put an example
of that argument into ARGUMENTS (or give it a default, which is better).
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rarefy.calibration.collectors import COLLECTORS
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
    values = {need: collect(x[:, None]).float()[0] for need, collect in COLLECTORS.items()}
    values[Need.INPUT_MEAN] = values[Need.INPUT_MEAN] / len(x)
    values[Need.WANTED_CROSS] = weight.float() @ values[Need.INPUT_GRAM]  # the layer's own dense output is wanted
    for need in Need:
        if need not in values:
            values[need] = torch.randn(weight.shape, generator=generator).square()
    return Evidence(site, values, len(x), seed)


def evidence_for(sites: Sequence[Site], tokens: int = 64) -> dict[str, Evidence]:
    """Evidence of every kind for every site, from correlated random inputs."""
    found = {}
    for i, site in enumerate(sites):
        generator = torch.Generator().manual_seed(i)
        x = torch.randn(tokens, site.shape[1], generator=generator)
        x = x + x.roll(1, dims=1)
        x[:, 0] *= 20.0
        found[site.name] = evidence_of(site.read(), x, site=site.name)
    return found
