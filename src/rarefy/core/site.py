"""A site: one prunable weight of a model, always shown as `(out, in)` and written back where it came from."""

import fnmatch
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rarefy.core.errors import ModelError, WeightError
from rarefy.core.quantized import not_finite
from rarefy.core.shapes import Mask, Weight


def is_conv1d(module: nn.Module) -> bool:
    """GPT-2's linear layer of Hugging Face, which stores its weight as `(in, out)`."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf") and hasattr(module, "weight")


def is_prunable(module: nn.Module) -> bool:
    """Linear layers, 2-d convolutions and GPT-2's transposed linear layer."""
    return isinstance(module, nn.Linear | nn.Conv2d) or is_conv1d(module)


_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# Layers whose weights training takes and pruning does not.
OTHER_CONVOLUTIONS = (nn.Conv1d, nn.Conv3d, *_TRANSPOSED)
RECURRENT = (nn.RNNBase, nn.RNNCellBase)


@dataclass(frozen=True)
class Site:
    """One weight. `modules` has several entries where modules share the parameter (tied weights).

    name: dotted path of the first module; aliases: the other paths that reach the same parameter.
    """

    name: str
    modules: tuple[nn.Module, ...]
    aliases: tuple[str, ...] = ()
    attribute: str = "weight"

    @property
    def module(self) -> nn.Module:
        return self.modules[0]

    @property
    def parameter(self) -> Tensor:
        weight = getattr(self.module, self.attribute)
        assert isinstance(weight, Tensor)
        return weight

    @property
    def transposed(self) -> bool:
        return is_conv1d(self.module)

    @property
    def groups(self) -> int:
        return self.module.groups if isinstance(self.module, nn.Conv2d) else 1

    @property
    def shape(self) -> tuple[int, int]:
        weight = self.parameter
        rows = weight.shape[1] if self.transposed else weight.shape[0]
        return rows, weight.numel() // max(1, rows)

    @property
    def fan_in(self) -> float:
        """How many weights meet in an output; of a strided transposed convolution on average over its outputs."""
        module = self.module
        if not isinstance(module, _TRANSPOSED):
            return float(self.shape[1])
        return module.in_channels // module.groups * math.prod(module.kernel_size) / math.prod(module.stride)

    def as_matrix(self, tensor: Tensor) -> Tensor:
        """A tensor of the parameter's shape (the weight, its gradient) as `(out, in)`."""
        return tensor.t() if self.transposed else tensor.reshape(self.shape)

    def as_parameter(self, matrix: Tensor) -> Tensor:
        """The way back: `(out, in)` in the parameter's shape."""
        return matrix.t() if self.transposed else matrix.reshape(self.parameter.shape)

    def read(self) -> Weight:
        """A float32 (or float64) copy, `(out, in)`; a convolution's `in` is `in / groups * kh * kw`."""
        if self.parameter.is_meta:
            raise ModelError(f"{self.name}: its weight is on the meta device and has no values; load it first")
        weight = self.as_matrix(self.parameter.detach())
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32), copy=True).contiguous()
        if found := not_finite(wide):
            raise WeightError(f"{self.name}: {found}; repair the model or leave the layer alone with ignore=")
        return wide

    def write(self, weight: Weight, mask: Mask) -> None:
        """Writes `weight` where `mask` keeps, exact zeros elsewhere, in place and in the parameter's own type."""
        kept = torch.where(mask, weight, torch.zeros((), dtype=weight.dtype))
        with torch.no_grad():
            self.parameter.copy_(self.as_parameter(kept))

    @property
    def biases(self) -> list[Tensor]:
        """The biases of the modules, each once; none where the layer was made without."""
        found = [getattr(module, "bias", None) for module in self.modules]
        return list({id(bias): bias for bias in found if isinstance(bias, nn.Parameter)}.values())

    def shift(self, amount: Tensor) -> bool:
        """Adds `(out,)` to the layer's bias in place; False where it has none."""
        with torch.no_grad():
            for bias in self.biases:
                bias.copy_(bias.to(amount.dtype) + amount)
        return bool(self.biases)


