"""The moments of Adam at weights that are younger than the step count of their tensor, corrected in one pass.

What is computed, and the same in torch for any optimizer and type: `training.fresh_steps`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rarefy.ops import native


@dataclass(frozen=True)
class AdamMoments:
    """The memory of one parameter ahead of step `step` = 1, 2, ...

    first, second: exp_avg and exp_avg_sq, in the parameter's shape; most: max_exp_avg_sq of amsgrad, or None; decay:
    the L2 decay that is added to the gradient.
    """

    first: Tensor
    second: Tensor
    most: Tensor | None
    betas: tuple[float, float]
    step: int
    decay: float = 0.0
    maximize: bool = False


def correct_adam(
    parameter: Tensor, grad: Tensor, index: Tensor, age: Tensor, moments: AdamMoments, old: float
) -> Tensor | None:
    """Scales the moments in place; gives a mask of the weights that are young after the step.

    index: flat positions (n), int32 or int64, each once; age (n), int32: the steps that each has taken; old: a weight
    is old when beta^age is below it for both betas. None, and nothing is done, without the native module or where a
    tensor is not contiguous float32 on the CPU.
    """
    tensors = [parameter, grad, moments.first, moments.second] + ([] if moments.most is None else [moments.most])
    if not all(map(_plain, tensors)) or any(each.numel() != parameter.numel() for each in tensors):
        return None
    if index.dtype not in (torch.int32, torch.int64) or age.dtype != torch.int32:
        return None
    module: Any = native.module()
    if module is None:
        return None
    index, age = index.contiguous(), age.contiguous()
    young = torch.empty(len(index), dtype=torch.bool)
    module.correct_adam(
        (index.data_ptr(), index.dtype == torch.int64, age.data_ptr(), len(index), parameter.numel()),
        (grad.data_ptr(), parameter.data_ptr(), -1.0 if moments.maximize else 1.0, moments.decay),
        (
            moments.first.data_ptr(),
            moments.second.data_ptr(),
            0 if moments.most is None else moments.most.data_ptr(),
            *moments.betas,
            moments.step,
        ),
        old,
        young.data_ptr(),
        torch.get_num_threads(),
    )
    return young


def _plain(tensor: Tensor) -> bool:
    dense = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_neg()
    return dense and tensor.dtype == torch.float32 and tensor.is_contiguous()
