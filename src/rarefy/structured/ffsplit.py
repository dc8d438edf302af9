"""FFSplit: the few heavy neurons of a feed-forward layer stay as they are, the many light ones are compressed hard."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.calibration.batches import as_batches
from rarefy.calibration.layer_inputs import layer_inputs
from rarefy.core.errors import ModelError, SparsityError
from rarefy.core.registry import method
from rarefy.core.slicing import weight_rows
from rarefy.core.topk import exact_count, keep_top
from rarefy.selectors import FeedForward, feed_forwards


@dataclass(frozen=True)
class SplitLayer:
    """heavy: neurons kept whole, rising; rank: of the others' two factorised matrices, None if they stay whole;
    weights: of the split layer's matrices, as a share of what they were; energy: share of the neurons' summed output
    norms that the heavy ones have."""

    heavy: tuple[int, ...]
    rank: int | None
    weights: float
    energy: float


class SplitFeedForward(nn.Module):
    """act(x U_H) V_H + act(x U_R) V_R: the heavy part dense, the rest dense or as products of two thin matrices.

    Stands where the feed-forward module stood; matrices are (out, in) as ever.
    """

    def __init__(self, heavy: nn.ModuleDict, rest: nn.ModuleDict, activation: nn.Module) -> None:
        super().__init__()
        self.heavy, self.rest, self.activation = heavy, rest, activation

    def forward(self, x: Tensor) -> Tensor:
        return self._half(self.heavy, x) + self._half(self.rest, x)

    def _half(self, part: nn.ModuleDict, x: Tensor) -> Tensor:
        if "gate" in part:
            hidden = self.activation(part["gate"](x)) * part["up"](x)
        else:
            hidden = self.activation(part["up"](x))
        y: Tensor = part["down"](hidden)
        return y


HALVES = ("heavy", "rest")


@method("ffsplit", source="Liu et al. 2024, arXiv:2401.04044, sections 3 and 4", protocols=("score",))
@dataclass(frozen=True)
class FFSplit:
    """Keeps the share `heavy` of the neurons, those with the largest mean |a_i(x)| |v_i|; the others get a low rank.

    weights: share of the layer's weights that may be left, heavy ones and both factors counted; the rank follows.
    weights=1 only splits, which changes nothing. Fine-tune after it: every matrix is a parameter.
    Differs: one share of heavy neurons for all layers; the paper does not say how it picks its threshold.
    """

    heavy: float = 0.1
    weights: float = 0.57

    def __post_init__(self) -> None:
        if not 0.0 <= self.heavy <= 1.0 or not self.heavy < self.weights <= 1.0:
            raise SparsityError(f"ffsplit: heavy={self.heavy}, weights={self.weights}; give 0 <= heavy < weights <= 1")

    def apply(self, model: nn.Module, data: Iterable[Any]) -> dict[str, SplitLayer]:
        """Splits every feed-forward module of Llama's or a plain `fc1, act, fc2` shape that is called with x alone."""
        batches = as_batches(data, method="ffsplit", needed=True)
        layers = feed_forwards(model)
        norms = output_norms(model, layers, batches)
        found = {}
        for layer in layers:
            kept = keep_top(norms[layer.name][None], exact_count(norms[layer.name].numel(), self.heavy))[0]
            found[layer.name] = self.split(model, layer, kept, norms[layer.name])
        return found

    def split(self, model: nn.Module, layer: FeedForward, kept: Tensor, norms: Tensor) -> SplitLayer:
        """Splits one layer in place, the neurons `kept` (width,) whole."""
        _require_own_module(model, layer)
        assert isinstance(layer.activation, nn.Module)
        parts = {"up": layer.up, "down": layer.down} | ({"gate": layer.gate} if layer.gate is not None else {})
        total = sum(weight_rows(part).numel() for part in parts.values() if part is not None)
        width, rest = weight_rows(layer.up).shape[1], int((~kept).sum())
        rank = self._rank(total, int(kept.sum()), rest, width, len(parts))
        halves = [_half(parts, kept, None), _half(parts, ~kept, rank, shared=False)]
        whole, made = model.get_submodule(layer.name), SplitFeedForward(halves[0], halves[1], layer.activation)
        for name in [n for n, module in model.named_modules(remove_duplicate=False) if module is whole]:
            model.set_submodule(name, made)  # blocks may share it
        left = sum(p.numel() for half in halves for p in half.parameters() if p.dim() == 2)
        heavy = tuple(kept.nonzero().flatten().tolist())
        return SplitLayer(heavy, rank, left / total, float(norms[kept].sum() / norms.sum().clamp_min(1e-30)))

    def _rank(self, total: int, heavy: int, rest: int, width: int, parts: int) -> int | None:
        left = self.weights * total - parts * heavy * width
        rank = int(left // (parts * (rest + width)))
        if rank * (rest + width) >= rest * width or self.weights == 1.0:
            return None  # factors would be no smaller than the matrix itself
        if rank < 1:
            raise SparsityError(
                f"ffsplit: heavy={self.heavy} of a layer with {heavy + rest} neurons leaves less than rank 1 for the "
                f"others at weights={self.weights}; keep fewer neurons or more weights"
            )
        return rank


def _require_own_module(model: nn.Module, layer: FeedForward) -> None:
    """ModelError where the feed-forward part is no module that is called with the hidden states alone."""
    names = {layer.name + "." + name for name, part in model.get_submodule(layer.name).named_children()}
    known = {
        name for name, part in model.named_modules() if part in (layer.up, layer.down, layer.gate, layer.activation)
    }
    if not isinstance(layer.activation, nn.Module) or not layer.name or not names <= known:
        others = sorted(names - known)[:4]
        raise ModelError(
            f"ffsplit: the feed-forward layer in {layer.name or 'the model'} is not a module of its own (it also holds "
            f"{', '.join(others) or 'a function'}); models of the Llama, Mistral and Qwen classes can be split"
        )


def output_norms(model: nn.Module, layers: Sequence[FeedForward], batches: Sequence[Any]) -> dict[str, Tensor]:
    """{layer: mean over tokens of |a_i(x)| * |v_i|, (neurons,)}: how large each neuron's output is."""
    downs = {layer.name: layer.down for layer in layers}
    total: dict[str, Tensor] = {}
    count = 0
    for inputs in layer_inputs(model, downs, batches):
        count += len(next(iter(inputs.values())))
        for name, hidden in inputs.items():
            total[name] = total.get(name, 0) + hidden.abs().double().sum(0)
    return {name: total[name] / count * weight_rows(down).double().norm(dim=0) for name, down in downs.items()}


def _half(parts: dict[str, nn.Module], kept: Tensor, rank: int | None, shared: bool = True) -> nn.ModuleDict:
    """The layers of some of the neurons; `shared`: the bias of the down projection is in this half."""
    made = {}
    for name, part in parts.items():
        weight, given = weight_rows(part), getattr(part, "bias", None)
        bias = given.detach() if isinstance(given, Tensor) else None
        if name == "down":
            made[name] = _linear(weight[:, kept], bias if shared else None, rank)
        else:
            made[name] = _linear(weight[kept], None if bias is None else bias[kept], rank)
    return nn.ModuleDict(made)


def empty_split(layer: FeedForward, shapes: Mapping[str, tuple[int, ...]]) -> SplitFeedForward:
    """What `split` puts in a layer's place, its weights not filled in; they lie where the layer's do.

    shapes: {tensor: shape}, as `heavy.up.weight` (out, in), `rest.down.0.weight`, `rest.up.1.bias`. Raises ModelError
    where they are not those of a split of this layer.
    """
    names = ("up", "down") if layer.gate is None else ("up", "down", "gate")
    hidden, like = weight_rows(layer.up).shape[1], weight_rows(layer.up)
    halves = []
    for half in HALVES:
        steps = {name: _steps(shapes, f"{half}.{name}") for name in names}
        ends = {name: (found[0][1], found[-1][0]) for name, found in steps.items()}
        neurons = ends["up"][1]
        wanted = dict.fromkeys(names, (hidden, neurons)) | {"down": (neurons, hidden)}
        if ends != wanted:
            raise ModelError(f"ffsplit: the {half} half leads {ends}; a layer of width {hidden} needs {wanted}")
        halves.append(nn.ModuleDict({name: _blank(steps[name], shapes, f"{half}.{name}", like) for name in names}))
    if not isinstance(layer.activation, nn.Module):
        raise ModelError("ffsplit: the layer's activation is a function, no module")
    made = SplitFeedForward(halves[0], halves[1], layer.activation)
    found = {name: tuple(tensor.shape) for name, tensor in made.state_dict().items() if name.startswith(HALVES)}
    if odd := sorted(set(found.items()) ^ set(shapes.items())):
        raise ModelError(f"ffsplit: {odd[0][0]!r} of shape {odd[0][1]} has no place in the split layer")
    return made


def _steps(shapes: Mapping[str, tuple[int, ...]], part: str) -> list[tuple[int, ...]]:
    """(out, in) of a part's layer, or of the two thin ones in its place."""
    whole = shapes.get(f"{part}.weight")
    found = [shapes.get(f"{part}.{i}.weight") for i in (0, 1)] if whole is None else [whole]
    fits: list[tuple[int, ...]] = [shape for shape in found if shape is not None and len(shape) == 2]
    if len(fits) < len(found) or any(a[0] != b[1] for a, b in pairwise(fits)):
        raise ModelError(f"ffsplit: {part!r} is neither one matrix nor two that follow each other")
    return fits


def _blank(steps: list[tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]], part: str, like: Tensor) -> nn.Module:
    if len(steps) == 1:
        return _shaped(steps[0], f"{part}.bias" in shapes, like)
    return nn.Sequential(_shaped(steps[0], False, like), _shaped(steps[1], f"{part}.1.bias" in shapes, like))


def _shaped(shape: tuple[int, ...], bias: bool, like: Tensor) -> nn.Linear:
    return _filled(like.new_empty(shape), like.new_empty(shape[:1]) if bias else None)


def _linear(weight: Tensor, bias: Tensor | None, rank: int | None) -> nn.Module:
    """A layer of that weight (out, in), or of its best rank-`rank` approximation as two layers."""
    if rank is None:
        return _filled(weight, bias)
    u, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
    root = s[:rank].sqrt()
    first, second = root[:, None] * v[:rank], u[:, :rank] * root
    return nn.Sequential(_filled(first.to(weight.dtype), None), _filled(second.to(weight.dtype), bias))


def _filled(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(1, 1, bias is not None, device="meta")  # no memory, no random numbers drawn
    layer.out_features, layer.in_features = weight.shape
    layer.weight = nn.Parameter(weight.contiguous().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone())
    return layer
