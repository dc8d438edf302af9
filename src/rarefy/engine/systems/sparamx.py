"""`sparamx`: weights as a bitmap and their non-zeros, expanded on the way to a dense product."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.errors import EngineError
from rarefy.core.quantized import QuantizedWeight, quantize_weight
from rarefy.core.registry import method
from rarefy.engine.systems.choose import best
from rarefy.ops import PackedWeight, kernels, pack

_FAMILY = {"fp32": "expand32", "bf16": "expand16", "int8": "expand8"}
_INPUTS = {"expand32": ("fp32",), "expand16": ("bf16", "fp32"), "expand8": ("int8",)}


@method(
    "sparamx", role="kernel", source="AbouElhamayed et al. 2025, arXiv:2502.12444, section 4", protocols=("format",)
)
@dataclass(frozen=True)
class SparAMX:
    """One bit for each entry in tile order and the packed non-zeros; y = W x after W is expanded a few tiles ahead.

    Bytes: n / 8 + nnz itemsize + 8 for each band of 16 rows and one more (n with rows and inputs filled up to tiles).
    weights: "fp32", "bf16" or "int8" (which adds 8 bytes a row: scale and sum of the codes). tokens: one takes the
    rows as streams of bits and values, whose lanes are multiplied as they are expanded; more take the tiles, with AMX's
    own where the CPU has them (bf16 and int8), else with AVX-512's expanding loads, shuffles under AVX2, or plain C++.
    Differs: an offset a band of 16 rows, not one a thread, so that any number of threads can share the work. Pruned
    keys and values are `rarefy.engine.systems.sparamx_cache.SparseCache`, which `generate` of a compiled decoder does
    not use: its cache is dense.
    """

    weights: str = "bf16"
    tokens: int = 32

    def __post_init__(self) -> None:
        if self.weights not in _FAMILY:
            raise EngineError(f"SparAMX: weights={self.weights!r}; choose one of {', '.join(_FAMILY)}")

    def fits(self, weight: Tensor | QuantizedWeight) -> str | None:
        """None, or why a weight (out, in) is left alone."""
        if isinstance(weight, QuantizedWeight):
            return None if self.weights == "int8" else f"integers, but weights={self.weights!r} was asked"
        return None if weight.dtype == torch.float32 else f"weights are {weight.dtype}, give them in float32"

    def pack(self, weight: Tensor | QuantizedWeight) -> PackedWeight:
        """The weight, rounded to the stored type, for the kernel of this CPU."""
        stored = quantize_weight(weight, 8) if self.weights == "int8" and isinstance(weight, Tensor) else weight
        return pack(stored, self._kernel())

    def _kernel(self) -> str:
        usable, family = kernels(), _FAMILY[self.weights]
        if self.tokens == 1:
            op = "spmv" if self.weights == "fp32" else "matvec"
            streams = [k for k in usable if k.op == op and k.weights == self.weights and k.activations == "fp32"]
            return best("sparamx", streams, lambda k: "bitmask" in k.name).name
        for inputs in _INPUTS[family]:
            fitting = [k for k in usable if k.op == family and k.activations == inputs]
            if fitting:
                return best("sparamx", fitting, lambda k: True).name
        return best("sparamx", [], lambda k: True).name
