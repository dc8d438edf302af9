"""Why a compiled model does not take the inputs of a call, in terms of those inputs."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from types import NoneType
from typing import Any

from torch import Tensor, nn

from rarefy.core.errors import DTypeError, RarefyError, ShapeError
from rarefy.engine.capture import Example


def misfit(
    model: nn.Module, examples: Iterable[Example], args: tuple[Any, ...], kwargs: dict[str, Any], why: Exception
) -> RarefyError:
    """The error for a call that failed: which input differs from those the model was compiled for, and how.

    Where none differs in a way that explains a failure, the sizes are listed beside the examples'. What the model said,
    the message of `why`, is there in both cases: a call may differ in one input and fail for another.
    """
    said = f"It says: {str(why).strip().split(chr(10))[0] or type(why).__name__}"
    given = _named(model, args, kwargs)
    expected = [_named(model, *example) for example in examples]
    nearest = min(expected, key=lambda e: len(e.keys() ^ given.keys()), default={})
    for name, error, what in _differences(given, nearest, _needed(model, given)):
        wanted, came = _said(nearest.get(name)), _said(given.get(name))
        return error(f"compiled model: input {name!r} {what}: expected like {wanted}, got {came}. {said}")
    sizes = ", ".join(f"{name} {_said(value)}" for name, value in given.items())
    wanted = ", ".join(f"{name} {_said(value)}" for name, value in nearest.items())
    start = "compiled model: the model does not run on these inputs"
    return ShapeError(f"{start}: {sizes}; it was compiled for {wanted}. {said}")


def _named(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by the names of the model's own signature."""
    names = list(inspect.signature(model.forward).parameters)
    names += [f"argument {i}" for i in range(len(names), len(args))]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _needed(model: nn.Module, given: dict[str, Any]) -> set[str]:
    """The inputs that the model does not run without, as far as its signature says so: a mask may be left out."""
    parameters = inspect.signature(model.forward).parameters.values()
    needed = {p.name for p in parameters if p.default is p.empty}
    main = getattr(model, "main_input_name", None)  # of transformers, where all inputs may be None
    return needed if main is None or "inputs_embeds" in given else needed | {main}


def _differences(
    given: dict[str, Any], like: dict[str, Any], needed: set[str]
) -> Iterator[tuple[str, type[RarefyError], str]]:
    """Names, errors and what is wrong, the surest causes first."""
    both = [(n, given[n], like[n]) for n in given if isinstance(given[n], Tensor) and isinstance(like.get(n), Tensor)]
    for name in (like.keys() - given.keys()) & needed:
        if isinstance(like[name], Tensor):
            yield name, ShapeError, "is missing"
    for name in given:
        if isinstance(like.get(name), Tensor) and not isinstance(given[name], Tensor | NoneType):
            yield name, DTypeError, "is no tensor"
    for name, value, wanted in both:
        if value.device != wanted.device:
            yield name, DTypeError, f"is on {value.device}, the compiled model runs on the CPU"
        if value.layout != wanted.layout:
            yield name, DTypeError, f"has the layout {str(value.layout).removeprefix('torch.')}"
        if value.dtype != wanted.dtype:
            yield name, DTypeError, "has another type"
        elif value.dim() != wanted.dim():
            yield name, ShapeError, "has another number of dimensions"
        elif value.is_floating_point() and value.dim() in (2, 3) and value.shape[-1] != wanted.shape[-1]:
            yield name, ShapeError, f"has {value.shape[-1]} features in its last dimension, not {wanted.shape[-1]}"
    for name, value, _ in both:
        if any(value.shape[0] != other.shape[0] for _, other, _ in both if other.dim() and value.dim()):
            yield name, ShapeError, "has another batch size than the other inputs"


def _said(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if hasattr(value, "shape") or isinstance(value, Mapping | list | tuple):
        return f"a {type(value).__name__}"
    return "nothing" if value is None else repr(value)