def _weight(module: nn.Module) -> object:
    """What makes two modules share a weight: the parameter, or the module itself where the weight is computed."""
    return module._parameters.get("weight", module)


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Exact name, shell pattern, dotted prefix, last part, or `re:` regular expression."""
    return any(
        re.search(p[3:], name) is not None
        if p.startswith("re:")
        else fnmatch.fnmatchcase(name, p) or name.startswith(p + ".") or name.rsplit(".", 1)[-1] == p
        for p in patterns
    )


def _prunable(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules(remove_duplicate=False):
        if is_prunable(module):
            yield name or type(module).__name__, module


def _is_computed(module: nn.Module) -> bool:
    return not isinstance(module._parameters.get("weight"), nn.Parameter)


def _require_parameter(name: str, module: nn.Module) -> None:
    """Refuses a weight that is computed anew at each call: what is written into it would be lost."""
    if _is_computed(module):
        raise ModelError(
            f"{name}: its weight is no parameter but computed from others (weight_norm, torch.nn.utils.prune, ...); "
            "make it one (torch.nn.utils.parametrize.remove_parametrizations, torch.nn.utils.prune.remove) "
            f"or leave the layer alone with ignore=[{name!r}]"
        )


def _require_whole(name: str, module: nn.Module) -> None:
    """Refuses a weight of which only the kept values exist: it has no rows."""
    weight = module._parameters.get("weight")
    if weight is not None and hasattr(module, "packing"):
        raise ModelError(
            f"{name}: a sparse trainer is at work on it, and only its {weight.numel()} kept values exist; end that "
            "with trainer.detach() first, or have dense weights until its next step with trainer.unpack()"
        )


def require_module(what: str, model: object) -> None:
    """Raises ModelError where a class, a function or nothing was given as the model."""
    if not isinstance(model, nn.Module):
        given = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise ModelError(f"{what}: {given} is not an nn.Module; give the model itself")


def find_sites(
    model: nn.Module, ignore: Sequence[str] = (), *, leave_computed: bool = False, needed: bool = True
) -> tuple[list[Site], list[str]]:
    """The prunable sites of a model in definition order, and the names that `ignore` left out.

    Modules that share one parameter become one site, which is ignored if any of its names is. leave_computed: weights
    that are computed from others are left out too, in place of an error.
    An entry of `ignore` that matches nothing is an error, and so is a model with nothing left unless `needed` is False.
    """
    require_module("model", model)
    patterns = (ignore,) if isinstance(ignore, str) else tuple(ignore)
    by_parameter: dict[int, list[tuple[str, nn.Module]]] = {}
    for name, module in _prunable(model):
        by_parameter.setdefault(id(_weight(module)), []).append((name, module))
    everything = [name for group in by_parameter.values() for name, _ in group]
    for pattern in patterns:
        if not any(matches(name, [pattern]) for name in everything):
            raise ModelError(f"ignore: {pattern!r} matches no prunable layer; the layers are {everything[:8]}...")
    sites, ignored = [], []
    for group in by_parameter.values():
        names = [name for name, _ in group]
        if any(matches(name, patterns) for name in names) or (leave_computed and _is_computed(group[0][1])):
            ignored.extend(names)
            continue
        modules = tuple({id(m): m for _, m in group}.values())
        _require_parameter(names[0], modules[0])
        _require_whole(names[0], modules[0])
        sites.append(Site(names[0], modules, tuple(names[1:])))
    if needed and not sites:
        left = "ignored or computed from other weights" if leave_computed else "ignored"
        why = f"all {len(everything)} are {left}" if everything else "it has no nn.Linear and no nn.Conv2d"
        raise ModelError(f"{type(model).__name__}: no prunable layer: {why}; nothing was changed")
    return sites, ignored
