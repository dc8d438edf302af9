"""Packed weights as bytes, and packed weights in a mapped file: every process that maps it shares the pages."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rarefy.core.errors import EngineError
from rarefy.core.quantized import InputScale, QuantizedWeight
from rarefy.core.shapes import UInt8
from rarefy.ops import native
from rarefy.ops.conv import PackedConv
from rarefy.ops.conv8 import PackedConv8
from rarefy.ops.packed import PackedWeight, adopt

ALIGNMENT = 64  # bytes; where a packed weight may begin in a file


def packed_bytes(packed: PackedWeight | PackedConv | PackedConv8) -> UInt8[Tensor, "bytes"]:
    """What `see` and `see_conv` take: of this build's kernels and for this CPU only, with a checksum of its own.

    Raises EngineError for a weight that is not packed natively.
    """
    if packed.layout is None:
        raise EngineError(f"packed_bytes: the weight is held for kernel {packed.kernel!r}, which has no packed form")
    out = torch.empty(packed.layout.save(0), dtype=torch.uint8)
    packed.layout.save(out.data_ptr())
    return out


def map_file(path: Path) -> Any:
    """The file's pages, read-only. Raises OSError where it cannot be mapped, EngineError without the native module."""
    module = native.module()
    if module is None:
        raise EngineError(f"map_file: packed weights are native, and {native.why_not()}")
    try:
        return module.Mapping(str(path))
    except RuntimeError as error:
        raise OSError(str(error)) from error


def see(
    file: Any,
    at: int,
    nbytes: int,
    shape: tuple[int, int],
    kernel: str,
    *,
    input_scale: InputScale | tuple[float, int] | None = None,
    quantized: QuantizedWeight | None = None,
    source: Callable[[], Tensor | QuantizedWeight] | None = None,
) -> PackedWeight:
    """A packed weight (out, in) in bytes [at, at + nbytes) of a mapped file, as `packed_bytes` gave them.

    source: gives the weight again, for pickles. Raises ValueError for bytes that are cut off, altered, of another
    kernel, version or size, and for a kernel that this process may not use.
    """
    known = None if input_scale is None else InputScale(*input_scale)
    scale, zero, factors = known or InputScale(0.0, 0)
    divided = torch.tensor(factors)
    module = native.module()
    assert module is not None  # the file is mapped by it
    layout = module.Packed(file, at, nbytes, scale, zero, divided.data_ptr() if factors else 0, *shape, kernel)
    return adopt(layout, shape, kernel, quantized=quantized, input_scale=known, source=source)
