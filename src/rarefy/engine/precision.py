"""The types a compiled model stores its weights in and computes with."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from rarefy.core.errors import EngineError, WeightError
from rarefy.core.quantized import InputScale, QuantizedWeight, not_finite, quantize_weight
from rarefy.core.site import Site

_ACTIVATIONS = {  # what each stored type can be multiplied with
    "fp32": ("fp32", "bf16"),
    "bf16": ("fp32", "bf16"),
    "int8": ("fp32", "int8"),
    "int4": ("fp32", "int8"),
}
INT4_GROUP = 16  # inputs that share a scale


@dataclass(frozen=True)
class Precision:
    """weights: the stored type; activations: the type that the inputs of a layer are rounded to before the product."""

    weights: str = "fp32"
    activations: str = "fp32"

    def __post_init__(self) -> None:
        if self.weights not in _ACTIVATIONS:
            raise EngineError(f"compile: weights={self.weights!r}; choose one of {', '.join(_ACTIVATIONS)}")
        if self.activations not in _ACTIVATIONS[self.weights]:
            raise EngineError(
                f"compile: activations={self.activations!r} with weights={self.weights!r} has no kernel; choose one of "
                f"{', '.join(_ACTIVATIONS[self.weights])}"
            )

    @property
    def exact(self) -> bool:
        """Whether outputs differ from the source model's by rounding in float32 only."""
        return self == Precision()

    @property
    def quantized(self) -> bool:
        return self.weights in ("int8", "int4")

    def require_finite(self, sites: Iterable[Site]) -> None:
        """Raises WeightError for a layer whose weight these types would round to integers, and that is not finite.

        Convolutions stay in float32 unless both types are 8-bit.
        """
        for site in sites if self.quantized else ():
            floats = isinstance(site.module, nn.Conv2d) and (self.weights, self.activations) != ("int8", "int8")
            found = None if floats else not_finite(site.as_matrix(site.parameter.detach()))
            if found is not None:
                raise WeightError(
                    f"compile: {site.name}: {found}, which weights={self.weights!r} cannot hold: integers with a scale "
                    "stand for finite values only; repair the model, or compile it with weights='fp32' or 'bf16'"
                )

    def own(self, codes: QuantizedWeight | None) -> QuantizedWeight | None:
        """The integers that a weight was rounded to before, where kernels of these types hold them as they are.

        A row of 4-bit integers with one scale serves as 8-bit ones too.
        """
        if codes is None or not self.quantized:
            return None
        if self.weights == "int8":
            return QuantizedWeight(codes.values, codes.scale, 8) if codes.groups == 1 else None
        whole = codes.groups == 1 or codes.shape[1] // codes.groups % INT4_GROUP == 0
        return codes if codes.bits == 4 and whole else None

    def rounds_anew(self, codes: QuantizedWeight | None) -> str:
        """What is to be said of a weight that was rounded before and has to be rounded a second time; "" of others."""
        if codes is None or not self.quantized or self.own(codes) is not None:
            return ""
        share = "a row" if codes.groups == 1 else f"for {codes.shape[1] // codes.groups} inputs"
        return f"; its {codes.bits}-bit integers with a scale {share} were rounded anew"

    def stored(
        self, weight: Tensor, scale: InputScale | None = None, codes: QuantizedWeight | None = None
    ) -> Tensor | QuantizedWeight:
        """A float32 weight (out, in) as it is handed to `pack` with the scale of its inputs: zeros stay zeros.

        codes: the integers that it was rounded to before; they are taken as they are where the kernels can hold them.
        """
        own = self.own(codes)
        if own is not None and (scale is None or not scale.factors):
            return own
        weight = weight if scale is None else scale.folded(weight)
        if self.weights == "int8":
            return quantize_weight(weight, 8)
        if self.weights == "int4":
            group = INT4_GROUP if weight.shape[1] % INT4_GROUP == 0 else None
            return quantize_weight(weight, 4, group)
        return weight

    def __str__(self) -> str:
        return f"{self.weights} weights, {self.activations} activations"
