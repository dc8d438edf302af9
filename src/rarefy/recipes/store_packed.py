"""Weights of a compiled model that go from the file into their packed layout one at a time, never all dense at once."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from rarefy.core.site import Site
from rarefy.engine.choices import Choices
from rarefy.engine.decoder.stored import StoredLayers
from rarefy.engine.restore import StoredWeights
from rarefy.formats.container import Contents
from rarefy.formats.packed import Packed


def packed_only(contents: Contents, choices: Choices) -> dict[str, Packed]:
    """The stored sparse tensors that are packed for all shapes and that nothing else shares, by name.

    Of layers that are computed as one it is all or none.
    """
    shared = set(contents.aliases.values())
    found: dict[str, Packed] = {}
    for site, steps in choices.steps.items():
        names = [f"{part}.weight" for part in choices.parts.get(site, (site,))]
        tensors = [contents.tensors.get(name) for name in names]
        packed = [t for t in tensors if isinstance(t, Packed) and t.dtype == torch.float32]
        if len(packed) == len(names) and all(kernel for _, kernel in steps) and shared.isdisjoint(names):
            found |= dict(zip(names, packed, strict=True))
    return found


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


def stored_layers(taken: Mapping[str, Packed], fingerprint: str | None) -> StoredLayers:
    """The same for a decoder, whose layers are named without the `.weight`."""
    return StoredLayers({name.removesuffix(".weight"): held for name, held in taken.items()}, fingerprint)
