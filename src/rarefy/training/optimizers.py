"""The optimizer's own memory of single weights, forgotten when they are dropped; `fresh_steps`: of grown ones."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, optim

from rarefy.core.errors import ModelError
from rarefy.training.runtime.topology import Topology

ENTRYWISE = (  # the step of one weight depends on that weight alone
    *(optim.SGD, optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam, optim.Adamax),
    *(optim.Adagrad, optim.Adadelta, optim.RMSprop, optim.Rprop, optim.ASGD),
)


def unwrap(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer inside wrappers (`accelerate`, Lightning)."""
    while not isinstance(optimizer, torch.optim.Optimizer) or type(optimizer).__module__.startswith("accelerate"):
        inside = getattr(optimizer, "optimizer", None)
        if inside is None:
            raise ModelError(
                f"optimizer: {type(optimizer).__name__} is no torch.optim.Optimizer and holds none; give the optimizer "
                "that trains the model"
            )
        optimizer = inside
    return optimizer


def group_of(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Any] | None:
    """The parameter group that holds the parameter; None where no group does."""
    for group in optimizer.param_groups:
        if any(p is parameter for p in group["params"]):
            return group
    return None


def replace(optimizer: torch.optim.Optimizer, old: Tensor, new: list[Tensor]) -> None:
    """Puts other parameters in the place of one, in its group and with its settings; its memory is dropped."""
    group = group_of(optimizer, old)
    if group is None:
        raise KeyError("the parameter is in none of the optimizer's groups")
    at = next(i for i, p in enumerate(group["params"]) if p is old)
    group["params"][at : at + 1] = new
    optimizer.state.pop(old, None)


def entries(optimizer: torch.optim.Optimizer, parameter: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the optimizer's memory that have one entry for each weight."""
    for name, value in optimizer.state.get(parameter, {}).items():
        if isinstance(value, Tensor) and value.shape == parameter.shape and value.dim() > 0:
            yield name, value


def gather(optimizer: torch.optim.Optimizer, parameter: Tensor, topology: Topology, shape: tuple[int, ...]) -> None:
    """Keeps the memory of the entries of a topology only, `(nnz,)`; while the parameter still is dense."""
    for name, value in list(entries(optimizer, parameter)):
        optimizer.state[parameter][name] = topology.gather(value)


def scatter(optimizer: torch.optim.Optimizer, parameter: Tensor, topology: Topology, shape: tuple[int, ...]) -> None:
    """The way back from `gather`, while the parameter still is `(nnz,)`: zeros where nothing is kept."""
    for name, value in list(entries(optimizer, parameter)):
        optimizer.state[parameter][name] = topology.scatter(value).view(shape)


def forget(optimizer: torch.optim.Optimizer, parameter: Tensor, where: Tensor) -> None:
    """Sets the memory of the entries `where` (bool, of the parameter's shape) to what a new weight begins with."""
    for name, value in entries(optimizer, parameter):
        value.masked_fill_(where, begin_of(optimizer, parameter, name))


def begin_of(optimizer: torch.optim.Optimizer, parameter: Tensor, name: str) -> float:
    """What the memory of that name begins with."""
    group = group_of(optimizer, parameter) or {}
    setting = {"sum": "initial_accumulator_value", "step_size": "lr"}.get(name)  # of Adagrad and of Rprop
    return 0.0 if setting is None else float(group.get(setting, 0.0))


def unscale(optimizer: torch.optim.Optimizer) -> bool:
    """Takes a GradScaler's scale off the gradients where it leaves that to a fused optimizer.

    False where the gradients overflowed, so that the optimizer's step will change nothing; they are left alone then.
    """
    if bool(getattr(optimizer, "found_inf", None)):
        return False
    scale = getattr(optimizer, "grad_scale", None)
    if isinstance(scale, Tensor):
        inverse = scale.double().reciprocal().float()
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(inverse.to(parameter.grad.device))
        setattr(optimizer, "grad_scale", torch.ones_like(scale))  # noqa: B010  (the scaler's own, unknown to the type)
    return True
