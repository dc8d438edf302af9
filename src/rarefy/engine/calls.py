"""How calls of a compiled model run: with its own threads and types, without gradients, seen by no tracer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

_P = ParamSpec("_P")
_T = TypeVar("_T")

# What `torch.compiler.disable` is made of, without the second that importing `torch._dynamo` takes.
_set_tracer = torch._C._dynamo.eval_frame.set_eval_frame


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Runs with `count` torch threads and puts the number back."""
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def inference(count: int | None) -> Iterator[None]:
    """`threads`, no gradients, and no `torch.autocast`: what a model computes in was chosen when it was compiled."""
    with threads(count), torch.no_grad(), torch.autocast("cpu", enabled=False):
        yield


def untraced(call: Callable[_P, _T]) -> Callable[_P, _T]:
    """The call as `torch.compile` leaves it alone, itself and all that it calls.

    What hands addresses to native code must not be cut into graphs, between which its tensors may die.
    """

    @wraps(call)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        tracer = _set_tracer(None)
        try:
            return call(*args, **kwargs)
        finally:
            _set_tracer(tracer)

    run.__dict__["_torchdynamo_disable"] = True  # callers that are traced break off before it
    return run
