"""Parts of a model of Hugging Face as the runtime takes them: norms, linear layers and their selectors, activations."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.engine.decoder.selecting import alike, native_select
from rarefy.engine.decoder.structure import Merged
from rarefy.ops.decoder import Norm
from rarefy.selectors import TopK, hidden_selector, input_selector
from rarefy.selectors.rank_aware import RankAware

_ACTIVATIONS = {
    "SiLU": "silu",
    "SiLUActivation": "silu",
    "ReLU": "relu",
    "ShiftedReLU": "relu",  # and a shift, which goes into the bias before it: shift_of
    "GELUActivation": "gelu",
    "NewGELUActivation": "gelu_tanh",
    "GELUTanh": "gelu_tanh",
    "PytorchGELUTanh": "gelu_tanh",
    "SquaredReLU": "relu2",
    "ReLUSquaredActivation": "relu2",
    "TopKReLU": "relu",  # and a selection behind it: neurons_of
}
_DENSE = 0.9  # share of weights that are not 0, beyond which a matrix may be multiplied into them


class NotKnownError(Exception):
    """Why a model is not one that the runtime knows."""


def floats(tensor: Tensor) -> Tensor:
    """What is read of a parameter, in float32."""
    return tensor.detach().float().contiguous()


def norm_of(module: Any) -> Norm:
    """A layer norm or an RMS norm. Raises NotKnownError for anything else."""
    if type(module) is nn.LayerNorm and module.weight is not None:
        bias = None if module.bias is None else floats(module.bias)
        return Norm(False, floats(module.weight), bias, module.eps)
    if type(module).__name__.endswith("RMSNorm") and isinstance(module.weight, Tensor):
        return Norm(True, floats(module.weight), None, float(module.variance_epsilon))
    raise NotKnownError(f"{type(module).__name__} is not a norm with a weight")


def neurons_of(module: Any) -> Any:
    """The selector of the neurons behind an activation, that of a module which selects by itself too; None: all."""
    selector = hidden_selector(module)
    if type(module).__name__ != "TopKReLU":
        return selector
    if selector is not None:
        raise NotKnownError("a TopKReLU with a selector behind it")
    return TopK(module.k)


def hidden_of(module: Any, features: int) -> dict[str, Any]:
    """What a layer says of the neurons that are used behind its activation."""
    selector = neurons_of(module)
    by_itself = selector is not None and hidden_selector(module) is None
    return {"hidden": selector, "hidden_select": native_select(selector, features), "by_itself": by_itself}


def stacked_of(*parts: tuple[str, Any], activation: str = "none") -> tuple[Merged, ...]:
    """Layers of one input: neighbours that look at the same of it are merged."""
    groups: list[list[tuple[str, Any]]] = []
    for name, part in parts:
        if groups and _together(groups[-1][0][1], part):
            groups[-1].append((name, part))
        else:
            groups.append([(name, part)])
    return tuple(merged_of(group[0][0], *(part for _, part in group), activation=activation) for group in groups)


def _together(a: Any, b: Any) -> bool:
    """Whether two layers of one input may be one product."""
    if isinstance(a, RankAware) or isinstance(b, RankAware):
        return False  # what each of them drops goes ways of its own
    return alike(input_selector(a), input_selector(b))


def rest_of(name: str, part: Any) -> tuple[Merged, Merged] | None:
    """The low-rank way of the inputs that a layer's selector drops, where it has one."""
    if not isinstance(part, RankAware) or input_selector(part) is None or not len(part.right):
        return None
    return plain_of(f"{name}.right", part.right), plain_of(f"{name}.left", part.left)


def plain_of(name: str, weight: Tensor) -> Merged:
    """A matrix (out, in) that is no parameter of a layer, as one."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return Merged(name, (layer,))


def turn_of(name: str, module: Any, buffer: str) -> Merged | None:
    """What a module's hook multiplies the rows by, as a layer; None where it has none."""
    matrix = module._buffers.get(buffer)
    return None if matrix is None else plain_of(f"{name}.{buffer}", matrix.T)


def can_fold(head: Merged) -> bool:
    """Whether a head's weight may take a matrix in: it has no zeros and no integers to lose, and reads all inputs."""
    return head.selector is None and head.codes() is None and int(head.weight().count_nonzero()) > _DENSE * head.size


def folded(head: Merged, norm: Norm, turn: Merged) -> tuple[Merged, Norm, None]:
    """The head that reads the last norm in the basis of the last block: RMS norms commute with rotations."""
    gains = replace(norm, weight=torch.ones_like(norm.weight))
    return replace(head, before=turn.weight().T * norm.weight), gains, None


def merged_of(name: str, *parts: Any, activation: str = "none") -> Merged:
    """Linear layers of one input as one. Raises NotKnownError where one is not plain."""
    for part in parts:
        if type(part) not in (nn.Linear, RankAware) and type(part).__name__ != "Conv1D":
            raise NotKnownError(f"{name} is a {type(part).__name__}, not a plain linear layer")
        if not isinstance(part._parameters.get("weight"), nn.Parameter):
            raise NotKnownError(f"{name}: its weight is computed from others")
    selector = input_selector(parts[0])
    merged = Merged(name, tuple(parts), activation, selector, rest=rest_of(name, parts[0]))
    return merged if selector is None else replace(merged, select=native_select(selector, merged.in_features))


def shift_of(module: Any) -> float:
    """What an activation takes off before its ReLU."""
    return float(module.shift) if type(module).__name__ == "ShiftedReLU" else 0.0


def activation_of(module: Any) -> str:
    """Its name in the runtime. Raises NotKnownError where it has no kernel."""
    found = _ACTIVATIONS.get(type(module).__name__)
    if found is None:
        raise NotKnownError(f"the activation {type(module).__name__} has no kernel")
    return found
