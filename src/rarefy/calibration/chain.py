"""Finding the chain of blocks of a model by watching one forward pass: hooks only, no model code.

A chain is a ModuleList or Sequential whose children are called once each, in order, each fed with the output
of the one before and otherwise with the same objects. Such a model can be calibrated block by block with the
memory and the time of one pass; any other model is calibrated by whole passes, which is slower and as right.
"""

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from rarefy.calibration.batches import Batch, Run
from rarefy.core.site import Site


@dataclass
class _Call:
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


@dataclass(frozen=True)
class Probe:
    """What one forward pass showed: sites in the order of their first call, and the chain if there is one.

    parts: how many things a block of the chain returns in a tuple, the hidden states first; 0 for a tensor alone.
    """

    order: tuple[str, ...]
    chain: tuple[nn.Module, ...] = field(default=())
    parts: int = 0


def hidden(output: Any) -> Any:
    """The hidden states in a block's output: the output itself or its first entry."""
    return output[0] if isinstance(output, tuple | list) else output


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and type(a) is type(b) and bool(a == b)


def _follows(first: _Call, then: _Call) -> bool:
    """Whether `then` got the output of `first` as its first argument and all else unchanged."""
    if not then.args or then.args[0] is not hidden(first.output) or not isinstance(then.args[0], Tensor):
        return False
    if len(first.args) != len(then.args) or first.kwargs.keys() != then.kwargs.keys():
        return False
    rest = all(_same(a, b) for a, b in zip(first.args[1:], then.args[1:], strict=True))
    return rest and all(_same(first.kwargs[k], then.kwargs[k]) for k in first.kwargs)


def _is_chain(children: Sequence[nn.Module], calls: Sequence[_Call]) -> bool:
    mine = [c for c in calls if any(c.module is child for child in children)]
    return (
        len(mine) == len(children) >= 2
        and all(call.module is child for call, child in zip(mine, children, strict=True))
        and all(_follows(a, b) for a, b in itertools.pairwise(mine))
    )


def _sites_inside(modules: Sequence[nn.Module], sites: Sequence[Site]) -> int:
    inside = {id(m) for module in modules for m in module.modules()}
    return sum(all(id(m) in inside for m in site.modules) for site in sites)


def _containers(model: nn.Module, sites: Sequence[Site]) -> list[nn.ModuleList | nn.Sequential]:
    found = [m for m in model.modules() if isinstance(m, nn.ModuleList | nn.Sequential) and len(m) >= 2]
    return [c for c in found if _sites_inside(list(c), sites) >= 2]


def candidates(model: nn.Module, sites: Sequence[Site]) -> list[nn.Module]:
    """The modules that may turn out to be the blocks of a chain, none of them inside another."""
    children = list({id(c): c for container in _containers(model, sites) for c in container}.values())
    inner = {id(m) for child in children for m in child.modules() if m is not child}
    return [child for child in children if id(child) not in inner]


def probe(model: nn.Module, sites: Sequence[Site], batch: Batch, run: Run) -> Probe:
    """Runs one batch and records the order of the sites and the chain that holds most of them."""
    containers = _containers(model, sites)
    order: list[str] = []
    calls: list[_Call] = []
    with ExitStack() as stack:
        for site in sites:
            for module in site.modules:
                hook = module.register_forward_pre_hook(lambda m, a, name=site.name: order.append(name))
                stack.callback(hook.remove)
        for child in {id(c): c for container in containers for c in container}.values():

            def record(m: nn.Module, a: tuple[Any, ...], k: dict[str, Any], out: Any) -> None:
                calls.append(_Call(m, a, k, out))

            stack.callback(child.register_forward_hook(record, with_kwargs=True).remove)
        run(model, batch, 0)
    chains = [c for c in containers if _is_chain(list(c), calls)]
    best = max(chains, key=lambda c: _sites_inside(list(c), sites), default=None)
    if best is None:
        return Probe(tuple(dict.fromkeys(order)))
    given = next(call.output for call in calls if call.module is best[-1])
    return Probe(tuple(dict.fromkeys(order)), tuple(best), len(given) if isinstance(given, tuple | list) else 0)
