"""The whole model as one graph, by `torch.export`, with batch and length left open where the model allows it."""

import copy
import inspect
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

Example = tuple[tuple[Any, ...], dict[str, Any]]  # positional and keyword arguments of one call


def as_example(inputs: Any) -> Example:
    """A tensor, a tuple of positional arguments or a dict of keyword arguments."""
    if isinstance(inputs, dict) or hasattr(inputs, "keys"):
        return (), dict(inputs)
    return (tuple(inputs), {}) if isinstance(inputs, tuple | list) else ((inputs,), {})


def _dynamic(value: Any) -> Any:
    """Batch and length are left to the tracer for every tensor; it fixes what the model fixes."""
    if isinstance(value, Tensor):
        return dict.fromkeys(range(min(2, value.dim())), Dim.AUTO)
    return None


def _open_sizes(value: Any) -> Any:
    """A tensor of its own whose batch and length axes are at least 2.

    The tracer takes sizes of 1 as fixed, and one tensor given for two arguments as one input for good.
    """
    if not isinstance(value, Tensor):
        return value
    value = value.clone()
    for axis in range(min(2, value.dim())):
        if value.shape[axis] == 1:
            value = torch.cat([value, value], dim=axis)
    return value


def capture(model: nn.Module, example: Example) -> torch.fx.GraphModule:
    """The exported graph as a callable module with the model's own signature. Raises whatever export raises.

    Traced by calling the model (not strict, as torch does of itself after 2.6): decorators around a model are then
    simply run. The other way reads their bytecode, which torch 2.6 cannot where they look into `__code__`.
    """
    args, kwargs = tuple(map(_open_sizes, example[0])), {k: _open_sizes(v) for k, v in example[1].items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            model,
            args,
            kwargs,
            dynamic_shapes=_shapes(model, args, kwargs),
            strict=False,
        )
        graph = program.module()
    assert isinstance(graph, torch.fx.GraphModule)
    return graph


class Captures:
    """`capture` of one model, made once for each example: later ones are copies. They share its tensors."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Example, torch.fx.GraphModule]] = {}

    def __call__(self, model: nn.Module, example: Example) -> torch.fx.GraphModule:
        if id(example) not in self._made:
            self._made[id(example)] = example, capture(model, example)
        graph = self._made[id(example)][1]
        shared = {id(t): t for t in (*graph.parameters(), *graph.buffers())}
        with warnings.catch_warnings():  # of torch's own making
            warnings.simplefilter("ignore")
            return copy.deepcopy(graph, shared)


def _shapes(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Dynamic shapes by argument order: a tuple for positional, names for keyword arguments."""
    if not kwargs:
        return tuple(_dynamic(a) for a in args)
    names = list(inspect.signature(model.forward).parameters)
    return {**{names[i]: _dynamic(a) for i, a in enumerate(args)}, **{k: _dynamic(v) for k, v in kwargs.items()}}
