"""Convolutions whose weight is packed: what stands in for `nn.Conv2d` in a compiled model."""

import torch
from torch import Tensor, nn

from rarefy.core.errors import EngineError
from rarefy.engine.conv_plan import ConvPlan
from rarefy.ops.conv8 import PackedConv8
from rarefy.ops.words import words_of

# Some models compute padding of their own from these.
_READ_BY_MODELS = ("kernel_size", "stride", "padding", "dilation", "groups", "in_channels", "out_channels")


class SparseConv2d(nn.Module):
    """The convolution by the kernel that the plan has for the image; torch's where the plan says so.

    Inference only: gradients flow to x and the bias (not through 8-bit kernels), the weight is frozen. The dense
    parameter is shared with the source model, not copied.
    """

    def __init__(self, source: nn.Conv2d, plan: ConvPlan) -> None:
        super().__init__()
        self.source, self.plan = source, plan
        for name in _READ_BY_MODELS:
            setattr(self, name, getattr(source, name))

    @property
    def freed(self) -> bool:
        """Whether the dense weight was let go."""
        return self.source.weight.dim() == 1

    @property
    def weight(self) -> Tensor:
        """The dense weight, for models that look at it. Raises EngineError where it was let go."""
        if self.freed:
            raise EngineError(f"{self.plan.site.name}: the dense weight was let go; compile with keep_dense=True")
        weight: Tensor = self.source.weight
        return weight

    @property
    def bias(self) -> Tensor | None:
        bias: Tensor | None = self.source.bias
        return bias

    def forward(self, input: Tensor) -> Tensor:
        packed = self.plan.at((input.shape[0], input.shape[2], input.shape[3])) if input.dim() == 4 else None
        if packed is None or input.dtype != torch.float32:
            if self.freed:
                raise EngineError(
                    f"{self.plan.site.name}: input is {input.dtype} {tuple(input.shape)}, the packed weight takes "
                    "batches of float32 images and the dense one was let go; convert the input, or load with "
                    "compiled=False"
                )
            out: Tensor = self.source(input)
            return out
        if isinstance(packed, PackedConv8):
            bias = None if self.source.bias is None else self.source.bias.detach()
            eight = packed.convolve(words_of(input.detach()), bias)
            assert isinstance(eight, Tensor)  # no scale was asked for
            return eight
        result: Tensor = torch.ops.rarefy.packed_conv2d(input, packed.handle, self.source.bias, None, "none")
        return result


def with_sparse_convs(twin: nn.Module, plans: dict[str, ConvPlan]) -> nn.Module:
    """Puts `SparseConv2d` where a plan is, in place, into a copy of the model that may be changed."""
    if isinstance(twin, nn.Conv2d) and plans:
        return SparseConv2d(twin, next(iter(plans.values())))
    for plan in plans.values():
        for name in (plan.site.name, *plan.site.aliases):
            parent_name, _, leaf = name.rpartition(".")
            parent = twin.get_submodule(parent_name)
            source = getattr(parent, leaf)
            assert isinstance(source, nn.Conv2d)
            setattr(parent, leaf, SparseConv2d(source, plan))
    return twin
