"""A linear layer whose weight is packed: what stands in for `nn.Linear` in a compiled model."""

import copy

import torch
from torch import Tensor, nn

from rarefy.core.calls import take_off
from rarefy.core.errors import EngineError
from rarefy.engine.plan import LayerPlan
from rarefy.selectors import InputSelector
from rarefy.selectors.foreseen import Watch


class SparseLinear(nn.Module):
    """`x W^T + b` by the kernel that the plan has for the number of tokens; dense where the plan says so.

    Inference only: gradients flow to x and the bias, the weight is frozen. The dense parameter is shared with the
    source model, not copied.
    """

    def __init__(self, source: nn.Module, plan: LayerPlan) -> None:
        super().__init__()
        self.source, self.plan = source, plan
        self.out_features, self.in_features = plan.site.shape

    @property
    def freed(self) -> bool:
        """Whether the dense weight was let go."""
        weight = self.source.weight
        return isinstance(weight, Tensor) and weight.dim() == 1

    @property
    def weight(self) -> Tensor:
        """The dense weight, for models that look at it. Raises EngineError where it was let go."""
        if self.freed:
            raise EngineError(f"{self.plan.site.name}: the dense weight was let go; compile with keep_dense=True")
        weight = self.source.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def bias(self) -> Tensor | None:
        bias = self.source.bias
        assert bias is None or isinstance(bias, Tensor)
        return bias

    def forward(self, input: Tensor) -> Tensor:
        packed = self.plan.at(input.numel() // max(1, input.shape[-1]))
        if packed is None or input.dtype != torch.float32:
            if self.freed:
                raise EngineError(
                    f"{self.plan.site.name}: input is {input.dtype}, the packed weight takes float32 and the dense one "
                    "was let go; convert the input, or compile with keep_dense=True"
                )
            out: Tensor = self.source(input)
            return out
        bias = self.source.bias
        return torch.ops.rarefy.packed_linear(input, packed.handle, bias, "none", self.out_features)


def with_sparse_layers(model: nn.Module, plans: dict[str, LayerPlan]) -> nn.Module:
    """A model of the same structure with `SparseLinear` where a plan is; parameters and buffers are shared."""
    tensors = [*model.parameters(), *model.buffers()]
    memo: dict[int, object] = {id(t): t for t in tensors}
    twin = copy.deepcopy(model, memo)
    of_name = {name: plan for plan in plans.values() for name in (plan.site.name, *plan.site.aliases)}
    if isinstance(model, nn.Linear) and plans:
        return _standing_for(twin, next(iter(plans.values())))
    for name, plan in of_name.items():
        parent_name, _, leaf = name.rpartition(".")
        parent = twin.get_submodule(parent_name)
        setattr(parent, leaf, _standing_for(getattr(parent, leaf), plan))
    return twin


def _standing_for(layer: nn.Module, plan: LayerPlan) -> SparseLinear:
    """The packed layer, with the selectors that hang on the dense one and what its input lets foresee."""
    packed = SparseLinear(layer, plan)
    for hook in take_off(layer, lambda hook: isinstance(hook, InputSelector | Watch)):
        packed.register_forward_pre_hook(hook, with_kwargs=True)
    return packed
