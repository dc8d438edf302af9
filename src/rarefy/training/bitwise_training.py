"""Bit-wise training: every bit of a weight is learned, and zeros appear where all bits of a magnitude are off."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rarefy.core.errors import ModelError, SparsityError
from rarefy.core.registry import method
from rarefy.core.shapes import Int
from rarefy.core.site import Site, find_sites
from rarefy.training import optimizers
from rarefy.training.linears import require_unshared


def signed(bits: Tensor) -> Int[Tensor, "..."]:
    """(-1)^(last) * sum_k 2^k b_k of bits `(n, ...)` (bool), the lowest first and the sign last; int32."""
    magnitude = torch.zeros(bits.shape[1:], dtype=torch.int32)
    for k, bit in enumerate(bits[:-1]):
        magnitude += bit.to(torch.int32) << k
    return torch.where(bits[-1], -magnitude, magnitude)


class _Decode(torch.autograd.Function):
    """w = scale * (-1)^(b_s) * sum_k 2^k b_k with b = [x > 0]; the gradient passes straight through [.] to x.

    dw/dx_k = scale * sign * 2^k for a bit of the magnitude, -2 * scale * magnitude for the sign (1 - 2 b_s is +-1).
    """

    @staticmethod
    def forward(ctx: Any, latent: Tensor, rest: Tensor, scale: Tensor) -> Tensor:
        bits = torch.cat([rest, latent > 0])
        ctx.save_for_backward(bits, scale)
        ctx.trained = len(latent)
        return scale * signed(bits)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        bits, scale = ctx.saved_tensors
        n = len(bits)
        push = grad * scale
        sign = 1.0 - 2.0 * bits[-1].to(grad.dtype)
        parts = [push * sign * float(2**k) for k in range(n - ctx.trained, n - 1)]
        parts.append(-2.0 * push * signed(bits).abs())
        return torch.stack(parts), None, None


class Bits(nn.Module):
    """The weight as bits, as a parametrization: `latent` are the trained top bits, `rest` the others.

    rest: `(n - trained, *shape)` bool, random until `store` puts a payload there; scale: alpha, one number.
    """

    rest: Tensor
    scale: Tensor

    def __init__(self, rest: Tensor, scale: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("rest", rest)
        self.register_buffer("scale", torch.tensor(scale, dtype=dtype))

    def forward(self, latent: Tensor) -> Tensor:
        weight: Tensor = _Decode.apply(latent, self.rest, self.scale)
        return weight

    def integers(self, latent: Tensor) -> Tensor:
        """w / alpha, int32."""
        return signed(torch.cat([self.rest, latent.detach() > 0]))


@dataclass(frozen=True)
class BitReport:
    """zeros: share of weights that are 0; expected: of random bits, 2^-(n-1); free_bits: that hold what one likes."""

    layers: tuple[str, ...]
    zeros: float
    expected: float
    free_bits: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@method(
    "bitwise-training", role="study", source="Ivan 2022, arXiv:2202.09571, section 3", protocols=("transform", "format")
)
def bitwise_training(
    model: nn.Module,
    optimizer: Any,
    *,
    bits: int = 8,
    trained: int | None = None,
    spread: float = 1.0,
    ignore: Sequence[str] = (),
    seed: int = 0,
) -> BitReport:
    """Makes every linear and convolutional weight a sign and `bits` - 1 magnitude bits, of which the top ones learn.

    trained: how many bits learn, the sign among them (all without it); the others stay random or hold a payload
    (`store`). alpha is set once for each layer such that the random weights have He's standard deviation
    sqrt(2 / fan-in), `spread` is that of the latent numbers behind the bits. The latents take the weights' places in
    the optimizer. How many weights become zero is what the training finds, nothing that is asked for: so there is no
    mask to hold, and the checkpoint is the model's and the optimizer's alone. `freeze_bits` makes plain weights.
    Differs: the latents' gradients have the scale of the formula (alpha 2^k), which Adam takes away again; the paper's
    code scales by the current standard deviation at every step, here alpha stays.
    """
    inner, trained = optimizers.unwrap(optimizer), bits if trained is None else trained
    if not 2 <= bits <= 24 or not 1 <= trained <= bits or spread <= 0.0:
        raise SparsityError(
            f"bitwise-training: bits={bits}, trained={trained}, spread={spread}; give 2 to 24 bits, of which at least "
            "the sign is trained, and a positive spread"
        )
    sites, _ = find_sites(model, ignore)
    for site in sites:
        _check(model, site, inner)
    generator = torch.Generator().manual_seed(seed)
    for site in sites:
        _adopt(site, inner, bits, trained, spread, generator)
    return bit_report(model)


def _check(model: nn.Module, site: Site, optimizer: torch.optim.Optimizer) -> None:
    require_unshared(model, site.name, site.module, "bitwise-training")
    if optimizers.group_of(optimizer, site.parameter) is None:
        raise ModelError(
            f"bitwise-training: {site.name} is in none of the optimizer's groups; make the optimizer of "
            f"model.parameters(), or leave the layer alone with ignore=[{site.name!r}]"
        )


def _adopt(
    site: Site, optimizer: torch.optim.Optimizer, bits: int, trained: int, spread: float, generator: torch.Generator
) -> None:
    weight, module = site.parameter, site.module
    latent = spread * torch.randn(trained, *weight.shape, generator=generator).to(weight.dtype)
    rest = torch.rand(bits - trained, *weight.shape, generator=generator) < 0.5
    first = signed(torch.cat([rest, latent > 0])).double()
    scale = math.sqrt(2.0 / site.shape[1]) / max(1e-12, float(first.std()))
    module.weight = nn.Parameter(latent)
    optimizers.replace(optimizer, weight, [module.weight])
    parametrize.register_parametrization(module, "weight", Bits(rest, scale, weight.dtype), unsafe=True)


def layers_of(model: nn.Module) -> dict[str, tuple[nn.Module, Bits]]:
    """The layers whose weights are bits."""
    found = {}
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            bits = module.parametrizations["weight"][0]
            if isinstance(bits, Bits):
                found[name] = module, bits
    if not found:
        raise ModelError(
            "bitwise-training: the model has no layer whose weights are bits; call bitwise_training(model, optimizer) "
            "on it first"
        )
    return found


def latent_of(module: nn.Module) -> Tensor:
    """The numbers behind the trained bits, (trained, *shape)."""
    return module.get_parameter("parametrizations.weight.original")


def integers(module: nn.Module, bits: Bits) -> Tensor:
    """w / alpha of a layer, int32, in the weight's shape."""
    return bits.integers(latent_of(module))


def bit_report(model: nn.Module) -> BitReport:
    """How many weights are zero now."""
    found = layers_of(model)
    values = [integers(module, bits) for module, bits in found.values()]
    size, zeros = sum(v.numel() for v in values), sum(int((v == 0).sum()) for v in values)
    module, bits = next(iter(found.values()))
    n = len(bits.rest) + len(latent_of(module))
    free = sum(bits.rest.numel() for _, bits in found.values())
    return BitReport(tuple(found), zeros / size, 2.0 ** (1 - n), free)


def freeze_bits(model: nn.Module) -> list[str]:
    """Makes plain weights of the bits as they are, zeros exact; gives the names of the layers."""
    found = layers_of(model)
    for module, bits in found.values():
        value = bits.scale * integers(module, bits)
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
        module.weight = nn.Parameter(value)
    return list(found)
