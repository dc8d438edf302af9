"""What the processes of a data-parallel training have to agree on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def several_ranks() -> bool:
    """Whether the training is distributed over processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def of_first_rank(tensor: Tensor) -> Tensor:
    """The tensor of rank 0, where training is distributed."""
    if not several_ranks():
        return tensor
    sent = tensor.to(torch.uint8) if tensor.dtype is torch.bool else tensor.clone()
    dist.broadcast(sent, src=0)
    return sent.to(tensor.dtype)


def sum_over_ranks(values: list[float]) -> list[float]:
    """Each number summed over all ranks, bit for bit the same on each."""
    if not several_ranks():
        return values
    mine = torch.tensor(values, dtype=torch.float64)
    parts = [torch.zeros_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine)
    found: list[float] = torch.stack(parts).sum(0).tolist()
    return found


@contextmanager
def apart(model: nn.Module) -> Iterator[None]:
    """Within it data-parallel wrappers exchange nothing, so that each rank may call the model as often as it likes."""
    wrappers = [module for module in model.modules() if isinstance(module, DistributedDataParallel)]
    before = [(w.require_forward_param_sync, w.require_backward_grad_sync) for w in wrappers]
    for wrapper in wrappers:
        wrapper.require_forward_param_sync = wrapper.require_backward_grad_sync = False
    try:
        yield
    finally:
        for wrapper, (forward, backward) in zip(wrappers, before, strict=True):
            wrapper.require_forward_param_sync, wrapper.require_backward_grad_sync = forward, backward
