"""Looking at tensors inside one module while it runs, by hooks, and stopping once all was seen."""

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from rarefy.calibration.batches import Stop
from rarefy.calibration.chain import hidden
from rarefy.core.calls import first_input


@dataclass(frozen=True)
class Spot:
    """A place inside a module: the first input or the (first) output of a submodule, by its dotted name."""

    name: str  # "" is the module itself
    side: Literal["in", "out"]


def look(module: nn.Module, spots: Sequence[Spot], args: Sequence[Any], kwargs: dict[str, Any]) -> dict[Spot, Tensor]:
    """The tensors at the spots (of the first call that passes each) for one run; the run ends with the last of them."""
    wanted, seen = set(spots), {}

    def note(spot: Spot, value: Any) -> None:
        if spot in wanted and spot not in seen and isinstance(value, Tensor):
            seen[spot] = value.clone()  # what follows may work in place
            if len(seen) == len(wanted):
                raise Stop

    def before(name: str) -> Any:
        return lambda m, a, k: note(Spot(name, "in"), first_input(a, k))

    def after(name: str) -> Any:
        return lambda m, a, out: note(Spot(name, "out"), hidden(out))

    with ExitStack() as stack:
        for name in {spot.name for spot in spots}:
            inner = module.get_submodule(name)
            stack.callback(inner.register_forward_pre_hook(before(name), with_kwargs=True).remove)
            stack.callback(inner.register_forward_hook(after(name)).remove)
        with suppress(Stop):
            module(*args, **kwargs)
    return seen


def everything(
    module: nn.Module, args: Sequence[Any], kwargs: dict[str, Any], copies: bool = False
) -> list[tuple[Spot, Tensor, int]]:
    """Every tensor that enters or leaves a submodule in one run, in the order of time, with its version then.

    A tensor that is changed in place later has a higher version by then; `copies` keeps the values of the moment.
    """
    seen: list[tuple[Spot, Tensor, int]] = []

    def note(spot: Spot, value: Any) -> None:
        if isinstance(value, Tensor):
            seen.append((spot, value.clone() if copies else value, value._version))

    def before(name: str) -> Any:
        return lambda m, a, k: note(Spot(name, "in"), first_input(a, k))

    def after(name: str) -> Any:
        return lambda m, a, out: note(Spot(name, "out"), hidden(out))

    with ExitStack() as stack:
        for name, inner in module.named_modules():
            stack.callback(inner.register_forward_pre_hook(before(name), with_kwargs=True).remove)
            stack.callback(inner.register_forward_hook(after(name)).remove)
        module(*args, **kwargs)
    return seen
