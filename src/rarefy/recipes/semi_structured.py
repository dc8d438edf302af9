"""2:4 layers handed to torch's own kernels on a GPU."""

from dataclasses import dataclass

import torch
from torch import nn

from rarefy.core.errors import EngineError
from rarefy.formats.bitmask24 import Bitmask24


@dataclass(frozen=True)
class HandOver:
    """layers: those that now hold torch's semi-structured weights; stay: {layer: why it stays dense}."""

    layers: tuple[str, ...]
    stay: dict[str, str]

    def __str__(self) -> str:
        why = [f"  {name}: {reason}" for name, reason in self.stay.items()]
        return "\n".join([f"{len(self.layers)} layers are semi-structured, {len(self.stay)} stay dense", *why])


def to_semi_structured(model: nn.Module) -> HandOver:
    """Replaces the weight of every 2:4 `nn.Linear` on a CUDA GPU by torch's semi-structured tensor, in place.

    Nothing is pruned: a layer that is not 2:4, or whose type or size torch's kernels do not take, stays as it is and
    the result says why. The weights are then constants without gradients. Raises EngineError where there is no GPU.
    """
    if not torch.cuda.is_available():
        raise EngineError(
            "to_semi_structured: torch's 2:4 kernels run on NVIDIA GPUs only, and this process has none; on a CPU "
            "use rarefy.compile"
        )
    layers, stay = [], {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            why = why_not(module.weight)
            if why is None:
                with torch.no_grad():
                    sparse = torch.sparse.to_sparse_semi_structured(module.weight.detach())
                module.weight = nn.Parameter(sparse, requires_grad=False)
                layers.append(name)
            else:
                stay[name] = why
    return HandOver(tuple(layers), stay)


def why_not(weight: torch.Tensor) -> str | None:
    """Why torch's kernels do not take a weight `(out, in)`, None if they do."""
    from torch.sparse import SparseSemiStructuredTensorCUSPARSELT as Kernels

    sizes = Kernels._DTYPE_SHAPE_CONSTRAINTS.get(weight.dtype)
    if sizes is None:
        return f"{weight.dtype} has no semi-structured kernels"
    rows, columns = weight.shape
    if rows % sizes.sparse_min_rows or columns % sizes.sparse_min_cols:
        return f"({rows}, {columns}) is not a multiple of ({sizes.sparse_min_rows}, {sizes.sparse_min_cols})"
    if weight.device.type != "cuda":
        return f"it lies on {weight.device}; move the model to the GPU first"
    return Bitmask24().fits(weight.detach().ne(0).cpu())
