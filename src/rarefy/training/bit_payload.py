"""Anything at all in the bits of a net that were not trained."""

import torch
from torch import Tensor, nn

from rarefy.core.errors import DataError
from rarefy.training.bitwise_training import layers_of


def capacity(model: nn.Module) -> int:
    """How many bytes `store` can take."""
    return sum(bits.rest.numel() for _, bits in layers_of(model).values()) // 8


@torch.no_grad()
def store(model: nn.Module, payload: bytes) -> None:
    """Overwrites the untrained bits of a model of `bitwise_training`, in layer order, from the payload's first bit on.

    Bits that the payload does not reach stay as they are. Raises DataError where it is longer than `capacity`.
    """
    if len(payload) > capacity(model):
        raise DataError(f"store: {len(payload)} bytes, but the untrained bits hold {capacity(model)}; train fewer bits")
    stream = _to_bits(payload)
    for _, bits in layers_of(model).values():
        here = stream[: bits.rest.numel()]
        bits.rest.view(-1)[: len(here)] = here
        stream = stream[len(here) :]


def stored(model: nn.Module, length: int) -> bytes:
    """The first `length` bytes of what the untrained bits hold."""
    if not 0 <= length <= capacity(model):
        raise DataError(f"stored: {length} bytes, but the untrained bits hold {capacity(model)}")
    stream = torch.cat([bits.rest.flatten() for _, bits in layers_of(model).values()])
    powers = 2 ** torch.arange(8)
    found = (stream[: 8 * length].view(-1, 8).long() * powers).sum(1)
    return bytes(found.tolist())


def _to_bits(payload: bytes) -> Tensor:
    """(8 * length,) bool, the lowest bit of each byte first."""
    values = torch.frombuffer(bytearray(payload), dtype=torch.uint8) if payload else torch.empty(0, dtype=torch.uint8)
    return (values.unsqueeze(1).int() >> torch.arange(8) & 1).bool().flatten()
