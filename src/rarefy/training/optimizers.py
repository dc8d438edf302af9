"""The optimizer's own memory of single weights: forgotten when a weight is dropped, fresh when it is grown.

Adam corrects its moments for having started at zero by one step count for the whole tensor, so a weight that was grown
at step 5000 with zero moments would take a first step of (1 - beta1) / sqrt(1 - beta2) = 3.2 times the learning rate.
Here its moments are scaled before each step such that the step is that of an Adam which started when the weight was
grown: with t the step of the tensor and a the age of the weight, c = (1 - beta^t) / (1 - beta^a) times the moment of
the fresh Adam is stored, so that the division by 1 - beta^t inside the optimizer leaves the fresh one.
"""

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
_OLD = 1e-4  # a moment is old enough when beta^age is below it: the correction is 1 to this much


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


def _steps(memory: dict[str, Any]) -> int:
    step = memory.get("step", 0)
    return int(step.item() if isinstance(step, Tensor) else step)


def is_adam(optimizer: torch.optim.Optimizer, parameter: Tensor) -> bool:
    """Whether the optimizer corrects two moments by the tensor's step count."""
    memory = optimizer.state.get(parameter, {})
    group = group_of(optimizer, parameter) or {}
    return {"exp_avg", "exp_avg_sq", "step"} <= set(memory) and "betas" in group and "mu_product" not in memory


def correct_young(optimizer: torch.optim.Optimizer, parameter: Tensor, index: Tensor, age: Tensor) -> Tensor:
    """Scales the moments of young weights ahead of a step of Adam; gives a mask of those that are young after it.

    index: flat positions in the parameter; age: steps that each has taken since it was grown.
    """
    memory, group = optimizer.state[parameter], group_of(optimizer, parameter) or {}
    t = _steps(memory) + 1
    grad = _effective_gradient(optimizer, parameter, index)
    young = torch.zeros_like(age, dtype=torch.bool)
    for name, beta, push in zip(("exp_avg", "exp_avg_sq"), group["betas"], (grad, grad * grad), strict=True):
        beta = float(beta)
        if beta <= 0.0:
            continue
        whole = 1.0 - beta**t
        fresh = 1.0 - beta ** (age + 1).double()
        before = 1.0 - beta ** age.double()
        old = 1.0 - beta ** (t - 1)
        c_next = whole / fresh
        c_now = torch.where(age > 0, old / before.clamp_min(1e-300), torch.zeros_like(before))
        held = memory[name].reshape(-1)[index].double()
        raw = torch.where(age > 0, held / c_now.clamp_min(1e-300), torch.zeros_like(held))
        value = c_next * raw + (c_next - 1.0) * (1.0 - beta) / beta * push.double()
        memory[name][torch.unravel_index(index, memory[name].shape)] = value.to(memory[name].dtype)
        young |= beta ** (age + 1).double() > _OLD
    return young


def _effective_gradient(optimizer: torch.optim.Optimizer, parameter: Tensor, index: Tensor) -> Tensor:
    """The gradient that the optimizer puts into its moments: with L2 decay where that is not decoupled."""
    assert parameter.grad is not None
    group = group_of(optimizer, parameter) or {}
    grad = parameter.grad.reshape(-1)[index]
    if group.get("maximize"):
        grad = -grad
    decay = float(group.get("weight_decay", 0.0))
    # Before torch 2.7 an AdamW has no such setting.
    decoupled = isinstance(optimizer, torch.optim.AdamW) or group.get("decoupled_weight_decay", False)
    if decay and not decoupled:
        grad = grad + decay * parameter.detach().reshape(-1)[index]
    return grad
