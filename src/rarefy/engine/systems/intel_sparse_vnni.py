"""`intel-sparse-vnni`: 8-bit products with weights in 4x1 blocks."""

from dataclasses import dataclass

from torch import Tensor

from rarefy.core.quantized import QuantizedWeight, quantize_weight
from rarefy.core.registry import method
from rarefy.engine.systems.choose import best
from rarefy.ops import PackedWeight, kernels, pack

BLOCK = 4  # rows that share an input


@method(
    "intel-sparse-vnni", role="kernel", source="Shen et al. 2023, arXiv:2306.16601, section 3", protocols=("format",)
)
@dataclass(frozen=True)
class SparseVnni:
    """Int8 weights pruned in 4x1 blocks times unsigned 8-bit inputs, four inputs of a column a 32-bit dot product.

    Per strip of four rows: the inputs with a block, and four int8 values each, padded to a multiple of four inputs.
    y[t, o] = sx[t] sw[o] sum_k (q[t, k] - zero[t]) c[o, k]; the sums are exact integers, scale, bias and activation
    (or the rounding to 8-bit rows for the next layer) follow in registers.
    input_scale, input_zero: of all inputs, from calibration; 0 finds a scale a token at each call.
    Differs: inputs are row-major and are interleaved in a panel that stays in the cache, not kept transposed through
    the network; bodies are compiled for every strip and tile, not generated at run time; CPUs without VNNI compute with
    16-bit products, and without strips of four rows with strips of two. The variants in float32 are the `spmm` kernels.
    """

    input_scale: float = 0.0
    input_zero: int = 128

    def fits(self, weight: Tensor | QuantizedWeight) -> str | None:
        """None, or why a weight (out, in) is left alone."""
        values = weight.values if isinstance(weight, QuantizedWeight) else weight
        if isinstance(weight, QuantizedWeight) and weight.bits != 8:
            return f"{weight.bits}-bit weights, the kernels store 8 bits"
        rows = values.shape[0] // BLOCK * BLOCK
        keep = (values[:rows] != 0).view(-1, BLOCK, values.shape[1])
        filled = int(keep.sum()) / max(1, BLOCK * int(keep.any(1).sum()))
        # a code may round to zero inside a block: some gaps are no sign of another pattern
        return None if rows == 0 or filled > 0.5 else f"blocks of {BLOCK}x1 are {filled:.0%} full: prune with block:4x1"

    def pack(self, weight: Tensor | QuantizedWeight) -> PackedWeight:
        """The weight, rounded to int8 with a scale a row where it is no integers yet, for the kernel of this CPU."""
        stored = weight if isinstance(weight, QuantizedWeight) else quantize_weight(weight, 8)
        strips = [k for k in kernels() if k.op == "block8" and "-strip-" in k.name and k.tile[0] in (2, BLOCK)]
        strips.sort(key=lambda k: -k.tile[0])
        name = best("intel-sparse-vnni", strips, lambda k: True).name
        known = (self.input_scale, self.input_zero) if self.input_scale else None
        return pack(stored, name, input_scale=known)
