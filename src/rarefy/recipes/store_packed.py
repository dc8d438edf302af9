"""Weights of a compiled model that go from the file into their packed layout one at a time, never all dense at once."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from rarefy.core.site import Site
from rarefy.engine.choices import Choices
from rarefy.engine.restore import StoredWeights
from rarefy.formats.container import Contents
from rarefy.formats.packed import Packed


def packed_only(contents: Contents, choices: Choices) -> dict[str, Packed]:
    """The stored sparse tensors that are packed for all shapes and that nothing else shares, by name."""
    shared = set(contents.aliases.values())
    found = {}
    for site, steps in choices.kernels.items():
        tensor = contents.tensors.get(f"{site}.weight")
        if isinstance(tensor, Packed) and tensor.dtype == torch.float32 and all(kernel for _, kernel in steps):
            found[f"{site}.weight"] = tensor
    return {name: tensor for name, tensor in found.items() if name not in shared}


def without(contents: Contents, taken: Mapping[str, Packed]) -> Contents:
    """The contents with a single zero, seen in the right shape, in place of each tensor of `taken`."""
    blank = {name: torch.zeros(1).expand(tensor.shape) for name, tensor in taken.items()}
    return replace(contents, tensors={**contents.tensors, **blank})


def stored_weights(taken: Mapping[str, Packed], fingerprint: str | None) -> StoredWeights:
    """Weights (out, in) of sites: of `taken` those that were taken out of the model, else the model's."""

    def of(site: Site) -> Tensor:
        stored = taken.get(f"{site.name}.weight")
        weight = site.parameter.detach() if stored is None else stored.to_dense()
        return weight.t().contiguous() if site.transposed else weight

    return StoredWeights(of, lambda site: f"{site.name}.weight" in taken, fingerprint)
